//! Builder of rules. Loads and comparisons are in nft's own order, so that a rule programmed here and
//! its text loaded by `nft -f` are identical.

use std::net::IpAddr;

use model::{Cidr, IpFamily, Protocol};
use netfilter::nft::consts::{
    IPS_DST_NAT, NF_CT_STATE_NEW_BIT, NF_NAT_RANGE_MAP_IPS, NF_NAT_RANGE_PROTO_SPECIFIED,
};
use netfilter::nft::{
    CmpOp, CtKey, Expr, FibAddress, FibResult, LookupInto, MetaKey, Nat, NatKind, NumgenKind,
    PayloadBase, Reg, Rule, Value, Verdict, consts,
};
use plan::LocalDetector;

use super::{SetName, table_family};

/// A rule under construction.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    family: IpFamily,
    exprs: Vec<Expr>,
}

/// A field of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Field {
    Saddr,
    Daddr,
    Protocol,
    Dport,
    /// A random number below the first, plus the second.
    Random(u32, u32),
}

/// The key of a frontend.
pub(crate) const FRONTEND: [Field; 3] = [Field::Daddr, Field::Protocol, Field::Dport];
/// The key of a NodePort.
pub(crate) const NODE_PORT: [Field; 2] = [Field::Protocol, Field::Dport];

/// Return the number of bytes of an address.
pub(crate) fn address_len(family: IpFamily) -> usize {
    match family {
        IpFamily::V4 => 4,
        IpFamily::V6 => 16,
    }
}

impl Build {
    pub(crate) fn new(family: IpFamily) -> Self {
        Self {
            family,
            exprs: Vec::new(),
        }
    }

    pub(crate) fn rule(self, chain: &str) -> Rule {
        Rule {
            chain: chain.to_owned(),
            exprs: self.exprs,
            comment: None,
        }
    }

    pub(crate) fn rule_with_comment(self, chain: &str, comment: &str) -> Rule {
        Rule {
            comment: Some(comment.to_owned()),
            ..self.rule(chain)
        }
    }

    /// Append the expressions of another rule.
    pub(crate) fn then(mut self, other: Build) -> Self {
        self.exprs.extend(other.exprs);
        self
    }

    pub(crate) fn push(mut self, expr: Expr) -> Self {
        self.exprs.push(expr);
        self
    }

    pub(crate) fn load(mut self, fields: &[Field], at: Reg) -> Self {
        let mut reg = at;
        for field in fields {
            let (expr, len) = self.field(*field, reg);
            self.exprs.push(expr);
            reg = reg.after(len);
        }
        self
    }

    fn field(&self, field: Field, dreg: Reg) -> (Expr, usize) {
        let len = address_len(self.family);
        match field {
            Field::Saddr => (self.address(true, len, dreg), len),
            Field::Daddr => (self.address(false, len, dreg), len),
            Field::Protocol => {
                let key = MetaKey::L4proto;
                (Expr::Meta { key, dreg }, 4)
            }
            Field::Dport => {
                let expr = Expr::Payload {
                    base: PayloadBase::Transport,
                    offset: 2,
                    len: 2,
                    dreg,
                };
                (expr, 4)
            }
            Field::Random(modulus, offset) => {
                let expr = Expr::Numgen {
                    kind: NumgenKind::Random,
                    modulus,
                    offset,
                    dreg,
                };
                (expr, 4)
            }
        }
    }

    /// Load the first bytes of the packet's source or destination address.
    fn address(&self, source: bool, len: usize, dreg: Reg) -> Expr {
        let offset = match (self.family, source) {
            (IpFamily::V4, true) => 12,
            (IpFamily::V4, false) => 16,
            (IpFamily::V6, true) => 8,
            (IpFamily::V6, false) => 24,
        };
        Expr::Payload {
            base: PayloadBase::Network,
            offset,
            len: len as u32,
            dreg,
        }
    }

    fn lookup_into(self, set: impl SetName, sreg: Reg, into: LookupInto, inverted: bool) -> Self {
        self.push(Expr::Lookup {
            set: set.set_name().to_owned(),
            sreg,
            into,
            inverted,
        })
    }

    /// Continue only if the fields are in the set.
    pub(crate) fn member(self, fields: &[Field], set: impl SetName) -> Self {
        self.load(fields, Reg::FIRST)
            .lookup_into(set, Reg::FIRST, LookupInto::Nothing, false)
    }

    /// Continue only if the fields are not in the set.
    pub(crate) fn not_member(self, fields: &[Field], set: impl SetName) -> Self {
        self.load(fields, Reg::FIRST)
            .lookup_into(set, Reg::FIRST, LookupInto::Nothing, true)
    }

    /// Continue only if the key at `sreg` is in the set.
    pub(crate) fn member_at(self, set: impl SetName, sreg: Reg) -> Self {
        self.lookup_into(set, sreg, LookupInto::Nothing, false)
    }

    /// Load the value of the key at `sreg`; continue only if the map has one.
    pub(crate) fn map(self, set: impl SetName, sreg: Reg, dreg: Reg) -> Self {
        self.lookup_into(set, sreg, LookupInto::Register(dreg), false)
    }

    /// Follow the verdict of the fields in the map.
    pub(crate) fn verdict_map(self, fields: &[Field], set: impl SetName) -> Self {
        self.load(fields, Reg::FIRST)
            .lookup_into(set, Reg::FIRST, LookupInto::Verdict, false)
    }

    pub(crate) fn verdict(self, verdict: Verdict) -> Self {
        self.push(Expr::Verdict(verdict))
    }

    pub(crate) fn goto(self, chain: &str) -> Self {
        self.verdict(Verdict::Goto(chain.to_owned()))
    }

    pub(crate) fn jump(self, chain: &str) -> Self {
        self.verdict(Verdict::Jump(chain.to_owned()))
    }

    pub(crate) fn compare(self, op: CmpOp, value: Value) -> Self {
        let sreg = Reg::FIRST;
        self.push(Expr::Cmp { op, sreg, value })
    }

    fn mask(self, mask: Value, xor: Value) -> Self {
        self.push(Expr::Bitwise {
            sreg: Reg::FIRST,
            dreg: Reg::FIRST,
            mask,
            xor,
        })
    }

    /// Continue only if none of the bits is set in the loaded value.
    fn no_bit(self, bits: u32) -> Self {
        self.mask(Value::host_u32(bits), Value::host_u32(0))
            .compare(CmpOp::Eq, Value::host_u32(0))
    }

    /// Continue only if any of the bits is set in the loaded value.
    fn any_bit(self, bits: u32) -> Self {
        self.mask(Value::host_u32(bits), Value::host_u32(0))
            .compare(CmpOp::Neq, Value::host_u32(0))
    }

    fn ct(self, key: CtKey) -> Self {
        self.push(Expr::Ct {
            key,
            direction: None,
            dreg: Reg::FIRST,
        })
    }

    /// `meta l4proto tcp`.
    pub(crate) fn if_protocol(self, protocol: Protocol) -> Self {
        self.load(&[Field::Protocol], Reg::FIRST)
            .compare(CmpOp::Eq, Value::protocol(protocol.number()))
    }

    /// `ct state new`.
    pub(crate) fn if_new(self) -> Self {
        self.ct(CtKey::State).any_bit(NF_CT_STATE_NEW_BIT)
    }

    /// `ct status dnat`.
    pub(crate) fn if_dnat(self) -> Self {
        self.ct(CtKey::Status).any_bit(IPS_DST_NAT)
    }

    /// `ct status & dnat == 0`.
    pub(crate) fn if_not_dnat(self) -> Self {
        self.ct(CtKey::Status).no_bit(IPS_DST_NAT)
    }

    /// `fib saddr type != local` or `fib daddr type != local`.
    pub(crate) fn if_not_local(self, address: FibAddress) -> Self {
        self.address_type(address, CmpOp::Neq)
    }

    /// `fib saddr type local` or `fib daddr type local`.
    pub(crate) fn if_local(self, address: FibAddress) -> Self {
        self.address_type(address, CmpOp::Eq)
    }

    fn address_type(self, address: FibAddress, op: CmpOp) -> Self {
        self.push(Expr::Fib {
            address,
            result: FibResult::AddressType,
            dreg: Reg::FIRST,
        })
        .compare(op, Value::host_u32(consts::RTN_LOCAL))
    }

    fn mark(self) -> Self {
        let (key, dreg) = (MetaKey::Mark, Reg::FIRST);
        self.push(Expr::Meta { key, dreg })
    }

    fn set_mark(self) -> Self {
        let (key, sreg) = (MetaKey::Mark, Reg::FIRST);
        self.push(Expr::MetaSet { key, sreg })
    }

    /// Continue only if any of the bits is set in the mark.
    pub(crate) fn if_marked(self, bits: u32) -> Self {
        self.mark().any_bit(bits)
    }

    /// Set bits of the mark.
    pub(crate) fn add_to_mark(self, bits: u32) -> Self {
        self.mark()
            .mask(Value::host_u32(!bits), Value::host_u32(bits))
            .set_mark()
    }

    /// Flip bits of the mark.
    pub(crate) fn flip_in_mark(self, bits: u32) -> Self {
        self.mark()
            .mask(Value::host_u32(u32::MAX), Value::host_u32(bits))
            .set_mark()
    }

    /// Continue only if the source or destination is in the range, or is not, after `op`.
    pub(crate) fn in_range(self, source: bool, op: CmpOp, range: &Cidr) -> Self {
        let length = usize::from(range.prefix_len());
        let whole = Value::ip(range.network());
        let full = whole.len();
        if length.is_multiple_of(8) && length > 0 {
            // As nft does, load only the bytes of the prefix.
            let bytes = whole.as_bytes().get(..length / 8).unwrap_or(&[]);
            let value = Value::new(bytes).unwrap_or(whole);
            let load = self.address(source, length / 8, Reg::FIRST);
            return self.push(load).compare(op, value);
        }
        let mask = Value::ip(range.netmask());
        let zero = Value::new(&[0; 16][..full]).unwrap_or(Value::EMPTY);
        let load = self.address(source, full, Reg::FIRST);
        self.push(load).mask(mask, zero).compare(op, whole)
    }

    /// `iifname` compared with a name, or with a prefix.
    pub(crate) fn interface(self, op: CmpOp, name: &str, whole: bool) -> Self {
        let (key, dreg) = (MetaKey::IifName, Reg::FIRST);
        let mut bytes = name.as_bytes().to_vec();
        if whole {
            // `IFNAMSIZ`.
            bytes.resize(16, 0);
        } else {
            bytes.truncate(15);
        }
        let value = Value::new(&bytes).unwrap_or(Value::EMPTY);
        self.push(Expr::Meta { key, dreg }).compare(op, value)
    }

    /// Continue only if the traffic comes from this node's pods, or with [`CmpOp::Neq`] if it does
    /// not; `None` if pods cannot be recognised.
    pub(crate) fn source_is_pod(self, op: CmpOp, local: &LocalDetector) -> Option<Self> {
        match local {
            LocalDetector::None => None,
            LocalDetector::Source(range) => Some(self.in_range(true, op, range)),
            LocalDetector::Interface(name) => Some(self.interface(op, name, true)),
            LocalDetector::InterfacePrefix(prefix) => Some(self.interface(op, prefix, false)),
        }
    }

    /// Continue only if the destination is not a loopback address.
    pub(crate) fn not_to_loopback(self) -> Self {
        match self.family {
            IpFamily::V4 => self
                .push_address_byte()
                .compare(CmpOp::Neq, Value::protocol(127)),
            IpFamily::V6 => {
                let localhost = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);
                self.load(&[Field::Daddr], Reg::FIRST)
                    .compare(CmpOp::Neq, Value::ip(localhost))
            }
        }
    }

    fn push_address_byte(self) -> Self {
        let load = self.address(false, 1, Reg::FIRST);
        self.push(load)
    }

    /// Translate the destination to the address and port from `at` on.
    pub(crate) fn dnat(self, at: Reg) -> Self {
        let nat = Nat {
            kind: NatKind::Destination,
            family: table_family(self.family),
            address: Some(at),
            port: Some(at.after(address_len(self.family))),
            // The flags that the kernel sets for an address and a port.
            flags: NF_NAT_RANGE_MAP_IPS | NF_NAT_RANGE_PROTO_SPECIFIED,
        };
        self.push(Expr::Nat(nat))
    }

    /// `masquerade fully-random`.
    pub(crate) fn masquerade(self) -> Self {
        let flags = consts::NF_NAT_RANGE_PROTO_RANDOM_FULLY;
        self.push(Expr::Masquerade { flags })
    }
}
