//! Rules to expressions.

use std::net::IpAddr;

use super::{SetIndex, Unsupported, matches, targets};
use crate::iptables::{
    Chain, Counters, Family, Header, Interface, LimitUnit, Match, Negatable, Net, Rule, Target,
};
use crate::nft::{CmpOp, Expr, MetaKey, PayloadBase, Reg, Value, Verdict};

/// Offsets of the source and destination address in the IPv4 and the IPv6 header.
pub(super) fn address_offsets(family: Family) -> [u32; 2] {
    match family {
        Family::Ipv4 => [12, 16],
        Family::Ipv6 => [8, 24],
    }
}

/// Offset of the fragment offset in the IPv4 header, and its bits.
pub(super) const FRAGMENT: (u32, [u8; 2]) = (6, [0x1f, 0xff]);

/// Return the expressions of a rule, in the order in which iptables-nft writes them.
///
/// # Errors
/// [`Unsupported`] if an extension has no known nf_tables form.
pub fn encode_rule(rule: &Rule, family: Family) -> Result<Vec<Expr>, Unsupported> {
    encode_rule_with(rule, family, &SetIndex::default())
}

/// Return the expressions of a rule that may name ipsets.
///
/// # Errors
/// As [`encode_rule`], also for a set without an index.
pub fn encode_rule_with(
    rule: &Rule,
    family: Family,
    sets: &SetIndex,
) -> Result<Vec<Expr>, Unsupported> {
    let mut exprs = Vec::with_capacity(8);
    header(&mut exprs, &rule.header, family)?;
    for m in &rule.matches {
        exprs.push(match m {
            Match::Limit(limit) => Expr::Limit {
                rate: limit.rate.into(),
                unit: match limit.per {
                    LimitUnit::Second => 1,
                    LimitUnit::Minute => 60,
                    LimitUnit::Hour => 60 * 60,
                    LimitUnit::Day => 24 * 60 * 60,
                },
                burst: limit.burst,
            },
            other => matches::encode(other, sets)?,
        });
    }
    let Counters { packets, bytes } = rule.counters.unwrap_or_default();
    exprs.push(Expr::Counter { packets, bytes });
    if let Some(target) = &rule.target {
        exprs.push(match target {
            Target::Accept => Expr::Verdict(Verdict::Accept),
            Target::Drop => Expr::Verdict(Verdict::Drop),
            Target::Return => Expr::Verdict(Verdict::Return),
            Target::Jump(chain) => Expr::Verdict(Verdict::Jump(name(chain))),
            Target::Goto(chain) => Expr::Verdict(Verdict::Goto(name(chain))),
            other => targets::encode(family, other, sets)?,
        });
    }
    Ok(exprs)
}

fn name(chain: &Chain) -> String {
    chain.as_str().to_owned()
}

fn header(out: &mut Vec<Expr>, header: &Header, family: Family) -> Result<(), Unsupported> {
    let interfaces = [
        (MetaKey::IifName, &header.in_interface),
        (MetaKey::OifName, &header.out_interface),
    ];
    for (key, interface) in interfaces {
        if let Some(interface) = interface {
            self::interface(out, key, interface)?;
        }
    }
    if let Some(protocol) = &header.protocol {
        out.push(Expr::Meta {
            key: MetaKey::L4proto,
            dreg: Reg::FIRST,
        });
        compare(out, protocol.negated, &[protocol.value.0]);
    }
    let [source, destination] = address_offsets(family);
    for (offset, net) in [(source, &header.source), (destination, &header.destination)] {
        if let Some(net) = net {
            address(out, offset, net);
        }
    }
    if let Some(fragment) = &header.fragment {
        let (offset, mask) = FRAGMENT;
        load(out, offset, 2);
        bitwise(out, &mask);
        compare(out, !fragment.negated, &[0, 0]);
    }
    Ok(())
}

fn load(out: &mut Vec<Expr>, offset: u32, len: u32) {
    out.push(Expr::Payload {
        base: PayloadBase::Network,
        offset,
        len,
        dreg: Reg::FIRST,
    });
}

fn bitwise(out: &mut Vec<Expr>, mask: &[u8]) {
    out.push(Expr::Bitwise {
        sreg: Reg::FIRST,
        dreg: Reg::FIRST,
        mask: value(mask),
        xor: value(&[0; 16][..mask.len().min(16)]),
    });
}

fn compare(out: &mut Vec<Expr>, negated: bool, bytes: &[u8]) {
    out.push(Expr::Cmp {
        op: if negated { CmpOp::Neq } else { CmpOp::Eq },
        sreg: Reg::FIRST,
        value: value(bytes),
    });
}

/// Return a value of at most 16 bytes, which always fit.
fn value(bytes: &[u8]) -> Value {
    Value::new(bytes).unwrap_or(Value::EMPTY)
}

/// An exact name is compared with its NUL, a prefix without.
fn interface(
    out: &mut Vec<Expr>,
    key: MetaKey,
    interface: &Negatable<Interface>,
) -> Result<(), Unsupported> {
    let mut bytes = match &interface.value {
        // `+` matches every name: iptables-nft compares nothing, unless the condition is negated.
        Interface::Prefix(prefix) if prefix.is_empty() && !interface.negated => return Ok(()),
        Interface::Prefix(prefix) if prefix.is_empty() => {
            return Err(Unsupported::new("an interface other than every interface"));
        }
        Interface::Name(name) | Interface::Prefix(name) => name.as_bytes().to_vec(),
    };
    if matches!(interface.value, Interface::Name(_)) {
        bytes.push(0);
    }
    if bytes.len() > 16 {
        return Err(Unsupported::new("an interface name of more than 15 bytes"));
    }
    out.push(Expr::Meta {
        key,
        dreg: Reg::FIRST,
    });
    compare(out, interface.negated, &bytes);
    Ok(())
}

/// A prefix of whole bytes is compared by these bytes; other masks need a bit operation.
fn address(out: &mut Vec<Expr>, offset: u32, net: &Negatable<Net>) {
    let bytes = |ip| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (address, mask) = (bytes(net.value.addr()), bytes(net.value.mask()));
    match net.value.prefix_len() {
        // Every address: iptables-nft writes no comparison, unless the condition is negated.
        Some(0) if !net.negated => {}
        Some(len) if len % 8 == 0 && len != 0 => {
            let len = usize::from(len / 8);
            load(out, offset, len as u32);
            compare(out, net.negated, address.get(..len).unwrap_or(&address));
        }
        _ => {
            load(out, offset, address.len() as u32);
            bitwise(out, &mask);
            compare(out, net.negated, &address);
        }
    }
}
