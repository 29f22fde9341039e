//! The syntax tree.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// All tables, in the order listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// The tables.
    pub tables: Vec<TableDecl>,
}

/// Why a listing cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ParseError {
    /// From 1.
    pub line: usize,
    /// In bytes, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

/// A table's family.
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

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(_, f)| *f == self)
            .map_or("", |(n, _)| n)
    }

    /// The family of a name.
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
    /// Its family.
    pub family: TableFamily,
    /// Its name.
    pub name: Box<str>,
    /// Its chains are not called (`flags dormant`).
    pub dormant: bool,
    /// The listing says that iptables-nft made it: `iptables-save` shows the same rules.
    pub iptables: bool,
    /// Its chains, in the order listed.
    pub chains: Vec<ChainDecl>,
    /// Its sets and maps, in the order listed.
    pub sets: Vec<SetDecl>,
    /// Named objects, flowtables and the like, word for word.
    pub others: Vec<Unknown>,
    chain_places: HashMap<Box<str>, usize>,
    set_places: HashMap<Box<str>, usize>,
}

impl TableDecl {
    /// A table without anything in it.
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

    /// A chain by name.
    pub fn chain(&self, name: &str) -> Option<&ChainDecl> {
        self.chains.get(*self.chain_places.get(name)?)
    }

    /// A set or map by name.
    pub fn set(&self, name: &str) -> Option<&SetDecl> {
        self.sets.get(*self.set_places.get(name)?)
    }

    /// Adds a chain; `false`, and nothing done, where the name is taken.
    pub fn add_chain(&mut self, chain: ChainDecl) -> bool {
        if self.chain_places.contains_key(&chain.name) {
            return false;
        }
        self.chain_places
            .insert(chain.name.clone(), self.chains.len());
        self.chains.push(chain);
        true
    }

    /// Adds a set or map; `false`, and nothing done, where the name is taken.
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
    /// Its name.
    pub name: Box<str>,
    /// Where the kernel calls it; `None` for a chain that only rules call.
    pub base: Option<BaseDecl>,
    /// Its rules, in order.
    pub rules: Vec<RuleDecl>,
}

/// How the kernel calls a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseDecl {
    /// Its type.
    pub kind: ChainType,
    /// The hook: `prerouting`, `input`, `forward`, `output`, `postrouting`, `ingress`, `egress`.
    pub hook: Box<str>,
    /// Lower ones come first.
    pub priority: i32,
    /// The policy is drop.
    pub drops: bool,
}

/// A base chain's type.
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
    /// What it does, in order; a match that does not hold ends it.
    pub statements: Vec<Statement>,
    /// As listed, on one line.
    pub text: Box<str>,
    /// The line of the listing, from 1; 0 where it was JSON.
    pub line: usize,
}

/// Something that is kept word for word because it is not modelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// The words.
    pub text: Box<str>,
    /// The line of the listing, from 1; 0 where it was JSON.
    pub line: usize,
    /// The column, from 1; 0 where it was JSON.
    pub column: usize,
}

/// One statement of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// Goes on only where the comparison holds.
    Match {
        /// What is compared.
        left: Term,
        /// How.
        op: Op,
        /// With what.
        right: Term,
    },
    /// Looks a verdict up; goes on where there is none.
    Vmap {
        /// The key.
        key: Term,
        /// The map.
        map: SetRef,
    },
    /// Decides.
    Verdict(VerdictStatement),
    /// Changes a field (`meta mark set …`).
    Assign {
        /// Which.
        field: Term,
        /// To what.
        value: Term,
    },
    /// Rewrites an address or port.
    Nat(NatStatement),
    /// Drops, and tells the sender with this.
    Reject(Box<str>),
    /// Adds to a set, updates it or takes from it.
    Dynset {
        /// What is done.
        op: SetOp,
        /// The set's name.
        set: Box<str>,
        /// The element.
        key: Term,
        /// What it maps to.
        value: Option<Term>,
        /// A condition on the element (`limit`, `ct count`), word for word: the rule goes on only
        /// where it holds.
        condition: Option<Box<str>>,
    },
    /// Goes on only within the rate (or, with `over`, only beyond it).
    Limit {
        /// `over`.
        over: bool,
        /// Word for word.
        text: Box<str>,
    },
    /// The connection is not to be tracked.
    Notrack,
    /// Does something that does not bear on where the packet goes: counts, logs, sets an option.
    Inert(Box<str>),
    /// Not understood.
    Unknown(Unknown),
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Op {
    /// None is written: equal, or in the set, or (for flags) having any of them.
    Implicit,
    Eq,
    Ne,
    Lt,
    Gt,
    Le,
    Ge,
    /// `!`: having none of the flags.
    Not,
}

/// What becomes of the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum VerdictStatement {
    Accept,
    Drop,
    Continue,
    Return,
    Jump(Box<str>),
    Goto(Box<str>),
    /// To a program in user space.
    Queue,
}

/// What a dynamic set statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum SetOp {
    Add,
    Update,
    Delete,
}

/// A translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatStatement {
    /// Which.
    pub kind: NatType,
    /// The address, or address and port as a concatenation.
    pub address: Option<Term>,
    /// The port.
    pub port: Option<Term>,
    /// `fully-random`, `random`, `persistent`, in order.
    pub flags: Vec<Box<str>>,
}

/// Which translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum NatType {
    Snat,
    Dnat,
    Masquerade,
    Redirect,
}

/// Something that has a value for a packet, or a value itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Term {
    /// A field of the packet's headers.
    Field(Field),
    /// Something that the kernel keeps beside the packet.
    Meta(Meta),
    /// Something of the packet's connection.
    Ct(Ct),
    /// What the routing tables say.
    Fib(FibLookup),
    /// A number below `modulus`, plus `offset`: random or counting up.
    #[allow(missing_docs)]
    Numgen {
        random: bool,
        modulus: u32,
        offset: u32,
    },
    /// A hash of the packet, below `modulus`, plus `offset`.
    #[allow(missing_docs)]
    Hash {
        text: Box<str>,
        modulus: u32,
        offset: u32,
    },
    /// A value.
    Value(Literal),
    /// Flags separated by commas; any of them.
    Flags(Vec<Literal>),
    /// Values from the first to the last.
    Range(Literal, Literal),
    /// Addresses with a common prefix.
    Prefix(IpNet),
    /// Several values as one.
    Concat(Vec<Term>),
    /// An anonymous set.
    Set(Box<SetDecl>),
    /// A named set.
    SetName(Box<str>),
    /// What a map has for a key.
    #[allow(missing_docs)]
    Map { key: Box<Term>, map: SetRef },
    /// Two values combined bit by bit.
    #[allow(missing_docs)]
    Binary {
        op: BinaryOp,
        left: Box<Term>,
        right: Box<Term>,
    },
    /// Not understood.
    Unknown(Unknown),
}

/// How bits are combined.
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
    /// A source port; of this protocol only, where one is given (`tcp sport` against `th sport`).
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
    /// `ct original ip saddr` and its like; `reply` for the other direction.
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
    /// By the source rather than the destination.
    pub source: bool,
    /// `mark`: with the packet's mark.
    pub mark: bool,
    /// `iif`: only through the interface that the packet came in through.
    pub iif: bool,
    /// `oif`: only through the interface that it leaves through.
    pub oif: bool,
    /// What is asked.
    pub result: FibField,
}

/// What a lookup in the routing tables is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum FibField {
    Type,
    Oif,
    Oifname,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Literal {
    /// An address.
    Ip(IpAddr),
    /// Any number: a port, a protocol, a mark, flags.
    Int(u64),
    /// A name.
    Text(Box<str>),
    /// Every name that starts so (`"eth*"`).
    Wildcard(Box<str>),
}

/// A set that is looked into: by name or in place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SetRef {
    Name(Box<str>),
    Anonymous(Box<SetDecl>),
}

/// A set or map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetDecl {
    /// Its name; empty for an anonymous one.
    pub name: Box<str>,
    /// The types of the key's parts.
    pub key: Vec<TermType>,
    /// What its elements map to; empty for a set. A verdict map has [`TermType::Verdict`].
    pub data: Vec<TermType>,
    /// The words behind `flags`.
    pub flags: Vec<Box<str>>,
    /// `timeout`, word for word.
    pub timeout: Option<Box<str>>,
    /// The elements, in the order listed.
    pub elements: Vec<ElementDecl>,
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElementDecl {
    /// Its key, as many parts as the set's; empty for the catch-all element `*`.
    pub key: Box<[Item]>,
    /// What it maps to.
    pub data: Option<Mapped>,
    /// `comment`.
    pub comment: Option<Box<str>>,
}

/// One part of an element's key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Item {
    Value(Literal),
    Range(Literal, Literal),
    Prefix(IpNet),
}

/// What an element maps to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Mapped {
    Verdict(VerdictStatement),
    Items(Box<[Item]>),
}

impl Item {
    /// Whether a value is meant by it.
    pub fn contains(&self, value: &Literal) -> bool {
        match (self, value) {
            (Item::Value(Literal::Wildcard(prefix)), Literal::Text(name)) => {
                name.starts_with(&**prefix)
            }
            (Item::Value(v), value) => v == value,
            // The derived order would set addresses of one family beside those of the other.
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
    /// The element that a key falls in: an exact one, else the catch-all.
    pub fn find(&self, key: &[Literal]) -> Option<&ElementDecl> {
        let matches = |e: &&ElementDecl| {
            e.key.len() == key.len()
                && !key.is_empty()
                && e.key
                    .iter()
                    .zip(key)
                    .all(|(item, value)| item.contains(value))
        };
        let found = self.elements.iter().find(matches);
        found.or_else(|| self.elements.iter().find(|e| e.key.is_empty()))
    }

    /// Whether any element may be meant by a key of which not every part is known.
    pub fn may_find(&self, key: &[Option<Literal>]) -> bool {
        let fits = |(item, value): (&Item, &Option<Literal>)| {
            value.as_ref().is_none_or(|value| item.contains(value))
        };
        self.elements.iter().any(|e| {
            e.key.is_empty() || e.key.len() == key.len() && e.key.iter().zip(key).all(fits)
        })
    }
}

/// The type of a value: decides what a name stands for.
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
