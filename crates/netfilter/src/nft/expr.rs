//! Expressions: the instructions of a rule. Each names the registers that it reads and writes.

use super::consts::{NFT_REG_1, NFT_REG_4, NFT_REG32_00, NFT_REG32_15};
use super::object::{Family, Verdict};
use super::value::Value;

/// A register, counted in units of four bytes: 0 to 15.
///
/// The kernel has two numberings of the same memory (`enum nft_registers`): 1 to 4 for units of
/// sixteen bytes, 8 to 23 for units of four. nft and the kernel's dumps use the first for registers
/// at a multiple of sixteen bytes, and so does [`Self::number`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg(u8);

impl Reg {
    /// The first register.
    pub const FIRST: Reg = Reg(0);

    /// Return the register at `unit` times four bytes; `None` past the last register.
    pub fn new(unit: u8) -> Option<Self> {
        (unit < 16).then_some(Self(unit))
    }

    /// Return the offset in units of four bytes.
    pub fn unit(self) -> u8 {
        self.0
    }

    /// Return the register `bytes` bytes later, padded to four. Past the last register this is the
    /// last one; the kernel rejects values that do not fit.
    #[must_use]
    pub fn after(self, bytes: usize) -> Self {
        Self((usize::from(self.0) + bytes.div_ceil(4)).min(15) as u8)
    }

    /// Return the number in messages.
    pub fn number(self) -> u32 {
        if self.0.is_multiple_of(4) {
            NFT_REG_1 + u32::from(self.0) / 4
        } else {
            NFT_REG32_00 + u32::from(self.0)
        }
    }

    /// Return the register of a number in a message; `None` for the verdict register and for invalid
    /// numbers.
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            NFT_REG_1..=NFT_REG_4 => Some(Self((number - NFT_REG_1) as u8 * 4)),
            NFT_REG32_00..=NFT_REG32_15 => Some(Self((number - NFT_REG32_00) as u8)),
            _ => None,
        }
    }
}

/// An expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Load part of the packet.
    Payload {
        /// The header.
        base: PayloadBase,
        /// The offset in the header, in bytes.
        offset: u32,
        /// The length in bytes.
        len: u32,
        /// The destination.
        dreg: Reg,
    },
    /// Load metadata of the packet.
    Meta {
        /// The key.
        key: MetaKey,
        /// The destination.
        dreg: Reg,
    },
    /// Set metadata of the packet.
    MetaSet {
        /// The key.
        key: MetaKey,
        /// The source.
        sreg: Reg,
    },
    /// Break unless the comparison is true.
    Cmp {
        /// The operator.
        op: CmpOp,
        /// The left side.
        sreg: Reg,
        /// The right side.
        value: Value,
    },
    /// `dreg = (sreg & mask) ^ xor`.
    Bitwise {
        /// The source.
        sreg: Reg,
        /// The destination.
        dreg: Reg,
        /// The mask.
        mask: Value,
        /// The exclusive-or value, as long as the mask.
        xor: Value,
    },
    /// Convert the byte order.
    Byteorder {
        /// The source.
        sreg: Reg,
        /// The destination.
        dreg: Reg,
        /// The direction.
        op: ByteorderOp,
        /// The length in bytes.
        len: u32,
        /// The size of one number in bytes.
        size: u32,
    },
    /// Look a key up in a set or map; break if it is absent (or present, if inverted).
    Lookup {
        /// The set's name.
        set: String,
        /// The first register of the key.
        sreg: Reg,
        /// The use of the data that the map has for the key.
        into: LookupInto,
        /// Whether to break if the key is present.
        inverted: bool,
    },
    /// Load a constant.
    Immediate {
        /// The constant.
        value: Value,
        /// The destination.
        dreg: Reg,
    },
    /// Set the verdict.
    Verdict(Verdict),
    /// Load a property of the connection.
    Ct {
        /// The key.
        key: CtKey,
        /// The direction, for keys that have one.
        direction: Option<CtDirection>,
        /// The destination.
        dreg: Reg,
    },
    /// Look an address of the packet up in the routing tables.
    Fib {
        /// The address.
        address: FibAddress,
        /// The requested result.
        result: FibResult,
        /// The destination.
        dreg: Reg,
    },
    /// Load a number from `offset` to `offset + modulus - 1`, in host byte order.
    Numgen {
        /// The generator.
        kind: NumgenKind,
        /// The number of values.
        modulus: u32,
        /// The lowest value.
        offset: u32,
        /// The destination.
        dreg: Reg,
    },
    /// Add, update or delete an element of a set.
    Dynset {
        /// The set's name.
        set: String,
        /// The operation.
        op: DynsetOp,
        /// The first register of the key.
        key: Reg,
        /// The first register of the data, for a map.
        data: Option<Reg>,
        /// The element's timeout in milliseconds.
        timeout_ms: Option<u64>,
    },
    /// Translate an address and accept.
    Nat(Nat),
    /// Translate the source to the output interface's address.
    Masquerade {
        /// `NF_NAT_RANGE_*`.
        flags: u32,
    },
    /// Translate the destination to this host.
    Redirect {
        /// The register of the port.
        port: Option<Reg>,
        /// `NF_NAT_RANGE_*`.
        flags: u32,
    },
    /// Drop the packet and send an error.
    Reject(Reject),
    /// Count packets and bytes.
    Counter {
        /// The packets so far.
        packets: u64,
        /// The bytes so far.
        bytes: u64,
    },
    /// Break if the rate is exceeded.
    Limit {
        /// Packets per unit.
        rate: u64,
        /// The unit, in seconds.
        unit: u64,
        /// The burst in packets.
        burst: u32,
    },
    /// Break unless the value is in the range (or, inverted, if it is).
    Range {
        /// The operator.
        op: RangeOp,
        /// The compared register.
        sreg: Reg,
        /// The first value of the range.
        from: Value,
        /// The last value of the range.
        to: Value,
    },
    /// An xtables match (nft_compat).
    Match {
        /// The extension's name.
        name: Box<str>,
        /// The revision of its structure.
        revision: u32,
        /// Its structure (`linux/netfilter/xt_*.h`).
        info: Box<[u8]>,
    },
    /// An xtables target (nft_compat).
    Target {
        /// The extension's name.
        name: Box<str>,
        /// The revision of its structure.
        revision: u32,
        /// Its structure (`linux/netfilter/xt_*.h`).
        info: Box<[u8]>,
    },
    /// Send the packet to a netlink group (nfnetlink_log).
    Log {
        /// The group.
        group: u16,
        /// The prefix.
        prefix: Option<Box<str>>,
        /// The number of bytes of the packet to send; 0 is the listener's choice.
        snaplen: u32,
        /// The number of packets to collect; 0 is the listener's choice.
        threshold: u16,
    },
    /// Use a named object.
    Objref {
        /// `NFT_OBJECT_*`.
        kind: u32,
        /// The name.
        name: String,
    },
}

/// An address translation (`enum nft_nat_attributes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat {
    /// Source or destination.
    pub kind: NatKind,
    /// The family of the address.
    pub family: Family,
    /// The first register of the address.
    pub address: Option<Reg>,
    /// The register of the port.
    pub port: Option<Reg>,
    /// `NF_NAT_RANGE_*`; see [`super::consts::NF_NAT_RANGE_MAP_IPS`].
    pub flags: u32,
}

/// `enum nft_payload_bases`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the header's names")]
pub enum PayloadBase {
    LinkLayer,
    Network,
    Transport,
}

/// `enum nft_meta_keys`, the modelled ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the header's names")]
pub enum MetaKey {
    Protocol,
    Mark,
    Iif,
    Oif,
    IifName,
    OifName,
    Nftrace,
    Nfproto,
    L4proto,
}

/// `enum nft_cmp_ops`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the header's names")]
pub enum CmpOp {
    Eq,
    Neq,
    Lt,
    Lte,
    Gt,
    Gte,
}

/// `enum nft_range_ops`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the header's names")]
pub enum RangeOp {
    Eq,
    Neq,
}

/// `enum nft_byteorder_ops`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the header's names")]
pub enum ByteorderOp {
    NetworkToHost,
    HostToNetwork,
}

/// The use of the data that a lookup finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupInto {
    /// None: a set without data, or data that is not needed.
    Nothing,
    /// Load it into this register.
    Register(Reg),
    /// Use it as the verdict.
    Verdict,
}

/// `enum nft_ct_keys`, the modelled ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the header's names")]
pub enum CtKey {
    State,
    Direction,
    Status,
    Mark,
    ProtoSrc,
    ProtoDst,
}

/// `enum ip_conntrack_dir`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the header's names")]
pub enum CtDirection {
    Original,
    Reply,
}

/// The address that `fib` looks up (`NFTA_FIB_F_SADDR`, `NFTA_FIB_F_DADDR`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the header's names")]
pub enum FibAddress {
    Source,
    Destination,
}

/// `enum nft_fib_result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the header's names")]
pub enum FibResult {
    Oif,
    OifName,
    /// `RTN_*` of `linux/rtnetlink.h`.
    AddressType,
}

/// `enum nft_ng_types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the header's names")]
pub enum NumgenKind {
    Incremental,
    Random,
}

/// `enum nft_dynset_ops`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the header's names")]
pub enum DynsetOp {
    Add,
    Update,
    Delete,
}

/// `enum nft_nat_types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the header's names")]
pub enum NatKind {
    Source,
    Destination,
}

/// `enum nft_reject_types`, with the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// ICMP or ICMPv6 destination unreachable, with its code.
    Icmp(u8),
    /// A TCP reset.
    TcpReset,
    /// ICMP or ICMPv6 destination unreachable, by the packet's family, with a code of
    /// `enum nft_reject_inet_code`.
    Icmpx(u8),
}
