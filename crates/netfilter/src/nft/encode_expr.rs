//! Expressions to attributes (`NFTA_LIST_ELEM` of `NFTA_EXPR_NAME` and `NFTA_EXPR_DATA`), and the
//! kernel's numbers of their enumerations.

use super::consts::*;
use super::expr::{
    ByteorderOp, CmpOp, CtDirection, CtKey, DynsetOp, Expr, FibAddress, FibResult, LookupInto,
    MetaKey, NatKind, NumgenKind, PayloadBase, RangeOp, Reg, Reject,
};
use super::object::{Family, Hook, Policy, Verdict};
use super::value::Value;
use crate::netlink::{DecodeError, NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6, Writer};

impl Expr {
    /// Return the kernel's name of the expression (`NFTA_EXPR_NAME`).
    pub fn kernel_name(&self) -> &'static str {
        match self {
            Expr::Payload { .. } => "payload",
            Expr::Meta { .. } | Expr::MetaSet { .. } => "meta",
            Expr::Cmp { .. } => "cmp",
            Expr::Bitwise { .. } => "bitwise",
            Expr::Byteorder { .. } => "byteorder",
            Expr::Lookup { .. } => "lookup",
            Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
            Expr::Ct { .. } => "ct",
            Expr::Fib { .. } => "fib",
            Expr::Numgen { .. } => "numgen",
            Expr::Dynset { .. } => "dynset",
            Expr::Nat(_) => "nat",
            Expr::Masquerade { .. } => "masq",
            Expr::Redirect { .. } => "redir",
            Expr::Reject(_) => "reject",
            Expr::Counter { .. } => "counter",
            Expr::Limit { .. } => "limit",
            Expr::Range { .. } => "range",
            Expr::Match { .. } => "match",
            Expr::Target { .. } => "target",
            Expr::Log { .. } => "log",
            Expr::Objref { .. } => "objref",
        }
    }
}

/// Write a list element that contains an expression.
pub(super) fn expr(w: &mut Writer<'_>, expr: &Expr) {
    w.nest(NFTA_LIST_ELEM, |w| {
        w.string(NFTA_EXPR_NAME, expr.kernel_name());
        w.nest(NFTA_EXPR_DATA, |w| body(w, expr));
    });
}

fn reg(w: &mut Writer<'_>, kind: u16, reg: Reg) {
    w.be32(kind, reg.number());
}

#[expect(
    clippy::too_many_lines,
    reason = "exhaustive match over all expressions"
)]
fn body(w: &mut Writer<'_>, expr: &Expr) {
    match expr {
        Expr::Payload {
            base,
            offset,
            len,
            dreg,
        } => {
            reg(w, NFTA_PAYLOAD_DREG, *dreg);
            w.be32(NFTA_PAYLOAD_BASE, base.number());
            w.be32(NFTA_PAYLOAD_OFFSET, *offset);
            w.be32(NFTA_PAYLOAD_LEN, *len);
        }
        Expr::Meta { key, dreg } => {
            w.be32(NFTA_META_KEY, key.number());
            reg(w, NFTA_META_DREG, *dreg);
        }
        Expr::MetaSet { key, sreg } => {
            w.be32(NFTA_META_KEY, key.number());
            reg(w, NFTA_META_SREG, *sreg);
        }
        Expr::Cmp { op, sreg, value } => {
            reg(w, NFTA_CMP_SREG, *sreg);
            w.be32(NFTA_CMP_OP, op.number());
            data(w, NFTA_CMP_DATA, value);
        }
        Expr::Bitwise {
            sreg,
            dreg,
            mask,
            xor,
        } => {
            reg(w, NFTA_BITWISE_SREG, *sreg);
            reg(w, NFTA_BITWISE_DREG, *dreg);
            w.be32(NFTA_BITWISE_LEN, mask.len() as u32);
            data(w, NFTA_BITWISE_MASK, mask);
            data(w, NFTA_BITWISE_XOR, xor);
        }
        Expr::Byteorder {
            sreg,
            dreg,
            op,
            len,
            size,
        } => {
            reg(w, NFTA_BYTEORDER_SREG, *sreg);
            reg(w, NFTA_BYTEORDER_DREG, *dreg);
            w.be32(NFTA_BYTEORDER_OP, op.number());
            w.be32(NFTA_BYTEORDER_LEN, *len);
            w.be32(NFTA_BYTEORDER_SIZE, *size);
        }
        Expr::Lookup {
            set,
            sreg,
            into,
            inverted,
        } => {
            w.string(NFTA_LOOKUP_SET, set);
            reg(w, NFTA_LOOKUP_SREG, *sreg);
            match into {
                LookupInto::Nothing => {}
                LookupInto::Register(dreg) => reg(w, NFTA_LOOKUP_DREG, *dreg),
                LookupInto::Verdict => w.be32(NFTA_LOOKUP_DREG, NFT_REG_VERDICT),
            }
            if *inverted {
                w.be32(NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
            }
        }
        Expr::Immediate { value, dreg } => {
            reg(w, NFTA_IMMEDIATE_DREG, *dreg);
            data(w, NFTA_IMMEDIATE_DATA, value);
        }
        Expr::Verdict(v) => {
            w.be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
            verdict_data(w, NFTA_IMMEDIATE_DATA, v);
        }
        Expr::Ct {
            key,
            direction,
            dreg,
        } => {
            w.be32(NFTA_CT_KEY, key.number());
            reg(w, NFTA_CT_DREG, *dreg);
            if let Some(direction) = direction {
                w.bytes(NFTA_CT_DIRECTION, &[direction.number()]);
            }
        }
        Expr::Fib {
            address,
            result,
            dreg,
        } => {
            reg(w, NFTA_FIB_DREG, *dreg);
            w.be32(NFTA_FIB_RESULT, result.number());
            w.be32(NFTA_FIB_FLAGS, address.number());
        }
        Expr::Numgen {
            kind,
            modulus,
            offset,
            dreg,
        } => {
            reg(w, NFTA_NG_DREG, *dreg);
            w.be32(NFTA_NG_MODULUS, *modulus);
            w.be32(NFTA_NG_TYPE, kind.number());
            w.be32(NFTA_NG_OFFSET, *offset);
        }
        Expr::Dynset {
            set,
            op,
            key,
            data,
            timeout_ms,
        } => {
            w.string(NFTA_DYNSET_SET_NAME, set);
            w.be32(NFTA_DYNSET_OP, op.number());
            reg(w, NFTA_DYNSET_SREG_KEY, *key);
            if let Some(data) = data {
                reg(w, NFTA_DYNSET_SREG_DATA, *data);
            }
            if let Some(timeout) = timeout_ms {
                w.be64(NFTA_DYNSET_TIMEOUT, *timeout);
            }
        }
        Expr::Nat(nat) => {
            w.be32(NFTA_NAT_TYPE, nat.kind.number());
            w.be32(NFTA_NAT_FAMILY, u32::from(nat.family.number()));
            if let Some(address) = nat.address {
                reg(w, NFTA_NAT_REG_ADDR_MIN, address);
            }
            if let Some(port) = nat.port {
                reg(w, NFTA_NAT_REG_PROTO_MIN, port);
            }
            if nat.flags != 0 {
                w.be32(NFTA_NAT_FLAGS, nat.flags);
            }
        }
        Expr::Masquerade { flags } => w.be32(NFTA_MASQ_FLAGS, *flags),
        Expr::Redirect { port, flags } => {
            if let Some(port) = port {
                reg(w, NFTA_REDIR_REG_PROTO_MIN, *port);
            }
            if *flags != 0 {
                w.be32(NFTA_REDIR_FLAGS, *flags);
            }
        }
        Expr::Reject(reject) => {
            let (kind, code) = reject.numbers();
            w.be32(NFTA_REJECT_TYPE, kind);
            w.bytes(NFTA_REJECT_ICMP_CODE, &[code]);
        }
        Expr::Counter { packets, bytes } => {
            w.be64(NFTA_COUNTER_BYTES, *bytes);
            w.be64(NFTA_COUNTER_PACKETS, *packets);
        }
        Expr::Limit { rate, unit, burst } => {
            w.be64(NFTA_LIMIT_RATE, *rate);
            w.be64(NFTA_LIMIT_UNIT, *unit);
            w.be32(NFTA_LIMIT_BURST, *burst);
            w.be32(NFTA_LIMIT_TYPE, NFT_LIMIT_PKTS);
        }
        Expr::Range { op, sreg, from, to } => {
            reg(w, NFTA_RANGE_SREG, *sreg);
            w.be32(NFTA_RANGE_OP, op.number());
            data(w, NFTA_RANGE_FROM_DATA, from);
            data(w, NFTA_RANGE_TO_DATA, to);
        }
        Expr::Match {
            name,
            revision,
            info,
        } => {
            w.string(NFTA_MATCH_NAME, name);
            w.be32(NFTA_MATCH_REV, *revision);
            w.bytes(NFTA_MATCH_INFO, info);
        }
        Expr::Target {
            name,
            revision,
            info,
        } => {
            w.string(NFTA_TARGET_NAME, name);
            w.be32(NFTA_TARGET_REV, *revision);
            w.bytes(NFTA_TARGET_INFO, info);
        }
        Expr::Log {
            group,
            prefix,
            snaplen,
            threshold,
        } => {
            w.be16(NFTA_LOG_GROUP, *group);
            if let Some(prefix) = prefix {
                w.string(NFTA_LOG_PREFIX, prefix);
            }
            if *snaplen != 0 {
                w.be32(NFTA_LOG_SNAPLEN, *snaplen);
            }
            if *threshold != 0 {
                w.be16(NFTA_LOG_QTHRESHOLD, *threshold);
            }
        }
        Expr::Objref { kind, name } => {
            w.be32(NFTA_OBJREF_IMM_TYPE, *kind);
            w.string(NFTA_OBJREF_IMM_NAME, name);
        }
    }
}

/// Write an attribute that contains a value (`NFTA_DATA_VALUE`).
pub(super) fn data(w: &mut Writer<'_>, kind: u16, value: &Value) {
    w.nest(kind, |w| w.bytes(NFTA_DATA_VALUE, value.as_bytes()));
}

/// Write an attribute that contains a verdict (`NFTA_DATA_VERDICT`).
pub(super) fn verdict_data(w: &mut Writer<'_>, kind: u16, v: &Verdict) {
    w.nest(kind, |w| verdict(w, NFTA_DATA_VERDICT, v));
}

/// Write a verdict (`enum nft_verdict_attributes`).
pub(super) fn verdict(w: &mut Writer<'_>, kind: u16, v: &Verdict) {
    w.nest(kind, |w| {
        let code = match v {
            Verdict::Drop => NF_DROP,
            Verdict::Accept => NF_ACCEPT,
            Verdict::Continue => NFT_CONTINUE,
            Verdict::Return => NFT_RETURN,
            Verdict::Jump(_) => NFT_JUMP,
            Verdict::Goto(_) => NFT_GOTO,
        };
        w.be32(NFTA_VERDICT_CODE, code.cast_unsigned());
        if let Some(chain) = v.chain() {
            w.string(NFTA_VERDICT_CHAIN, chain);
        }
    });
}

/// Implement the conversions between an enumeration and the header's numbers.
macro_rules! numbers {
    ($type:ident: $number:ty, $header:literal, $($variant:ident = $value:ident),+ $(,)?) => {
        impl $type {
            #[doc = concat!("Return the number in `", $header, "`.")]
            pub fn number(self) -> $number {
                match self {
                    $($type::$variant => $value,)+
                }
            }

            #[doc = concat!("Return the variant of a number in `", $header, "`.")]
            ///
            /// # Errors
            /// [`DecodeError::Unknown`] for another number.
            pub fn from_number(number: $number) -> Result<Self, DecodeError> {
                match number {
                    $($value => Ok($type::$variant),)+
                    other => Err(DecodeError::Unknown {
                        what: $header,
                        value: u64::from(other),
                    }),
                }
            }
        }
    };
}

numbers!(Family: u8, "NFPROTO", Inet = NFPROTO_INET, Ip = NFPROTO_IPV4, Ip6 = NFPROTO_IPV6);
numbers!(Hook: u32, "nf_inet_hooks", Prerouting = NF_INET_PRE_ROUTING, Input = NF_INET_LOCAL_IN,
    Forward = NF_INET_FORWARD, Output = NF_INET_LOCAL_OUT, Postrouting = NF_INET_POST_ROUTING);
numbers!(PayloadBase: u32, "nft_payload_bases", LinkLayer = NFT_PAYLOAD_LL_HEADER,
    Network = NFT_PAYLOAD_NETWORK_HEADER, Transport = NFT_PAYLOAD_TRANSPORT_HEADER);
numbers!(MetaKey: u32, "nft_meta_keys", Protocol = NFT_META_PROTOCOL, Mark = NFT_META_MARK,
    Iif = NFT_META_IIF, Oif = NFT_META_OIF, IifName = NFT_META_IIFNAME,
    OifName = NFT_META_OIFNAME, Nftrace = NFT_META_NFTRACE, Nfproto = NFT_META_NFPROTO,
    L4proto = NFT_META_L4PROTO);
numbers!(CmpOp: u32, "nft_cmp_ops", Eq = NFT_CMP_EQ, Neq = NFT_CMP_NEQ, Lt = NFT_CMP_LT,
    Lte = NFT_CMP_LTE, Gt = NFT_CMP_GT, Gte = NFT_CMP_GTE);
numbers!(RangeOp: u32, "nft_range_ops", Eq = NFT_RANGE_EQ, Neq = NFT_RANGE_NEQ);
numbers!(ByteorderOp: u32, "nft_byteorder_ops", NetworkToHost = NFT_BYTEORDER_NTOH,
    HostToNetwork = NFT_BYTEORDER_HTON);
numbers!(CtKey: u32, "nft_ct_keys", State = NFT_CT_STATE, Direction = NFT_CT_DIRECTION,
    Status = NFT_CT_STATUS, Mark = NFT_CT_MARK, ProtoSrc = NFT_CT_PROTO_SRC,
    ProtoDst = NFT_CT_PROTO_DST);
numbers!(CtDirection: u8, "ip_conntrack_dir", Original = IP_CT_DIR_ORIGINAL,
    Reply = IP_CT_DIR_REPLY);
numbers!(FibAddress: u32, "nft_fib_flags", Source = NFTA_FIB_F_SADDR,
    Destination = NFTA_FIB_F_DADDR);
numbers!(FibResult: u32, "nft_fib_result", Oif = NFT_FIB_RESULT_OIF,
    OifName = NFT_FIB_RESULT_OIFNAME, AddressType = NFT_FIB_RESULT_ADDRTYPE);
numbers!(NumgenKind: u32, "nft_ng_types", Incremental = NFT_NG_INCREMENTAL,
    Random = NFT_NG_RANDOM);
numbers!(DynsetOp: u32, "nft_dynset_ops", Add = NFT_DYNSET_OP_ADD, Update = NFT_DYNSET_OP_UPDATE,
    Delete = NFT_DYNSET_OP_DELETE);
numbers!(NatKind: u32, "nft_nat_types", Source = NFT_NAT_SNAT, Destination = NFT_NAT_DNAT);

impl Policy {
    /// Return `NF_DROP` or `NF_ACCEPT`.
    pub fn number(self) -> u32 {
        match self {
            Policy::Drop => NF_DROP.cast_unsigned(),
            Policy::Accept => NF_ACCEPT.cast_unsigned(),
        }
    }

    /// Return the policy of a number; every number but `NF_DROP` accepts.
    pub fn from_number(number: u32) -> Self {
        if number == NF_DROP.cast_unsigned() {
            Policy::Drop
        } else {
            Policy::Accept
        }
    }
}

impl Reject {
    /// Return the type (`enum nft_reject_types`) and the code.
    pub(super) fn numbers(self) -> (u32, u8) {
        match self {
            Reject::Icmp(code) => (NFT_REJECT_ICMP_UNREACH, code),
            Reject::TcpReset => (NFT_REJECT_TCP_RST, 0),
            Reject::Icmpx(code) => (NFT_REJECT_ICMPX_UNREACH, code),
        }
    }
}
