//! ipsets: definitions and elements as typed data, in the text format of `ipset save`.
//!
//! ```
//! use netfilter::ipset::Sets;
//! let save = "create WEB hash:ip,port family inet hashsize 1024 maxelem 65536\nadd WEB 10.0.0.1,tcp:80\n";
//! let sets = Sets::parse(save).unwrap();
//! assert_eq!(sets.to_string(), save);
//! ```

pub mod netlink;
mod parse;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

pub use parse::ParseError;

/// All sets in the order of creation: a `list:set` follows its members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// The sets.
    pub sets: Vec<Set>,
}

impl Sets {
    /// Parse the output of `ipset save`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        parse::parse(text)
    }

    /// Return the set with this name.
    pub fn get(&self, name: &str) -> Option<&Set> {
        self.sets.iter().find(|s| *s.name == *name)
    }
}

/// One set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The name, at most 31 bytes (`IPSET_MAXNAMELEN` is 32 with the terminating NUL).
    pub name: Box<str>,
    /// The storage method.
    pub method: Method,
    /// The parts of an element.
    pub parts: Vec<PartKind>,
    /// The options of `create` in order, with their values; `None` for flags. Includes `family inet`
    /// and `range 0-65535`.
    pub options: Vec<(Box<str>, Option<Box<str>>)>,
    /// The elements.
    pub elements: Vec<Element>,
}

/// The storage method of a set: the word before the colon of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Method {
    Hash,
    Bitmap,
    List,
}

/// The kind of one part of an element: a word after the colon of the set's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum PartKind {
    Ip,
    Net,
    Port,
    Mac,
    Mark,
    Iface,
    Set,
}

impl PartKind {
    const NAMES: [(&'static str, PartKind); 7] = [
        ("ip", PartKind::Ip),
        ("net", PartKind::Net),
        ("port", PartKind::Port),
        ("mac", PartKind::Mac),
        ("mark", PartKind::Mark),
        ("iface", PartKind::Iface),
        ("set", PartKind::Set),
    ];

    /// Return the word.
    pub fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(_, k)| *k == self)
            .map_or("", |(n, _)| n)
    }

    fn parse(text: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(n, _)| *n == text)
            .map(|(_, k)| *k)
    }
}

/// One element.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Element {
    /// The parts, as many as in the set's type.
    pub parts: Vec<Part>,
    /// `nomatch`: packets in this element do not match, even if they are in a wider element.
    pub nomatch: bool,
    /// Other options, in order: `timeout 30`, `comment "…"`, `packets 0`.
    pub options: Vec<(Box<str>, Option<Box<str>>)>,
}

impl Element {
    /// Return an element without options.
    pub fn new(parts: Vec<Part>) -> Self {
        Self {
            parts,
            nomatch: false,
            options: Vec::new(),
        }
    }
}

/// One part of an element.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// An address.
    Ip(IpAddr),
    /// A range of addresses with a common prefix; host bits are masked off.
    Net(IpNet),
    /// A range of addresses, inclusive.
    IpRange(IpAddr, IpAddr),
    /// A port or an inclusive range of ports. A `bitmap:port` has no protocol.
    #[allow(missing_docs)]
    Port {
        protocol: Option<PortProtocol>,
        first: u16,
        last: u16,
    },
    /// A packet mark.
    Mark(u32),
    /// An interface; with `physical`, a bridge port.
    #[allow(missing_docs)]
    Iface { name: Box<str>, physical: bool },
    /// A hardware address.
    Mac([u8; 6]),
    /// Another set.
    Set(Box<str>),
}

/// The protocol of a port: its IANA number. For ICMP the port is type and code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortProtocol(pub u8);

impl PortProtocol {
    const NAMES: [(&'static str, u8); 7] = [
        ("tcp", 6),
        ("udp", 17),
        ("sctp", 132),
        ("udplite", 136),
        ("icmp", 1),
        ("icmpv6", 58),
        // The printed name depends on the host's /etc/protocols.
        ("ipv6-icmp", 58),
    ];

    fn parse(text: &str) -> Option<Self> {
        let named = Self::NAMES
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(text));
        named
            .map(|(_, p)| *p)
            .or_else(|| text.parse().ok())
            .map(Self)
    }
}

impl fmt::Display for PortProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(_, p)| *p == self.0) {
            Some((name, _)) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

impl Set {
    /// Return the type in the format of `ipset`: `hash:ip,port`.
    pub fn type_name(&self) -> String {
        let method = match self.method {
            Method::Hash => "hash",
            Method::Bitmap => "bitmap",
            Method::List => "list",
        };
        let parts: Vec<&str> = self.parts.iter().map(|p| p.name()).collect();
        format!("{method}:{}", parts.join(","))
    }

    /// Return the value of an option of `create`.
    pub fn option(&self, name: &str) -> Option<&str> {
        let found = self.options.iter().find(|(n, _)| **n == *name)?;
        found.1.as_deref()
    }

    /// Return whether the addresses are IPv6.
    pub fn is_v6(&self) -> bool {
        self.option("family") == Some("inet6")
    }
}

/// The format of `ipset save`.
impl fmt::Display for Sets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sets.iter().try_for_each(|s| s.fmt(f))
    }
}

/// The lines of `ipset save` for the set: `create`, then an `add` for each element.
impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "create {} {}", self.name, self.type_name())?;
        write_options(&self.options, f)?;
        writeln!(f)?;
        for e in &self.elements {
            writeln!(f, "add {} {e}", self.name)?;
        }
        Ok(())
    }
}

fn write_options(
    options: &[(Box<str>, Option<Box<str>>)],
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    for (name, value) in options {
        write!(f, " {name}")?;
        match value {
            Some(v) if &**name == "comment" || v.contains(' ') => write!(f, " \"{v}\"")?,
            Some(v) => write!(f, " {v}")?,
            None => {}
        }
    }
    Ok(())
}

/// The format of `add SET ELEMENT`: `10.0.0.1,tcp:80 timeout 30`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, part) in self.parts.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            part.fmt(f)?;
        }
        if self.nomatch {
            f.write_str(" nomatch")?;
        }
        write_options(&self.options, f)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Ip(ip) => ip.fmt(f),
            Part::Net(net) => net.fmt(f),
            Part::IpRange(a, b) => write!(f, "{a}-{b}"),
            Part::Port {
                protocol,
                first,
                last,
            } => {
                if let Some(p) = protocol {
                    write!(f, "{p}:")?;
                }
                write!(f, "{first}")?;
                if last == first {
                    Ok(())
                } else {
                    write!(f, "-{last}")
                }
            }
            Part::Mark(mark) => write!(f, "0x{mark:08x}"),
            Part::Iface { name, physical } => {
                write!(f, "{}{name}", if *physical { "physdev:" } else { "" })
            }
            Part::Mac([a, b, c, d, e, g]) => {
                write!(f, "{a:02X}:{b:02X}:{c:02X}:{d:02X}:{e:02X}:{g:02X}")
            }
            Part::Set(name) => f.write_str(name),
        }
    }
}

/// Sets by name.
impl From<Sets> for BTreeMap<Box<str>, Set> {
    fn from(sets: Sets) -> Self {
        sets.sets.into_iter().map(|s| (s.name.clone(), s)).collect()
    }
}

/// One change to ipsets, as a command of their netlink subsystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Create a set, without its elements. An existing set of the same name and type is accepted.
    Create(Set),
    /// Add elements.
    #[allow(missing_docs)]
    Add {
        set: Box<str>,
        elements: Vec<Element>,
    },
    /// Delete elements.
    #[allow(missing_docs)]
    Delete {
        set: Box<str>,
        elements: Vec<Element>,
    },
    /// Exchange two sets of one type.
    Swap(Box<str>, Box<str>),
    /// Destroy a set with its elements. A set that a rule names cannot be destroyed.
    Destroy(Box<str>),
}
