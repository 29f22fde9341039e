//! Attributes to expressions.

use super::consts::verdict;
use super::expr::{
    ByteorderOp, CmpOp, CtDirection, CtKey, DynsetOp, Expr, FibAddress, FibResult, LookupInto,
    MetaKey, Nat, NatKind, NumgenKind, PayloadBase, Reg, Reject,
};
use super::object::{Data, Family, Verdict};
use super::value::Value;
use crate::netlink::{Attribute, Attributes, DecodeError, need};

impl Family {
    /// From `NFPROTO_*`.
    pub fn from_number(number: u8) -> Option<Self> {
        [Family::Inet, Family::Ip, Family::Ip6]
            .into_iter()
            .find(|f| f.number() == number)
    }
}

/// How many attributes of an expression are looked at; no expression in use has more.
const SLOTS: usize = 10;

/// The attributes of an expression by their number; unknown higher ones are left out.
struct Slots<'a> {
    attrs: [Option<Attribute<'a>>; SLOTS],
    within: &'static str,
}

impl<'a> Slots<'a> {
    fn new(reader: Attributes<'a>, within: &'static str) -> Result<Self, DecodeError> {
        let mut attrs = [None; SLOTS];
        for attr in reader {
            let attr = attr?;
            if let Some(slot) = attrs.get_mut(usize::from(attr.kind)) {
                *slot = Some(attr);
            }
        }
        Ok(Self { attrs, within })
    }

    fn get(&self, kind: u16) -> Option<Attribute<'a>> {
        self.attrs.get(usize::from(kind)).copied().flatten()
    }

    fn need(&self, kind: u16) -> Result<Attribute<'a>, DecodeError> {
        need(self.get(kind), self.within, kind)
    }

    fn u32(&self, kind: u16) -> Result<u32, DecodeError> {
        self.need(kind)?.be32()
    }

    fn u32_or(&self, kind: u16, default: u32) -> Result<u32, DecodeError> {
        self.get(kind).map_or(Ok(default), |a| a.be32())
    }

    fn reg(&self, kind: u16) -> Result<Reg, DecodeError> {
        register(self.u32(kind)?)
    }

    fn reg_opt(&self, kind: u16) -> Result<Option<Reg>, DecodeError> {
        self.get(kind).map(|a| register(a.be32()?)).transpose()
    }

    fn value(&self, kind: u16) -> Result<Value, DecodeError> {
        match data(self.need(kind)?)? {
            Data::Value(value) => Ok(value),
            Data::None | Data::Verdict(_) => Err(DecodeError::Missing {
                within: "nft_data_attributes",
                attribute: 1,
            }),
        }
    }

    fn string(&self, kind: u16) -> Result<String, DecodeError> {
        Ok(self.need(kind)?.string()?.to_owned())
    }
}

fn register(number: u32) -> Result<Reg, DecodeError> {
    Reg::from_number(number).ok_or(DecodeError::Unknown {
        what: "nft_registers",
        value: u64::from(number),
    })
}

/// What is in a data attribute (`enum nft_data_attributes`).
pub(super) fn data(attr: Attribute<'_>) -> Result<Data, DecodeError> {
    const WITHIN: &str = "nft_data_attributes";
    for inner in attr.nested(WITHIN) {
        let inner = inner?;
        match inner.kind {
            1 => {
                let value = Value::new(inner.value).ok_or(DecodeError::Size {
                    within: WITHIN,
                    attribute: 1,
                    len: inner.value.len(),
                })?;
                return Ok(Data::Value(value));
            }
            2 => return Ok(Data::Verdict(decode_verdict(inner)?)),
            _ => {}
        }
    }
    Ok(Data::None)
}

pub(super) fn decode_verdict(attr: Attribute<'_>) -> Result<Verdict, DecodeError> {
    const WITHIN: &str = "nft_verdict_attributes";
    let slots = Slots::new(attr.nested(WITHIN), WITHIN)?;
    let code = slots.u32(1)?.cast_signed();
    Ok(match code {
        verdict::DROP => Verdict::Drop,
        verdict::ACCEPT => Verdict::Accept,
        verdict::CONTINUE => Verdict::Continue,
        verdict::RETURN => Verdict::Return,
        verdict::JUMP => Verdict::Jump(slots.string(2)?),
        verdict::GOTO => Verdict::Goto(slots.string(2)?),
        other => {
            return Err(DecodeError::Unknown {
                what: "nft_verdicts",
                value: u64::from(other.cast_unsigned()),
            });
        }
    })
}

/// A rule's list of expressions.
pub(super) fn exprs(list: Attribute<'_>) -> Result<Vec<Expr>, DecodeError> {
    list.nested("nft_list_attributes")
        .map(|item| expr(item?))
        .collect()
}

fn expr(item: Attribute<'_>) -> Result<Expr, DecodeError> {
    const WITHIN: &str = "nft_expr_attributes";
    let slots = Slots::new(item.nested(WITHIN), WITHIN)?;
    let name = slots.need(1)?.string()?;
    let body = slots.get(2).map_or_else(
        || Attributes::new(&[], "expression"),
        |a| a.nested("expression"),
    );
    match name {
        "payload" => payload(&Slots::new(body, "nft_payload_attributes")?),
        "meta" => meta(&Slots::new(body, "nft_meta_attributes")?),
        "cmp" => {
            let s = Slots::new(body, "nft_cmp_attributes")?;
            Ok(Expr::Cmp {
                op: CmpOp::from_number(s.u32(2)?)?,
                sreg: s.reg(1)?,
                value: s.value(3)?,
            })
        }
        "bitwise" => bitwise(&Slots::new(body, "nft_bitwise_attributes")?),
        "byteorder" => {
            let s = Slots::new(body, "nft_byteorder_attributes")?;
            Ok(Expr::Byteorder {
                sreg: s.reg(1)?,
                dreg: s.reg(2)?,
                op: ByteorderOp::from_number(s.u32(3)?)?,
                len: s.u32(4)?,
                size: s.u32(5)?,
            })
        }
        "lookup" => lookup(&Slots::new(body, "nft_lookup_attributes")?),
        "immediate" => immediate(&Slots::new(body, "nft_immediate_attributes")?),
        "ct" => ct(&Slots::new(body, "nft_ct_attributes")?),
        "fib" => fib(&Slots::new(body, "nft_fib_attributes")?),
        "numgen" => numgen(&Slots::new(body, "nft_ng_attributes")?),
        "dynset" => dynset(&Slots::new(body, "nft_dynset_attributes")?),
        _ => statement(name, body),
    }
}

fn statement(name: &str, body: Attributes<'_>) -> Result<Expr, DecodeError> {
    match name {
        "nat" => nat(&Slots::new(body, "nft_nat_attributes")?),
        "masq" => {
            let s = Slots::new(body, "nft_masq_attributes")?;
            Ok(Expr::Masquerade {
                flags: s.u32_or(1, 0)?,
            })
        }
        "redir" => {
            let s = Slots::new(body, "nft_redir_attributes")?;
            Ok(Expr::Redirect {
                port: s.reg_opt(1)?,
                flags: s.u32_or(3, 0)?,
            })
        }
        "reject" => {
            let s = Slots::new(body, "nft_reject_attributes")?;
            let code = s.get(2).map_or(Ok(0), |a| a.u8())?;
            Ok(Expr::Reject(match s.u32(1)? {
                0 => Reject::Icmp(code),
                1 => Reject::TcpReset,
                2 => Reject::Icmpx(code),
                other => {
                    return Err(DecodeError::Unknown {
                        what: "nft_reject_types",
                        value: u64::from(other),
                    });
                }
            }))
        }
        "counter" => {
            let s = Slots::new(body, "nft_counter_attributes")?;
            Ok(Expr::Counter {
                bytes: s.get(1).map_or(Ok(0), |a| a.be64())?,
                packets: s.get(2).map_or(Ok(0), |a| a.be64())?,
            })
        }
        "limit" => limit(&Slots::new(body, "nft_limit_attributes")?),
        "objref" => {
            let s = Slots::new(body, "nft_objref_attributes")?;
            Ok(Expr::Objref {
                kind: s.u32(1)?,
                name: s.string(2)?,
            })
        }
        _ => Err(DecodeError::Missing {
            within: "the expressions that sluice knows: one of another name",
            attribute: 1,
        }),
    }
}

/// Of packets in a second; others are not in use.
fn limit(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    let (unit, kind, flags) = (s.need(2)?.be64()?, s.u32_or(4, 0)?, s.u32_or(5, 0)?);
    if (unit, kind, flags) != (1, 0, 0) {
        return Err(DecodeError::Unknown {
            what: "the limits that sluice knows",
            value: unit,
        });
    }
    Ok(Expr::Limit {
        per_second: s.need(1)?.be64()?,
        burst: s.u32(3)?,
    })
}

fn payload(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    Ok(Expr::Payload {
        base: PayloadBase::from_number(s.u32(2)?)?,
        offset: s.u32(3)?,
        len: s.u32(4)?,
        dreg: s.reg(1)?,
    })
}

fn meta(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    let key = MetaKey::from_number(s.u32(2)?)?;
    Ok(match s.reg_opt(3)? {
        Some(sreg) => Expr::MetaSet { key, sreg },
        None => Expr::Meta {
            key,
            dreg: s.reg(1)?,
        },
    })
}

fn bitwise(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    // `NFT_BITWISE_MASK_XOR`; the shifts are not in use.
    let op = s.u32_or(6, 0)?;
    if op != 0 {
        return Err(DecodeError::Unknown {
            what: "nft_bitwise_ops",
            value: u64::from(op),
        });
    }
    Ok(Expr::Bitwise {
        sreg: s.reg(1)?,
        dreg: s.reg(2)?,
        mask: s.value(4)?,
        xor: s.value(5)?,
    })
}

fn lookup(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    let into = match s.get(3).map(|a| a.be32()).transpose()? {
        None => LookupInto::Nothing,
        // `NFT_REG_VERDICT`.
        Some(0) => LookupInto::Verdict,
        Some(number) => LookupInto::Register(register(number)?),
    };
    Ok(Expr::Lookup {
        set: s.string(1)?,
        sreg: s.reg(2)?,
        into,
        inverted: s.u32_or(5, 0)? & 1 != 0,
    })
}

fn immediate(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    match data(s.need(2)?)? {
        Data::Verdict(verdict) => Ok(Expr::Verdict(verdict)),
        Data::Value(value) => Ok(Expr::Immediate {
            value,
            dreg: s.reg(1)?,
        }),
        Data::None => Err(DecodeError::Missing {
            within: "nft_data_attributes",
            attribute: 1,
        }),
    }
}

fn ct(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    let direction = s
        .get(3)
        .map(|a| CtDirection::from_number(a.u8()?))
        .transpose()?;
    Ok(Expr::Ct {
        key: CtKey::from_number(s.u32(2)?)?,
        direction,
        dreg: s.reg(1)?,
    })
}

fn fib(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    Ok(Expr::Fib {
        address: FibAddress::from_number(s.u32(3)?)?,
        result: FibResult::from_number(s.u32(2)?)?,
        dreg: s.reg(1)?,
    })
}

fn numgen(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    Ok(Expr::Numgen {
        kind: NumgenKind::from_number(s.u32(3)?)?,
        modulus: s.u32(2)?,
        offset: s.u32_or(4, 0)?,
        dreg: s.reg(1)?,
    })
}

fn dynset(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    Ok(Expr::Dynset {
        set: s.string(1)?,
        op: DynsetOp::from_number(s.u32(3)?)?,
        key: s.reg(4)?,
        data: s.reg_opt(5)?,
        timeout_ms: s
            .get(6)
            .map(|a| a.be64())
            .transpose()?
            .filter(|timeout| *timeout != 0),
    })
}

fn nat(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    let family = s.u32(2)?;
    Ok(Expr::Nat(Nat {
        kind: NatKind::from_number(s.u32(1)?)?,
        family: u8::try_from(family)
            .ok()
            .and_then(Family::from_number)
            .ok_or(DecodeError::Unknown {
                what: "NFPROTO",
                value: u64::from(family),
            })?,
        address: s.reg_opt(3)?,
        port: s.reg_opt(5)?,
        flags: s.u32_or(7, 0)?,
    }))
}
