//! Single changes, drift, and what others own.

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
    mode.set_addresses(interface_addresses());
    mode.replace_plan(planner.plan(IpFamily::V4));
    let mut host = Host::new(IpFamily::V4);
    mode.observe(host.observe());
    host.sync(&mut mode, 0);
    (planner, mode, host)
}

fn endpoints(planner: &mut Planner, name: &str, ports: &[&str], pods: &[&str]) {
    let pods = pods.iter().map(|ip| endpoint(ip, "node2")).collect();
    let slice_name = format!("{}-x", name.replace('/', "-"));
    let slice = slice(&slice_name, name, ports, pods);
    planner.apply(Event::EndpointSlice(Change::Applied(Arc::new(slice))));
}

fn change(planner: &mut Planner, mode: &mut Mode) {
    mode.apply(&planner.take_diff().v4);
}

#[test]
fn a_change_costs_only_itself() {
    let (mut planner, mut mode, mut host) = started();
    let new = service("demo/new", &["10.96.77.1"], &["http:80"]);
    planner.apply(Event::Service(Change::Applied(Arc::new(new))));
    endpoints(&mut planner, "demo/new", &["http:8080"], &["10.244.2.77"]);
    change(&mut planner, &mut mode);
    // The server, its destination and its address; an element of two sets.
    assert_eq!(host.sync(&mut mode, 0), 5);
    endpoints(
        &mut planner,
        "demo/new",
        &["http:8080"],
        &["10.244.2.77", "10.244.2.78"],
    );
    change(&mut planner, &mut mode);
    assert_eq!(host.sync(&mut mode, 0), 1);
    assert_eq!(host.sync(&mut mode, 0), 0);
}

#[test]
fn an_address_that_the_node_has_is_not_added_but_balanced() {
    let (mut planner, mut mode, mut host) = started();
    let mut new = service("demo/new", &["10.96.77.1"], &["http:80"]);
    new.external_ips = ips(&["10.200.1.2", "192.0.2.77"]);
    planner.apply(Event::Service(Change::Applied(Arc::new(new))));
    change(&mut planner, &mut mode);
    host.sync(&mut mode, 0);
    let device = host.device.as_ref().unwrap();
    let has = |ip: &str| device.contains(&ip.parse::<IpAddr>().unwrap());
    assert!(has("192.0.2.77") && !has("10.200.1.2"));
    assert!(
        host.services
            .keys()
            .any(|id| id.to_string() == "-t 10.200.1.2:80")
    );
    // The node loses the address: now it must be added.
    mode.set_addresses(ips(&["10.200.0.1"]));
    host.sync(&mut mode, 0);
    let device = host.device.as_ref().unwrap();
    assert!(device.contains(&"10.200.1.2".parse::<IpAddr>().unwrap()));
    // And NodePorts are no longer on it.
    let on_it = host.services.keys().filter(|id| {
        let ip = id.ip().unwrap().to_string();
        ip == "10.200.1.2"
    });
    assert_eq!(on_it.count(), 1);
}

#[test]
fn drift_is_repaired_and_nothing_else_is_touched() {
    let (_, mut mode, mut host) = started();
    let should = host.comparable();
    // Somebody flushes a chain, deletes a jump, a server, an address and an element, and adds
    // things of their own to what is ours.
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
    let changes = host.sync(&mut mode, 0);
    assert!(changes < 20, "{changes}");
    let mut is = host.clone();
    // Somebody's own rule in POSTROUTING went with the flush.
    for state in is.tables.tables.values_mut() {
        for (chain, state) in &mut state.chains {
            if chain.as_str() == "POSTROUTING" {
                let other =
                    netfilter::iptables::Rule::parse(netfilter::iptables::Family::Ipv4, "-j OTHER");
                state.rules.push(other.unwrap());
            }
        }
    }
    // TableSets list POSTROUTING in filter too where it was made; compare what matters.
    assert_eq!(is.comparable(), should);
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
    mode.set_addresses(interface_addresses());
    mode.replace_plan(planner("default").plan(IpFamily::V4));
    let mut host = Host::new(IpFamily::V4);
    let foreign = netfilter::ipvs::Services::parse(
        "-A -t 10.9.1.1:80 -s wlc\n-a -t 10.9.1.1:80 -r 10.1.1.1:80 -g -w 7\n-A -t 10.8.1.1:80 -s wlc\n-A -f 7 -s rr\n",
    );
    let foreign = foreign.unwrap().services;
    host.services = foreign.into_iter().map(|s| (s.id, s)).collect();
    mode.observe(host.observe());
    host.sync(&mut mode, 0);
    let left = |text: &str| host.services.keys().any(|id| id.to_string() == text);
    assert!(left("-t 10.9.1.1:80"), "excluded");
    assert!(left("-f 7"), "by mark");
    assert!(!left("-t 10.8.1.1:80"));
}

#[test]
fn a_set_that_is_too_small_grows_in_place() {
    let (_, mut mode, mut host) = started();
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
    host.sync(&mut mode, 0);
    assert_eq!(host.comparable(), should);
    assert_eq!(host.sync(&mut mode, 0), 0);
}

#[test]
fn cleanup_leaves_what_others_own() {
    let (_, _, mut host) = started();
    let cleanup_ops = cleanup(IpFamily::V4, &host.observe());
    host.clean(&cleanup_ops);
    assert_eq!(host.comparable(), Host::new(IpFamily::V4).comparable());
    assert!(cleanup(IpFamily::V4, &host.observe()).is_empty());
}

/// Without any sign of this mode, its chains are the iptables mode's and servers are others'.
#[test]
fn cleanup_leaves_a_node_alone_that_never_ran_this_mode() {
    let (_, _, mut host) = started();
    host.device = None;
    host.sets.retain(|name, _| name == "THEIRS");
    assert!(cleanup(IpFamily::V4, &host.observe()).is_empty());
}

/// A load balancer whose source ranges the node is not in has a rule of its own. Others' are left
/// where they are.
#[test]
fn a_rule_for_one_load_balancer_costs_only_itself() {
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
    let mut change = |event: Event| {
        planner.apply(event);
        mode.apply(&planner.take_diff().v4);
        let transaction = mode.transaction().unwrap();
        host.run(&transaction);
        let rules = transaction.rules.clone();
        mode.committed(transaction, Duration::ZERO);
        // Whoever reads it finds nothing to do, whatever the order is.
        let mut reader = Mode::new(IpFamily::V4, options("default"));
        reader.set_addresses(interface_addresses());
        reader.replace_plan(planner.plan(IpFamily::V4));
        reader.observe(host.observe());
        assert!(reader.transaction().unwrap().is_empty());
        rules
    };
    change(balancer(9));
    change(balancer(1));
    let rule = |what: &str, number: u8| {
        format!(
            "*filter\n-{what} KUBE-IPVS-OUT-FILTER -s 198.51.100.{number}/32 -m ipvs \
             --vproto 6 --vaddr 198.51.100.{number} --vport 80 -j DROP\nCOMMIT\n"
        )
    };
    assert_eq!(change(balancer(5)), rule("A", 5));
    let gone = |number| {
        let name = plan::testing::name(&format!("demo/lb{number}"));
        Event::Service(Change::Deleted(name))
    };
    assert_eq!(change(gone(9)), rule("D", 9));
}

/// What the kernel refuses is named by its Service port, tried again, and no sign of others'
/// meddling.
#[test]
fn what_is_refused_is_known_to_be_missing() {
    let (mut planner, mut mode, mut host) = started();
    let new = service("demo/new", &["10.96.77.1"], &["http:80"]);
    planner.apply(Event::Service(Change::Applied(Arc::new(new))));
    change(&mut planner, &mut mode);
    let transaction = mode.transaction().unwrap();
    host.run(&transaction);
    mode.committed(transaction, Duration::ZERO);
    let ip: IpAddr = "10.96.77.1".parse().unwrap();
    let lost = "create KUBE-CLUSTER-IP hash:ip,port\nadd KUBE-CLUSTER-IP 10.96.77.1,tcp:80\n";
    let lost = ipset::Sets::parse(lost).unwrap().sets.remove(0).elements;
    let owners = mode.lacks(&[
        Lost::Address(ip),
        Lost::Element("KUBE-CLUSTER-IP", &lost[0]),
        // Of nobody, and of a set that is not ours.
        Lost::Address("10.96.77.2".parse().unwrap()),
        Lost::Element("THEIRS", &lost[0]),
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

    let again = mode.transaction().unwrap();
    assert!(!again.is_empty() && mode.is_only_refused(&again));
    mode.observe(host.observe());
    let again = mode.transaction().unwrap();
    assert!(mode.is_only_refused(&again));
    // Others do meddle.
    let other = host.services.keys().next().copied().unwrap();
    let server = host.services.remove(&other).unwrap();
    mode.observe(host.observe());
    let more = mode.transaction().unwrap();
    assert!(!mode.is_only_refused(&more));
    host.services.insert(other, server);
    mode.observe(host.observe());
    assert_eq!(host.sync(&mut mode, 0), 2);
    assert!(host.device.unwrap().contains(&ip));
}

#[test]
fn after_a_failure_the_kernel_is_read() {
    let (_, mut mode, host) = started();
    let transaction = mode.transaction().unwrap();
    mode.failed(transaction);
    assert!(mode.needs_observation());
    assert_eq!(mode.transaction().unwrap_err(), NeedsObservation);
    mode.observe(host.observe());
    assert!(mode.transaction().unwrap().is_empty());
}

#[test]
fn rules_that_were_cut_short_are_not_believed() {
    let (_, _, host) = started();
    let rules = host.tables.to_string();
    let cut = rules.trim_end().strip_suffix("COMMIT").unwrap();
    let seen = Seen {
        rules: cut.to_owned(),
        ..Seen::default()
    };
    assert!(Observation::new(IpFamily::V4, seen).is_err());
}
