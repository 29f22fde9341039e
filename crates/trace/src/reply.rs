//! The answer to a packet, walked back.

use crate::outcome::Outcome;
use crate::{CtState, Endpoint, Flow, Host, Origin, Packet, Proto, Verdict};

/// The packet that answers `packet` after it met `outcome`: from where it was delivered to, to
/// where that one thinks it came from, its connection known. `None` where nothing was delivered.
///
/// Walked with [`crate::walk`], it shows reverse translation and what filters do to answers. It
/// starts on this node where the destination is this node's own address; from a pod where it is
/// reached without a gateway through the same interface as the packet went out; else outside.
pub fn reply_to(host: &Host, packet: &Packet, outcome: &Outcome) -> Option<Packet> {
    if outcome.verdict != Verdict::Accept {
        return None;
    }
    let to = outcome.dnat.unwrap_or(Endpoint {
        ip: packet.dst,
        port: packet.dport,
    });
    let seen = outcome.flow.snat.map_or(
        Endpoint {
            ip: packet.src,
            port: packet.sport,
        },
        |r| r.after,
    );
    let (sport, dport) = match packet.proto {
        // Echo reply.
        Proto::ICMP => (0, 0),
        Proto::ICMPV6 => (129, 0),
        _ => (to.port, seen.port),
    };
    Some(Packet {
        src: to.ip,
        dst: seen.ip,
        proto: packet.proto,
        sport,
        dport,
        in_iface: outcome.out_iface.clone(),
        from: if outcome.out_iface.is_none() {
            Origin::Node
        } else {
            host.guess_origin(to.ip)
        },
        ct: match packet.proto {
            _ if outcome.tracked => CtState::Established(Flow {
                reply: true,
                ..outcome.flow.clone()
            }),
            // To connection tracking it is the first packet, which only UDP's answers look like.
            Proto::UDP => CtState::New,
            _ => CtState::Invalid,
        },
        mark: 0,
    })
}
