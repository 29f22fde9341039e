//! Expressions to attributes (`NFTA_LIST_ELEM` of `NFTA_EXPR_NAME` and `NFTA_EXPR_DATA`).

use super::consts::verdict as code;
use super::expr::{
    ByteorderOp, CmpOp, CtDirection, CtKey, DynsetOp, Expr, FibAddress, FibResult, LookupInto,
    MetaKey, Nat, NatKind, NumgenKind, PayloadBase, Reg, Reject,
};
use super::object::{Family, Verdict};
use super::value::Value;
use crate::netlink::Writer;

impl Family {
    /// `NFPROTO_*`.
    pub fn number(self) -> u8 {
        match self {
            Family::Inet => 1,
            Family::Ip => 2,
            Family::Ip6 => 10,
        }
    }
}

impl Expr {
    /// The kernel's name of the expression.
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
            Expr::Objref { .. } => "objref",
        }
    }
}

/// A list element with an expression in it.
pub(super) fn expr(w: &mut Writer<'_>, expr: &Expr) {
    w.nest(1, |w| {
        w.string(1, expr.kernel_name());
        w.nest(2, |w| body(w, expr));
    });
}

fn reg(w: &mut Writer<'_>, kind: u16, reg: Reg) {
    w.be32(kind, reg.number());
}

fn body(w: &mut Writer<'_>, expr: &Expr) {
    match expr {
        Expr::Payload {
            base,
            offset,
            len,
            dreg,
        } => {
            reg(w, 1, *dreg);
            w.be32(2, base.number());
            w.be32(3, *offset);
            w.be32(4, *len);
        }
        Expr::Meta { key, dreg } => {
            w.be32(2, key.number());
            reg(w, 1, *dreg);
        }
        Expr::MetaSet { key, sreg } => {
            w.be32(2, key.number());
            reg(w, 3, *sreg);
        }
        Expr::Cmp { op, sreg, value } => {
            reg(w, 1, *sreg);
            w.be32(2, op.number());
            data(w, 3, value);
        }
        Expr::Bitwise {
            sreg,
            dreg,
            mask,
            xor,
        } => {
            reg(w, 1, *sreg);
            reg(w, 2, *dreg);
            w.be32(3, mask.len() as u32);
            data(w, 4, mask);
            data(w, 5, xor);
        }
        Expr::Byteorder {
            sreg,
            dreg,
            op,
            len,
            size,
        } => {
            reg(w, 1, *sreg);
            reg(w, 2, *dreg);
            w.be32(3, op.number());
            w.be32(4, *len);
            w.be32(5, *size);
        }
        Expr::Lookup {
            set,
            sreg,
            into,
            inverted,
        } => lookup(w, set, *sreg, *into, *inverted),
        Expr::Immediate { value, dreg } => {
            reg(w, 1, *dreg);
            data(w, 2, value);
        }
        Expr::Verdict(v) => {
            w.be32(1, 0);
            w.nest(2, |w| verdict_data(w, v));
        }
        other => statement(w, other),
    }
}

fn statement(w: &mut Writer<'_>, expr: &Expr) {
    match expr {
        Expr::Ct {
            key,
            direction,
            dreg,
        } => {
            w.be32(2, key.number());
            reg(w, 1, *dreg);
            if let Some(direction) = direction {
                w.bytes(3, &[direction.number()]);
            }
        }
        Expr::Fib {
            address,
            result,
            dreg,
        } => {
            reg(w, 1, *dreg);
            w.be32(2, result.number());
            w.be32(3, address.number());
        }
        Expr::Numgen {
            kind,
            modulus,
            offset,
            dreg,
        } => {
            reg(w, 1, *dreg);
            w.be32(2, *modulus);
            w.be32(3, kind.number());
            w.be32(4, *offset);
        }
        Expr::Dynset {
            set,
            op,
            key,
            data,
            timeout_ms,
        } => {
            w.string(1, set);
            w.be32(3, op.number());
            reg(w, 4, *key);
            if let Some(data) = data {
                reg(w, 5, *data);
            }
            if let Some(timeout) = timeout_ms {
                w.be64(6, *timeout);
            }
        }
        Expr::Nat(n) => nat(w, n),
        Expr::Masquerade { flags } => w.be32(1, *flags),
        Expr::Redirect { port, flags } => {
            if let Some(port) = port {
                reg(w, 1, *port);
            }
            if *flags != 0 {
                w.be32(3, *flags);
            }
        }
        Expr::Reject(reject) => {
            let (kind, code) = reject.numbers();
            w.be32(1, kind);
            w.bytes(2, &[code]);
        }
        Expr::Counter { packets, bytes } => {
            w.be64(1, *bytes);
            w.be64(2, *packets);
        }
        Expr::Limit { per_second, burst } => {
            w.be64(1, *per_second);
            // The unit in seconds; packets, not bytes.
            w.be64(2, 1);
            w.be32(3, *burst);
            w.be32(4, 0);
        }
        Expr::Objref { kind, name } => {
            w.be32(1, *kind);
            w.string(2, name);
        }
        // Everything else is in `body`.
        _ => {}
    }
}

fn lookup(w: &mut Writer<'_>, set: &str, sreg: Reg, into: LookupInto, inverted: bool) {
    w.string(1, set);
    reg(w, 2, sreg);
    match into {
        LookupInto::Nothing => {}
        LookupInto::Register(dreg) => reg(w, 3, dreg),
        // `NFT_REG_VERDICT`.
        LookupInto::Verdict => w.be32(3, 0),
    }
    if inverted {
        // `NFT_LOOKUP_F_INV`.
        w.be32(5, 1);
    }
}

fn nat(w: &mut Writer<'_>, nat: &Nat) {
    w.be32(1, nat.kind.number());
    w.be32(2, u32::from(nat.family.number()));
    if let Some(address) = nat.address {
        reg(w, 3, address);
    }
    if let Some(port) = nat.port {
        reg(w, 5, port);
    }
    if nat.flags != 0 {
        w.be32(7, nat.flags);
    }
}

/// `NFTA_DATA_VALUE` in an attribute.
pub(super) fn data(w: &mut Writer<'_>, kind: u16, value: &Value) {
    w.nest(kind, |w| w.bytes(1, value.as_bytes()));
}

/// `NFTA_DATA_VERDICT`, to go into a data attribute.
pub(super) fn verdict_data(w: &mut Writer<'_>, v: &Verdict) {
    verdict(w, 2, v);
}

/// A verdict (`enum nft_verdict_attributes`) in an attribute.
pub(super) fn verdict(w: &mut Writer<'_>, kind: u16, v: &Verdict) {
    w.nest(kind, |w| {
        let (number, chain) = match v {
            Verdict::Drop => (code::DROP, None),
            Verdict::Accept => (code::ACCEPT, None),
            Verdict::Continue => (code::CONTINUE, None),
            Verdict::Return => (code::RETURN, None),
            Verdict::Jump(chain) => (code::JUMP, Some(chain)),
            Verdict::Goto(chain) => (code::GOTO, Some(chain)),
        };
        w.bytes(1, &number.to_be_bytes());
        if let Some(chain) = chain {
            w.string(2, chain);
        }
    });
}

/// Gives an enumeration its header's numbers, both ways.
macro_rules! numbers {
    ($type:ident: $number:ty, $header:literal, $($variant:ident = $value:literal),+ $(,)?) => {
        impl $type {
            #[doc = concat!("The number in `", $header, "`.")]
            pub fn number(self) -> $number {
                match self {
                    $($type::$variant => $value,)+
                }
            }

            #[doc = concat!("From the number in `", $header, "`.")]
            pub(super) fn from_number(
                number: $number,
            ) -> Result<Self, crate::netlink::DecodeError> {
                match number {
                    $($value => Ok($type::$variant),)+
                    other => Err(crate::netlink::DecodeError::Unknown {
                        what: $header,
                        value: u64::from(other),
                    }),
                }
            }
        }
    };
}

numbers!(PayloadBase: u32, "nft_payload_bases", LinkLayer = 0, Network = 1, Transport = 2);
numbers!(MetaKey: u32, "nft_meta_keys", Protocol = 1, Mark = 3, Iif = 4, Oif = 5, IifName = 6,
    OifName = 7, Nftrace = 12, Nfproto = 15, L4proto = 16);
numbers!(CmpOp: u32, "nft_cmp_ops", Eq = 0, Neq = 1, Lt = 2, Lte = 3, Gt = 4, Gte = 5);
numbers!(ByteorderOp: u32, "nft_byteorder_ops", NetworkToHost = 0, HostToNetwork = 1);
numbers!(CtKey: u32, "nft_ct_keys", State = 0, Direction = 1, Status = 2, Mark = 3, ProtoSrc = 11,
    ProtoDst = 12);
numbers!(CtDirection: u8, "ip_conntrack_dir", Original = 0, Reply = 1);
numbers!(FibAddress: u32, "nft_fib_flags", Source = 1, Destination = 2);
numbers!(FibResult: u32, "nft_fib_result", Oif = 1, OifName = 2, AddressType = 3);
numbers!(NumgenKind: u32, "nft_ng_types", Incremental = 0, Random = 1);
numbers!(DynsetOp: u32, "nft_dynset_ops", Add = 0, Update = 1, Delete = 2);
numbers!(NatKind: u32, "nft_nat_types", Source = 0, Destination = 1);

impl Reject {
    /// Type (`enum nft_reject_types`) and code.
    pub(super) fn numbers(self) -> (u32, u8) {
        match self {
            Reject::Icmp(code) => (0, code),
            Reject::TcpReset => (1, 0),
            Reject::Icmpx(code) => (2, code),
        }
    }
}
