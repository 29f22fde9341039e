//! Small and large diagrams.

use std::fmt::Write as _;

use netfilter::iptables::Family;
use trace::{Origin, Packet, Proto, World, walk};

use super::graph::{Graph, Kind};
use super::picture::Picture;
use super::{draw, of_trace, structure, svg};

mod geometry;

/// Rules of kube-proxy for one Service with this many endpoints.
fn world(endpoints: usize) -> World {
    let mut chains = String::new();
    let mut rules = String::new();
    for i in 0..endpoints {
        let _ = writeln!(chains, ":KUBE-SEP-{i} - [0:0]");
        let odds = 1.0 / (endpoints - i) as f64;
        let _ = writeln!(
            rules,
            "[{i}:{i}] -A KUBE-SVC-A -m statistic --mode random --probability {odds:.11} -j KUBE-SEP-{i}\n\
             [0:0] -A KUBE-SEP-{i} -p tcp -j DNAT --to-destination 10.1.{}.{}:80",
            i / 250,
            i % 250 + 1
        );
    }
    let text = format!(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-A - [0:0]\n{chains}\
         [7:70] -A PREROUTING -j KUBE-SERVICES\n\
         [7:70] -A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-A\n\
         {rules}COMMIT\n"
    );
    let mut world = World::default();
    world.add_iptables(Family::Ipv4, &text).unwrap();
    world
}

fn traced(endpoints: usize) -> Graph {
    let client = "10.1.9.9".parse().unwrap();
    let service = "10.96.0.1".parse().unwrap();
    let packet = Packet::new(Origin::Pod, client, service, Proto::TCP, 80);
    let world = world(endpoints);
    of_trace(&world, &packet, &walk(&world, &packet).unwrap())
}

fn count(graph: &Graph, kind: Kind) -> usize {
    graph.boxes.iter().filter(|b| b.kind == kind).count()
}

#[test]
fn ten_endpoints_are_all_drawn() {
    let graph = traced(10);
    assert_eq!(count(&graph, Kind::Arrives), 10);
    // Another order from the top, and nothing left out.
    let folded = graph.folded(10);
    assert_eq!(folded.boxes.len(), graph.boxes.len());
    assert_eq!(folded.arrows.len(), graph.arrows.len());
    assert_eq!(count(&folded, Kind::Folded), 0);
}

#[test]
fn a_thousand_endpoints_are_folded() {
    for graph in [traced(1000), structure::of_world(&world(1000))] {
        let folded = graph.folded(10);
        assert!(folded.boxes.len() < 40, "{}", folded.boxes.len());
        let fold = folded
            .boxes
            .iter()
            .find(|b| b.kind == Kind::Folded)
            .unwrap();
        assert!(
            fold.title.starts_with("… and 990 more of"),
            "{}",
            fold.title
        );
    }
}

#[test]
fn counters_are_shown_with_rules() {
    let graph = structure::of_world(&world(1));
    let boxes = draw::boxes(&graph);
    assert!(boxes.contains("[7 packets, 70 bytes]"), "{boxes}");
    // Also in the rules that a packet matches.
    let boxes = draw::boxes(&traced(1));
    assert!(
        boxes.contains("[7 packets, 70 bytes] -d 10.96.0.1/32"),
        "{boxes}"
    );
}

#[test]
fn jumps_of_verdict_maps_are_drawn() {
    let text = "table ip t {\n\tmap m {\n\t\ttype ipv4_addr : verdict\n\t\telements = { \
                10.0.0.1 : goto a, 10.0.0.2 : drop }\n\t}\n\tchain a {\n\t}\n\tchain base {\n\
                \t\ttype nat hook prerouting priority dstnat; policy accept;\n\
                \t\tip daddr vmap @m\n\t}\n}\n";
    let mut world = World::default();
    world.add_nft(text).unwrap();
    let graph = structure::of_world(&world);
    let titles: Vec<&str> = graph.boxes.iter().map(|b| b.title.as_str()).collect();
    let arrow = graph.arrows.first().expect("an arrow");
    assert!(
        titles[arrow.from].starts_with("ip t base (prerouting"),
        "{titles:?}"
    );
    assert_eq!(titles[arrow.to], "ip t a");
}

#[test]
fn every_format_shows_every_box_and_escapes_text() {
    let graph = traced(3);
    for text in [
        draw::mermaid(&graph),
        draw::dot(&graph),
        draw::boxes(&graph),
        svg::svg(&graph),
    ] {
        for end in ["10.1.0.1:80", "10.1.0.2:80", "10.1.0.3:80", "KUBE-SVC-A"] {
            assert!(text.contains(end), "{end} is not in {text}");
        }
    }
    let mermaid = draw::mermaid(&graph);
    assert!(
        !mermaid.contains("=>"),
        "angle brackets are HTML there: {mermaid}"
    );
    // The lanes with a name, and the background.
    let lanes = Picture::of(&graph).lanes;
    let lanes = lanes.iter().filter(|lane| !lane.name.is_empty()).count();
    assert_eq!(
        svg::svg(&graph).matches("<rect").count(),
        graph.boxes.len() + lanes + 1
    );
}

#[test]
fn rules_are_shortened() {
    for (rule, shown) in [
        (
            "-d 10.96.0.1/32 -p tcp -m comment --comment \"demo/web cluster IP\" -m tcp --dport 80 -j A",
            "-d 10.96.0.1/32 -p tcp --dport 80 -j A  # demo/web cluster IP",
        ),
        (
            "-m comment --comment one -m statistic --mode random --probability 0.33333333349 -j B",
            "--probability 0.3333 -j B  # one",
        ),
        ("-m comment --comment \"never closed", "  # never closed"),
        ("ip daddr 10.0.0.1 accept", "ip daddr 10.0.0.1 accept"),
    ] {
        assert_eq!(super::plain(rule), shown);
    }
}

/// Arrows from a fork show odds, others do not.
#[test]
fn arrows_from_forks_show_odds() {
    let graph = traced(4);
    for arrow in &graph.arrows {
        let forks = graph.arrows.iter().filter(|a| a.from == arrow.from).count() > 1;
        let expected = if forks { "25%" } else { "" };
        assert_eq!(arrow.label, expected, "{arrow:?}");
    }
}

/// Every tag is closed, in order.
#[test]
fn svg_is_well_formed() {
    let mut graph = traced(12);
    graph.boxes[1]
        .lines
        .push("a < b & \"c\" > \u{1b}[0m".to_owned());
    let text = svg::svg(&graph);
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
    let mut open: Vec<&str> = Vec::new();
    for tag in text.split('<').skip(1) {
        let (inner, after) = tag.split_once('>').expect("a tag ends");
        assert!(!after.contains('>'), "{after}");
        if let Some(name) = inner.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{tag}");
        } else if !inner.ends_with('/') {
            open.push(inner.split(' ').next().unwrap());
        }
        for (at, _) in after.match_indices('&') {
            let is_entity = |e: &&str| after[at..].starts_with(*e);
            assert!(["&amp;", "&lt;", "&gt;"].iter().any(is_entity), "{after}");
        }
    }
    assert!(open.is_empty(), "{open:?}");
}
