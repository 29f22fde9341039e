//! The body of the fuzz target, also run over a corpus by the tests.

use netfilter::iptables::Family;

use crate::facts::Facts;
use crate::packet::{Origin, Packet, Proto};
use crate::reply::reply_to;
use crate::walk::walk;
use crate::world::{World, WorldError};

/// Parse the bytes as a dump (the first byte selects the tool) or a facts file, and walk a packet and
/// its answer through it. An error that names the place is fine.
///
/// # Panics
/// If the odds of the outcomes do not add up to 1: the purpose of the function.
pub fn fuzz_one(bytes: &[u8]) {
    let Some((which, dump)) = bytes.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(dump) else {
        return;
    };
    let mut world = World::default();
    if let Err(error) = read(&mut world, which % 5, text) {
        let said = error.to_string();
        let place = said.split(": ").next().unwrap_or_default();
        assert!(
            !place.contains("line 0") && !place.contains("column 0"),
            "{said}"
        );
        return;
    }
    for (from, src) in [
        (Origin::Pod, [10, 244, 1, 50]),
        (Origin::Node, [10, 200, 1, 2]),
        (Origin::Outside, [198, 51, 100, 7]),
    ] {
        let packet = Packet::new(from, src.into(), [10, 96, 10, 1].into(), Proto::TCP, 80);
        // Loops and missing chains are errors, which is fine.
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

fn read(world: &mut World, which: u8, text: &str) -> Result<(), WorldError> {
    match which {
        0 => world.add_iptables(Family::Ipv4, text)?,
        1 => world.add_nft(text)?,
        2 => {
            world.ipsets = netfilter::ipset::Sets::parse(text)?;
            let match_all = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A FORWARD -m set --match-set KUBE-CLUSTER-IP dst,dst -j DROP\nCOMMIT\n";
            world.add_iptables(Family::Ipv4, match_all)?;
        }
        3 => world.ipvs = netfilter::ipvs::Services::parse(text)?,
        _ => *world = World::from_facts(&Facts::parse(text)?)?,
    }
    Ok(())
}
