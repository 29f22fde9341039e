//! The answer to a packet.

use crate::host::Host;
use crate::outcome::{Outcome, Verdict};
use crate::packet::{CtState, Endpoint, Flow, Origin, Packet, Proto};

/// Return the answer to a packet after an outcome: from the receiver to the source that the receiver
/// saw, as part of a known connection. `None` if nothing was delivered.
///
/// A [`crate::walk`] with it shows reverse translation and the effect of filters on answers. It starts
/// on this node if the packet was delivered here, else where the receiver's address is
/// [guessed](Host::guess_origin) to be.
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
            // Connection tracking sees a first packet, which is only valid for UDP.
            Proto::UDP => CtState::New,
            _ => CtState::Invalid,
        },
        mark: 0,
    })
}
