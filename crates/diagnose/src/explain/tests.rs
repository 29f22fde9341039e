//! Each cause: objects and facts in, finding out.

mod clash;
mod outside;

use model::{Endpoint, EndpointSlice, Event, Mode, Service, TrafficPolicy};
use plan::testing::{Applied as _, endpoint, ips, node, service, settings, slice};
use trace::{Facts, World};

use super::finding::{Cause, Finding, Weight};
use super::flows::{self, KnownFlow};
use super::subject::{Cluster, Subject};
use super::{node as host, objects, probe};

fn web() -> Service {
    service("demo/web", &["10.96.0.1"], &["http:80"])
}

fn pods() -> Vec<Endpoint> {
    vec![
        endpoint("10.244.1.11", "node1"),
        endpoint("10.244.2.11", "node2"),
    ]
}

fn slice_of(endpoints: Vec<Endpoint>) -> EndpointSlice {
    slice("web-a", "demo/web", &["http:8080"], endpoints)
}

fn subject(objects: Vec<Event>) -> Subject<'static> {
    let mut events = vec![node("node1", &["10.200.1.2"], &["10.244.1.0/24"]).applied()];
    events.extend(objects);
    let cluster = Cluster::new(events, settings("node1"), ips(&["10.200.1.2"]));
    // For the life of the test.
    let cluster: &'static Cluster = Box::leak(Box::new(cluster));
    cluster.find("demo/web", Mode::Iptables).unwrap()
}

/// Walk connections, and their answers, through rules.
fn walk(subject: &Subject<'_>, facts: &Facts, world: &World) -> Vec<probe::Probe> {
    let pods = super::pods::Pods::default();
    let setting = probe::Setting {
        facts,
        world,
        client: None,
        is_configured: false,
        pods: &pods,
        sources: &super::sources::Sources::default(),
        is_thorough: true,
    };
    probe::ask(subject, setting).unwrap()
}

fn healthy() -> Subject<'static> {
    subject(vec![web().applied(), slice_of(pods()).applied()])
}

fn unready(mut endpoint: Endpoint) -> Endpoint {
    endpoint.conditions.ready = false;
    endpoint.conditions.serving = false;
    endpoint
}

#[track_caller]
fn assert_found(found: &[Finding], cause: Cause, weight: Weight, words: &[&str]) {
    let finding = found
        .iter()
        .find(|f| f.cause == cause)
        .unwrap_or_else(|| panic!("{cause} is not in {found:#?}"));
    assert_eq!(finding.weight, weight, "{finding:?}");
    let all = format!("{} {}", finding.what, finding.change);
    for word in words {
        assert!(all.contains(word), "{word:?} is not in {all:?}");
    }
}

#[track_caller]
fn assert_healthy(found: &[Finding]) {
    let wrong: Vec<_> = found.iter().filter(|f| f.weight != Weight::Note).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_healthy_service_has_no_problems() {
    assert_healthy(&objects::findings(&healthy(), None));
}

#[test]
fn service_without_slices_is_reported() {
    let found = objects::findings(&subject(vec![web().applied()]), None);
    assert_found(
        &found,
        Cause::NoSlices,
        Weight::Broken,
        &["selector", "demo/web", "refused"],
    );
}

#[test]
fn unready_endpoints_are_named() {
    let endpoints = pods().into_iter().map(unready).collect();
    let found = objects::findings(
        &subject(vec![web().applied(), slice_of(endpoints).applied()]),
        None,
    );
    let words = [
        "10.244.1.11 on node1 (not ready)",
        "10.244.2.11",
        "readinessProbe",
    ];
    assert_found(&found, Cause::NoReadyEndpoint, Weight::Broken, &words);
    let mut named = slice_of(pods().into_iter().map(unready).collect());
    named.unready_pods = [("10.244.1.11", "web-1"), ("10.244.2.11", "web-2")]
        .map(|(ip, pod)| (ip.parse().unwrap(), pod.into()))
        .into();
    let found = objects::findings(&subject(vec![web().applied(), named.applied()]), None);
    let words = [
        "pod web-1 (10.244.1.11) on node1 (not ready)",
        "kubectl -n demo describe pod web-1 web-2",
    ];
    assert_found(&found, Cause::NoReadyEndpoint, Weight::Broken, &words);
}

#[test]
fn one_unready_endpoint_of_two_is_a_note() {
    let [a, b] = pods().try_into().unwrap();
    let endpoints = vec![a, unready(b)];
    let found = objects::findings(
        &subject(vec![web().applied(), slice_of(endpoints).applied()]),
        None,
    );
    assert_found(
        &found,
        Cause::EndpointsNotReady,
        Weight::Note,
        &["1 of 2", "10.244.2.11"],
    );
}

#[test]
fn slice_port_with_another_name_or_protocol_serves_no_service_port() {
    let other = slice("web-a", "demo/web", &["web:8080"], pods());
    let found = objects::findings(&subject(vec![web().applied(), other.applied()]), None);
    let words = ["\"http\" 80/TCP", "\"web\" (8080/TCP)", "targetPort"];
    assert_found(&found, Cause::PortNotServed, Weight::Broken, &words);
    let udp = slice("web-a", "demo/web", &["http:8080/UDP"], pods());
    let found = objects::findings(&subject(vec![web().applied(), udp.applied()]), None);
    assert_found(
        &found,
        Cause::PortNotServed,
        Weight::Broken,
        &["for UDP only"],
    );
}

#[test]
fn local_policy_without_a_local_endpoint_is_reported() {
    let elsewhere = slice_of(vec![endpoint("10.244.2.11", "node2")]);
    let internal = Service {
        internal_policy: TrafficPolicy::Local,
        ..web()
    };
    let found = objects::findings(
        &subject(vec![internal.applied(), elsewhere.clone().applied()]),
        None,
    );
    let words = [
        "internalTrafficPolicy",
        "node1",
        "ready endpoints are on node2",
    ];
    assert_found(&found, Cause::NoLocalEndpoint, Weight::Partly, &words);
    let external = Service {
        external_policy: TrafficPolicy::Local,
        ..service("demo/web", &["10.96.0.1"], &["http:80:30080"])
    };
    let external = Service {
        service_type: model::ServiceType::NodePort,
        ..external
    };
    let found = objects::findings(
        &subject(vec![external.applied(), elsewhere.applied()]),
        None,
    );
    let words = ["externalTrafficPolicy", "from outside", "Cluster"];
    assert_found(&found, Cause::NoLocalEndpoint, Weight::Partly, &words);
    let words = ["externalTrafficPolicy is Local", "clients' own addresses"];
    assert_found(&found, Cause::TrafficPolicy, Weight::Note, &words);
}

#[test]
fn address_of_another_service_is_reported() {
    let with_external = |name, cluster_ip| Service {
        external_ips: ips(&["192.0.2.10"]),
        ..service(name, &[cluster_ip], &["http:80"])
    };
    let first = with_external("demo/a", "10.96.0.9");
    let found = subject(vec![
        first.applied(),
        with_external("demo/web", "10.96.0.1").applied(),
        slice_of(pods()).applied(),
    ]);
    let found = objects::findings(&found, None);
    assert_found(
        &found,
        Cause::LeftOut,
        Weight::Broken,
        &["192.0.2.10", "demo/a"],
    );
}

#[test]
fn client_outside_all_source_ranges_is_reported() {
    let service = Service {
        service_type: model::ServiceType::LoadBalancer,
        ingress: vec![model::IngressIp {
            ip: "192.0.2.10".parse().unwrap(),
            mode: model::IpMode::Vip,
        }],
        source_ranges: plan::testing::cidrs(&["203.0.113.0/24"]),
        ..service("demo/web", &["10.96.0.1"], &["http:80"])
    };
    let subject = subject(vec![service.applied(), slice_of(pods()).applied()]);
    let ask = |client: &str| objects::findings(&subject, Some(client.parse().unwrap()));
    let words = ["198.51.100.7", "203.0.113.0/24", "192.0.2.10"];
    assert_found(
        &ask("198.51.100.7"),
        Cause::SourceNotAllowed,
        Weight::Broken,
        &words,
    );
    assert_found(
        &ask("203.0.113.9"),
        Cause::SourceRanges,
        Weight::Note,
        &["192.0.2.10"],
    );
}

#[test]
fn services_without_rules_are_reported() {
    let headless = Service {
        headless: true,
        cluster_ips: Vec::new(),
        ..web()
    };
    let found = objects::findings(&subject(vec![headless.applied()]), None);
    assert_found(&found, Cause::NotServed, Weight::Broken, &["headless"]);
    let other = Service {
        proxy_name: Some("mesh".into()),
        ..web()
    };
    let found = objects::findings(&subject(vec![other.applied()]), None);
    assert_found(&found, Cause::NotServed, Weight::Broken, &["mesh"]);
}

#[test]
fn ping_and_network_policies_are_explained() {
    let found = objects::findings(&healthy(), None);
    assert_found(&found, Cause::Ping, Weight::Note, &["10.96.0.1", "80/TCP"]);
    assert_found(
        &found,
        Cause::NetworkPolicy,
        Weight::Note,
        &["10.244.1.11:8080", "10.96.0.1:80"],
    );
}

fn facts(sysctls: &[(&str, &str)]) -> Facts {
    let mut facts = Facts::parse(
        r#"{
  "interfaces": [
    {"name": "lo", "index": 1, "up": true, "addresses": ["127.0.0.1/8"]},
    {"name": "eth0", "index": 2, "up": true, "addresses": ["10.200.1.2/24"]},
    {"name": "cbr0", "index": 3, "up": true, "kind": "bridge", "addresses": ["10.244.1.1/24"]},
    {"name": "veth11", "index": 4, "up": true, "kind": "veth", "master": "cbr0"}
  ],
  "routes": [
    {"dst": "default", "via": "10.200.1.1", "dev": "eth0"},
    {"dst": "10.200.1.0/24", "dev": "eth0"},
    {"dst": "10.244.1.0/24", "dev": "cbr0"},
    {"dst": "10.244.2.0/24", "via": "10.200.1.3", "dev": "eth0"}
  ],
  "sysctls": {"net.ipv4.ip_forward": "1", "net.bridge.bridge-nf-call-iptables": "1"}
}"#,
    )
    .unwrap();
    for (name, value) in sysctls {
        facts
            .sysctls
            .insert((*name).to_owned(), (*value).to_owned());
    }
    facts
}

#[test]
fn a_healthy_node_has_no_problems() {
    assert_healthy(&flows::findings(&healthy(), &[], &[]));
}

#[test]
fn disabled_forwarding_is_reported() {
    let facts = facts(&[("net.ipv4.ip_forward", "0")]);
    let found = host::settings(&healthy(), &facts, &[]);
    assert_found(
        &found,
        Cause::ForwardingOff,
        Weight::Broken,
        &["net.ipv4.ip_forward=1"],
    );
}

#[test]
fn ipvs_and_userspace_mode_have_their_own_findings() {
    let endpoints = vec![endpoint("10.244.2.11", "node2")];
    let elsewhere = slice("web-a", "demo/web", &["http:8080/SCTP"], endpoints);
    let local = Service {
        internal_policy: TrafficPolicy::Local,
        ..service("demo/web", &["10.96.0.1"], &["http:80/SCTP"])
    };
    let mut subject = subject(vec![local.applied(), elsewhere.applied()]);
    subject.mode = Mode::Ipvs;
    let found = objects::findings(&subject, None);
    let words = ["endpoints on other nodes instead"];
    assert_found(&found, Cause::NoLocalEndpoint, Weight::Note, &words);
    let words = ["ping of 10.96.0.1 is answered by the node"];
    assert_found(&found, Cause::Ping, Weight::Note, &words);
    subject.mode = Mode::Userspace;
    let found = objects::findings(&subject, None);
    let words = ["SCTP", "rejected", "nftables"];
    assert_found(&found, Cause::NotServed, Weight::Broken, &words);
}

#[test]
fn bridge_that_bypasses_the_rules_is_reported() {
    let off = facts(&[("net.bridge.bridge-nf-call-iptables", "0")]);
    let found = host::settings(&healthy(), &off, &[]);
    let words = ["is 0", "cbr0", "10.244.1.11", "br_netfilter"];
    assert_found(&found, Cause::BridgeBypass, Weight::Partly, &words);
    let mut absent = facts(&[]);
    absent.sysctls.remove("net.bridge.bridge-nf-call-iptables");
    let found = host::settings(&healthy(), &absent, &[]);
    assert_found(
        &found,
        Cause::BridgeBypass,
        Weight::Partly,
        &["does not exist"],
    );
    // Without an endpoint on the bridge it does not matter.
    let elsewhere = slice_of(vec![endpoint("10.244.2.11", "node2")]);
    let elsewhere = subject(vec![web().applied(), elsewhere.applied()]);
    assert_healthy(&host::settings(&elsewhere, &absent, &[]));
}

#[test]
fn full_connection_table_is_reported() {
    let max = ("net.netfilter.nf_conntrack_max", "1000");
    let at = |count| facts(&[max, ("net.netfilter.nf_conntrack_count", count)]);
    assert_eq!(host::conntrack_full(&at("949")), None);
    let nearly: Vec<_> = host::conntrack_full(&at("950")).into_iter().collect();
    assert_found(
        &nearly,
        Cause::ConntrackFull,
        Weight::Partly,
        &["950 of 1000"],
    );
    let full: Vec<_> = host::conntrack_full(&at("1000")).into_iter().collect();
    assert_found(
        &full,
        Cause::ConntrackFull,
        Weight::Broken,
        &["nf_conntrack_max"],
    );
}

#[test]
fn only_unanswered_flows_to_removed_endpoints_are_stale() {
    let flow = |given: &str| KnownFlow {
        protocol: 6,
        client: "10.244.1.50:4000".parse().unwrap(),
        asked: "10.96.0.1:80".parse().unwrap(),
        given: given.parse().unwrap(),
        is_answered: false,
    };
    let good = [flow("10.244.1.11:8080")];
    assert_healthy(&flows::findings(&healthy(), &good, &[]));
    let found = flows::findings(&healthy(), &[flow("10.244.9.9:8080")], &[]);
    let words = [
        "10.244.9.9:8080",
        "conntrack -D -p tcp --orig-dst 10.96.0.1 --dport 80",
    ];
    assert_found(&found, Cause::StaleFlow, Weight::Note, &words);
    // As after every rollout.
    let closing = KnownFlow {
        is_answered: true,
        ..flow("10.244.9.9:8080")
    };
    assert_healthy(&flows::findings(&healthy(), &[closing], &[]));
}

/// Rules that do what the plan of [`healthy`] states, with other programs' rules before them.
fn rules(forward: &str, endpoint: &str) -> String {
    format!(
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
         :CNI-FORWARD - [0:0]\n-A FORWARD -j CNI-FORWARD\n{forward}COMMIT\n\
         *nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
         :POSTROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n\
         -A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n\
         -A POSTROUTING -s 10.244.1.11/32 -d 10.244.1.11/32 -j MASQUERADE\n\
         -A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -m statistic --mode random \
         --probability 0.5 -j DNAT --to-destination {endpoint}\n\
         -A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination \
         10.244.2.11:8080\nCOMMIT\n"
    )
}

fn asked(mut facts: Facts, rules: String) -> Vec<Finding> {
    facts.dumps.iptables_save = Some(rules);
    let world = World::from_facts(&facts).unwrap();
    let probes = walk(&healthy(), &facts, &world);
    assert_eq!(probes.len(), 3, "a pod, an endpoint and the node");
    probe::findings(&probes, &|_| None)
}

const GOOD: &str = "10.244.1.11:8080";

#[test]
fn rules_as_planned_have_no_findings() {
    assert_eq!(asked(facts(&[]), rules("", GOOD)), []);
}

#[test]
fn foreign_drop_names_rule_and_owner() {
    let drop = "-A CNI-FORWARD -d 10.244.2.11/32 -j DROP\n";
    let found = asked(facts(&[]), rules(drop, GOOD));
    let words = [
        "`-d 10.244.2.11/32 -j DROP`",
        "chain CNI-FORWARD",
        "the CNI plugin firewall",
        "pod of this node",
    ];
    assert_found(&found, Cause::ForeignDrop, Weight::Partly, &words);
    let found = asked(facts(&[]), rules("-A CNI-FORWARD -j DROP\n", GOOD));
    assert_eq!(found.len(), 1, "one finding for all ends: {found:#?}");
}

#[test]
fn endpoint_without_a_route_is_reported() {
    let mut facts = facts(&[]);
    facts
        .routes
        .retain(|r| r.dst != "default" && r.dst != "10.244.2.0/24");
    let found = asked(facts, rules("", GOOD));
    let words = ["10.244.2.11:8080", "no route leads", "CNI"];
    assert_found(&found, Cause::NoRoute, Weight::Partly, &words);
}

#[test]
fn node_without_a_route_to_the_cluster_ip_is_reported() {
    let mut facts = facts(&[]);
    facts.routes.retain(|r| r.dst != "default");
    let found = asked(facts, rules("", GOOD));
    let words = ["this node", "no route leads to 10.96.0.1", "default route"];
    assert_found(&found, Cause::NoRoute, Weight::Broken, &words);
}

#[test]
fn reverse_path_filter_is_reported() {
    // The pod's packets enter through eth0, and the route back to it is through cbr0.
    let mut facts = facts(&[("net.ipv4.conf.all.rp_filter", "1")]);
    facts.dumps.iptables_save = Some(rules("", GOOD));
    let world = World::from_facts(&facts).unwrap();
    let mut probes = walk(&healthy(), &facts, &world);
    let probe = &mut probes[0];
    probe.packet.in_iface = Some("eth0".to_owned());
    probe.trace = trace::walk(&world, &probe.packet).unwrap();
    let found = probe::lost(probe, &|_| None);
    assert_found(
        &found,
        Cause::ReversePath,
        Weight::Broken,
        &["rp_filter", "eth0"],
    );
}

#[test]
fn endpoints_that_refuse_or_do_not_answer_are_reported() {
    use super::connect::{Answer, findings};
    assert_healthy(&findings(&healthy(), |_| Answer::Accepts));
    let found = findings(&healthy(), |_| Answer::Refuses);
    let words = [
        "port 8080",
        "10.244.1.11:8080, 10.244.2.11:8080",
        "targetPort",
    ];
    assert_found(&found, Cause::NobodyListens, Weight::Broken, &words);
    let found = findings(&healthy(), |to| {
        if to.ip().to_string() == "10.244.2.11" {
            Answer::Silent("timed out".to_owned())
        } else {
            Answer::Accepts
        }
    });
    let words = ["10.244.2.11:8080", "timed out", "NetworkPolicies"];
    assert_found(&found, Cause::NoAnswer, Weight::Partly, &words);
}

#[test]
fn rules_that_lead_to_the_relay_are_as_planned() {
    let rules = "table ip sluice-userspace {\n\tchain services {\n\t\ttype nat hook prerouting priority \
                 dstnat; policy accept;\n\t\tip daddr 10.96.0.1 dnat to 10.200.1.2:40000\n\t}\n\tchain \
                 own {\n\t\ttype nat hook output priority dstnat; policy accept;\n\t\tip daddr 10.96.0.1 \
                 dnat to 10.200.1.2:40000\n\t}\n}\n";
    let mut facts = facts(&[]);
    facts.dumps.nft_ruleset = Some(rules.to_owned());
    let world = World::from_facts(&facts).unwrap();
    let probes = walk(&healthy(), &facts, &world);
    assert!(probes.iter().all(probe::Probe::is_relayed));
    assert_eq!(probe::findings(&probes, &|_| None), []);
}

#[test]
fn errors_suggest_what_exists() {
    let events = [
        node("node1", &["10.200.1.2"], &[]).applied(),
        web().applied(),
        slice_of(pods()).applied(),
    ];
    let objects = super::subject::Objects::of(&events);
    for (text, word) in [
        ("web:80", "did you mean demo/web?"),
        (
            "other/web",
            "other has no Services at all; did you mean demo/web?",
        ),
        ("demo/wbe", "the Services in demo are web"),
        ("10.244.1.11", "it is an endpoint of demo/web"),
    ] {
        let error = objects.find(text).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    let here = || "vm".to_owned();
    let name = |named, interfaces: &[&str]| objects.node_name(named, here(), &ips(interfaces));
    assert_eq!(name(None, &["10.200.1.2"]).unwrap(), "node1");
    assert_eq!(name(Some("node1"), &[]).unwrap(), "node1");
    for (named, interfaces) in [(None, &[][..]), (Some("node2"), &["10.200.1.2"])] {
        let error = name(named, interfaces).unwrap_err().to_string();
        assert!(
            error.contains("--node with one of these names: node1"),
            "{error}"
        );
    }
}

#[test]
fn rules_of_other_objects_are_reported() {
    let found = asked(facts(&[]), rules("", "10.244.7.7:8080"));
    let words = [
        "10.244.1.11:8080",
        "10.244.7.7:8080",
        "chain KUBE-SERVICES",
        "made from other objects",
    ];
    assert_found(&found, Cause::RulesDiffer, Weight::Broken, &words);
    let found = asked(
        facts(&[]),
        "*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n".to_owned(),
    );
    assert_found(
        &found,
        Cause::RulesDiffer,
        Weight::Broken,
        &[
            "are not sent to any endpoint",
            "no rule matches",
            "read the log of the node's proxy",
        ],
    );
    let mut without = facts(&[]);
    without.proxies = Some(Vec::new());
    let found = asked(
        without,
        "*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n".to_owned(),
    );
    let words = ["no proxy runs on this node"];
    assert_found(&found, Cause::RulesDiffer, Weight::Broken, &words);
}

#[test]
fn a_service_is_found_by_name_port_address_and_node_port() {
    let service = service("demo/web", &["10.96.0.1"], &["http:80:30080", "dns:53/UDP"]);
    let events = vec![service.applied()];
    let objects = super::subject::Objects::of(&events);
    let ports = |text: &str| objects.find(text).map(|(_, ports)| ports.len());
    assert_eq!(ports("demo/web").unwrap(), 2);
    assert_eq!(ports("demo/web:http").unwrap(), 1);
    assert_eq!(ports("demo/web:53").unwrap(), 1);
    assert_eq!(ports("10.96.0.1").unwrap(), 2);
    assert_eq!(ports("30080").unwrap(), 1);
    for (text, word) in [
        ("demo/other", "Service demo/other does not exist"),
        ("demo/web:https", "it has http (80), dns (53)"),
        ("10.96.0.9", "10.96.0.9"),
        ("30081", "30081"),
        ("web", "NAMESPACE/NAME"),
    ] {
        let error = objects.find(text).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}
