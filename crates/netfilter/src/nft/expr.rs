//! Expressions: what a rule is made of. Each names the registers it reads and writes.

use super::consts::{NFT_REG_1, NFT_REG_4, NFT_REG32_00, NFT_REG32_15};
use super::object::{Family, Verdict};
use super::value::Value;

/// A register, counted in units of four bytes: 0 to 15.
///
/// The kernel has two numberings of the same memory (`enum nft_registers`): 1 to 4 for units of
/// sixteen bytes, 8 to 23 for units of four. nft and the kernel's dumps use the first where the
/// register begins at a multiple of sixteen bytes, and so does [`Self::number`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg(u8);

impl Reg {
    /// The first register.
    pub const FIRST: Reg = Reg(0);

    /// The register that begins `unit` times four bytes from the start; `None` past the last.
    pub fn new(unit: u8) -> Option<Self> {
        (unit < 16).then_some(Self(unit))
    }

    /// Where it begins, in units of four bytes.
    pub fn unit(self) -> u8 {
        self.0
    }

    /// The register that begins after `bytes` more, padded to four. Past the last register there is
    /// only the last one: the kernel refuses what does not fit.
    #[must_use]
    pub fn after(self, bytes: usize) -> Self {
        Self((usize::from(self.0) + bytes.div_ceil(4)).min(15) as u8)
    }

    /// The number in messages.
    pub fn number(self) -> u32 {
        if self.0.is_multiple_of(4) {
            NFT_REG_1 + u32::from(self.0) / 4
        } else {
            NFT_REG32_00 + u32::from(self.0)
        }
    }

    /// The register of a number in a message; `None` for the verdict register and for no register.
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
    /// Loads a piece of the packet.
    Payload {
        /// From which header.
        base: PayloadBase,
        /// From which byte of it.
        offset: u32,
        /// How many bytes.
        len: u32,
        /// Into this register.
        dreg: Reg,
    },
    /// Loads something that the kernel knows about the packet.
    Meta {
        /// What.
        key: MetaKey,
        /// Into this register.
        dreg: Reg,
    },
    /// Sets something that the kernel knows about the packet.
    MetaSet {
        /// What.
        key: MetaKey,
        /// From this register.
        sreg: Reg,
    },
    /// Goes on only if the comparison holds.
    Cmp {
        /// How.
        op: CmpOp,
        /// This register.
        sreg: Reg,
        /// With this.
        value: Value,
    },
    /// `dreg = (sreg & mask) ^ xor`.
    Bitwise {
        /// From.
        sreg: Reg,
        /// To.
        dreg: Reg,
        /// And with this.
        mask: Value,
        /// Then exclusive-or with this, as long as the mask.
        xor: Value,
    },
    /// Changes the byte order.
    Byteorder {
        /// From.
        sreg: Reg,
        /// To.
        dreg: Reg,
        /// To the host's order, or from it.
        op: ByteorderOp,
        /// How many bytes.
        len: u32,
        /// How many bytes a number has.
        size: u32,
    },
    /// Looks a key up in a set or map; goes on only if it is there (or is not, inverted).
    Lookup {
        /// The set's name.
        set: String,
        /// Where the key begins.
        sreg: Reg,
        /// What becomes of what a map has for the key.
        into: LookupInto,
        /// Go on only if the key is not there.
        inverted: bool,
    },
    /// Loads a constant.
    Immediate {
        /// The constant.
        value: Value,
        /// Into this register.
        dreg: Reg,
    },
    /// Decides.
    Verdict(Verdict),
    /// Loads something that connection tracking knows.
    Ct {
        /// What.
        key: CtKey,
        /// Of packets in which direction, where it differs.
        direction: Option<CtDirection>,
        /// Into this register.
        dreg: Reg,
    },
    /// Asks the routing tables about an address of the packet.
    Fib {
        /// Which address.
        address: FibAddress,
        /// What to ask.
        result: FibResult,
        /// Into this register.
        dreg: Reg,
    },
    /// Loads a number from 0 to `modulus - 1`, plus the offset, in host byte order.
    Numgen {
        /// How.
        kind: NumgenKind,
        /// How many numbers.
        modulus: u32,
        /// From which.
        offset: u32,
        /// Into this register.
        dreg: Reg,
    },
    /// Adds, updates or deletes an element of a set.
    Dynset {
        /// The set's name.
        set: String,
        /// What to do.
        op: DynsetOp,
        /// Where the key begins.
        key: Reg,
        /// Where the data begins, for a map.
        data: Option<Reg>,
        /// The element's timeout in milliseconds.
        timeout_ms: Option<u64>,
    },
    /// Sets up address translation for the connection, and accepts.
    Nat(Nat),
    /// Translates the source to the outgoing interface's address.
    Masquerade {
        /// `NF_NAT_RANGE_*`.
        flags: u32,
    },
    /// Translates the destination to this host.
    Redirect {
        /// Where the port is.
        port: Option<Reg>,
        /// `NF_NAT_RANGE_*`.
        flags: u32,
    },
    /// Answers with an error and drops.
    Reject(Reject),
    /// Counts.
    Counter {
        /// Packets so far.
        packets: u64,
        /// Bytes so far.
        bytes: u64,
    },
    /// Goes on for so many packets only.
    Limit {
        /// Packets per unit.
        rate: u64,
        /// The unit, in seconds.
        unit: u64,
        /// How many at once.
        burst: u32,
    },
    /// Uses a named object.
    Objref {
        /// `NFT_OBJECT_*`.
        kind: u32,
        /// Its name.
        name: String,
    },
}

/// Address translation (`enum nft_nat_attributes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat {
    /// Of the source or of the destination.
    pub kind: NatKind,
    /// The family of the address.
    pub family: Family,
    /// Where the address begins.
    pub address: Option<Reg>,
    /// Where the port is.
    pub port: Option<Reg>,
    /// `NF_NAT_RANGE_*`; see [`super::consts::NF_NAT_RANGE_MAP_IPS`].
    pub flags: u32,
}

/// `enum nft_payload_bases`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The header's own words.
pub enum PayloadBase {
    LinkLayer,
    Network,
    Transport,
}

/// `enum nft_meta_keys`, those in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The header's own words.
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
#[allow(missing_docs)] // The header's own words.
pub enum CmpOp {
    Eq,
    Neq,
    Lt,
    Lte,
    Gt,
    Gte,
}

/// `enum nft_byteorder_ops`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The header's own words.
pub enum ByteorderOp {
    NetworkToHost,
    HostToNetwork,
}

/// What a lookup does with what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupInto {
    /// Nothing: the set has no data, or none is wanted.
    Nothing,
    /// Loads it from this register on.
    Register(Reg),
    /// Follows it: a verdict map.
    Verdict,
}

/// `enum nft_ct_keys`, those in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The header's own words.
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
#[allow(missing_docs)] // The header's own words.
pub enum CtDirection {
    Original,
    Reply,
}

/// Which address `fib` looks at (`NFTA_FIB_F_SADDR`, `NFTA_FIB_F_DADDR`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The header's own words.
pub enum FibAddress {
    Source,
    Destination,
}

/// `enum nft_fib_result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The header's own words.
pub enum FibResult {
    Oif,
    OifName,
    /// `RTN_*` of `linux/rtnetlink.h`; `RTN_LOCAL` is 2.
    AddressType,
}

/// `enum nft_ng_types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The header's own words.
pub enum NumgenKind {
    Incremental,
    Random,
}

/// `enum nft_dynset_ops`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The header's own words.
pub enum DynsetOp {
    Add,
    Update,
    Delete,
}

/// `enum nft_nat_types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The header's own words.
pub enum NatKind {
    Source,
    Destination,
}

/// `enum nft_reject_types`, with the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// ICMP (or ICMPv6) unreachable of this code.
    Icmp(u8),
    /// A TCP reset.
    TcpReset,
    /// ICMP or ICMPv6 unreachable after the packet's family, of this code of
    /// `enum nft_reject_inet_code`.
    Icmpx(u8),
}
