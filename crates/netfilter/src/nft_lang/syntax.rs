//! The syntax tree of a rule set.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Elements;

/// All tables, in the order listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// The tables.
    pub tables: Vec<TableDecl>,
}

/// The position and reason of a syntax error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column in bytes, from 1.
    pub column: usize,
    /// The reason.
    pub message: String,
}

/// The family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum TableFamily {
    Ip,
    Ip6,
    Inet,
    Arp,
    Bridge,
    Netdev,
}

impl TableFamily {
    const NAMES: [(&'static str, TableFamily); 6] = [
        ("ip", TableFamily::Ip),
        ("ip6", TableFamily::Ip6),
        ("inet", TableFamily::Inet),
        ("arp", TableFamily::Arp),
        ("bridge", TableFamily::Bridge),
        ("netdev", TableFamily::Netdev),
    ];

    /// Return the keyword.
    pub fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(_, f)| *f == self)
            .map_or("", |(n, _)| n)
    }

    /// Return the family of a keyword.
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, f)| *f)
    }
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDecl {
    /// The family.
    pub family: TableFamily,
    /// The name.
    pub name: Box<str>,
    /// Whether the kernel skips its chains (`flags dormant`).
    pub dormant: bool,
    /// Whether the listing marks it as managed by iptables-nft; `iptables-save` then shows the same rules.
    pub iptables: bool,
    /// The chains, in the order listed.
    pub chains: Vec<ChainDecl>,
    /// The sets and maps, in the order listed.
    pub sets: Vec<SetDecl>,
    /// Other objects (counters, flowtables, …), verbatim.
    pub others: Vec<Unknown>,
    chain_places: HashMap<Box<str>, usize>,
    set_places: HashMap<Box<str>, usize>,
}

impl TableDecl {
    /// Return an empty table.
    pub fn new(family: TableFamily, name: &str) -> Self {
        Self {
            family,
            name: name.into(),
            dormant: false,
            iptables: false,
            chains: Vec::new(),
            sets: Vec::new(),
            others: Vec::new(),
            chain_places: HashMap::new(),
            set_places: HashMap::new(),
        }
    }

    /// Return a chain by name.
    pub fn chain(&self, name: &str) -> Option<&ChainDecl> {
        self.chains.get(*self.chain_places.get(name)?)
    }

    /// Return a set or map by name.
    pub fn set(&self, name: &str) -> Option<&SetDecl> {
        self.sets.get(*self.set_places.get(name)?)
    }

    /// Add a chain. Returns `false`, and adds nothing, if the name is taken.
    pub fn add_chain(&mut self, chain: ChainDecl) -> bool {
        if self.chain_places.contains_key(&chain.name) {
            return false;
        }
        self.chain_places
            .insert(chain.name.clone(), self.chains.len());
        self.chains.push(chain);
        true
    }

    /// Add a set or map. Returns `false`, and adds nothing, if the name is taken.
    pub fn add_set(&mut self, set: SetDecl) -> bool {
        if self.set_places.contains_key(&set.name) {
            return false;
        }
        self.set_places.insert(set.name.clone(), self.sets.len());
        self.sets.push(set);
        true
    }

    pub(super) fn chain_mut(&mut self, name: &str) -> Option<&mut ChainDecl> {
        self.chains.get_mut(*self.chain_places.get(name)?)
    }
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainDecl {
    /// The name.
    pub name: Box<str>,
    /// The attachment to a hook; `None` for a chain that only rules call.
    pub base: Option<BaseDecl>,
    /// The rules, in order.
    pub rules: Vec<RuleDecl>,
}

/// The attachment of a base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseDecl {
    /// The type.
    pub kind: ChainType,
    /// The hook: `prerouting`, `input`, `forward`, `output`, `postrouting`, `ingress`, `egress`.
    pub hook: Box<str>,
    /// The devices of a chain on `ingress` or `egress`; `*` at the end stands for any rest.
    pub devices: Vec<Box<str>>,
    /// The priority; lower ones run earlier.
    pub priority: i32,
    /// Whether the policy is `drop`.
    pub drops: bool,
}

/// The type of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum ChainType {
    Filter,
    Nat,
    Route,
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleDecl {
    /// The statements, in order; a match that is false ends the rule.
    pub statements: Vec<Statement>,
    /// The text as listed, on one line.
    pub text: Box<str>,
    /// The line of the listing, from 1; 0 in JSON.
    pub line: usize,
}

/// Text that is not modelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// The text, verbatim.
    pub text: Box<str>,
    /// The line of the listing, from 1; 0 in JSON.
    pub line: usize,
    /// The column, from 1; 0 in JSON.
    pub column: usize,
}

/// A statement of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// Ends the rule unless the comparison is true.
    Match {
        /// The left side.
        left: Term,
        /// The operator.
        op: Op,
        /// The right side.
        right: Term,
    },
    /// Looks a verdict up; the rule continues if the map lacks the key.
    Vmap {
        /// The key.
        key: Term,
        /// The map.
        map: SetRef,
    },
    /// Sets the verdict.
    Verdict(VerdictStatement),
    /// Changes a field (`meta mark set …`).
    Assign {
        /// The field.
        field: Term,
        /// The new value.
        value: Term,
    },
    /// Translates an address or port.
    Nat(NatStatement),
    /// Drops the packet and sends this error.
    Reject(Box<str>),
    /// Adds, updates or deletes an element of a set.
    Dynset {
        /// The operation.
        op: SetOp,
        /// The set's name.
        set: Box<str>,
        /// The element's key.
        key: Term,
        /// The element's data.
        value: Option<Term>,
        /// A condition on the element (`limit`, `ct count`), verbatim; the rule continues only if it is
        /// true.
        condition: Option<Box<str>>,
    },
    /// Ends the rule if the rate is exceeded or, with `over`, if it is not.
    Limit {
        /// Whether `over` is given.
        over: bool,
        /// The text, verbatim.
        text: Box<str>,
    },
    /// Exempts the packet from connection tracking.
    Notrack,
    /// Has no influence on the packet's path: counts, logs, sets an option.
    Inert(Box<str>),
    /// Not modelled.
    Unknown(Unknown),
}

/// A comparison operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Op {
    /// No operator: equal, in the set, or (flags) any of them.
    Implicit,
    Eq,
    Ne,
    Lt,
    Gt,
    Le,
    Ge,
    /// `!`: none of the flags.
    Not,
}

/// A verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum VerdictStatement {
    Accept,
    Drop,
    Continue,
    Return,
    Jump(Box<str>),
    Goto(Box<str>),
    /// Passes the packet to a program in user space.
    Queue,
}

/// The operation of a set statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum SetOp {
    Add,
    Update,
    Delete,
}

/// An address translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatStatement {
    /// The type.
    pub kind: NatType,
    /// The address, or address and port as a concatenation.
    pub address: Option<Term>,
    /// The port.
    pub port: Option<Term>,
    /// `fully-random`, `random`, `persistent`, in order.
    pub flags: Vec<Box<str>>,
}

/// The type of an address translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum NatType {
    Snat,
    Dnat,
    Masquerade,
    Redirect,
}

/// A value, or something that has a value for each packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Term {
    /// A header field.
    Field(Field),
    /// Metadata of the packet.
    Meta(Meta),
    /// A property of the packet's connection.
    Ct(Ct),
    /// A lookup in the routing tables.
    Fib(FibLookup),
    /// A number from `offset` to `offset + modulus - 1`, random or incremental.
    #[allow(missing_docs)]
    Numgen {
        random: bool,
        modulus: u32,
        offset: u32,
    },
    /// A hash of the packet, from `offset` to `offset + modulus - 1`.
    #[allow(missing_docs)]
    Hash {
        text: Box<str>,
        modulus: u32,
        offset: u32,
    },
    /// A literal.
    Value(Literal),
    /// Flags separated by commas: any of them.
    Flags(Vec<Literal>),
    /// An inclusive range.
    Range(Literal, Literal),
    /// An address prefix.
    Prefix(IpNet),
    /// A concatenation.
    Concat(Vec<Term>),
    /// An anonymous set.
    Set(Box<SetDecl>),
    /// A named set.
    SetName(Box<str>),
    /// A lookup in a map.
    #[allow(missing_docs)]
    Map { key: Box<Term>, map: SetRef },
    /// A bit operation.
    #[allow(missing_docs)]
    Binary {
        op: BinaryOp,
        left: Box<Term>,
        right: Box<Term>,
    },
    /// Not modelled.
    Unknown(Unknown),
}

/// A bit operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum BinaryOp {
    And,
    Or,
    Xor,
    Shl,
    Shr,
}

/// A header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Field {
    Saddr4,
    Daddr4,
    Saddr6,
    Daddr6,
    /// `ip protocol`.
    Protocol4,
    /// `ip6 nexthdr`.
    Nexthdr6,
    /// A source port; of this protocol only, if one is given (`tcp sport` instead of `th sport`).
    Sport(Option<u8>),
    Dport(Option<u8>),
    TcpFlags,
    IcmpType,
    IcmpCode,
    Icmpv6Type,
    Icmpv6Code,
    /// `ip version`: 4 or 6.
    Version,
}

/// A key of `meta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Meta {
    L4proto,
    Nfproto,
    Protocol,
    Mark,
    Iif,
    Oif,
    Iifname,
    Oifname,
    Pkttype,
}

/// A key of `ct`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Ct {
    State,
    Status,
    Mark,
    Direction,
    /// `ct original ip saddr` and the like; `reply` selects the other direction.
    Saddr {
        reply: bool,
    },
    Daddr {
        reply: bool,
    },
    Sport {
        reply: bool,
    },
    Dport {
        reply: bool,
    },
    Protocol,
    L3proto,
    Zone,
}

/// A lookup in the routing tables.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FibLookup {
    /// Whether to look up the source instead of the destination.
    pub source: bool,
    /// `mark`: with the packet's mark.
    pub mark: bool,
    /// `iif`: restricted to the input interface.
    pub iif: bool,
    /// `oif`: restricted to the output interface.
    pub oif: bool,
    /// The requested result.
    pub result: FibField,
}

/// The requested result of a lookup in the routing tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum FibField {
    Type,
    Oif,
    Oifname,
}

/// A literal value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Literal {
    /// An address.
    Ip(IpAddr),
    /// Any number: a port, a protocol, a mark, flags.
    Int(u64),
    /// A name.
    Text(Box<str>),
    /// All names with this prefix (`"eth*"`).
    Wildcard(Box<str>),
}

/// A reference to a set: by name or in place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SetRef {
    Name(Box<str>),
    Anonymous(Box<SetDecl>),
}

/// A set or map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetDecl {
    /// The name; empty for an anonymous set.
    pub name: Box<str>,
    /// The types of the key's fields.
    pub key: Vec<TermType>,
    /// The types of the data; empty for a set, [`TermType::Verdict`] for a verdict map.
    pub data: Vec<TermType>,
    /// The words after `flags`.
    pub flags: Vec<Box<str>>,
    /// `timeout`, verbatim.
    pub timeout: Option<Box<str>>,
    /// The elements, in the order listed.
    pub elements: Elements,
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElementDecl {
    /// The key, one item per field; empty for the catch-all element `*`.
    pub key: Box<[Item]>,
    /// The data.
    pub data: Option<Mapped>,
    /// `comment`.
    pub comment: Option<Box<str>>,
}

/// One field of an element's key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Item {
    Value(Literal),
    Range(Literal, Literal),
    Prefix(IpNet),
}

/// An element's data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Mapped {
    Verdict(VerdictStatement),
    Items(Box<[Item]>),
}

impl Item {
    /// Return whether the item includes a value.
    pub fn contains(&self, value: &Literal) -> bool {
        match (self, value) {
            (Item::Value(Literal::Wildcard(prefix)), Literal::Text(name)) => {
                name.starts_with(&**prefix)
            }
            (Item::Value(v), value) => v == value,
            // The derived order places addresses of one family next to those of the other.
            (Item::Range(Literal::Ip(a), Literal::Ip(b)), Literal::Ip(ip)) => {
                a.is_ipv4() == ip.is_ipv4() && (a..=b).contains(&ip)
            }
            (Item::Range(Literal::Int(a), Literal::Int(b)), Literal::Int(n)) => {
                (a..=b).contains(&n)
            }
            (Item::Prefix(net), Literal::Ip(ip)) => net.contains(ip),
            _ => false,
        }
    }
}

impl SetDecl {
    /// Return the element that includes a key: the first such, otherwise the catch-all.
    pub fn find(&self, key: &[Literal]) -> Option<&ElementDecl> {
        self.elements.find(key)
    }

    /// Return whether any element may include a key of which some fields are unknown.
    pub fn may_find(&self, key: &[Option<Literal>]) -> bool {
        let fits = |(item, value): (&Item, &Option<Literal>)| {
            value.as_ref().is_none_or(|value| item.contains(value))
        };
        self.elements.iter().any(|e| {
            e.key.is_empty() || e.key.len() == key.len() && e.key.iter().zip(key).all(fits)
        })
    }
}

/// The type of a value; it decides the meaning of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // nft's own words.
pub enum TermType {
    Ipv4Addr,
    Ipv6Addr,
    InetService,
    InetProto,
    Mark,
    Ifname,
    IfaceIndex,
    CtState,
    CtStatus,
    CtDir,
    FibAddrtype,
    NfProto,
    EtherType,
    TcpFlag,
    IcmpType,
    IcmpCode,
    Icmpv6Type,
    Icmpv6Code,
    PktType,
    Integer,
    Verdict,
    Other,
}
