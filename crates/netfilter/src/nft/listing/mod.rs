//! What `nft list ruleset` says, read into data: any rule set by any author, in text or JSON.
//!
//! This is the language as people write it, statement by statement; what the kernel keeps is one
//! level lower. Whatever is not understood stays in place, word for word with its line and column
//! ([`Statement::Unknown`], [`Expr::Unknown`]), so that a reader of the rules can say so.
//!
//! ```
//! use netfilter::nft::listing::{Ruleset, Statement, Verdict};
//! let text = "table ip t {\n\tchain c {\n\t\tip daddr 10.0.0.1 tcp dport { 80, 443 } drop\n\t}\n}\n";
//! let rules = Ruleset::parse(text).unwrap();
//! let rule = &rules.tables[0].chain("c").unwrap().rules[0];
//! assert_eq!(rule.statements.last(), Some(&Statement::Verdict(Verdict::Drop)));
//! ```

mod block;
mod expr;
mod json;
mod lex;
mod literal;
mod statement;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

pub use literal::DataType;

/// All tables, in the order listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// The tables.
    pub tables: Vec<Table>,
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

impl Ruleset {
    /// Reads `nft list ruleset` (or `list table`), or what either prints with `-j`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.trim_start().starts_with('{') {
            json::parse(text)
        } else {
            block::parse(text)
        }
    }
}

/// A table's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Family {
    Ip,
    Ip6,
    Inet,
    Arp,
    Bridge,
    Netdev,
}

impl Family {
    const NAMES: [(&'static str, Family); 6] = [
        ("ip", Family::Ip),
        ("ip6", Family::Ip6),
        ("inet", Family::Inet),
        ("arp", Family::Arp),
        ("bridge", Family::Bridge),
        ("netdev", Family::Netdev),
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
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: Box<str>,
    /// Its chains are not called (`flags dormant`).
    pub dormant: bool,
    /// The listing says that iptables-nft made it: `iptables-save` shows the same rules.
    pub iptables: bool,
    /// Its chains, in the order listed.
    pub chains: Vec<Chain>,
    /// Its sets and maps, in the order listed.
    pub sets: Vec<Set>,
    /// Named objects, flowtables and the like, word for word.
    pub others: Vec<Unknown>,
    chain_places: HashMap<Box<str>, usize>,
    set_places: HashMap<Box<str>, usize>,
}

impl Table {
    /// A table without anything in it.
    pub fn new(family: Family, name: &str) -> Self {
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
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.get(*self.chain_places.get(name)?)
    }

    /// A set or map by name.
    pub fn set(&self, name: &str) -> Option<&Set> {
        self.sets.get(*self.set_places.get(name)?)
    }

    /// Adds a chain; `false`, and nothing done, where the name is taken.
    pub fn add_chain(&mut self, chain: Chain) -> bool {
        if self.chain_places.contains_key(&chain.name) {
            return false;
        }
        self.chain_places
            .insert(chain.name.clone(), self.chains.len());
        self.chains.push(chain);
        true
    }

    /// Adds a set or map; `false`, and nothing done, where the name is taken.
    pub fn add_set(&mut self, set: Set) -> bool {
        if self.set_places.contains_key(&set.name) {
            return false;
        }
        self.set_places.insert(set.name.clone(), self.sets.len());
        self.sets.push(set);
        true
    }

    fn chain_mut(&mut self, name: &str) -> Option<&mut Chain> {
        self.chains.get_mut(*self.chain_places.get(name)?)
    }
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: Box<str>,
    /// Where the kernel calls it; `None` for a chain that only rules call.
    pub base: Option<Base>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// How the kernel calls a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Its type.
    pub kind: ChainKind,
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
pub enum ChainKind {
    Filter,
    Nat,
    Route,
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
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
        left: Expr,
        /// How.
        op: Op,
        /// With what.
        right: Expr,
    },
    /// Looks a verdict up; goes on where there is none.
    Vmap {
        /// The key.
        key: Expr,
        /// The map.
        map: SetRef,
    },
    /// Decides.
    Verdict(Verdict),
    /// Changes a field (`meta mark set …`).
    Assign {
        /// Which.
        field: Expr,
        /// To what.
        value: Expr,
    },
    /// Rewrites an address or port.
    Nat(Nat),
    /// Drops, and tells the sender with this.
    Reject(Box<str>),
    /// Adds to a set, updates it or takes from it.
    Dynset {
        /// What is done.
        op: SetOp,
        /// The set's name.
        set: Box<str>,
        /// The element.
        key: Expr,
        /// What it maps to.
        value: Option<Expr>,
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
pub enum Verdict {
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
pub struct Nat {
    /// Which.
    pub kind: NatKind,
    /// The address, or address and port as a concatenation.
    pub address: Option<Expr>,
    /// The port.
    pub port: Option<Expr>,
    /// `fully-random`, `random`, `persistent`, in order.
    pub flags: Vec<Box<str>>,
}

/// Which translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum NatKind {
    Snat,
    Dnat,
    Masquerade,
    Redirect,
}

/// Something that has a value for a packet, or a value itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// A field of the packet's headers.
    Field(Field),
    /// Something that the kernel keeps beside the packet.
    Meta(Meta),
    /// Something of the packet's connection.
    Ct(Ct),
    /// What the routing tables say.
    Fib(Fib),
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
    Value(Value),
    /// Flags separated by commas; any of them.
    Flags(Vec<Value>),
    /// Values from the first to the last.
    Range(Value, Value),
    /// Addresses with a common prefix.
    Prefix(IpNet),
    /// Several values as one.
    Concat(Vec<Expr>),
    /// An anonymous set.
    Set(Box<Set>),
    /// A named set.
    SetName(Box<str>),
    /// What a map has for a key.
    #[allow(missing_docs)]
    Map { key: Box<Expr>, map: SetRef },
    /// Two values combined bit by bit.
    #[allow(missing_docs)]
    Binary {
        op: BinaryOp,
        left: Box<Expr>,
        right: Box<Expr>,
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
pub struct Fib {
    /// By the source rather than the destination.
    pub source: bool,
    /// `mark`: with the packet's mark.
    pub mark: bool,
    /// `iif`: only through the interface that the packet came in through.
    pub iif: bool,
    /// `oif`: only through the interface that it leaves through.
    pub oif: bool,
    /// What is asked.
    pub result: FibResult,
}

/// What a lookup in the routing tables is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum FibResult {
    Type,
    Oif,
    Oifname,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
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
    Anonymous(Box<Set>),
}

/// A set or map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Its name; empty for an anonymous one.
    pub name: Box<str>,
    /// The types of the key's parts.
    pub key: Vec<DataType>,
    /// What its elements map to; empty for a set. A verdict map has [`DataType::Verdict`].
    pub data: Vec<DataType>,
    /// The words behind `flags`.
    pub flags: Vec<Box<str>>,
    /// `timeout`, word for word.
    pub timeout: Option<Box<str>>,
    /// The elements, in the order listed.
    pub elements: Vec<Element>,
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// Its key, as many parts as the set's; empty for the catch-all element `*`.
    pub key: Box<[Item]>,
    /// What it maps to.
    pub data: Option<Data>,
    /// `comment`.
    pub comment: Option<Box<str>>,
}

/// One part of an element's key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Item {
    Value(Value),
    Range(Value, Value),
    Prefix(IpNet),
}

/// What an element maps to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Data {
    Verdict(Verdict),
    Items(Box<[Item]>),
}

impl Item {
    /// Whether a value is meant by it.
    pub fn contains(&self, value: &Value) -> bool {
        match (self, value) {
            (Item::Value(Value::Wildcard(prefix)), Value::Text(name)) => {
                name.starts_with(&**prefix)
            }
            (Item::Value(v), value) => v == value,
            // The derived order would set addresses of one family beside those of the other.
            (Item::Range(Value::Ip(a), Value::Ip(b)), Value::Ip(ip)) => {
                a.is_ipv4() == ip.is_ipv4() && (a..=b).contains(&ip)
            }
            (Item::Range(Value::Int(a), Value::Int(b)), Value::Int(n)) => (a..=b).contains(&n),
            (Item::Prefix(net), Value::Ip(ip)) => net.contains(ip),
            _ => false,
        }
    }
}

impl Set {
    /// The element that a key falls in: an exact one, else the catch-all.
    pub fn find(&self, key: &[Value]) -> Option<&Element> {
        let matches = |e: &&Element| {
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
    pub fn may_find(&self, key: &[Option<Value>]) -> bool {
        let fits = |(item, value): (&Item, &Option<Value>)| {
            value.as_ref().is_none_or(|value| item.contains(value))
        };
        self.elements.iter().any(|e| {
            e.key.is_empty() || e.key.len() == key.len() && e.key.iter().zip(key).all(fits)
        })
    }
}
