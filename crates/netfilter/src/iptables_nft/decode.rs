//! Expressions to rules.

use std::net::IpAddr;

use super::encode::{FRAGMENT, address_offsets};
use super::{SetIndex, Unsupported, matches, targets, unknown_extension};
use crate::iptables::{
    Chain, Counters, Extension, Family, Interface, LimitUnit, MarkMatch, Match, MatchLimit,
    MatchTcp, Negatable, Net, PortMatch, PortRange, Protocol, Rule, Target, TcpFlags, push_exact,
};
use crate::nft::{CmpOp, Expr, MetaKey, PayloadBase, RangeOp, Reg, Value, Verdict};

/// The content of a register.
#[derive(Clone, Copy)]
enum Loaded {
    Meta(MetaKey),
    Network {
        offset: u32,
        len: u32,
    },
    Transport {
        offset: u32,
        len: u32,
    },
    /// The number 1 in one byte.
    One,
}

/// Return the rule that iptables-nft lists for these expressions.
///
/// # Errors
/// [`Unsupported`] for expressions that no release of iptables-nft writes and for extensions that are not
/// modelled.
pub fn decode_rule(exprs: &[Expr], family: Family) -> Result<Rule, Unsupported> {
    decode_rule_with(exprs, family, &SetIndex::default())
}

/// Return the rule that iptables-nft lists for these expressions, with the names of its ipsets.
///
/// # Errors
/// As [`decode_rule`].
pub fn decode_rule_with(
    exprs: &[Expr],
    family: Family,
    sets: &SetIndex,
) -> Result<Rule, Unsupported> {
    decode(exprs, family, sets, false)
}

/// Like [`decode_rule_with`]; extensions that are not modelled are kept by their name.
///
/// # Errors
/// [`Unsupported`] for native expressions that no iptables-nft writes.
pub fn decode_rule_keeping(
    exprs: &[Expr],
    family: Family,
    sets: &SetIndex,
) -> Result<Rule, Unsupported> {
    decode(exprs, family, sets, true)
}

fn decode(
    exprs: &[Expr],
    family: Family,
    sets: &SetIndex,
    keep: bool,
) -> Result<Rule, Unsupported> {
    let mut decoder = Decoder {
        family,
        sets,
        keep,
        rule: Rule::default(),
        loaded: None,
        native: false,
    };
    for expr in exprs {
        decoder.expr(expr)?;
    }
    Ok(decoder.rule)
}

struct Decoder<'a> {
    family: Family,
    sets: &'a SetIndex,
    /// Extensions that are not modelled are kept.
    keep: bool,
    rule: Rule,
    /// The register that was loaded last, its content and mask.
    loaded: Option<(Reg, Loaded, Option<Value>)>,
    /// Whether the last match consists of native expressions, which later ones may extend.
    native: bool,
}

fn unsupported<T>(what: &str) -> Result<T, Unsupported> {
    Err(Unsupported::new(what))
}

impl Decoder<'_> {
    #[expect(
        clippy::too_many_lines,
        reason = "exhaustive match over all expressions"
    )]
    fn expr(&mut self, expr: &Expr) -> Result<(), Unsupported> {
        match expr {
            Expr::Meta { key, dreg } => self.loaded = Some((*dreg, Loaded::Meta(*key), None)),
            Expr::Payload {
                base,
                offset,
                len,
                dreg,
            } => {
                let (offset, len) = (*offset, *len);
                let content = match base {
                    PayloadBase::Network => Loaded::Network { offset, len },
                    PayloadBase::Transport => Loaded::Transport { offset, len },
                    PayloadBase::LinkLayer => return unsupported("a link-layer header"),
                };
                self.loaded = Some((*dreg, content, None));
            }
            Expr::Bitwise {
                sreg,
                dreg,
                mask,
                xor,
            } => match self.loaded {
                Some((reg, content, None))
                    if reg == *sreg && xor.as_bytes().iter().all(|b| *b == 0) =>
                {
                    self.loaded = Some((*dreg, content, Some(*mask)));
                }
                _ => return unsupported("this bit operation"),
            },
            Expr::Cmp { op, sreg, value } => self.compare(*op, *sreg, value.as_bytes())?,
            Expr::Range { op, sreg, from, to } => {
                let (Some(first), Some(last)) = (port(from.as_bytes()), port(to.as_bytes())) else {
                    return unsupported("a range of other values than ports");
                };
                let negated = *op == RangeOp::Neq;
                self.ports(*sreg, negated, PortRange { first, last })?;
            }
            Expr::Counter { packets, bytes } => {
                self.rule.counters = Some(Counters {
                    packets: *packets,
                    bytes: *bytes,
                });
            }
            Expr::Limit { rate, unit, burst } => self.limit(*rate, *unit, *burst)?,
            Expr::Match {
                name,
                revision,
                info,
            } => {
                let m = match matches::decode(self.family, name, *revision, info, self.sets) {
                    Err(_) if self.keep => {
                        Match::Unknown(Box::new(unknown_extension(name, *revision, info)))
                    }
                    decoded => decoded?,
                };
                self.add(m);
            }
            Expr::Target {
                name,
                revision,
                info,
            } => {
                let target = match targets::decode(self.family, name, *revision, info, self.sets) {
                    Err(_) if self.keep => {
                        Target::Unknown(Box::new(unknown_extension(name, *revision, info)))
                    }
                    decoded => decoded?,
                };
                self.target(target)?;
            }
            Expr::Verdict(verdict) => {
                let target = match verdict {
                    Verdict::Accept => Target::Accept,
                    Verdict::Drop => Target::Drop,
                    Verdict::Return => Target::Return,
                    Verdict::Jump(name) => Target::Jump(chain(name)?),
                    Verdict::Goto(name) => Target::Goto(chain(name)?),
                    Verdict::Continue => return unsupported("the verdict continue"),
                };
                self.target(target)?;
            }
            Expr::Log {
                group,
                prefix,
                snaplen,
                threshold,
            } => {
                let size = Some(*snaplen).filter(|size| *size != 0);
                let threshold = Some(*threshold).filter(|count| *count != 0);
                let prefix = prefix.as_deref().unwrap_or_default();
                self.target(targets::nflog(*group, prefix, [size, None], threshold))?;
            }
            // How iptables-nft writes `TRACE`.
            Expr::Immediate { dreg, value } if value.as_bytes() == [1] => {
                self.loaded = Some((*dreg, Loaded::One, None));
            }
            Expr::MetaSet {
                key: MetaKey::Nftrace,
                sreg,
            } if matches!(self.loaded, Some((reg, Loaded::One, _)) if reg == *sreg) => {
                self.target(Target::Unknown(Box::new(Extension {
                    name: "TRACE".into(),
                    words: Vec::new(),
                })))?;
            }
            Expr::MetaSet { .. }
            | Expr::Byteorder { .. }
            | Expr::Lookup { .. }
            | Expr::Immediate { .. }
            | Expr::Ct { .. }
            | Expr::Fib { .. }
            | Expr::Numgen { .. }
            | Expr::Dynset { .. }
            | Expr::Nat(_)
            | Expr::Masquerade { .. }
            | Expr::Redirect { .. }
            | Expr::Reject(_)
            | Expr::Objref { .. } => {
                return unsupported(&format!("the expression {}", expr.kernel_name()));
            }
        }
        Ok(())
    }

    fn add(&mut self, m: Match) {
        self.native = false;
        push_exact(&mut self.rule.matches, m);
    }

    fn target(&mut self, target: Target) -> Result<(), Unsupported> {
        match self.rule.target.replace(target) {
            None => Ok(()),
            Some(_) => unsupported("a rule with several targets"),
        }
    }

    fn limit(&mut self, rate: u64, unit: u64, burst: u32) -> Result<(), Unsupported> {
        let per = match unit {
            1 => LimitUnit::Second,
            60 => LimitUnit::Minute,
            3600 => LimitUnit::Hour,
            86400 => LimitUnit::Day,
            _ => return unsupported("a limit of this unit"),
        };
        let Ok(rate) = u32::try_from(rate) else {
            return unsupported("a limit of this rate");
        };
        self.add(Match::Limit(MatchLimit { rate, per, burst }));
        Ok(())
    }

    fn compare(&mut self, op: CmpOp, sreg: Reg, bytes: &[u8]) -> Result<(), Unsupported> {
        let Some((reg, content, mask)) = self.loaded.filter(|(reg, ..)| *reg == sreg) else {
            return unsupported("a comparison of a register that was not loaded");
        };
        let negated = match op {
            CmpOp::Eq => false,
            CmpOp::Neq => true,
            CmpOp::Lt | CmpOp::Lte | CmpOp::Gt | CmpOp::Gte => {
                let Some(range) = port(bytes).and_then(|port| half_range(op, port)) else {
                    return unsupported("this comparison");
                };
                return self.half_ports(reg, op, range);
            }
        };
        let mask = mask.as_ref().map(Value::as_bytes);
        match content {
            Loaded::Meta(key) => self.meta(key, negated, bytes, mask),
            Loaded::One => unsupported("a comparison of a constant"),
            Loaded::Network { offset, len } => self.network(offset, len, negated, bytes, mask),
            Loaded::Transport { offset, len } => {
                self.transport(reg, (offset, len), negated, bytes, mask)
            }
        }
    }

    fn meta(
        &mut self,
        key: MetaKey,
        negated: bool,
        bytes: &[u8],
        mask: Option<&[u8]>,
    ) -> Result<(), Unsupported> {
        match (key, mask, bytes) {
            (MetaKey::L4proto, None, [number]) => {
                let value = Protocol(*number);
                self.rule.header.protocol = Some(Negatable { negated, value });
            }
            (MetaKey::IifName, None, name) => {
                self.rule.header.in_interface = Some(interface(negated, name)?);
            }
            (MetaKey::OifName, None, name) => {
                self.rule.header.out_interface = Some(interface(negated, name)?);
            }
            (MetaKey::Mark, mask, bytes) => {
                let number = |bytes: &[u8]| Some(u32::from_ne_bytes(bytes.try_into().ok()?));
                let mask = mask.map_or(Some(u32::MAX), number);
                let (Some(value), Some(mask)) = (number(bytes), mask) else {
                    return unsupported("a mark of this size");
                };
                let value = MarkMatch { value, mask };
                self.add(Match::Mark(Negatable { negated, value }));
            }
            _ => return unsupported("this meta key"),
        }
        Ok(())
    }

    fn network(
        &mut self,
        offset: u32,
        len: u32,
        negated: bool,
        bytes: &[u8],
        mask: Option<&[u8]>,
    ) -> Result<(), Unsupported> {
        let header = &mut self.rule.header;
        let [source, destination] = address_offsets(self.family);
        if offset == source || offset == destination {
            let value = net(self.family, len, bytes, mask)?;
            let side = if offset == source {
                &mut header.source
            } else {
                &mut header.destination
            };
            *side = Some(Negatable { negated, value });
            return Ok(());
        }
        let (fragment, fragment_mask) = FRAGMENT;
        // `ip protocol`, which 1.8.11 compares instead of `meta l4proto`.
        match (self.family, offset, bytes, mask) {
            (Family::Ipv4, 9, [number], None) => {
                let value = Protocol(*number);
                header.protocol = Some(Negatable { negated, value });
            }
            (Family::Ipv4, at, [0, 0], Some(mask)) if at == fragment && *mask == fragment_mask => {
                header.fragment = Some(Negatable {
                    negated: !negated,
                    value: (),
                });
            }
            _ => return unsupported("this header field"),
        }
        Ok(())
    }

    fn transport(
        &mut self,
        reg: Reg,
        (offset, len): (u32, u32),
        negated: bool,
        bytes: &[u8],
        mask: Option<&[u8]>,
    ) -> Result<(), Unsupported> {
        match (offset, len, bytes, mask) {
            (0 | 2, 2, bytes, None) if bytes.len() == 2 => {
                let port = port(bytes).unwrap_or_default();
                self.ports(reg, negated, PortRange::single(port))
            }
            // Both ports at once.
            (0, 4, [a, b, c, d], None) if !negated => {
                let single =
                    |bytes| Some(Negatable::is(PortRange::single(u16::from_be_bytes(bytes))));
                let ports = self.native_ports()?;
                ports.source = single([*a, *b]);
                ports.destination = single([*c, *d]);
                Ok(())
            }
            (13, 1, [set], mask) => {
                let mask = match mask {
                    Some([mask]) => *mask,
                    Some(_) => return unsupported("TCP flags of this size"),
                    None => u8::MAX,
                };
                let value = TcpFlags { mask, set: *set };
                self.native_tcp()?.flags = Some(Negatable { negated, value });
                Ok(())
            }
            _ => unsupported("this header field"),
        }
    }

    /// Set the source or destination port that the register contains.
    fn ports(&mut self, sreg: Reg, negated: bool, value: PortRange) -> Result<(), Unsupported> {
        let side = match self.loaded {
            Some((reg, Loaded::Transport { offset, len: 2 }, None)) if reg == sreg => offset,
            _ => return unsupported("a range of other values than ports"),
        };
        let ports = self.native_ports()?;
        let field = match side {
            0 => &mut ports.source,
            2 => &mut ports.destination,
            _ => return unsupported("this header field"),
        };
        *field = Some(Negatable { negated, value });
        Ok(())
    }

    /// 1.8.9 compares a negated range that starts at 0 with `>`.
    fn half_ports(&mut self, reg: Reg, op: CmpOp, range: PortRange) -> Result<(), Unsupported> {
        match op {
            CmpOp::Gt => self.ports(
                reg,
                true,
                PortRange {
                    first: 0,
                    last: range.first - 1,
                },
            ),
            _ => self.ports(reg, false, range),
        }
    }

    fn native_tcp(&mut self) -> Result<&mut MatchTcp, Unsupported> {
        let tcp = Some(Negatable::is(Protocol::TCP));
        if self.rule.header.protocol != tcp {
            return unsupported("TCP flags without -p tcp");
        }
        if !self.native || !matches!(self.rule.matches.last(), Some(Match::Tcp(_))) {
            self.add(Match::Tcp(MatchTcp::default()));
            self.native = true;
        }
        match self.rule.matches.last_mut() {
            Some(Match::Tcp(tcp)) => Ok(tcp),
            _ => unsupported("TCP flags without -p tcp"),
        }
    }

    fn native_ports(&mut self) -> Result<&mut PortMatch, Unsupported> {
        match &self.rule.header.protocol {
            Some(Negatable {
                negated: false,
                value: Protocol::TCP,
            }) => Ok(&mut self.native_tcp()?.ports),
            Some(Negatable {
                negated: false,
                value: Protocol::UDP,
            }) => {
                if !self.native || !matches!(self.rule.matches.last(), Some(Match::Udp(_))) {
                    self.add(Match::Udp(PortMatch::default()));
                    self.native = true;
                }
                match self.rule.matches.last_mut() {
                    Some(Match::Udp(ports)) => Ok(ports),
                    _ => unsupported("ports without a protocol"),
                }
            }
            _ => unsupported("ports without a protocol"),
        }
    }
}

fn chain(name: &str) -> Result<Chain, Unsupported> {
    Chain::new(name).map_err(|_| Unsupported::new(format!("the chain name {name:?}")))
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// Return the ports for which the comparison with `port` is true, if there are any.
fn half_range(op: CmpOp, port: u16) -> Option<PortRange> {
    let (first, last) = match op {
        CmpOp::Lt => (0, port.checked_sub(1)?),
        CmpOp::Lte => (0, port),
        CmpOp::Gt => (port.checked_add(1)?, u16::MAX),
        _ => (port, u16::MAX),
    };
    Some(PortRange { first, last })
}

/// A name with its NUL is exact; without it, it is a prefix.
fn interface(negated: bool, bytes: &[u8]) -> Result<Negatable<Interface>, Unsupported> {
    let end = bytes.iter().position(|byte| *byte == 0);
    let name = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    let Ok(name) = std::str::from_utf8(name) else {
        return unsupported("an interface name that is not UTF-8");
    };
    // A name of 15 bytes and its NUL fill the register.
    let value = match end {
        Some(_) => Interface::Name(name.into()),
        None => Interface::Prefix(name.into()),
    };
    Ok(Negatable { negated, value })
}

fn net(family: Family, len: u32, bytes: &[u8], mask: Option<&[u8]>) -> Result<Net, Unsupported> {
    let whole = match family {
        Family::Ipv4 => 4,
        Family::Ipv6 => 16,
    };
    let len = len as usize;
    if len > whole || bytes.len() != len || mask.is_some_and(|mask| mask.len() != len) {
        return unsupported("an address of this size");
    }
    let ones = [u8::MAX; 16];
    let ip = |bytes: &[u8]| -> IpAddr {
        let mut octets = [0; 16];
        for (octet, byte) in octets.iter_mut().zip(bytes) {
            *octet = *byte;
        }
        let [a, b, c, d, ..] = octets;
        match family {
            Family::Ipv4 => [a, b, c, d].into(),
            Family::Ipv6 => octets.into(),
        }
    };
    let mask = mask.unwrap_or(ones.get(..len).unwrap_or_default());
    Net::new(ip(bytes), ip(mask)).ok_or_else(|| Unsupported::new("an address of this family"))
}
