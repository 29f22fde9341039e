//! Tables, chains, rules, sets and their elements.

use super::Expr;
use super::value::Value;

/// The address family of a table (`NFPROTO_*`, `linux/netfilter.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the families' names")]
pub enum Family {
    Inet,
    Ip,
    Ip6,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The family.
    pub family: Family,
    /// The name.
    pub name: String,
    /// The comment, at most 127 bytes.
    pub comment: Option<String>,
}

/// A chain of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The name.
    pub name: String,
    /// The hook that it is attached to; `None` for a chain that only rules call.
    pub base: Option<BaseChain>,
    /// The comment, at most 127 bytes.
    pub comment: Option<String>,
}

/// The attachment of a base chain.
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
#[allow(missing_docs, reason = "nft's keywords")]
pub enum ChainKind {
    Filter,
    Nat,
    Route,
}

/// `hook` of a base chain (`NF_INET_*`, `linux/netfilter.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "nft's keywords")]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

/// `policy` of a base chain: the verdict on packets that no rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "nft's keywords")]
pub enum Policy {
    Drop,
    Accept,
}

/// A rule of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The chain's name.
    pub chain: String,
    /// The expressions, in order.
    pub exprs: Vec<Expr>,
    /// The comment, at most 127 bytes.
    pub comment: Option<String>,
}

/// A verdict (`enum nft_verdicts`, `NF_DROP`, `NF_ACCEPT`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "nft's keywords")]
pub enum Verdict {
    Drop,
    Accept,
    Continue,
    Return,
    Jump(String),
    Goto(String),
}

/// The type of a field of a key or of data. Its number in nft's `enum datatypes` is the value of
/// `NFTA_SET_KEY_TYPE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "nft's names")]
pub enum DataType {
    Integer,
    Ipv4Addr,
    Ipv6Addr,
    InetProto,
    InetService,
    Mark,
}

/// A selector in the `typeof` of a set; those that sluice's sets use.
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
    /// `numgen random mod 1`, for a field that contains an index.
    RandomIndex,
}

/// The fields of a key or of data as the set declares them: one field, or a concatenation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fields {
    /// `type a . b`.
    Types(Vec<DataType>),
    /// `typeof x . y`; nft declares fields of type integer in this form only.
    Typeof(Vec<Selector>),
}

/// A set or a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The name.
    pub name: String,
    /// The key.
    pub key: Fields,
    /// The kind of data that the elements map to.
    pub data: SetData,
    /// The flags.
    pub flags: SetFlags,
    /// The default timeout of an element, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// The maximum number of elements.
    pub size: Option<u32>,
    /// The comment, at most 127 bytes.
    pub comment: Option<String>,
}

/// The kind of data that the elements of a set map to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetData {
    /// None: a set.
    None,
    /// Verdicts: a verdict map.
    Verdict,
    /// Values: a map.
    Fields(Fields),
}

/// The flags of a set that do not follow from its other properties (`enum nft_set_flags`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetFlags {
    /// Part of one rule and not listed (`NFT_SET_ANONYMOUS`).
    pub anonymous: bool,
    /// Constant once it is bound to a rule (`NFT_SET_CONSTANT`).
    pub constant: bool,
    /// Keys are ranges (`NFT_SET_INTERVAL`, with `NFT_SET_CONCAT` if the key has several fields).
    pub interval: bool,
    /// Elements may have a timeout (`NFT_SET_TIMEOUT`).
    pub timeout: bool,
    /// Rules add elements (`NFT_SET_EVAL`, `dynamic` in nft).
    pub dynamic: bool,
}

/// An element of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The key, or the start of its range.
    pub key: Value,
    /// The last key of the range, in a concatenation with ranges (`NFTA_SET_ELEM_KEY_END`).
    pub key_end: Option<Box<Value>>,
    /// Whether this marks the first key after a range (`NFT_SET_ELEM_INTERVAL_END`), in a set of
    /// ranges with a single field.
    pub interval_end: bool,
    /// Whether the range that starts here extends to the last address (nft's user data).
    pub open_end: bool,
    /// The data that the key maps to.
    pub data: Data,
    /// The timeout in milliseconds.
    pub timeout_ms: Option<u64>,
    /// The comment, at most 127 bytes.
    pub comment: Option<Box<str>>,
}

/// The data that an element maps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// None.
    None,
    /// A value.
    Value(Value),
    /// A verdict.
    Verdict(Verdict),
}

impl Element {
    /// Return an element of a set, without data.
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

    /// Return an element of a map.
    pub fn map(key: Value, data: Value) -> Self {
        Self {
            data: Data::Value(data),
            ..Self::key(key)
        }
    }

    /// Return an element of a verdict map.
    pub fn verdict(key: Value, verdict: Verdict) -> Self {
        Self {
            data: Data::Verdict(verdict),
            ..Self::key(key)
        }
    }

    /// Set the comment.
    #[must_use]
    pub fn with_comment(mut self, comment: impl Into<Box<str>>) -> Self {
        self.comment = Some(comment.into());
        self
    }
}

/// The longest comment that nft writes or reads: 128 bytes with the terminating NUL
/// (`NFTNL_UDATA_COMMENT_MAXLEN`). The kernel accepts 256 bytes of user data, but nft could not load
/// its own listing of a longer comment.
pub const COMMENT_MAX: usize = 127;

/// Make `text` a valid comment: cut it at a character boundary if it is too long, and replace
/// characters that end a quoted string.
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
    /// Return the value of `NFTA_SET_KEY_TYPE` (nft's `enum datatypes`).
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

    /// Return the type of a number.
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

    /// Return nft's name of the type.
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

    /// Return the size of a value in bytes, without padding.
    pub fn size(self) -> usize {
        match self {
            DataType::InetProto => 1,
            DataType::InetService => 2,
            DataType::Integer | DataType::Ipv4Addr | DataType::Mark => 4,
            DataType::Ipv6Addr => 16,
        }
    }

    /// Return the size of a value in registers, in bytes.
    pub fn padded(self) -> usize {
        self.size().next_multiple_of(4)
    }
}

impl Selector {
    /// All selectors.
    pub const ALL: [Selector; 7] = [
        Selector::IpSaddr,
        Selector::IpDaddr,
        Selector::Ip6Saddr,
        Selector::Ip6Daddr,
        Selector::L4proto,
        Selector::Dport,
        Selector::RandomIndex,
    ];

    /// Return the type of the selected field.
    pub fn data_type(self) -> DataType {
        match self {
            Selector::IpSaddr | Selector::IpDaddr => DataType::Ipv4Addr,
            Selector::Ip6Saddr | Selector::Ip6Daddr => DataType::Ipv6Addr,
            Selector::L4proto => DataType::InetProto,
            Selector::Dport => DataType::InetService,
            Selector::RandomIndex => DataType::Integer,
        }
    }

    /// Return nft's text of the selector.
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
    /// Return the types of the fields, in order.
    pub fn types(&self) -> Vec<DataType> {
        match self {
            Fields::Types(types) => types.clone(),
            Fields::Typeof(selectors) => selectors.iter().map(|s| s.data_type()).collect(),
        }
    }

    /// Return nft's number of the type or the concatenation: six bits per field.
    pub fn number(&self) -> u32 {
        self.types()
            .iter()
            .fold(0, |number, t| (number << 6) | t.number())
    }

    /// Return the size of a value in registers, in bytes. The fields of a concatenation are padded; a
    /// single field is not.
    pub fn len(&self) -> usize {
        match self.types().as_slice() {
            [one] => one.size(),
            many => many.iter().map(|t| t.padded()).sum(),
        }
    }

    /// Return whether there are no fields, which no valid set has.
    pub fn is_empty(&self) -> bool {
        self.types().is_empty()
    }

    /// Return whether there is more than one field.
    pub fn is_concatenation(&self) -> bool {
        self.types().len() > 1
    }
}
