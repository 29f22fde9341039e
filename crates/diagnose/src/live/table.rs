//! The table that makes the kernel trace one flow and report how far its packets get.

use std::net::IpAddr;

use netfilter::nft::consts::{NF_CT_STATE_NEW_BIT, NF_CT_STATE_UNTRACKED_BIT};
use netfilter::nft::{
    BaseChain, Chain, ChainKind, CmpOp, CtKey, Expr, Family, Hook, MetaKey, Op, PayloadBase,
    Policy, Reg, Rule, Value,
};
use trace::{Packet, Proto};

/// Prefix of the tables' names; the process id follows.
pub(super) const PREFIX: &str = "sluice-trace-";
/// The chain that marks incoming packets for tracing, before all other chains.
pub(super) const INCOMING: &str = "incoming";
/// The chain that marks packets of this node for tracing.
pub(super) const MADE_HERE: &str = "made-here";
/// The chain whose rule matches incoming packets of new connections.
pub(super) const TRACKED_INCOMING: &str = "tracked-incoming";
/// The chain whose rule matches this node's packets of new connections.
pub(super) const TRACKED_MADE_HERE: &str = "tracked-made-here";
/// The chain that packets reach if routing forwards them.
pub(super) const SENT_ON: &str = "sent-on";
/// The chain that packets reach if routing delivers them here.
pub(super) const FOR_THIS_NODE: &str = "for-this-node";
/// The last chain before delivery.
pub(super) const DELIVERED: &str = "delivered";
/// The last chain before a packet leaves.
pub(super) const LEAVES: &str = "leaves";

/// Traced packets per second, so that a busy flow does not slow the node down.
const PER_SECOND: u64 = 5;

/// Return the table's family for packets to an address.
pub(super) fn family(dst: IpAddr) -> Family {
    match dst {
        IpAddr::V4(_) => Family::Ip,
        IpAddr::V6(_) => Family::Ip6,
    }
}

/// Return the operations that make the table. With a `sport`, only packets from that port match.
pub(super) fn ops(packet: &Packet, sport: Option<u16>) -> Vec<Op> {
    // After connection tracking (-200), before anything rewrites the destination (-100).
    const TRACKED: i32 = -199;
    let (first, last) = (i32::MIN + 1, i32::MAX - 1);
    let chains = [
        (INCOMING, Hook::Prerouting, first),
        (MADE_HERE, Hook::Output, first),
        (TRACKED_INCOMING, Hook::Prerouting, TRACKED),
        (TRACKED_MADE_HERE, Hook::Output, TRACKED),
        (SENT_ON, Hook::Forward, first),
        (FOR_THIS_NODE, Hook::Input, first),
        (DELIVERED, Hook::Input, last),
        (LEAVES, Hook::Postrouting, last),
    ];
    let mut ops: Vec<Op> = chains
        .into_iter()
        .map(|(name, hook, priority)| {
            Op::AddChain(Chain {
                name: name.to_owned(),
                base: Some(BaseChain {
                    kind: ChainKind::Filter,
                    hook,
                    priority,
                    policy: Policy::Accept,
                }),
                comment: None,
            })
        })
        .collect();
    let rule = |chain: &str, exprs| {
        Op::AddRule(Rule {
            chain: chain.to_owned(),
            exprs,
            comment: None,
        })
    };
    for chain in [INCOMING, MADE_HERE] {
        ops.push(rule(chain, marking(packet, sport)));
    }
    for chain in [TRACKED_INCOMING, TRACKED_MADE_HERE] {
        ops.push(rule(chain, opening()));
    }
    ops
}

/// Match `len` bytes of a header.
fn is(base: PayloadBase, offset: u32, value: Value) -> [Expr; 2] {
    let len = u32::try_from(value.len()).unwrap_or_default();
    let (dreg, op) = (Reg::FIRST, CmpOp::Eq);
    [
        Expr::Payload {
            base,
            offset,
            len,
            dreg,
        },
        Expr::Cmp {
            op,
            sreg: dreg,
            value,
        },
    ]
}

/// Return a rule that traces packets that may open a connection of this kind.
fn marking(packet: &Packet, sport: Option<u16>) -> Vec<Expr> {
    let (src, dst) = match packet.dst {
        IpAddr::V4(_) => (12, 16),
        IpAddr::V6(_) => (8, 24),
    };
    let mut exprs = Vec::new();
    exprs.extend(is(PayloadBase::Network, src, Value::ip(packet.src)));
    exprs.extend(is(PayloadBase::Network, dst, Value::ip(packet.dst)));
    exprs.extend([
        Expr::Meta {
            key: MetaKey::L4proto,
            dreg: Reg::FIRST,
        },
        Expr::Cmp {
            op: CmpOp::Eq,
            sreg: Reg::FIRST,
            value: Value::protocol(packet.proto.0),
        },
    ]);
    if packet.proto.has_ports() {
        exprs.extend(is(PayloadBase::Transport, 2, Value::port(packet.dport)));
        let sport = sport.map(|port| is(PayloadBase::Transport, 0, Value::port(port)));
        exprs.extend(sport.into_iter().flatten());
    } else if matches!(packet.proto, Proto::ICMP | Proto::ICMPV6) {
        let [_, kind] = packet.sport.to_be_bytes();
        exprs.extend(is(PayloadBase::Transport, 0, Value::protocol(kind)));
    }
    if packet.proto == Proto::TCP {
        // Of FIN, SYN, RST and ACK, only SYN.
        let mut flags = is(PayloadBase::Transport, 13, Value::protocol(0x02)).to_vec();
        flags.insert(
            1,
            Expr::Bitwise {
                sreg: Reg::FIRST,
                dreg: Reg::FIRST,
                mask: Value::protocol(0x17),
                xor: Value::protocol(0),
            },
        );
        exprs.extend(flags);
    }
    exprs.extend([
        Expr::Limit {
            rate: PER_SECOND,
            unit: 1,
            burst: 5,
        },
        Expr::Immediate {
            value: Value::protocol(1),
            dreg: Reg::FIRST,
        },
        Expr::MetaSet {
            key: MetaKey::Nftrace,
            sreg: Reg::FIRST,
        },
    ]);
    exprs
}

/// Return a rule that matches packets that open a connection or are not tracked.
fn opening() -> Vec<Expr> {
    vec![
        Expr::Ct {
            key: CtKey::State,
            direction: None,
            dreg: Reg::FIRST,
        },
        Expr::Bitwise {
            sreg: Reg::FIRST,
            dreg: Reg::FIRST,
            mask: Value::host_u32(NF_CT_STATE_NEW_BIT | NF_CT_STATE_UNTRACKED_BIT),
            xor: Value::host_u32(0),
        },
        Expr::Cmp {
            op: CmpOp::Neq,
            sreg: Reg::FIRST,
            value: Value::host_u32(0),
        },
    ]
}
