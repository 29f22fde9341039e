//! The value of nf_tables expressions for a packet.

use std::net::IpAddr;

use netfilter::nft_lang::{
    BinaryOp, Ct, FibField, FibLookup, Field, Item, Literal, Mapped, Meta, SetRef, TableDecl, Term,
};

use super::super::Walker;
use super::super::hooks::Hook;
use super::super::ipt::{has_snat, original_tuple, reply_tuple, tcp_flags};
use super::super::nat::share;
use super::super::state::{Iface, State, Status};
use super::{set_name, set_of, show};
use crate::facts::RouteKind;
use crate::fraction::Fraction;
use crate::host::Lookup;
use crate::packet::Proto;

/// A value, or why it is missing.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Evaluated {
    /// The parts; one unless it is a concatenation.
    Parts(Vec<Literal>),
    /// The packet lacks it: the rule ends (`NFT_BREAK`).
    Missing,
    /// A concatenation with unknown parts, and why.
    Partly(Vec<Option<Literal>>, String),
    /// Unknown, and why.
    Unknown(String),
}

impl Evaluated {
    fn int(n: impl Into<u64>) -> Self {
        Self::Parts(vec![Literal::Int(n.into())])
    }

    fn ip(ip: IpAddr) -> Self {
        Self::Parts(vec![Literal::Ip(ip)])
    }

    /// Append another part.
    fn and(self, more: &Self) -> Self {
        let some = |parts: Vec<Literal>| parts.into_iter().map(Some).collect::<Vec<_>>();
        match (self, more) {
            // The kernel loads in order and ends at the first missing part.
            (Self::Missing, _) | (_, Self::Missing) => Self::Missing,
            (Self::Parts(mut x), Self::Parts(y)) => {
                x.extend(y.iter().cloned());
                Self::Parts(x)
            }
            (Self::Parts(x), Self::Unknown(why)) => {
                let mut x = some(x);
                x.push(None);
                Self::Partly(x, why.clone())
            }
            (Self::Partly(mut x, why), Self::Parts(y)) => {
                x.extend(some(y.clone()));
                Self::Partly(x, why)
            }
            (Self::Partly(mut x, why), Self::Unknown(_)) => {
                x.push(None);
                Self::Partly(x, why)
            }
            (Self::Unknown(why), _) => Self::Unknown(why),
            (_, Self::Partly(_, why)) => Self::Unknown(why.clone()),
        }
    }

    fn text(text: &str) -> Self {
        Self::Parts(vec![Literal::Text(text.into())])
    }
}

/// Every value that an expression can have, with its odds.
pub(super) type Possible = Vec<(Fraction, Evaluated)>;

fn certain(value: Evaluated) -> Possible {
    vec![(Fraction::ONE, value)]
}

/// Larger ranges of numbers are treated as unknown.
const MOST: u32 = 1 << 20;

impl<'w> Walker<'w> {
    /// Return every value that an expression can have for a packet.
    pub(super) fn evaluate(
        &mut self,
        state: &State<'w>,
        table: &'w TableDecl,
        expr: &Term,
    ) -> Possible {
        match expr {
            Term::Field(field) => certain(field_of(state, *field)),
            Term::Meta(meta) => certain(meta_of(state, *meta)),
            Term::Ct(ct) => certain(ct_of(state, *ct)),
            Term::Fib(fib) => certain(self.fib(state, fib)),
            Term::Numgen {
                modulus, offset, ..
            } => numbers(*modulus, *offset),
            Term::Hash {
                text,
                modulus,
                offset,
            } => {
                self.warn(format!(
                    "{text}: the same packet always gets the same number; each is shown with equal odds"
                ));
                numbers(*modulus, *offset)
            }
            Term::Value(value) => certain(Evaluated::Parts(vec![value.clone()])),
            Term::Flags(values) => certain(match all_bits(values) {
                Some(bits) => Evaluated::int(bits),
                None => Evaluated::Unknown("a flag is not known by name".into()),
            }),
            Term::Concat(parts) => self.concat(state, table, parts),
            Term::Map { key, map } => self.mapped(state, table, key, map),
            Term::Binary { op, left, right } => {
                let mut all = Vec::new();
                for (a, left) in self.evaluate(state, table, left) {
                    for (b, right) in self.evaluate(state, table, right) {
                        all.push((a.times(b), combine(*op, &left, right)));
                    }
                }
                all
            }
            Term::Unknown(unknown) => {
                certain(Evaluated::Unknown(format!("{:?} is unknown", unknown.text)))
            }
            Term::Range(..) | Term::Prefix(_) | Term::Set(_) | Term::SetName(_) => certain(
                Evaluated::Unknown("a range or set instead of a value".into()),
            ),
        }
    }

    fn concat(&mut self, state: &State<'w>, table: &'w TableDecl, parts: &[Term]) -> Possible {
        let mut all: Vec<(Fraction, Evaluated)> = certain(Evaluated::Parts(Vec::new()));
        for part in parts {
            let next = self.evaluate(state, table, part);
            let mut longer = Vec::with_capacity(all.len() * next.len());
            for (a, before) in &all {
                for (b, more) in &next {
                    longer.push((a.times(*b), before.clone().and(more)));
                }
            }
            all = longer;
        }
        all
    }

    fn mapped(
        &mut self,
        state: &State<'w>,
        table: &'w TableDecl,
        key: &Term,
        map: &SetRef,
    ) -> Possible {
        let mut all = Vec::new();
        for (odds, key) in self.evaluate(state, table, key) {
            let value = match key {
                Evaluated::Parts(parts) => look_up(state, table, map, &parts),
                Evaluated::Partly(parts, _)
                    if set_of(table, map).is_some_and(|set| !set.may_find(&parts)) =>
                {
                    Evaluated::Missing
                }
                Evaluated::Partly(_, why) => Evaluated::Unknown(why),
                other => other,
            };
            all.push((odds, value));
        }
        all
    }

    fn fib(&mut self, state: &State<'w>, fib: &FibLookup) -> Evaluated {
        let ip = if fib.source {
            state.src.ip
        } else {
            state.dst.ip
        };
        let iface = if fib.iif {
            Some(&state.iif)
        } else if fib.oif {
            Some(&state.oif)
        } else {
            None
        };
        if fib.result == FibField::Type {
            let Some(mut kind) = self.addr_type(state, ip) else {
                return Evaluated::Unknown(format!("whether {ip} is local is not known"));
            };
            if let Some(iface) = iface
                && kind == RouteKind::Local
            {
                let on_it = iface
                    .name()
                    .and_then(|n| self.world.host.interface(n))
                    .is_some_and(|i| {
                        i.addresses
                            .iter()
                            .any(|a| a.contains(&ip) && (a.addr() == ip || ip.is_loopback()))
                    });
                if !on_it {
                    kind = RouteKind::Unicast;
                }
            }
            return Evaluated::int(type_number(kind));
        }
        if !self.world.host.is_known() {
            return Evaluated::Unknown(format!("the route to {ip} is not known"));
        }
        // The route back of a packet from loopback is loopback (`nft_fib_is_loopback`).
        if state.iif.name() == Some("lo") && state.hook() == Hook::Prerouting {
            return Evaluated::text("lo");
        }
        let key = Lookup {
            dst: ip,
            src: None,
            iif: Some("lo"),
            mark: if fib.mark { state.mark } else { 0 },
        };
        let hops = self.world.host.lookup(&key);
        let through = |w: &&crate::host::RouteHop| match iface {
            Some(iface) => w.dev.as_deref() == iface.name(),
            None => true,
        };
        let found = hops
            .iter()
            .filter(|w| w.kind == RouteKind::Unicast)
            .find(through);
        match found.and_then(|w| w.dev.as_deref()) {
            Some(dev) => Evaluated::text(dev),
            None => Evaluated::text("missing"),
        }
    }
}

/// Look a key up in a map, changes of this packet first.
fn look_up(state: &State<'_>, table: &TableDecl, map: &SetRef, key: &[Literal]) -> Evaluated {
    if let SetRef::Name(name) = map {
        let (set, text) = (set_name(table, name), show(key));
        let learnt = state
            .learnt
            .iter()
            .find(|l| *l.set == *set && l.key == text.as_bytes());
        match learnt {
            Some(l) if l.gone => return Evaluated::Missing,
            Some(l) => return Evaluated::Parts(l.value.clone()),
            None => {}
        }
    }
    let Some(set) = set_of(table, map) else {
        return Evaluated::Unknown("the dump does not contain the map".into());
    };
    match set.find(key).and_then(|e| e.data.as_ref()) {
        None => Evaluated::Missing,
        Some(Mapped::Items(items)) => {
            let values: Option<Vec<Literal>> = items
                .iter()
                .map(|i| match i {
                    Item::Value(v) => Some(v.clone()),
                    _ => None,
                })
                .collect();
            match (values, items.as_ref()) {
                (Some(values), _) => Evaluated::Parts(values),
                (None, [Item::Range(a, b)]) => Evaluated::Parts(vec![a.clone(), b.clone()]),
                _ => Evaluated::Unknown("the map leads to a range".into()),
            }
        }
        Some(Mapped::Verdict(_)) => Evaluated::Unknown("the map leads to a verdict".into()),
    }
}

/// Return numbers with equal odds. The kernel scales 32 random bits (`reciprocal_scale`), which favours
/// some numbers by less than 2^-32 unless the modulus is a power of two; this is neglected.
fn numbers(modulus: u32, offset: u32) -> Possible {
    if modulus > MOST {
        return certain(Evaluated::Unknown(format!("any number below {modulus}")));
    }
    let odds = usize::try_from(modulus).map_or(Fraction::ONE, share);
    (0..modulus)
        .map(|n| (odds, Evaluated::int(u64::from(n) + u64::from(offset))))
        .collect()
}

pub(super) fn all_bits(values: &[Literal]) -> Option<u64> {
    values.iter().try_fold(0, |bits, v| match v {
        Literal::Int(n) => Some(bits | n),
        _ => None,
    })
}

fn field_of(state: &State<'_>, field: Field) -> Evaluated {
    let v6 = state.is_v6();
    let of = |wanted: bool, value: Evaluated| if wanted { value } else { Evaluated::Missing };
    let proto = state.proto;
    let has_ports = |only: Option<u8>| proto.has_ports() && only.is_none_or(|p| p == proto.0);
    match field {
        Field::Saddr4 => of(!v6, Evaluated::ip(state.src.ip)),
        Field::Daddr4 => of(!v6, Evaluated::ip(state.dst.ip)),
        Field::Saddr6 => of(v6, Evaluated::ip(state.src.ip)),
        Field::Daddr6 => of(v6, Evaluated::ip(state.dst.ip)),
        Field::Protocol4 => of(!v6, Evaluated::int(proto.0)),
        Field::Nexthdr6 => of(v6, Evaluated::int(proto.0)),
        // Without a protocol these are the first four bytes of the header.
        Field::Sport(None) if proto.is_icmp() => {
            Evaluated::int((state.src.port << 8) | state.dst.port)
        }
        Field::Sport(None) | Field::Dport(None) if !proto.has_ports() => Evaluated::Unknown(
            format!("protocol {proto} has no ports, but something else there"),
        ),
        Field::Sport(only) if state.random_sport && has_ports(only) => random_port(),
        Field::Sport(only) => of(has_ports(only), Evaluated::int(state.src.port)),
        Field::Dport(only) => of(has_ports(only), Evaluated::int(state.dst.port)),
        Field::TcpFlags => of(proto == Proto::TCP, Evaluated::int(tcp_flags(state))),
        Field::IcmpType => of(proto == Proto::ICMP, Evaluated::int(state.src.port)),
        Field::IcmpCode => of(proto == Proto::ICMP, Evaluated::int(state.dst.port)),
        Field::Icmpv6Type => of(proto == Proto::ICMPV6, Evaluated::int(state.src.port)),
        Field::Icmpv6Code => of(proto == Proto::ICMPV6, Evaluated::int(state.dst.port)),
        Field::Version => Evaluated::int(if v6 { 6_u8 } else { 4 }),
    }
}

fn random_port() -> Evaluated {
    Evaluated::Unknown("the source port was chosen at random".into())
}

fn meta_of(state: &State<'_>, meta: Meta) -> Evaluated {
    let v6 = state.is_v6();
    let iface = |of: &Iface, direction: &str| match of {
        Iface::Name(n) => Evaluated::text(n),
        Iface::Absent => Evaluated::text(""),
        Iface::Unknown => Evaluated::Unknown(format!(
            "the interface through which the packet goes {direction} is not known"
        )),
    };
    match meta {
        Meta::L4proto => Evaluated::int(state.proto.0),
        Meta::Nfproto => Evaluated::int(if v6 { 10_u8 } else { 2 }),
        Meta::Protocol => Evaluated::int(if v6 { 0x86dd_u16 } else { 0x0800 }),
        Meta::Mark => Evaluated::int(state.mark),
        Meta::Iif | Meta::Iifname => iface(&state.iif, "in"),
        Meta::Oif | Meta::Oifname => iface(&state.oif, "out"),
        Meta::Pkttype => Evaluated::int(if state.dst.ip.is_multicast() { 2_u8 } else { 0 }),
    }
}

fn ct_of(state: &State<'_>, ct: Ct) -> Evaluated {
    let c = &state.conn;
    if ct == Ct::State {
        let bit: u8 = match c.status {
            _ if !c.seen => 1,
            Status::Invalid => 1,
            Status::Established => 2,
            Status::Related => 4,
            Status::New => 8,
            Status::Untracked => 64,
        };
        return Evaluated::int(bit);
    }
    if !state.is_tracked() {
        return Evaluated::Missing;
    }
    let tuple = |reply: bool| {
        if reply {
            reply_tuple(state)
        } else {
            original_tuple(state)
        }
    };
    match ct {
        Ct::State => Evaluated::Missing,
        Ct::Status => {
            let mut bits = 0_u64;
            if c.status == Status::Established {
                bits |= 2 | 8;
            }
            if c.status == Status::Related {
                // An ICMP error belongs to the connection that it reports.
                bits |= if state.proto.is_icmp() { 8 } else { 1 };
            }
            if has_snat(state) {
                bits |= 16;
            }
            if c.dnat.is_some_and(|r| r.before != r.after) {
                bits |= 32;
            }
            // IPS_SRC_NAT_DONE and IPS_DST_NAT_DONE.
            bits |= u64::from(c.src_done) << 7 | u64::from(c.dst_done) << 8;
            Evaluated::int(bits)
        }
        Ct::Mark => Evaluated::int(c.mark),
        Ct::Direction => Evaluated::int(u8::from(c.reply)),
        Ct::Saddr { reply } => Evaluated::ip(tuple(reply).0.ip),
        Ct::Daddr { reply } => Evaluated::ip(tuple(reply).1.ip),
        Ct::Sport { reply } => Evaluated::int(tuple(reply).0.port),
        Ct::Dport { reply: true } if state.random_sport => random_port(),
        Ct::Dport { reply } => Evaluated::int(tuple(reply).1.port),
        Ct::Protocol => Evaluated::int(state.proto.0),
        Ct::L3proto => Evaluated::int(if state.is_v6() { 10_u8 } else { 2 }),
        Ct::Zone => Evaluated::int(c.zone),
    }
}

fn combine(op: BinaryOp, left: &Evaluated, right: Evaluated) -> Evaluated {
    let (a, b) = match (left, right) {
        (Evaluated::Parts(a), Evaluated::Parts(b)) => (a.clone(), b),
        (Evaluated::Unknown(why) | Evaluated::Partly(_, why), _) => {
            return Evaluated::Unknown(why.clone());
        }
        (_, Evaluated::Unknown(why) | Evaluated::Partly(_, why)) => {
            return Evaluated::Unknown(why);
        }
        _ => return Evaluated::Missing,
    };
    let value = match (a.as_slice(), b.as_slice()) {
        ([Literal::Int(a)], [Literal::Int(b)]) => match op {
            BinaryOp::And => Some(Literal::Int(a & b)),
            BinaryOp::Or => Some(Literal::Int(a | b)),
            BinaryOp::Xor => Some(Literal::Int(a ^ b)),
            // Registers have 32 bits.
            BinaryOp::Shl => u32::try_from(*b)
                .ok()
                .and_then(|by| a.checked_shl(by))
                .map(|n| Literal::Int(n & 0xffff_ffff)),
            BinaryOp::Shr => u32::try_from(*b)
                .ok()
                .and_then(|by| a.checked_shr(by))
                .map(Literal::Int),
        },
        ([Literal::Ip(IpAddr::V4(a))], [Literal::Ip(IpAddr::V4(b))]) if op == BinaryOp::And => {
            Some(Literal::Ip(IpAddr::V4(a & b)))
        }
        ([Literal::Ip(IpAddr::V6(a))], [Literal::Ip(IpAddr::V6(b))]) if op == BinaryOp::And => {
            Some(Literal::Ip(IpAddr::V6(a & b)))
        }
        _ => None,
    };
    match value {
        Some(v) => Evaluated::Parts(vec![v]),
        None => Evaluated::Unknown("bits of a value that is not a number".into()),
    }
}

/// `RTN_*` of `linux/rtnetlink.h`.
fn type_number(kind: RouteKind) -> u8 {
    match kind {
        RouteKind::Unicast => 1,
        RouteKind::Local => 2,
        RouteKind::Broadcast => 3,
        RouteKind::Anycast => 4,
        RouteKind::Multicast => 5,
        RouteKind::Blackhole => 6,
        RouteKind::Unreachable => 7,
        RouteKind::Prohibit => 8,
        RouteKind::Throw => 9,
    }
}
