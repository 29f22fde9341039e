//! Tables, chains, rules, sets and their elements.

use super::Expr;
use super::value::Value;

/// The address family of a table (`NFPROTO_*`, `linux/netfilter.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // The families' own names.
pub enum Family {
    Inet,
    Ip,
    Ip6,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// Its comment, at most 127 bytes.
    pub comment: Option<String>,
}

/// A chain of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where it is attached; `None` for a chain that is only jumped to.
    pub base: Option<BaseChain>,
    /// Its comment, at most 127 bytes.
    pub comment: Option<String>,
}

/// What makes a chain a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// `type`.
    pub kind: ChainKind,
    /// `hook`.
    pub hook: Hook,
    /// `priority`; lower runs earlier.
    pub priority: i32,
    /// `policy`.
    pub policy: Policy,
}

/// `type` of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // nft's own words.
pub enum ChainKind {
    Filter,
    Nat,
    Route,
}

/// `hook` of a base chain (`NF_INET_*`, `linux/netfilter.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // nft's own words.
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

/// `policy` of a base chain: what becomes of a packet that no rule decides on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // nft's own words.
pub enum Policy {
    Drop,
    Accept,
}

/// A rule of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The chain's name.
    pub chain: String,
    /// What it does, in order.
    pub exprs: Vec<Expr>,
    /// Its comment, at most 127 bytes.
    pub comment: Option<String>,
}

/// What decides a packet's way (`enum nft_verdicts`, `NF_DROP`, `NF_ACCEPT`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // nft's own words.
pub enum Verdict {
    Drop,
    Accept,
    Continue,
    Return,
    Jump(String),
    Goto(String),
}

/// The type of a field of a key or of data (nft's `enum datatypes`; the number is what
/// `NFTA_SET_KEY_TYPE` carries).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // nft's own names.
pub enum DataType {
    Integer,
    Ipv4Addr,
    Ipv6Addr,
    InetProto,
    InetService,
    Mark,
}

/// What a set declared with `typeof` takes its types from; only the selectors that sluice's sets use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// `ip saddr`.
    IpSaddr,
    /// `ip daddr`.
    IpDaddr,
    /// `ip6 saddr`.
    Ip6Saddr,
    /// `ip6 daddr`.
    Ip6Daddr,
    /// `meta l4proto`.
    L4proto,
    /// `th dport`.
    Dport,
    /// `numgen random mod 1`, for a field that holds an index.
    RandomIndex,
}

/// The fields of a key or of data, as the set declares them. One field, or a concatenation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fields {
    /// `type a . b`.
    Types(Vec<DataType>),
    /// `typeof x . y`: the only way to declare a field of type integer.
    Typeof(Vec<Selector>),
}

/// A set or a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// The key.
    pub key: Fields,
    /// What an element holds beside its key.
    pub data: SetData,
    /// Its flags.
    pub flags: SetFlags,
    /// After how many milliseconds an element goes that says nothing else.
    pub timeout_ms: Option<u64>,
    /// How many elements there may be.
    pub size: Option<u32>,
    /// Its comment, at most 127 bytes.
    pub comment: Option<String>,
}

/// What an element of a set holds beside its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetData {
    /// Nothing: a set.
    None,
    /// A verdict: a verdict map.
    Verdict,
    /// Values: a map.
    Fields(Fields),
}

/// The flags of a set that are not given by the rest of it (`enum nft_set_flags`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetFlags {
    /// Part of one rule and invisible (`NFT_SET_ANONYMOUS`).
    pub anonymous: bool,
    /// Does not change once it is in use (`NFT_SET_CONSTANT`).
    pub constant: bool,
    /// Keys are ranges (`NFT_SET_INTERVAL`; with `NFT_SET_CONCAT` where the key has several fields).
    pub interval: bool,
    /// Elements can have a timeout (`NFT_SET_TIMEOUT`).
    pub timeout: bool,
    /// Rules add elements (`NFT_SET_EVAL`; nft says `dynamic`).
    pub dynamic: bool,
}

/// An element of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The key, or where its range begins.
    pub key: Value,
    /// Where the range ends, the last included, in a concatenation with ranges
    /// (`NFTA_SET_ELEM_KEY_END`).
    pub key_end: Option<Box<Value>>,
    /// Whether this marks the first key past a range (`NFT_SET_ELEM_INTERVAL_END`), in a set of
    /// ranges with a single field.
    pub interval_end: bool,
    /// Whether the range that begins here goes on to the last address (nft's user data).
    pub open_end: bool,
    /// What the key maps to.
    pub data: Data,
    /// Its own timeout in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Its comment, at most 127 bytes.
    pub comment: Option<Box<str>>,
}

/// What an element maps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nothing.
    None,
    /// Bytes in registers.
    Value(Value),
    /// A verdict.
    Verdict(Verdict),
}

impl Element {
    /// An element of a set: a key and nothing else.
    pub fn key(key: Value) -> Self {
        Self {
            key,
            key_end: None,
            interval_end: false,
            open_end: false,
            data: Data::None,
            timeout_ms: None,
            comment: None,
        }
    }

    /// An element of a map.
    pub fn map(key: Value, data: Value) -> Self {
        Self {
            data: Data::Value(data),
            ..Self::key(key)
        }
    }

    /// An element of a verdict map.
    pub fn verdict(key: Value, verdict: Verdict) -> Self {
        Self {
            data: Data::Verdict(verdict),
            ..Self::key(key)
        }
    }

    /// This, with a comment.
    #[must_use]
    pub fn with_comment(mut self, comment: impl Into<Box<str>>) -> Self {
        self.comment = Some(comment.into());
        self
    }
}

/// The longest comment that nft gives or takes: 128 bytes with the terminating zero
/// (`NFTNL_UDATA_COMMENT_MAXLEN`). The kernel would take 256 bytes of user data, but then no nft
/// could load back what it lists.
pub const COMMENT_MAX: usize = 127;

/// `text`, shortened at a character's boundary where it is too long for a comment, and without what
/// would end a quoted string.
pub fn fit_comment(text: &str) -> String {
    let clean = |c: char| if c == '"' || c.is_control() { '?' } else { c };
    if text.len() <= COMMENT_MAX {
        return text.chars().map(clean).collect();
    }
    let mut end = COMMENT_MAX - 3;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut short: String = text[..end].chars().map(clean).collect();
    short.push_str("...");
    short
}

impl DataType {
    /// The number in `NFTA_SET_KEY_TYPE` (nft's `enum datatypes`).
    pub fn number(self) -> u32 {
        match self {
            DataType::Integer => 4,
            DataType::Ipv4Addr => 7,
            DataType::Ipv6Addr => 8,
            DataType::InetProto => 12,
            DataType::InetService => 13,
            DataType::Mark => 19,
        }
    }

    /// The type of a number.
    pub fn from_number(number: u32) -> Option<Self> {
        [
            DataType::Integer,
            DataType::Ipv4Addr,
            DataType::Ipv6Addr,
            DataType::InetProto,
            DataType::InetService,
            DataType::Mark,
        ]
        .into_iter()
        .find(|t| t.number() == number)
    }

    /// nft's name of it.
    pub fn name(self) -> &'static str {
        match self {
            DataType::Integer => "integer",
            DataType::Ipv4Addr => "ipv4_addr",
            DataType::Ipv6Addr => "ipv6_addr",
            DataType::InetProto => "inet_proto",
            DataType::InetService => "inet_service",
            DataType::Mark => "mark",
        }
    }

    /// How many bytes a value has, without padding.
    pub fn size(self) -> usize {
        match self {
            DataType::InetProto => 1,
            DataType::InetService => 2,
            DataType::Integer | DataType::Ipv4Addr | DataType::Mark => 4,
            DataType::Ipv6Addr => 16,
        }
    }

    /// How many bytes a value takes in registers.
    pub fn padded(self) -> usize {
        self.size().next_multiple_of(4)
    }
}

impl Selector {
    /// All of them.
    pub const ALL: [Selector; 7] = [
        Selector::IpSaddr,
        Selector::IpDaddr,
        Selector::Ip6Saddr,
        Selector::Ip6Daddr,
        Selector::L4proto,
        Selector::Dport,
        Selector::RandomIndex,
    ];

    /// The type of what it selects.
    pub fn data_type(self) -> DataType {
        match self {
            Selector::IpSaddr | Selector::IpDaddr => DataType::Ipv4Addr,
            Selector::Ip6Saddr | Selector::Ip6Daddr => DataType::Ipv6Addr,
            Selector::L4proto => DataType::InetProto,
            Selector::Dport => DataType::InetService,
            Selector::RandomIndex => DataType::Integer,
        }
    }

    /// As nft writes it.
    pub fn text(self) -> &'static str {
        match self {
            Selector::IpSaddr => "ip saddr",
            Selector::IpDaddr => "ip daddr",
            Selector::Ip6Saddr => "ip6 saddr",
            Selector::Ip6Daddr => "ip6 daddr",
            Selector::L4proto => "meta l4proto",
            Selector::Dport => "th dport",
            Selector::RandomIndex => "numgen random mod 1",
        }
    }
}

impl Fields {
    /// The types, in order.
    pub fn types(&self) -> Vec<DataType> {
        match self {
            Fields::Types(types) => types.clone(),
            Fields::Typeof(selectors) => selectors.iter().map(|s| s.data_type()).collect(),
        }
    }

    /// The number that nft gives to the type or the concatenation: six bits a field.
    pub fn number(&self) -> u32 {
        self.types()
            .iter()
            .fold(0, |number, t| (number << 6) | t.number())
    }

    /// How many bytes a value has in registers. A concatenation's fields are padded, a single one is
    /// not.
    pub fn len(&self) -> usize {
        match self.types().as_slice() {
            [one] => one.size(),
            many => many.iter().map(|t| t.padded()).sum(),
        }
    }

    /// Whether there are no fields, which no set has.
    pub fn is_empty(&self) -> bool {
        self.types().is_empty()
    }

    /// Whether there is more than one field.
    pub fn is_concatenation(&self) -> bool {
        self.types().len() > 1
    }
}
