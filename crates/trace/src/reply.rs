//! The answer to a packet.

use std::net::IpAddr;

use crate::host::Host;
use crate::outcome::{Answer, Did, Outcome, Verdict};
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

/// Return the error that refuses a packet: the TCP reset or ICMP error that this node sends to its
/// source. `None` if the outcome refuses nothing.
///
/// The error belongs to the connection that it refuses (`nf_conntrack_attach`), so that its state is
/// `related`.
pub fn refusal_to(host: &Host, packet: &Packet, outcome: &Outcome) -> Option<Packet> {
    if outcome.verdict != Verdict::Reject {
        return None;
    }
    let v6 = packet.dst.is_ipv6();
    let answer = match outcome.path.last()?.did {
        Did::Rejected(answer) => answer,
        Did::NoRoute => Answer::unreachable(v6, 0, 0),
        _ => return None,
    };
    let (client, dst) = (outcome.src, outcome.dst);
    let (proto, src, sport, dport) = match answer {
        Answer::Reset => (Proto::TCP, dst.ip, dst.port, client.port),
        Answer::Icmp { kind, code } => {
            let proto = if v6 { Proto::ICMPV6 } else { Proto::ICMP };
            let src = error_source(host, client.ip, dst.ip);
            (proto, src, kind.into(), code.into())
        }
    };
    Some(Packet {
        src,
        dst: client.ip,
        proto,
        sport,
        dport,
        in_iface: None,
        from: Origin::Node,
        ct: if outcome.tracked {
            CtState::Related(Flow {
                reply: true,
                ..outcome.flow.clone()
            })
        } else {
            CtState::Invalid
        },
        mark: 0,
    })
}

/// Return the source of an ICMP error: the address that the packet was sent to if it is this node's,
/// else the one that the route to the client prefers (`icmp_send`).
fn error_source(host: &Host, client: IpAddr, dst: IpAddr) -> IpAddr {
    if host.is_local(dst) {
        return dst;
    }
    if host.is_local(client) {
        return client;
    }
    let out = host.iface_towards(client);
    let preferred = out.and_then(|out| host.masquerade_addr(&out, client));
    preferred.unwrap_or(dst)
}
