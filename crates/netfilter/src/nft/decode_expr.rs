//! Attributes to expressions.

use super::consts::*;
use super::expr::{
    ByteorderOp, CmpOp, CtDirection, CtKey, DynsetOp, Expr, FibAddress, FibResult, LookupInto,
    MetaKey, Nat, NatKind, NumgenKind, PayloadBase, RangeOp, Reg, Reject,
};
use super::object::{Data, Family, Verdict};
use super::value::Value;
use crate::netlink::{Attribute, Attributes, DecodeError, need};

/// The number of attribute types of an expression that are kept; no modelled expression has more.
const SLOTS: usize = 10;

/// The attributes of an expression by their type; higher types are left out.
struct Slots<'a> {
    attrs: [Option<Attribute<'a>>; SLOTS],
    within: &'static str,
}

impl<'a> Slots<'a> {
    fn new(attributes: Attributes<'a>, within: &'static str) -> Result<Self, DecodeError> {
        let mut attrs = [None; SLOTS];
        for attr in attributes {
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

    fn be32(&self, kind: u16) -> Result<u32, DecodeError> {
        self.need(kind)?.be32()
    }

    fn be32_or(&self, kind: u16, default: u32) -> Result<u32, DecodeError> {
        self.get(kind).map_or(Ok(default), |a| a.be32())
    }

    fn be64_or(&self, kind: u16, default: u64) -> Result<u64, DecodeError> {
        self.get(kind).map_or(Ok(default), |a| a.be64())
    }

    fn reg(&self, kind: u16) -> Result<Reg, DecodeError> {
        register(self.be32(kind)?)
    }

    fn reg_opt(&self, kind: u16) -> Result<Option<Reg>, DecodeError> {
        self.get(kind).map(|a| register(a.be32()?)).transpose()
    }

    fn value(&self, kind: u16) -> Result<Value, DecodeError> {
        match data(self.need(kind)?)? {
            Data::Value(value) => Ok(value),
            Data::None | Data::Verdict(_) => Err(no_value()),
        }
    }

    fn string(&self, kind: u16) -> Result<String, DecodeError> {
        Ok(self.need(kind)?.string()?.to_owned())
    }
}

fn no_value() -> DecodeError {
    DecodeError::Missing {
        within: "nft_data_attributes",
        attribute: NFTA_DATA_VALUE,
    }
}

fn register(number: u32) -> Result<Reg, DecodeError> {
    Reg::from_number(number).ok_or(DecodeError::Unknown {
        what: "nft_registers",
        value: u64::from(number),
    })
}

/// Decode a data attribute (`enum nft_data_attributes`).
pub(super) fn data(attr: Attribute<'_>) -> Result<Data, DecodeError> {
    for inner in attr.nested("nft_data_attributes") {
        let inner = inner?;
        match inner.kind {
            NFTA_DATA_VALUE => {
                let value = Value::new(inner.value).ok_or_else(|| inner.size_error())?;
                return Ok(Data::Value(value));
            }
            NFTA_DATA_VERDICT => return Ok(Data::Verdict(verdict(inner)?)),
            _ => {}
        }
    }
    Ok(Data::None)
}

/// Decode a verdict (`enum nft_verdict_attributes`).
pub(super) fn verdict(attr: Attribute<'_>) -> Result<Verdict, DecodeError> {
    const WITHIN: &str = "nft_verdict_attributes";
    let slots = Slots::new(attr.nested(WITHIN), WITHIN)?;
    let code = slots.be32(NFTA_VERDICT_CODE)?;
    Ok(match code.cast_signed() {
        NF_DROP => Verdict::Drop,
        NF_ACCEPT => Verdict::Accept,
        NFT_CONTINUE => Verdict::Continue,
        NFT_RETURN => Verdict::Return,
        NFT_JUMP => Verdict::Jump(slots.string(NFTA_VERDICT_CHAIN)?),
        NFT_GOTO => Verdict::Goto(slots.string(NFTA_VERDICT_CHAIN)?),
        _ => {
            return Err(DecodeError::Unknown {
                what: "nft_verdicts",
                value: u64::from(code),
            });
        }
    })
}

/// Decode a rule's list of expressions.
pub(super) fn exprs(list: Attribute<'_>) -> Result<Vec<Expr>, DecodeError> {
    list.nested("nft_list_attributes")
        .map(|item| expr(item?))
        .collect()
}

fn expr(item: Attribute<'_>) -> Result<Expr, DecodeError> {
    const WITHIN: &str = "nft_expr_attributes";
    let slots = Slots::new(item.nested(WITHIN), WITHIN)?;
    let name = slots.need(NFTA_EXPR_NAME)?.string()?;
    let body = slots.get(NFTA_EXPR_DATA).map_or(&[][..], |a| a.value);
    let slots = |within| Slots::new(Attributes::new(body, within), within);
    match name {
        "payload" => payload(&slots("nft_payload_attributes")?),
        "meta" => meta(&slots("nft_meta_attributes")?),
        "cmp" => cmp(&slots("nft_cmp_attributes")?),
        "bitwise" => bitwise(&slots("nft_bitwise_attributes")?),
        "byteorder" => byteorder(&slots("nft_byteorder_attributes")?),
        "lookup" => lookup(&slots("nft_lookup_attributes")?),
        "immediate" => immediate(&slots("nft_immediate_attributes")?),
        "ct" => ct(&slots("nft_ct_attributes")?),
        "fib" => fib(&slots("nft_fib_attributes")?),
        "numgen" => numgen(&slots("nft_ng_attributes")?),
        "dynset" => dynset(&slots("nft_dynset_attributes")?),
        "nat" => nat(&slots("nft_nat_attributes")?),
        "masq" => Ok(Expr::Masquerade {
            flags: slots("nft_masq_attributes")?.be32_or(NFTA_MASQ_FLAGS, 0)?,
        }),
        "redir" => redirect(&slots("nft_redir_attributes")?),
        "reject" => reject(&slots("nft_reject_attributes")?),
        "counter" => counter(&slots("nft_counter_attributes")?),
        "limit" => limit(&slots("nft_limit_attributes")?),
        "range" => range(&slots("nft_range_attributes")?),
        "match" => compat(&slots("nft_match_attributes")?, |name, revision, info| {
            Expr::Match {
                name,
                revision,
                info,
            }
        }),
        "target" => compat(&slots("nft_target_attributes")?, |name, revision, info| {
            Expr::Target {
                name,
                revision,
                info,
            }
        }),
        "log" => log(&slots("nft_log_attributes")?),
        "objref" => objref(&slots("nft_objref_attributes")?),
        _ => Err(DecodeError::Malformed(
            "an expression that sluice does not model",
        )),
    }
}

fn cmp(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    Ok(Expr::Cmp {
        op: CmpOp::from_number(s.be32(NFTA_CMP_OP)?)?,
        sreg: s.reg(NFTA_CMP_SREG)?,
        value: s.value(NFTA_CMP_DATA)?,
    })
}

fn range(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    Ok(Expr::Range {
        op: RangeOp::from_number(s.be32(NFTA_RANGE_OP)?)?,
        sreg: s.reg(NFTA_RANGE_SREG)?,
        from: s.value(NFTA_RANGE_FROM_DATA)?,
        to: s.value(NFTA_RANGE_TO_DATA)?,
    })
}

/// Decode an xtables extension; matches and targets have the same attribute types.
fn compat(
    s: &Slots<'_>,
    expr: impl FnOnce(Box<str>, u32, Box<[u8]>) -> Expr,
) -> Result<Expr, DecodeError> {
    let name = s.need(NFTA_MATCH_NAME)?.string()?;
    let info = s.need(NFTA_MATCH_INFO)?.value;
    Ok(expr(name.into(), s.be32(NFTA_MATCH_REV)?, info.into()))
}

/// Decode a log to a netlink group; logs to the kernel's log are not modelled.
fn log(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    let level = s.get(NFTA_LOG_LEVEL).is_some();
    let (Some(group), false) = (s.get(NFTA_LOG_GROUP), level) else {
        return Err(DecodeError::Malformed("a log that sluice does not model"));
    };
    let prefix = s.get(NFTA_LOG_PREFIX).map(|a| a.string()).transpose()?;
    Ok(Expr::Log {
        group: group.be16()?,
        prefix: prefix.map(Into::into),
        snaplen: s.be32_or(NFTA_LOG_SNAPLEN, 0)?,
        threshold: s.get(NFTA_LOG_QTHRESHOLD).map_or(Ok(0), |a| a.be16())?,
    })
}

fn byteorder(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    Ok(Expr::Byteorder {
        sreg: s.reg(NFTA_BYTEORDER_SREG)?,
        dreg: s.reg(NFTA_BYTEORDER_DREG)?,
        op: ByteorderOp::from_number(s.be32(NFTA_BYTEORDER_OP)?)?,
        len: s.be32(NFTA_BYTEORDER_LEN)?,
        size: s.be32(NFTA_BYTEORDER_SIZE)?,
    })
}

fn redirect(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    Ok(Expr::Redirect {
        port: s.reg_opt(NFTA_REDIR_REG_PROTO_MIN)?,
        flags: s.be32_or(NFTA_REDIR_FLAGS, 0)?,
    })
}

fn reject(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    let code = s.get(NFTA_REJECT_ICMP_CODE).map_or(Ok(0), |a| a.u8())?;
    Ok(Expr::Reject(match s.be32(NFTA_REJECT_TYPE)? {
        NFT_REJECT_ICMP_UNREACH => Reject::Icmp(code),
        NFT_REJECT_TCP_RST => Reject::TcpReset,
        NFT_REJECT_ICMPX_UNREACH => Reject::Icmpx(code),
        other => {
            return Err(DecodeError::Unknown {
                what: "nft_reject_types",
                value: u64::from(other),
            });
        }
    }))
}

fn counter(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    Ok(Expr::Counter {
        bytes: s.be64_or(NFTA_COUNTER_BYTES, 0)?,
        packets: s.be64_or(NFTA_COUNTER_PACKETS, 0)?,
    })
}

fn objref(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    Ok(Expr::Objref {
        kind: s.be32(NFTA_OBJREF_IMM_TYPE)?,
        name: s.string(NFTA_OBJREF_IMM_NAME)?,
    })
}

/// Decode a limit of packets; limits of bytes and inverted ones are not modelled.
fn limit(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    let kind = s.be32_or(NFTA_LIMIT_TYPE, NFT_LIMIT_PKTS)?;
    let flags = s.be32_or(NFTA_LIMIT_FLAGS, 0)?;
    if (kind, flags) != (NFT_LIMIT_PKTS, 0) {
        return Err(DecodeError::Malformed("a limit that sluice does not model"));
    }
    Ok(Expr::Limit {
        rate: s.need(NFTA_LIMIT_RATE)?.be64()?,
        unit: s.need(NFTA_LIMIT_UNIT)?.be64()?,
        burst: s.be32_or(NFTA_LIMIT_BURST, 0)?,
    })
}

fn payload(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    Ok(Expr::Payload {
        base: PayloadBase::from_number(s.be32(NFTA_PAYLOAD_BASE)?)?,
        offset: s.be32(NFTA_PAYLOAD_OFFSET)?,
        len: s.be32(NFTA_PAYLOAD_LEN)?,
        dreg: s.reg(NFTA_PAYLOAD_DREG)?,
    })
}

fn meta(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    let key = MetaKey::from_number(s.be32(NFTA_META_KEY)?)?;
    Ok(match s.reg_opt(NFTA_META_SREG)? {
        Some(sreg) => Expr::MetaSet { key, sreg },
        None => Expr::Meta {
            key,
            dreg: s.reg(NFTA_META_DREG)?,
        },
    })
}

/// Decode a mask and an exclusive-or; shifts are not modelled.
fn bitwise(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    let op = s.be32_or(NFTA_BITWISE_OP, NFT_BITWISE_MASK_XOR)?;
    if op != NFT_BITWISE_MASK_XOR {
        return Err(DecodeError::Unknown {
            what: "nft_bitwise_ops",
            value: u64::from(op),
        });
    }
    Ok(Expr::Bitwise {
        sreg: s.reg(NFTA_BITWISE_SREG)?,
        dreg: s.reg(NFTA_BITWISE_DREG)?,
        mask: s.value(NFTA_BITWISE_MASK)?,
        xor: s.value(NFTA_BITWISE_XOR)?,
    })
}

fn lookup(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    let into = match s.get(NFTA_LOOKUP_DREG).map(|a| a.be32()).transpose()? {
        None => LookupInto::Nothing,
        Some(NFT_REG_VERDICT) => LookupInto::Verdict,
        Some(number) => LookupInto::Register(register(number)?),
    };
    Ok(Expr::Lookup {
        set: s.string(NFTA_LOOKUP_SET)?,
        sreg: s.reg(NFTA_LOOKUP_SREG)?,
        into,
        inverted: s.be32_or(NFTA_LOOKUP_FLAGS, 0)? & NFT_LOOKUP_F_INV != 0,
    })
}

fn immediate(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    match data(s.need(NFTA_IMMEDIATE_DATA)?)? {
        Data::Verdict(verdict) => Ok(Expr::Verdict(verdict)),
        Data::Value(value) => Ok(Expr::Immediate {
            value,
            dreg: s.reg(NFTA_IMMEDIATE_DREG)?,
        }),
        Data::None => Err(no_value()),
    }
}

fn ct(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    let direction = s
        .get(NFTA_CT_DIRECTION)
        .map(|a| CtDirection::from_number(a.u8()?))
        .transpose()?;
    Ok(Expr::Ct {
        key: CtKey::from_number(s.be32(NFTA_CT_KEY)?)?,
        direction,
        dreg: s.reg(NFTA_CT_DREG)?,
    })
}

fn fib(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    Ok(Expr::Fib {
        address: FibAddress::from_number(s.be32(NFTA_FIB_FLAGS)?)?,
        result: FibResult::from_number(s.be32(NFTA_FIB_RESULT)?)?,
        dreg: s.reg(NFTA_FIB_DREG)?,
    })
}

fn numgen(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    Ok(Expr::Numgen {
        kind: NumgenKind::from_number(s.be32(NFTA_NG_TYPE)?)?,
        modulus: s.be32(NFTA_NG_MODULUS)?,
        offset: s.be32_or(NFTA_NG_OFFSET, 0)?,
        dreg: s.reg(NFTA_NG_DREG)?,
    })
}

fn dynset(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    let timeout_ms = s.be64_or(NFTA_DYNSET_TIMEOUT, 0)?;
    Ok(Expr::Dynset {
        set: s.string(NFTA_DYNSET_SET_NAME)?,
        op: DynsetOp::from_number(s.be32(NFTA_DYNSET_OP)?)?,
        key: s.reg(NFTA_DYNSET_SREG_KEY)?,
        data: s.reg_opt(NFTA_DYNSET_SREG_DATA)?,
        timeout_ms: (timeout_ms != 0).then_some(timeout_ms),
    })
}

fn nat(s: &Slots<'_>) -> Result<Expr, DecodeError> {
    let family = s.be32(NFTA_NAT_FAMILY)?;
    Ok(Expr::Nat(Nat {
        kind: NatKind::from_number(s.be32(NFTA_NAT_TYPE)?)?,
        family: Family::from_number(u8::try_from(family).unwrap_or(u8::MAX))?,
        address: s.reg_opt(NFTA_NAT_REG_ADDR_MIN)?,
        port: s.reg_opt(NFTA_NAT_REG_PROTO_MIN)?,
        flags: s.be32_or(NFTA_NAT_FLAGS, 0)?,
    }))
}
