//! The places of boxes and arrows.

use proptest::prelude::*;

use super::super::graph::{Arrow, Box};
use super::super::lane::{Lane, Place};
use super::super::picture::DrawnBox;
use super::*;

/// Points of a cubic curve that are checked.
const SAMPLES: u32 = 24;

/// Return points along an arrow, as the page and the SVG draw it.
fn line(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut all = Vec::new();
    for pair in points.windows(2) {
        let [(x1, y1), (x2, y2)] = pair else { continue };
        let middle = f64::midpoint(*y1, *y2);
        for step in 0..=SAMPLES {
            let t = f64::from(step) / f64::from(SAMPLES);
            let s = 1.0 - t;
            let bezier = |a: f64, b: f64, c: f64, d: f64| {
                s.powi(3) * a + 3.0 * s * s * t * b + 3.0 * s * t * t * c + t.powi(3) * d
            };
            all.push((bezier(*x1, *x1, *x2, *x2), bezier(*y1, middle, middle, *y2)));
        }
    }
    all
}

fn is_inside(b: &DrawnBox, (x, y): (f64, f64)) -> bool {
    const EDGE: f64 = 0.5;
    b.x + EDGE < x && x < b.x + b.width - EDGE && b.y + EDGE < y && y < b.y + b.height - EDGE
}

/// Check that boxes are apart, in the picture and in their lanes, and that arrows lead from box to box
/// beside all others.
#[track_caller]
fn assert_drawn_well(graph: &Graph) {
    let picture = Picture::of(graph);
    for (at, a) in picture.boxes.iter().enumerate() {
        assert!(a.x >= 0.0 && a.x + a.width <= picture.width, "{a:?}");
        assert!(a.y >= 0.0 && a.y + a.height <= picture.height, "{a:?}");
        let within = |lane: &&super::super::picture::DrawnLane| {
            lane.y <= a.y && a.y + a.height <= lane.y + lane.height
        };
        let lane = picture.lanes.iter().find(within).expect("a lane");
        let drawn = graph.boxes.get(at).map(|b| b.lane.to_string());
        if let Some(drawn) = drawn.filter(|_| !lane.name.is_empty()) {
            assert_eq!(lane.name, drawn, "{a:?}");
        }
        for b in &picture.boxes[at + 1..] {
            let apart = a.x + a.width <= b.x
                || b.x + b.width <= a.x
                || a.y + a.height <= b.y
                || b.y + b.height <= a.y;
            assert!(apart, "{a:?} {b:?}");
        }
    }
    for arrow in &picture.arrows {
        let (from, to) = (&picture.boxes[arrow.from], &picture.boxes[arrow.to]);
        let ends = [arrow.points[0], arrow.points[arrow.points.len() - 1]];
        for (b, (x, y)) in [from, to].into_iter().zip(ends) {
            assert!(b.x <= x && x <= b.x + b.width, "{arrow:?} {b:?}");
            assert!((y - b.y).abs() < 0.5 || (y - b.y - b.height).abs() < 0.5);
        }
        for point in line(&arrow.points) {
            for b in &picture.boxes {
                assert!(!is_inside(b, point), "{arrow:?} crosses {b:?} at {point:?}");
            }
        }
    }
    let drawn = graph.arrows.iter().filter(|a| a.from != a.to).count();
    assert!(picture.arrows.len() == drawn || graph.boxes.len() > picture.boxes.len() - 1);
}

#[test]
fn arrows_of_traces_and_structures_cross_no_box() {
    for endpoints in [1, 2, 3, 12] {
        assert_drawn_well(&traced(endpoints));
        assert_drawn_well(&structure::of_world(&world(endpoints)));
    }
    assert_drawn_well(&traced(1000).folded(10));
    assert_drawn_well(&structure::of_world(&world(1000)).folded(10));
    // Without folding, only the first boxes are drawn.
    assert_drawn_well(&traced(1000));
}

/// The recorded rules of kube-proxy, in every mode.
#[test]
fn arrows_of_recorded_rules_cross_no_box() {
    for name in ["default", "bridge", "masquerade-all"] {
        let mut of_iptables = World::default();
        for (family, version) in [(Family::Ipv4, "v4"), (Family::Ipv6, "v6")] {
            let text = observed::read(&format!("iptables-{name}.{version}.iptables-save"));
            of_iptables.add_iptables(family, &text).unwrap();
        }
        let mut of_nft = World::default();
        of_nft
            .add_nft(&observed::read(&format!("nftables-{name}.v4.nft")))
            .unwrap();
        for world in [of_iptables, of_nft] {
            for most in [3, 10] {
                assert_drawn_well(&structure::of_world(&world).folded(most));
            }
            for (from, src) in [
                (Origin::Pod, "10.244.1.50"),
                (Origin::Node, "10.200.1.2"),
                (Origin::Outside, "198.51.100.9"),
            ] {
                for (dst, port) in [("10.96.10.1", 80), ("10.200.1.2", 30008)] {
                    let packet = Packet::new(
                        from,
                        src.parse().unwrap(),
                        dst.parse().unwrap(),
                        Proto::TCP,
                        port,
                    );
                    let walked = walk(&world, &packet).unwrap();
                    assert_drawn_well(&of_trace(&world, &packet, &walked).folded(10));
                }
            }
        }
    }
}

/// The lanes of a packet are in the kernel's order, and all five hooks are shown.
#[test]
fn hooks_are_lanes_in_the_order_of_the_kernel() {
    let names = |graph: &Graph| -> Vec<String> {
        let lanes = Picture::of(graph).lanes;
        let named = lanes.into_iter().filter(|lane| lane.is_hook);
        named.map(|lane| lane.name).collect()
    };
    let hooks = ["prerouting", "input", "forward", "output", "postrouting"];
    assert_eq!(names(&traced(3)), hooks);
    assert_eq!(names(&structure::of_world(&world(3))), hooks);
}

/// Any graph, with cycles, arrows to earlier lanes and arrows from a box to itself.
fn any_graph() -> impl Strategy<Value = Graph> {
    let places = [
        Place::Start,
        Place::Prerouting,
        Place::Routing,
        Place::Forward,
        Place::Postrouting,
        Place::Arrival,
    ];
    let boxes = prop::collection::vec((0..places.len(), 0..4_usize), 1..24);
    let arrows = prop::collection::vec((0..24_usize, 0..24_usize), 0..48);
    (boxes, arrows).prop_map(move |(boxes, arrows)| {
        let count = boxes.len();
        let boxes = boxes.into_iter().enumerate();
        let boxes = boxes.map(|(at, (place, lines))| Box {
            lines: vec!["a rule with some words ".repeat(lines); lines],
            ..Box::new(Kind::Chain, Lane::of(places[place]), &format!("box {at}"))
        });
        let arrows = arrows.into_iter().map(|(from, to)| Arrow {
            from: from % count,
            to: to % count,
            label: "50%".to_owned(),
        });
        Graph {
            boxes: boxes.collect(),
            arrows: arrows.collect(),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn arrows_of_any_graph_cross_no_box(graph in any_graph()) {
        assert_drawn_well(&graph);
    }
}
