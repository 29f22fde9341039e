//! The body of the fuzz target, also run over a corpus by the tests.

use netfilter::iptables::Family;

use crate::{Origin, Packet, Proto, World, reply_to, walk};

/// Reads the bytes as a dump (the first byte says of which tool), and walks a packet and its answer
/// through it. Refusing is fine; panicking, hanging and outcomes whose odds do not add up are not.
///
/// # Panics
/// Where that does not hold: the purpose of the function.
pub fn fuzz_one(bytes: &[u8]) {
    let Some((which, dump)) = bytes.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(dump) else {
        return;
    };
    let mut world = World::default();
    let read = match which % 4 {
        0 => world.add_iptables(Family::Ipv4, text).is_ok(),
        1 => world.add_nft(text).is_ok(),
        2 => netfilter::ipset::Sets::parse(text).is_ok_and(|sets| {
            world.ipsets = sets;
            let match_all = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A FORWARD -m set --match-set KUBE-CLUSTER-IP dst,dst -j DROP\nCOMMIT\n";
            world.add_iptables(Family::Ipv4, match_all).is_ok()
        }),
        _ => netfilter::ipvs::Services::parse(text).is_ok_and(|services| {
            world.ipvs = services;
            true
        }),
    };
    if !read {
        return;
    }
    for (from, src) in [
        (Origin::Pod, [10, 244, 1, 50]),
        (Origin::Node, [10, 200, 1, 2]),
        (Origin::Outside, [198, 51, 100, 7]),
    ] {
        let packet = Packet::new(from, src.into(), [10, 96, 10, 1].into(), Proto::TCP, 80);
        // Loops and missing chains are errors; that is an answer.
        let Ok(trace) = walk(&world, &packet) else {
            continue;
        };
        let sum: f64 = trace.outcomes.iter().map(|o| o.probability.to_f64()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "the odds add up to {sum}");
        if let Some(reply) = trace
            .outcomes
            .first()
            .and_then(|o| reply_to(&world.host, &packet, o))
        {
            drop(walk(&world, &reply));
        }
    }
}
