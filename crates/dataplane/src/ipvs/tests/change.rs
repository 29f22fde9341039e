//! Single changes, foreign changes, and other programs' state.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use model::{Change, Event, IngressIp, IpFamily, IpMode};
use netfilter::ipset;
use plan::testing::{cidrs, endpoint, ips, node, service, slice};

use super::host::Host;
use super::*;

fn started() -> (Planner, Mode, Host) {
    let planner = planner("default");
    let mut mode = Mode::new(IpFamily::V4, options("default"));
    let plan = planner.plan(IpFamily::V4);
    mode.set_addresses(plan, interface_addresses());
    mode.update_all(plan);
    let mut host = Host::new(IpFamily::V4);
    mode.observe(host.observe());
    host.sync(&mut mode, plan, 0);
    (planner, mode, host)
}

fn endpoints(planner: &mut Planner, name: &str, ports: &[&str], pods: &[&str]) {
    let pods = pods.iter().map(|ip| endpoint(ip, "node2")).collect();
    let slice_name = format!("{}-x", name.replace('/', "-"));
    let slice = slice(&slice_name, name, ports, pods);
    planner.apply(Event::EndpointSlice(Change::Applied(Arc::new(slice))));
}

fn change(planner: &mut Planner, mode: &mut Mode) {
    let ports = planner.take_diff().v4.ports;
    let changed = ports.iter().filter_map(plan::PortChange::key).collect();
    mode.update(planner.plan(IpFamily::V4), &changed);
}

#[test]
fn a_change_writes_only_its_own_pieces() {
    let (mut planner, mut mode, mut host) = started();
    let new = service("demo/new", &["10.96.77.1"], &["http:80"]);
    planner.apply(Event::Service(Change::Applied(Arc::new(new))));
    endpoints(&mut planner, "demo/new", &["http:8080"], &["10.244.2.77"]);
    change(&mut planner, &mut mode);
    // The server, its destination and its address; an element of two sets.
    assert_eq!(host.sync(&mut mode, planner.plan(IpFamily::V4), 0), 5);
    endpoints(
        &mut planner,
        "demo/new",
        &["http:8080"],
        &["10.244.2.77", "10.244.2.78"],
    );
    change(&mut planner, &mut mode);
    assert_eq!(host.sync(&mut mode, planner.plan(IpFamily::V4), 0), 1);
    assert_eq!(host.sync(&mut mode, planner.plan(IpFamily::V4), 0), 0);
}

#[test]
fn a_node_address_gets_a_server_but_is_not_added_to_the_device() {
    let (mut planner, mut mode, mut host) = started();
    let mut new = service("demo/new", &["10.96.77.1"], &["http:80"]);
    new.external_ips = ips(&["10.200.1.2", "192.0.2.77"]);
    planner.apply(Event::Service(Change::Applied(Arc::new(new))));
    change(&mut planner, &mut mode);
    host.sync(&mut mode, planner.plan(IpFamily::V4), 0);
    let device = host.device.as_ref().unwrap();
    let has = |ip: &str| device.contains(&ip.parse::<IpAddr>().unwrap());
    assert!(has("192.0.2.77") && !has("10.200.1.2"));
    assert!(
        host.services
            .keys()
            .any(|id| id.to_string() == "-t 10.200.1.2:80")
    );
    // The node loses the address: it must be added.
    mode.set_addresses(planner.plan(IpFamily::V4), ips(&["10.200.0.1"]));
    host.sync(&mut mode, planner.plan(IpFamily::V4), 0);
    let device = host.device.as_ref().unwrap();
    assert!(device.contains(&"10.200.1.2".parse::<IpAddr>().unwrap()));
    // NodePorts no longer answer on it.
    let on_it = host.services.keys().filter(|id| {
        let ip = id.ip().unwrap().to_string();
        ip == "10.200.1.2"
    });
    assert_eq!(on_it.count(), 1);
}

#[test]
fn repairs_write_only_what_another_program_changed() {
    let (planner, mut mode, mut host) = started();
    let should = host.comparable();
    // Another program flushes a chain, deletes a jump, a server, an address and an element, and adds
    // its own elements and addresses to ours.
    let id = *host.services.keys().next().unwrap();
    host.services.remove(&id);
    let second = *host.services.keys().nth(5).unwrap();
    let destinations = &mut host.services.get_mut(&second).unwrap().destinations;
    destinations.iter_mut().for_each(|d| d.weight = 0);
    let device = host.device.as_mut().unwrap();
    let first = *device.iter().next().unwrap();
    device.remove(&first);
    device.insert("10.99.99.99".parse().unwrap());
    let set = host.sets.get_mut("KUBE-CLUSTER-IP").unwrap();
    set.elements.pop();
    let extra = ipset::Sets::parse("create a hash:ip,port\nadd a 1.2.3.4,tcp:1-9\n").unwrap();
    set.elements.extend(extra.sets[0].elements.clone());
    host.sets.remove("KUBE-NODE-PORT-UDP");
    for state in host.tables.tables.values_mut() {
        for (chain, state) in &mut state.chains {
            if chain.as_str() == "KUBE-FORWARD" || chain.as_str() == "POSTROUTING" {
                state.rules.clear();
            }
        }
    }
    mode.forget();
    mode.observe(host.observe());
    let changes = host.sync(&mut mode, planner.plan(IpFamily::V4), 0);
    assert!(changes < 20, "{changes}");
    let mut is = host.clone();
    // The flush removed the other program's rule in POSTROUTING too.
    for state in is.tables.tables.values_mut() {
        for (chain, state) in &mut state.chains {
            if chain.as_str() == "POSTROUTING" {
                let other =
                    netfilter::iptables::Rule::parse(netfilter::iptables::Family::Ipv4, "-j OTHER");
                state.rules.push(other.unwrap());
            }
        }
    }
    assert_eq!(is.comparable(), should);
}

/// kube-proxy's KUBE-LOOP-BACK does not depend on the endpoints' conditions.
#[test]
fn every_endpoint_of_the_node_is_in_the_loop_back_set() {
    let (mut planner, mut mode, mut host) = started();
    let new = service("demo/new", &["10.96.77.1"], &["http:80"]);
    planner.apply(Event::Service(Change::Applied(Arc::new(new))));
    let condition = |ip: &str, ready, serving, terminating| {
        let mut endpoint = endpoint(ip, "node1");
        endpoint.conditions.ready = ready;
        endpoint.conditions.serving = serving;
        endpoint.conditions.terminating = terminating;
        endpoint
    };
    let pods = vec![
        condition("10.244.1.71", true, true, false),
        condition("10.244.1.72", false, false, false),
        condition("10.244.1.73", false, true, true),
        condition("10.244.1.74", false, false, true),
        endpoint("10.244.2.75", "node2"),
    ];
    let slice = slice("new-x", "demo/new", &["http:8080"], pods);
    planner.apply(Event::EndpointSlice(Change::Applied(Arc::new(slice))));
    change(&mut planner, &mut mode);
    host.sync(&mut mode, planner.plan(IpFamily::V4), 0);
    let elements = host.sets["KUBE-LOOP-BACK"].elements.iter();
    let mut elements: Vec<String> = elements.map(ToString::to_string).collect();
    elements.retain(|element| element.contains(",tcp:8080,") && element.contains(".7"));
    elements.sort_unstable();
    let expected = [71, 72, 73, 74].map(|n| format!("10.244.1.{n},tcp:8080,10.244.1.{n}"));
    assert_eq!(elements, expected);
    let server = host
        .services
        .keys()
        .find(|id| id.to_string() == "-t 10.96.77.1:80");
    assert_eq!(host.services[server.unwrap()].destinations.len(), 2);
}

/// As in kube-proxy, which skips the rest of a Service port without NodePort addresses.
#[test]
fn without_node_port_addresses_no_health_check_is_accepted() {
    for (addresses, elements) in [(vec![], 0), (vec!["10.200.1.2"], 1)] {
        let mut planner = planner("default");
        let mut new = service("demo/lb", &["10.96.77.1"], &["http:80:31077"]);
        new.service_type = model::ServiceType::LoadBalancer;
        new.external_policy = model::TrafficPolicy::Local;
        new.health_check_node_port = std::num::NonZeroU16::new(32077);
        planner.apply(Event::Service(Change::Applied(Arc::new(new))));
        drop(planner.take_diff());
        let mut plan = planner.plan(IpFamily::V4).clone();
        let mut node = plan::NodeFacts::clone(&plan.node);
        node.node_port_ips = Some(ips(&addresses));
        plan.node = Arc::new(node);
        let rendered = render(&plan, &options("default"), &interface_addresses()).unwrap();
        let set = rendered.sets.get("KUBE-HEALTH-CHECK-NODE-PORT").unwrap();
        let has = set.elements.iter().filter(|e| e.to_string() == "32077");
        assert_eq!(has.count(), elements, "{addresses:?}");
    }
}

#[test]
fn excluded_addresses_are_never_deleted() {
    let exclude = cidrs(&["10.9.0.0/16"]);
    let mut mode = Mode::new(
        IpFamily::V4,
        Options {
            exclude,
            ..options("default")
        },
    );
    let planner = planner("default");
    let plan = planner.plan(IpFamily::V4);
    mode.set_addresses(plan, interface_addresses());
    mode.update_all(plan);
    let mut host = Host::new(IpFamily::V4);
    let foreign = netfilter::ipvs::Services::parse(
        "-A -t 10.9.1.1:80 -s wlc\n-a -t 10.9.1.1:80 -r 10.1.1.1:80 -g -w 7\n-A -t 10.8.1.1:80 -s wlc\n-A -f 7 -s rr\n",
    );
    let foreign = foreign.unwrap().services;
    host.services = foreign.into_iter().map(|s| (s.id, s)).collect();
    mode.observe(host.observe());
    host.sync(&mut mode, planner.plan(IpFamily::V4), 0);
    let left = |text: &str| host.services.keys().any(|id| id.to_string() == text);
    assert!(left("-t 10.9.1.1:80"), "excluded");
    assert!(left("-f 7"), "by mark");
    assert!(!left("-t 10.8.1.1:80"));
}

#[test]
fn a_set_that_is_too_small_grows_in_place() {
    let (planner, mut mode, mut host) = started();
    let should = host.comparable();
    let set = host.sets.get_mut("KUBE-CLUSTER-IP").unwrap();
    set.elements.truncate(3);
    for (name, value) in &mut set.options {
        if &**name == "maxelem" {
            *value = Some("4".into());
        }
    }
    mode.forget();
    mode.observe(host.observe());
    host.sync(&mut mode, planner.plan(IpFamily::V4), 0);
    assert_eq!(host.comparable(), should);
    assert_eq!(host.sync(&mut mode, planner.plan(IpFamily::V4), 0), 0);
}

#[test]
fn cleanup_leaves_other_programs_state() {
    let (_, _, mut host) = started();
    let cleanup_ops = cleanup(IpFamily::V4, &host.observe());
    host.clean(&cleanup_ops);
    assert_eq!(host.comparable(), Host::new(IpFamily::V4).comparable());
    assert!(cleanup(IpFamily::V4, &host.observe()).is_empty());
}

/// Without device and sets, the chains belong to iptables mode and the servers to other programs.
#[test]
fn cleanup_changes_nothing_on_a_node_that_never_ran_this_mode() {
    let (_, _, mut host) = started();
    host.device = None;
    host.sets.retain(|name, _| name == "THEIRS");
    assert!(cleanup(IpFamily::V4, &host.observe()).is_empty());
}

/// A load balancer whose source ranges exclude the node has a rule of its own. Other rules
/// stay.
#[test]
fn a_rule_for_one_load_balancer_is_written_alone() {
    let (mut planner, mut mode, mut host) = started();
    planner.apply(Event::Node(Change::Applied(Arc::new(node(
        "node1",
        &["10.200.1.2"],
        &[],
    )))));
    let balancer = |number: u8| {
        let mut new = service(&format!("demo/lb{number}"), &["10.96.77.9"], &["http:80"]);
        new.cluster_ips = ips(&[&format!("10.96.77.{number}")]);
        let ip = format!("198.51.100.{number}").parse().unwrap();
        new.ingress = vec![IngressIp {
            ip,
            mode: IpMode::Vip,
        }];
        new.source_ranges = cidrs(&["203.0.113.0/24"]);
        Event::Service(Change::Applied(Arc::new(new)))
    };
    let mut applied = |event: Event| {
        planner.apply(event);
        change(&mut planner, &mut mode);
        let plan = planner.plan(IpFamily::V4);
        let transaction = mode.transaction(plan).unwrap();
        host.run(&transaction);
        let rules = transaction.rules.clone();
        mode.committed(transaction, Duration::ZERO);
        // A mode that reads this state has nothing to write, in any order of the rules.
        let mut reader = Mode::new(IpFamily::V4, options("default"));
        reader.set_addresses(plan, interface_addresses());
        reader.update_all(plan);
        reader.observe(host.observe());
        assert!(reader.transaction(plan).unwrap().is_empty());
        rules
    };
    applied(balancer(9));
    applied(balancer(1));
    let rule = |what: &str, number: u8| {
        format!(
            "*filter\n-{what} KUBE-IPVS-OUT-FILTER -s 198.51.100.{number}/32 -m ipvs \
             --vproto 6 --vaddr 198.51.100.{number} --vport 80 -j DROP\nCOMMIT\n"
        )
    };
    assert_eq!(applied(balancer(5)), rule("A", 5));
    let gone = |number| {
        let name = plan::testing::name(&format!("demo/lb{number}"));
        Event::Service(Change::Deleted(name))
    };
    assert_eq!(applied(gone(9)), rule("D", 9));
}

/// A refused piece is attributed to its Service port, tried again, and not taken for a foreign
/// change.
#[test]
fn refused_pieces_are_recorded_as_missing() {
    let (mut planner, mut mode, mut host) = started();
    let new = service("demo/new", &["10.96.77.1"], &["http:80"]);
    planner.apply(Event::Service(Change::Applied(Arc::new(new))));
    change(&mut planner, &mut mode);
    let transaction = mode.transaction(planner.plan(IpFamily::V4)).unwrap();
    host.run(&transaction);
    mode.committed(transaction, Duration::ZERO);
    let ip: IpAddr = "10.96.77.1".parse().unwrap();
    let lost = "create KUBE-CLUSTER-IP hash:ip,port\nadd KUBE-CLUSTER-IP 10.96.77.1,tcp:80\n";
    let lost = ipset::Sets::parse(lost).unwrap().sets.remove(0).elements;
    let owners = mode.missing(&[
        Unprogrammed::Address(ip),
        Unprogrammed::Element("KUBE-CLUSTER-IP", &lost[0]),
        // Without an owner, and of another program's set.
        Unprogrammed::Address("10.96.77.2".parse().unwrap()),
        Unprogrammed::Element("THEIRS", &lost[0]),
    ]);
    let owners = owners
        .iter()
        .map(|keys| keys.iter().map(|k| k.0.to_string()));
    let owners: Vec<Vec<String>> = owners.map(Iterator::collect).collect();
    assert_eq!(owners[..2], [["demo/new:http"]; 2]);
    assert!(owners[2..].iter().all(Vec::is_empty));
    host.device.as_mut().unwrap().remove(&ip);
    let set = host.sets.get_mut("KUBE-CLUSTER-IP").unwrap();
    set.elements.retain(|e| !lost.contains(e));

    let again = mode.transaction(planner.plan(IpFamily::V4)).unwrap();
    assert!(!again.is_empty() && mode.is_only_refused(&again));
    mode.observe(host.observe());
    let again = mode.transaction(planner.plan(IpFamily::V4)).unwrap();
    assert!(mode.is_only_refused(&again));
    // A foreign change.
    let other = host.services.keys().next().copied().unwrap();
    let server = host.services.remove(&other).unwrap();
    mode.observe(host.observe());
    let more = mode.transaction(planner.plan(IpFamily::V4)).unwrap();
    assert!(!mode.is_only_refused(&more));
    host.services.insert(other, server);
    mode.observe(host.observe());
    assert_eq!(host.sync(&mut mode, planner.plan(IpFamily::V4), 0), 2);
    assert!(host.device.unwrap().contains(&ip));
}

#[test]
fn after_a_failure_the_mode_reads_the_kernel() {
    let (planner, mut mode, host) = started();
    let transaction = mode.transaction(planner.plan(IpFamily::V4)).unwrap();
    drop(transaction);
    mode.forget();
    assert!(mode.needs_observation());
    assert_eq!(
        mode.transaction(planner.plan(IpFamily::V4)).unwrap_err(),
        NeedsObservation
    );
    mode.observe(host.observe());
    assert!(
        mode.transaction(planner.plan(IpFamily::V4))
            .unwrap()
            .is_empty()
    );
}

#[test]
fn truncated_rules_are_an_error() {
    let (_, _, host) = started();
    let rules = host.tables.to_string();
    let cut = rules.trim_end().strip_suffix("COMMIT").unwrap();
    let seen = Seen {
        rules: cut.to_owned(),
        ..Seen::default()
    };
    assert!(Observation::new(IpFamily::V4, seen).is_err());
}
