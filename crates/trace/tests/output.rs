//! The output as text and as JSON, and answers.
#![allow(missing_docs)]

mod common;

use common::{ask, iptables_world, nft_world, packet};
use trace::{Origin, Proto, Style, World, render_tree, reply_to, to_json, walk};

#[test]
fn json_has_the_documented_format() {
    let world = iptables_world("default");
    let packet = packet(
        Origin::Outside,
        "198.51.100.9",
        "10.200.1.2",
        Proto::TCP,
        30150,
    );
    let json = to_json(&walk(&world, &packet).unwrap());
    let outcome = &json["outcomes"][0];
    assert_eq!(outcome["probability"], 1.0);
    assert_eq!(outcome["verdict"], "accept");
    assert_eq!(outcome["dnat"], "10.244.1.25:8080");
    assert_eq!(outcome["snat"], "masquerade");
    assert_eq!(outcome["hairpin"], false);
    let keys: Vec<&String> = outcome.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        ["dnat", "hairpin", "path", "probability", "snat", "verdict"]
    );
    let step = outcome["path"][0].as_object().unwrap();
    let keys: Vec<&String> = step.keys().collect();
    let expected = [
        "backend", "chain", "effect", "family", "hook", "rule", "table",
    ];
    assert_eq!(keys, expected);
    assert_eq!(step["hook"], "prerouting");
    assert!(json["warnings"].as_array().unwrap().is_empty());
}

#[test]
fn the_tree_shows_shared_steps_once() {
    let world = nft_world("default");
    let packet = packet(Origin::Pod, "10.244.1.50", "10.96.10.1", Proto::TCP, 80);
    let trace = walk(&world, &packet).unwrap();
    let tree = render_tree(&packet, &trace, Style::Plain);
    assert_eq!(tree.matches("jump services").count(), 2, "{tree}"); // the rule and its effect
    // Two answers, two branches, two ends.
    assert_eq!(tree.matches("50% (1/2)").count(), 6, "{tree}");
    assert!(tree.starts_with("tcp 10.244.1.50:50000 -> 10.96.10.1:80 from a pod of this node\n"));
    assert!(!tree.contains('\x1b'));
    assert!(render_tree(&packet, &trace, Style::Ansi).contains("\x1b[1;32mACCEPT"));
}

#[test]
fn only_ports_are_shown_as_ports() {
    let world = iptables_world("default");
    let ping = packet(
        Origin::Outside,
        "198.51.100.9",
        "10.200.1.2",
        Proto::ICMP,
        0,
    );
    let trace = walk(&world, &ping).unwrap();
    let tree = render_tree(&ping, &trace, Style::Plain);
    let first = "icmp type 8 code 0 198.51.100.9 -> 10.200.1.2 from outside\n";
    assert!(tree.starts_with(first), "{tree}");
    assert!(
        tree.contains("delivered to the listener on icmp 10.200.1.2\n"),
        "{tree}"
    );
    // The port that the kernel chooses is unknown.
    let masqueraded = packet(Origin::Node, "10.200.1.2", "10.96.10.1", Proto::TCP, 80);
    let tree = render_tree(
        &masqueraded,
        &walk(&world, &masqueraded).unwrap(),
        Style::Plain,
    );
    assert!(
        tree.contains("source becomes 10.244.1.1 with a free port"),
        "{tree}"
    );
    assert!(
        tree.contains("through cbr0: 10.244.1.1 -> 10.244.1.11:8080"),
        "{tree}"
    );
}

#[test]
fn comments_of_elements_are_shown() {
    let mut world = World::from_facts(&common::node_facts()).unwrap();
    let rules = "table ip t {\n set s {\n type ipv4_addr . inet_proto . inet_service\n elements = { \
                 10.96.0.1 . tcp . 80 comment \"demo/web:http\" }\n }\n chain c {\n type filter hook \
                 prerouting priority 0;\n ip daddr . meta l4proto . th dport @s accept\n }\n}\n";
    world.add_nft(rules).unwrap();
    let packet = packet(Origin::Pod, "10.244.1.50", "10.96.0.1", Proto::TCP, 80);
    let trace = walk(&world, &packet).unwrap();
    let step = &trace.outcomes[0].path[0];
    assert_eq!(step.effect, "10.96.0.1 . tcp . 80 (demo/web:http), accept");
}

#[test]
fn answers_return_to_the_client() {
    for world in [iptables_world("default"), nft_world("default")] {
        for (src, from, dst, port) in [
            ("198.51.100.9", Origin::Outside, "10.200.1.2", 30008),
            ("10.244.1.50", Origin::Pod, "10.96.10.1", 80),
            ("10.244.1.11", Origin::Pod, "10.96.10.1", 80),
            ("10.200.1.2", Origin::Node, "10.96.10.1", 80),
            ("10.244.1.50", Origin::Pod, "10.96.10.13", 9100),
        ] {
            let question = packet(from, src, dst, Proto::TCP, port);
            for outcome in walk(&world, &question).unwrap().outcomes {
                let reply = reply_to(&world.host, &question, &outcome).unwrap();
                let back = walk(&world, &reply).unwrap();
                assert_eq!(back.outcomes.len(), 1, "{reply:?}");
                let last = back.outcomes[0].path.last().unwrap();
                assert_eq!(back.outcomes[0].verdict, trace::Verdict::Accept);
                // The client sees an answer from the address of its request.
                let expected = match from {
                    Origin::Node => format!("tcp {src}:50000"),
                    _ => format!("{dst}:{port} -> {src}:50000"),
                };
                assert!(last.effect.contains(&expected), "{last:?} lacks {expected}");
            }
        }
    }
}

#[test]
fn answers_between_neighbours_on_a_bridge_may_bypass_the_rules() {
    let mut facts = common::node_facts();
    let sysctl = "net.bridge.bridge-nf-call-iptables";
    facts.sysctls.insert(sysctl.to_owned(), "0".to_owned());
    let mut world = iptables_world("default");
    world.host = trace::Host::new(&facts).unwrap();
    let question = packet(Origin::Pod, "10.244.1.50", "10.96.10.1", Proto::TCP, 80);
    let asked = walk(&world, &question).unwrap();
    let [here, elsewhere] = &asked.outcomes[..] else {
        panic!("{asked:?}");
    };
    let back = |outcome| walk(&world, &reply_to(&world.host, &question, outcome).unwrap()).unwrap();
    assert_eq!(back(elsewhere).outcomes.len(), 1);
    let answered = back(here);
    assert_eq!(answered.outcomes.len(), 2);
    let lost = answered
        .outcomes
        .iter()
        .find(|o| o.verdict == trace::Verdict::Drop);
    let lost = lost.unwrap();
    assert!(lost.assuming[0].contains(sysctl), "{lost:?}");
    let effect = &lost.path[0].effect;
    assert!(
        effect.contains("10.244.1.11:8080 instead of 10.96.10.1:80"),
        "{effect}"
    );
}

#[test]
fn rejected_packets_have_no_answer() {
    let world = iptables_world("default");
    let question = packet(Origin::Pod, "10.244.1.50", "10.96.10.9", Proto::TCP, 80);
    assert_eq!(ask(&world, &question), ["reject 1"]);
    let outcome = &walk(&world, &question).unwrap().outcomes[0];
    assert!(reply_to(&world.host, &question, outcome).is_none());
}

#[test]
fn origin_is_derived_from_the_source_address() {
    let world = iptables_world("default");
    let guess = |ip| world.host.guess_origin(common::ip(ip));
    assert_eq!(guess("10.200.1.2"), Origin::Node);
    assert_eq!(guess("127.0.0.1"), Origin::Node);
    assert_eq!(guess("10.244.1.50"), Origin::Pod);
    assert_eq!(guess("10.244.2.50"), Origin::Outside);
    assert_eq!(guess("10.200.1.9"), Origin::Outside);
    assert_eq!(guess("8.8.8.8"), Origin::Outside);
}
