//! Families, tables, chain names and policies.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The address family: the rule set of `iptables` or of `ip6tables`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    /// Return the prefix length of a single address: 32 or 128.
    pub fn host_prefix_len(self) -> u8 {
        match self {
            Family::Ipv4 => 32,
            Family::Ipv6 => 128,
        }
    }

    /// Return the mask of a single address: all ones.
    pub fn host_mask(self) -> IpAddr {
        match self {
            Family::Ipv4 => IpAddr::V4(Ipv4Addr::BROADCAST),
            Family::Ipv6 => IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)),
        }
    }

    /// Return the family of an address.
    pub fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Family::Ipv4,
            IpAddr::V6(_) => Family::Ipv6,
        }
    }
}

/// `IPv4`, `IPv6`.
impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Ipv4 => "IPv4",
            Family::Ipv6 => "IPv6",
        })
    }
}

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Table {
    Raw,
    Mangle,
    Nat,
    Filter,
    Security,
}

impl Table {
    /// All tables in the order of one hook.
    pub const ALL: [Table; 5] = [
        Table::Raw,
        Table::Mangle,
        Table::Nat,
        Table::Filter,
        Table::Security,
    ];

    /// Return the name that follows `*` in a save file.
    pub fn name(self) -> &'static str {
        match self {
            Table::Raw => "raw",
            Table::Mangle => "mangle",
            Table::Nat => "nat",
            Table::Filter => "filter",
            Table::Security => "security",
        }
    }

    /// Return the built-in chains in the order of `iptables-save`.
    pub fn built_in(self) -> &'static [Chain] {
        const PRE: Chain = Chain::literal("PREROUTING");
        const IN: Chain = Chain::literal("INPUT");
        const FWD: Chain = Chain::literal("FORWARD");
        const OUT: Chain = Chain::literal("OUTPUT");
        const POST: Chain = Chain::literal("POSTROUTING");
        match self {
            Table::Raw => &[PRE, OUT],
            Table::Mangle => &[PRE, IN, FWD, OUT, POST],
            Table::Nat => &[PRE, IN, OUT, POST],
            Table::Filter | Table::Security => &[IN, FWD, OUT],
        }
    }

    /// Return whether the chain is built in.
    pub fn is_built_in(self, chain: Chain) -> bool {
        self.built_in().contains(&chain)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Table {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        Table::ALL.into_iter().find(|t| t.name() == s).ok_or(())
    }
}

/// The name of a chain: 1 to 28 bytes (`XT_EXTENSION_MAXNAMELEN` of `linux/netfilter/x_tables.h`
/// is 29 with the terminating NUL), no white space or quotes, not starting with `-` or `!`.
///
/// Stored inline: a large cluster has 100,000 names, and a copy costs no allocation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain {
    // Padded with NUL, so that arrays sort like strings.
    bytes: [u8; Chain::MAX_LEN],
    len: u8,
}

/// Why a chain name is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("chain name {name:?}: {reason}")]
pub struct ChainError {
    /// The name.
    pub name: String,
    /// The cause.
    pub reason: &'static str,
}

impl Chain {
    /// The maximum length in bytes.
    pub const MAX_LEN: usize = 28;

    /// Validate a name.
    pub fn new(name: &str) -> Result<Self, ChainError> {
        match Self::check(name.as_bytes()) {
            Ok(()) => Ok(Self::fill(name.as_bytes())),
            Err(reason) => Err(ChainError {
                name: name.chars().take(64).collect(),
                reason,
            }),
        }
    }

    /// Return a name known at compile time; an invalid one does not compile in a `const`.
    pub const fn literal(name: &'static str) -> Self {
        if Self::check(name.as_bytes()).is_err() {
            panic!("not a chain name");
        }
        Self::fill(name.as_bytes())
    }

    const fn check(name: &[u8]) -> Result<(), &'static str> {
        if name.is_empty() {
            return Err("a name cannot be empty");
        }
        if name.len() > Self::MAX_LEN {
            return Err("longer than 28 bytes");
        }
        if name[0] == b'-' || name[0] == b'!' {
            return Err("a name cannot start with '-' or '!'");
        }
        let mut i = 0;
        while i < name.len() {
            if name[i] <= b' ' || name[i] == 0x7f || name[i] == b'"' {
                return Err("white space, quotes and control characters are not allowed");
            }
            i += 1;
        }
        Ok(())
    }

    const fn fill(name: &[u8]) -> Self {
        let mut bytes = [0; Self::MAX_LEN];
        let (used, _) = bytes.split_at_mut(name.len());
        used.copy_from_slice(name);
        Self {
            bytes,
            len: name.len() as u8,
        }
    }

    /// Return the name.
    pub fn as_str(&self) -> &str {
        // Always filled from a complete `str`.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// Return the name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Chain {
    type Err = ChainError;

    fn from_str(s: &str) -> Result<Self, ChainError> {
        Chain::new(s)
    }
}

/// The verdict of a built-in chain on packets that reach its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Policy {
    Accept,
    Drop,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Policy::Accept => "ACCEPT",
            Policy::Drop => "DROP",
        })
    }
}
