//! Dumps that leave facts open, mixed back ends, and the order of NAT chains.
#![allow(missing_docs)]

mod common;

use common::{packet, shown};
use netfilter::iptables::Family;
use trace::{Backend, Facts, Origin, Proto, Trace, Verdict, World, walk};

/// A NodePort whose Service has no endpoint on this node, in nat and filter, as kube-proxy has it.
const NODE_PORT: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
    :KUBE-NODEPORTS - [0:0]\n:KUBE-EXT - [0:0]\n:KUBE-SVL - [0:0]\n\
    -A PREROUTING -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
    -A KUBE-NODEPORTS -p tcp -m tcp --dport 31999 -j KUBE-EXT\n\
    -A KUBE-EXT -m addrtype --src-type LOCAL -j RETURN\n-A KUBE-EXT -j KUBE-SVL\nCOMMIT\n\
    *filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n\
    -A INPUT -p tcp -m addrtype --dst-type LOCAL -m tcp --dport 31999 -j DROP\nCOMMIT\n";

fn dump_only(iptables: &str, nft: &str) -> World {
    let mut world = World::default();
    if !iptables.is_empty() {
        world.add_iptables(Family::Ipv4, iptables).unwrap();
    }
    if !nft.is_empty() {
        world.add_nft(nft).unwrap();
    }
    world
}

fn from_outside(world: &World, dst: &str, port: u16) -> Trace {
    let packet = packet(Origin::Outside, "203.0.113.77", dst, Proto::TCP, port);
    walk(world, &packet).unwrap()
}

#[test]
fn address_is_assumed_once_and_in_routing_too() {
    let trace = from_outside(&dump_only(NODE_PORT, ""), "198.51.100.20", 31999);
    assert_eq!(shown(&trace), ["accept 1/2", "drop 1/2"]);
    for outcome in &trace.outcomes {
        let [assumption] = &outcome.assuming[..] else {
            panic!("{outcome:?}");
        };
        let is_local = outcome.verdict == Verdict::Drop;
        let not = if is_local { "" } else { " not" };
        let expected = format!("198.51.100.20 is{not} an address of this node");
        assert_eq!(*assumption, expected);
        let hook = if is_local { "input" } else { "wire" };
        assert_eq!(outcome.path.last().unwrap().hook, hook);
    }
    let warned = |w: &String| w.contains("198.51.100.20 is an address of this node is not known");
    assert!(trace.warnings.iter().any(warned), "{:?}", trace.warnings);
}

#[test]
fn an_address_given_by_the_request_needs_no_assumption() {
    let mut world = dump_only(NODE_PORT, "");
    world.host.assign(common::ip("198.51.100.20"));
    let trace = from_outside(&world, "198.51.100.20", 31999);
    assert_eq!(shown(&trace), ["drop 1"]);
    assert!(trace.outcomes[0].assuming.is_empty());
}

#[test]
fn local_addresses_are_inferred_from_node_port_rules() {
    let nft = "table ip kube-proxy {\n set nodeport-ips {\n type ipv4_addr\n elements = { 198.51.100.20 }\n }\n \
               chain filter-input {\n type filter hook input priority -110;\n ip daddr @nodeport-ips tcp dport \
               31999 drop\n }\n}\n";
    let trace = from_outside(&dump_only("", nft), "198.51.100.20", 31999);
    assert_eq!(shown(&trace), ["drop 1"]);
    let iptables = NODE_PORT.replace(
        "-A PREROUTING -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
        "-A PREROUTING -j KUBE-SERVICES\n-A KUBE-SERVICES -d 198.51.100.20/32 -m addrtype --dst-type \
         LOCAL -j KUBE-NODEPORTS",
    );
    let iptables = iptables.replace(":KUBE-EXT ", ":KUBE-SERVICES - [0:0]\n:KUBE-EXT ");
    let trace = from_outside(&dump_only(&iptables, ""), "198.51.100.20", 31999);
    assert_eq!(shown(&trace), ["drop 1"]);
}

#[test]
fn interface_is_assumed_once() {
    let rules = "*filter\n:FORWARD ACCEPT [0:0]\n:A - [0:0]\n-A FORWARD -i cali+ -j A\n\
                 -A FORWARD -i cali7 -j A\n-A FORWARD ! -i cali+ -j DROP\n-A A -i cali+ -j RETURN\nCOMMIT\n";
    let trace = from_outside(&dump_only(rules, ""), "198.51.100.30", 80);
    let mut ends = shown(&trace);
    ends.sort();
    ends.dedup();
    assert_eq!(ends.len(), 2, "{ends:?}");
    let lost: Vec<_> = trace
        .outcomes
        .iter()
        .filter(|o| o.verdict == Verdict::Drop)
        .collect();
    assert_eq!(lost.len(), 1, "{lost:#?}");
    assert_eq!(
        lost[0].assuming,
        ["the packet does not enter through cali*"]
    );
}

#[test]
fn conditions_without_effect_do_not_fork() {
    // A comment, a target that passes packets, and a match before one that fails.
    let nft = "table ip t {\n chain f {\n type filter hook forward priority 0;\n xt match \"comment\" counter \
               packets 1 bytes 2 jump g\n xt target \"CHECKSUM\"\n meta hour \"08:00\"-\"17:00\" tcp dport 443 \
               drop\n meta hour \"08:00\"-\"17:00\" accept\n }\n chain g {\n }\n}\n";
    let mut world = World::from_facts(&common::node_facts()).unwrap();
    world.add_nft(nft).unwrap();
    let packet = packet(Origin::Pod, "10.244.1.5", "8.8.8.8", Proto::TCP, 80);
    let trace = walk(&world, &packet).unwrap();
    assert_eq!(shown(&trace), ["accept 1"]);
    assert!(trace.outcomes[0].assuming.is_empty());
    assert_eq!(trace.warnings, [""; 0]);
}

fn translating(table: &str, to: &str) -> String {
    format!(
        "table ip {table} {{\n chain pre {{\n type nat hook prerouting priority -100;\n ip daddr 10.96.7.7 dnat to \
         {to}\n }}\n}}\n"
    )
}

#[test]
fn both_orders_of_nat_chains_are_shown_if_they_differ() {
    let both = translating("first", "10.244.2.1") + &translating("second", "10.244.2.2");
    let mut world = World::from_facts(&common::node_facts()).unwrap();
    world.add_nft(&both).unwrap();
    let packet = packet(Origin::Pod, "10.244.1.5", "10.96.7.7", Proto::TCP, 80);
    let trace = walk(&world, &packet).unwrap();
    let ends: Vec<(String, String)> = trace
        .outcomes
        .iter()
        .map(|o| (o.dnat.unwrap().ip.to_string(), o.assuming.join("; ")))
        .collect();
    let order = |a, b| format!("chain ip {a} pre is called before chain ip {b} pre");
    assert_eq!(
        ends,
        [
            ("10.244.2.2".to_owned(), order("second", "first")),
            ("10.244.2.1".to_owned(), order("first", "second")),
        ]
    );
    // With the same target, or a lower priority, the order does not matter.
    let same = translating("first", "10.244.2.1") + &translating("second", "10.244.2.1");
    let earlier = both.replacen("priority -100", "priority -101", 1);
    for (rules, to) in [(same, "10.244.2.1"), (earlier, "10.244.2.1")] {
        let mut world = World::from_facts(&common::node_facts()).unwrap();
        world.add_nft(&rules).unwrap();
        let trace = walk(&world, &packet).unwrap();
        assert_eq!(trace.outcomes.len(), 1, "{rules}");
        assert_eq!(trace.outcomes[0].dnat.unwrap().ip.to_string(), to);
        assert_eq!(trace.warnings, [""; 0]);
    }
}

#[test]
fn kernels_order_of_nat_chains_decides() {
    let both = translating("first", "10.244.2.1") + &translating("second", "10.244.2.2");
    let packet = packet(Origin::Pod, "10.244.1.5", "10.96.7.7", Proto::TCP, 80);
    let ends = |chains: &[&str]| {
        let mut facts = common::node_facts();
        facts.hooks = vec![trace::HookOrder {
            family: 4,
            hook: "prerouting".to_owned(),
            chains: chains.iter().map(|c| (*c).to_owned()).collect(),
        }];
        facts.dumps.nft_ruleset = Some(both.clone());
        let world = World::from_facts(&facts).unwrap();
        let outcomes = walk(&world, &packet).unwrap().outcomes;
        let ends = outcomes.iter().map(|o| o.dnat.unwrap().ip.to_string());
        ends.collect::<Vec<_>>()
    };
    let (first, second) = ("ip first pre", "ip second pre");
    assert_eq!(ends(&[first, "ip raw PREROUTING", second]), ["10.244.2.1"]);
    assert_eq!(ends(&[second, first]), ["10.244.2.2"]);
    // Kernels before Linux 7.1 do not list chains of type nat.
    assert_eq!(ends(&["ip raw PREROUTING"]).len(), 2);
}

#[test]
fn rules_of_both_back_ends_are_labelled_and_evaluated_once() {
    let mut facts: Facts = common::node_facts();
    let rule = |chain: &str| {
        format!(
            "*filter\n:FORWARD ACCEPT [0:0]\n:{chain} - [0:0]\n-A FORWARD -j {chain}\n\
             -A {chain} -m comment --comment x -j RETURN\nCOMMIT\n"
        )
    };
    facts.dumps.iptables_save = Some(rule("NEW"));
    facts.dumps.iptables_legacy_save = Some(rule("OLD"));
    // What nft lists of the rules of iptables-nft.
    facts.dumps.nft_ruleset = Some(
        "table ip filter {\n chain FORWARD {\n type filter hook forward priority 0;\n jump NEW\n }\n chain NEW \
         {\n xt match \"comment\" return\n }\n}\n"
            .to_owned(),
    );
    let world = World::from_facts(&facts).unwrap();
    let packet = packet(Origin::Pod, "10.244.1.5", "8.8.8.8", Proto::TCP, 80);
    let trace = walk(&world, &packet).unwrap();
    let rules: Vec<(Option<Backend>, String)> = trace.outcomes[0]
        .path
        .iter()
        .filter(|s| !s.chain.is_empty())
        .map(|s| (s.backend, trace::place(s)))
        .collect();
    let expected = [
        (Backend::Legacy, "legacy ip filter FORWARD"),
        (Backend::Legacy, "legacy ip filter OLD"),
        (Backend::NfTables, "ip filter FORWARD"),
        (Backend::NfTables, "ip filter NEW"),
    ];
    let expected = expected.map(|(backend, place)| (Some(backend), place.to_owned()));
    assert_eq!(rules, expected);
}
