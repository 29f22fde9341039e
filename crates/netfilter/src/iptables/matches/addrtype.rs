//! `-m addrtype`.

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, value, with};
use crate::iptables::syntax::text::{names, negation, option};
use crate::iptables::syntax::{Options, Parsed, values};
use crate::iptables::value::Negatable;

pub(crate) const NAMES: &[&str] = &["addrtype"];

pub(crate) const OPTIONS: Options = &[
    ("--src-type", 1),
    ("--dst-type", 1),
    ("--limit-iface-in", 0),
    ("--limit-iface-out", 0),
];

/// `addrtype`: the type of an address in the routing tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MatchAddrType {
    /// `--src-type`.
    pub source: Option<Negatable<AddrTypes>>,
    /// `--dst-type`.
    pub destination: Option<Negatable<AddrTypes>>,
    /// `--limit-iface-in`: only on the input interface.
    pub limit_in: bool,
    /// `--limit-iface-out`: only on the output interface.
    pub limit_out: bool,
}

impl MatchAddrType {
    /// `--dst-type LOCAL`.
    pub const DESTINATION_LOCAL: MatchAddrType = MatchAddrType {
        source: None,
        destination: Some(Negatable::is(AddrTypes::of(AddrType::Local))),
        limit_in: false,
        limit_out: false,
    };
    /// `--src-type LOCAL`.
    pub const SOURCE_LOCAL: MatchAddrType = MatchAddrType {
        source: Some(Negatable::is(AddrTypes::of(AddrType::Local))),
        destination: None,
        limit_in: false,
        limit_out: false,
    };
}

/// A type of address (`RTN_*` of `linux/rtnetlink.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
#[repr(u16)]
pub enum AddrType {
    Unspec = 1,
    Unicast = 2,
    Local = 4,
    Broadcast = 8,
    Anycast = 16,
    Multicast = 32,
    Blackhole = 64,
    Unreachable = 128,
    Prohibit = 256,
    Throw = 512,
    Nat = 1024,
    Xresolve = 2048,
}

impl AddrType {
    /// Names in the order of iptables-save.
    pub const NAMES: [(&'static str, AddrType); 12] = [
        ("UNSPEC", AddrType::Unspec),
        ("UNICAST", AddrType::Unicast),
        ("LOCAL", AddrType::Local),
        ("BROADCAST", AddrType::Broadcast),
        ("ANYCAST", AddrType::Anycast),
        ("MULTICAST", AddrType::Multicast),
        ("BLACKHOLE", AddrType::Blackhole),
        ("UNREACHABLE", AddrType::Unreachable),
        ("PROHIBIT", AddrType::Prohibit),
        ("THROW", AddrType::Throw),
        ("NAT", AddrType::Nat),
        ("XRESOLVE", AddrType::Xresolve),
    ];
}

/// A set of address types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AddrTypes(u16);

impl AddrTypes {
    /// Return the set of this one.
    pub const fn of(kind: AddrType) -> Self {
        Self(kind as u16)
    }

    /// Return whether the type is in the set.
    pub fn contains(self, kind: AddrType) -> bool {
        self.0 & kind as u16 != 0
    }

    /// Return the set with this one added.
    #[must_use]
    pub fn with(self, kind: AddrType) -> Self {
        Self(self.0 | kind as u16)
    }

    /// Return whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<MatchAddrType>> {
    let mut found = MatchAddrType::default();
    for item in &segment.items {
        let types = || -> Parsed<_> {
            let mut types = AddrTypes::default();
            values::names(
                value(item)?,
                &AddrType::NAMES,
                "a list of address types",
                |t| types = types.with(t),
            )?;
            Ok(Some(with(item, types)))
        };
        match item.option {
            "--src-type" => found.source = types()?,
            "--dst-type" => found.destination = types()?,
            "--limit-iface-in" => found.limit_in = true,
            _ => found.limit_out = true,
        }
    }
    Ok(Some(found))
}

pub(crate) fn write(out: &mut String, addrtype: &MatchAddrType) {
    out.push_str(" -m addrtype");
    let mut side = |name, types: Option<Negatable<AddrTypes>>| {
        if let Some(types) = types {
            negation(out, &types);
            out.push_str(name);
            names(out, &AddrType::NAMES, "", |t| types.value.contains(t));
        }
    };
    side(" --src-type ", addrtype.source);
    side(" --dst-type ", addrtype.destination);
    if addrtype.limit_in {
        option(out, "--limit-iface-in");
    }
    if addrtype.limit_out {
        option(out, "--limit-iface-out");
    }
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &[
    "-m addrtype --src-type LOCAL ! --dst-type UNICAST,BROADCAST --limit-iface-in",
    "-m addrtype --dst-type LOCAL --limit-iface-out",
];
