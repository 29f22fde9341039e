//! Causes outside the proxy: load balancers, labels, node addresses, other programs' rules.

use super::*;

fn load_balancer(ingress: Vec<model::IngressIp>, names: &[&str]) -> Service {
    Service {
        service_type: model::ServiceType::LoadBalancer,
        ingress,
        load_balancer_names: names.iter().map(|name| (*name).into()).collect(),
        ..service("demo/web", &["10.96.0.1"], &["http:80:30080"])
    }
}

#[test]
fn state_of_the_load_balancer_is_reported() {
    let found = |service: Service| {
        let subject = subject(vec![service.applied(), slice_of(pods()).applied()]);
        objects::findings(&subject, None)
    };
    let pending = found(load_balancer(Vec::new(), &[]));
    let words = [
        "EXTERNAL-IP is <pending>",
        "NodePorts",
        "describe service web",
    ];
    assert_found(&pending, Cause::LoadBalancerPending, Weight::Partly, &words);
    let named = found(load_balancer(Vec::new(), &["lb.example.org"]));
    let words = ["lb.example.org", "NodePorts"];
    assert_found(&named, Cause::LoadBalancerName, Weight::Note, &words);
    assert_healthy(&named);
    let proxied = model::IngressIp {
        ip: "203.0.113.40".parse().unwrap(),
        mode: model::IpMode::Proxy,
    };
    let proxied = found(load_balancer(vec![proxied], &[]));
    let words = ["203.0.113.40", "ipMode", "no rules are made"];
    assert_found(&proxied, Cause::LoadBalancerProxy, Weight::Note, &words);
}

#[test]
fn slices_that_labels_hide_and_services_without_selector_are_reported() {
    let mut hidden = slice_of(pods());
    hidden.headless = true;
    let found = objects::findings(&subject(vec![web().applied(), hidden.applied()]), None);
    let words = ["service.kubernetes.io/headless", "web-a", "refused"];
    assert_found(&found, Cause::SlicesHidden, Weight::Broken, &words);
    let by_hand = Service {
        has_selector: false,
        ..web()
    };
    let found = objects::findings(&subject(vec![by_hand.applied()]), None);
    let words = ["no selector", "create an EndpointSlice"];
    assert_found(&found, Cause::NoSlices, Weight::Broken, &words);
    let labelled = Service {
        headless: true,
        ..web()
    };
    let found = objects::findings(&subject(vec![labelled.applied()]), None);
    let words = ["label service.kubernetes.io/headless", "remove the label"];
    assert_found(&found, Cause::NotServed, Weight::Broken, &words);
}

#[test]
fn endpoint_that_is_a_node_port_of_this_node_is_reported() {
    let other = Service {
        service_type: model::ServiceType::NodePort,
        ..service("demo/stats", &["10.96.0.2"], &["http:80:30125"])
    };
    let endpoints = vec![
        endpoint("10.200.1.2", "node1"),
        endpoint("10.200.1.3", "node2"),
    ];
    let slice = slice("web-a", "demo/web", &["http:30125"], endpoints);
    let found = objects::findings(
        &subject(vec![web().applied(), other.applied(), slice.applied()]),
        None,
    );
    let words = ["10.200.1.2:30125", "NodePort of demo/stats", "refused"];
    assert_found(&found, Cause::EndpointIsNodePort, Weight::Partly, &words);
}

#[test]
fn external_ip_of_a_node_is_reported() {
    let claims = |ip: &str| Service {
        external_ips: ips(&[ip]),
        ..web()
    };
    let found = |ip: &str, mode: Mode| {
        let control = node("control", &["10.200.1.9"], &[]);
        let all = vec![
            control.applied(),
            claims(ip).applied(),
            slice_of(pods()).applied(),
        ];
        let mut subject = subject(all);
        subject.mode = mode;
        objects::findings(&subject, None)
    };
    let other = found("10.200.1.9", Mode::Nftables);
    let words = ["10.200.1.9", "node control"];
    assert_found(&other, Cause::ExternalIpIsNode, Weight::Partly, &words);
    let other = found("10.200.1.9", Mode::Ipvs);
    let words = ["cannot reach that node"];
    assert_found(&other, Cause::ExternalIpIsNode, Weight::Broken, &words);
    let own = found("10.200.1.2", Mode::Nftables);
    assert_found(&own, Cause::ExternalIpIsNode, Weight::Note, &["node1"]);
}

#[test]
fn chain_policy_of_drop_is_named() {
    let dump = rules("", GOOD).replace(":FORWARD ACCEPT", ":FORWARD DROP");
    let found = asked(facts(&[]), dump);
    let words = [
        "the policy of chain FORWARD in table filter",
        "iptables -t filter -P FORWARD ACCEPT",
    ];
    assert_found(&found, Cause::ChainPolicy, Weight::Broken, &words);
}

/// Rules of iptables mode for [`external`], with other rules before and in POSTROUTING.
fn node_port_rules(policy: TrafficPolicy, mangle: &str, postrouting: &str) -> String {
    let mark = match policy {
        TrafficPolicy::Cluster => "-A KUBE-EXT-A -j KUBE-MARK-MASQ\n",
        TrafficPolicy::Local => "",
    };
    format!(
        "*mangle\n:FORWARD ACCEPT [0:0]\n{mangle}COMMIT\n\
         *nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
         :POSTROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-EXT-A - [0:0]\n\
         :KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:FLANNEL-POSTRTG - [0:0]\n\
         -A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n\
         {postrouting}-A POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination {ENDPOINT}\n\
         -A KUBE-SERVICES -p tcp -m addrtype --dst-type LOCAL -m tcp --dport 30080 -j KUBE-EXT-A\n\
         -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
         {mark}-A KUBE-EXT-A -p tcp -j DNAT --to-destination {ENDPOINT}\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MASQUERADE\nCOMMIT\n",
        ENDPOINT = match policy {
            TrafficPolicy::Cluster => "10.244.2.11:8080",
            TrafficPolicy::Local => "10.244.1.11:8080",
        }
    )
}

fn external(policy: TrafficPolicy, mangle: &str, postrouting: &str) -> Vec<Finding> {
    let endpoint = match policy {
        TrafficPolicy::Cluster => endpoint("10.244.2.11", "node2"),
        TrafficPolicy::Local => endpoint("10.244.1.11", "node1"),
    };
    let service = Service {
        service_type: model::ServiceType::NodePort,
        external_policy: policy,
        ..service("demo/web", &["10.96.0.1"], &["http:80:30080"])
    };
    let subject = subject(vec![service.applied(), slice_of(vec![endpoint]).applied()]);
    let mut facts = facts(&[]);
    facts.dumps.iptables_save = Some(node_port_rules(policy, mangle, postrouting));
    let world = World::from_facts(&facts).unwrap();
    let mut probes = walk(&subject, &facts, &world);
    // The rules above are those for clients outside.
    probes.retain(|p| p.packet.from == trace::Origin::Outside);
    assert!(!probes.is_empty());
    probe::findings(&probes, &|_| None)
}

#[test]
fn unwanted_and_missing_masquerading_names_the_rule() {
    for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
        assert_eq!(external(policy, "", ""), [], "{policy:?}");
    }
    let flannel = "-A POSTROUTING -j FLANNEL-POSTRTG\n\
                   -A FLANNEL-POSTRTG -d 10.244.0.0/16 -j MASQUERADE\n";
    let found = external(TrafficPolicy::Local, "", flannel);
    let words = ["address must be kept", "chain FLANNEL-POSTRTG", "flannel"];
    assert_found(&found, Cause::SourceReplaced, Weight::Partly, &words);
    let clears = "-A FORWARD -j MARK --set-xmark 0x0/0xffffffff\n";
    let found = external(TrafficPolicy::Cluster, clears, "");
    let words = ["10.244.2.11:8080", "mark", "table mangle, chain FORWARD"];
    assert_found(&found, Cause::SourceKept, Weight::Broken, &words);
    let accepts = "-A POSTROUTING -o eth0 -j ACCEPT\n";
    let found = external(TrafficPolicy::Cluster, "", accepts);
    let words = [
        "`-o eth0 -j ACCEPT`",
        "before the Service rules in POSTROUTING",
    ];
    assert_found(&found, Cause::SourceKept, Weight::Broken, &words);
}

#[test]
fn program_that_answers_for_the_cluster_ip_is_a_note() {
    let mut facts = facts(&[]);
    let address = vec!["10.96.0.1/32".parse().unwrap()];
    facts.interfaces.push(trace::Interface {
        name: "cache0".to_owned(),
        index: 9,
        addresses: address,
        up: true,
        ..trace::Interface::default()
    });
    let notrack = "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
                   -A PREROUTING -d 10.96.0.1/32 -p tcp -j NOTRACK\n\
                   -A OUTPUT -d 10.96.0.1/32 -p tcp -j NOTRACK\nCOMMIT\n";
    let found = asked(facts, format!("{notrack}{}", rules("", GOOD)));
    assert_found(
        &found,
        Cause::AnsweredHere,
        Weight::Note,
        &["cache0", "10.96.0.1"],
    );
    assert_healthy(&found);
}

#[test]
fn rules_of_a_proxy_under_another_node_name_are_reported() {
    let service = Service {
        service_type: model::ServiceType::NodePort,
        external_policy: TrafficPolicy::Local,
        ..service("demo/web", &["10.96.0.1"], &["http:80:30080"])
    };
    let slice = slice_of(vec![endpoint("10.244.1.11", "node1")]);
    let subject = subject(vec![service.applied(), slice.applied()]);
    let mut facts = facts(&[]);
    facts.dumps.iptables_save = Some(
        "*filter\n:INPUT ACCEPT [0:0]\n:KUBE-EXTERNAL-SERVICES - [0:0]\n\
         -A INPUT -j KUBE-EXTERNAL-SERVICES\n\
         -A KUBE-EXTERNAL-SERVICES -p tcp -m comment --comment \"demo/web:http has no local \
         endpoints\" -m addrtype --dst-type LOCAL -m tcp --dport 30080 -j DROP\nCOMMIT\n"
            .to_owned(),
    );
    let world = World::from_facts(&facts).unwrap();
    let mut probes = walk(&subject, &facts, &world);
    probes.retain(|p| p.packet.from == trace::Origin::Outside);
    let found = probe::findings(&probes, &|_| None);
    let words = ["has no local endpoints", "--hostname-override"];
    assert_found(&found, Cause::NodeName, Weight::Broken, &words);
}

#[test]
fn rules_that_an_earlier_proxy_left_in_the_other_back_end_are_named() {
    let mut facts = facts(&[]);
    let stale = "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n\
                 -A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n\
                 -A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j DNAT \
                 --to-destination 10.244.9.9:8080\nCOMMIT\n";
    facts.dumps.iptables_legacy_save = Some(stale.to_owned());
    let found = asked(facts.clone(), rules("", GOOD));
    let words = ["iptables-legacy", "chain KUBE-SERVICES", "sluice cleanup"];
    assert_found(&found, Cause::StaleRules, Weight::Partly, &words);
    // Stale rules for an address that no Service has matter to no packet.
    let unused = stale.replace("10.96.0.1/32", "10.96.77.1/32");
    facts.dumps.iptables_legacy_save = Some(unused);
    assert_eq!(asked(facts, rules("", GOOD)), []);
}
