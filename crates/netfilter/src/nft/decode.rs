//! Messages to objects: the kernel's dumps and notifications, and encoded operations.

use super::consts::*;
use super::decode_expr;
use super::encode::Message;
use super::object::{
    BaseChain, Chain, ChainKind, Data, DataType, Element, Family, Fields, Hook, Policy, Rule,
    Selector, Set, SetData, SetFlags, Table,
};
use super::trace::{self, TraceEvent};
use super::udata;
use super::value::Value;
use crate::netlink::{Attribute, Attributes, DecodeError, need};

/// A decoded message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The table's family; `None` for one that sluice does not model.
    pub family: Option<Family>,
    /// The content.
    pub body: Body,
}

/// The content of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// An existing or new table.
    Table(Table),
    /// A deleted table.
    TableDeleted(String),
    /// A chain.
    Chain {
        /// The table's name.
        table: String,
        /// The chain.
        chain: Chain,
        /// Packets and bytes that reached the policy of a base chain, if it counts them.
        counters: Option<(u64, u64)>,
    },
    /// A rule. Dumps list the rules of a chain in order.
    Rule {
        /// The table's name.
        table: String,
        /// The handle, by which the rule can be replaced and deleted.
        handle: u64,
        /// The rule, or its chain's name and the reason why it cannot be decoded.
        rule: Result<Rule, (String, DecodeError)>,
    },
    /// A set.
    Set {
        /// The table's name.
        table: String,
        /// The set, or its name and the reason why it cannot be decoded.
        set: Result<Set, (String, DecodeError)>,
        /// The number of elements; reported by kernels since 6.16 (`NFTA_SET_COUNT`).
        count: Option<u32>,
    },
    /// Elements of a set.
    Elements {
        /// The table's name.
        table: String,
        /// The set's name.
        set: String,
        /// The elements.
        elements: Vec<Element>,
    },
    /// The generation: the number of commits, and the process that made the last one.
    Generation(Generation),
    /// An event of a traced packet.
    Trace(TraceEvent),
    /// A deleted chain, rule, set or element. Consumers do not need to know which object.
    Deleted {
        /// `NFT_MSG_DEL*`.
        kind: u16,
        /// The table's name.
        table: String,
    },
    /// Another message.
    Other(u16),
}

/// `NFT_MSG_NEWGEN`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Incremented by every committed batch.
    pub id: u32,
    /// The process that committed it.
    pub pid: Option<u32>,
    /// The process's name.
    pub process: Option<String>,
}

/// Decode a message of nf_tables. `kind` is the low byte of its type; `body` follows the netlink
/// header.
///
/// # Errors
/// [`DecodeError`] if the message violates the protocol.
pub fn decode(kind: u16, body: &[u8]) -> Result<Decoded, DecodeError> {
    let [family, _version, _, _, attrs @ ..] = body else {
        return Err(DecodeError::Header(body.len()));
    };
    let family = Family::from_number(*family).ok();
    let body = match kind {
        NFT_MSG_NEWTABLE => table(attrs, family)?,
        NFT_MSG_DELTABLE => {
            Body::TableDeleted(name(attrs, NFTA_TABLE_NAME, "nft_table_attributes")?)
        }
        NFT_MSG_NEWCHAIN => chain(attrs)?,
        NFT_MSG_NEWRULE => rule(attrs)?,
        NFT_MSG_NEWSET => set(attrs)?,
        NFT_MSG_NEWSETELEM => elements(attrs)?,
        NFT_MSG_NEWGEN => generation(attrs)?,
        NFT_MSG_TRACE => Body::Trace(trace::decode(attrs)?),
        NFT_MSG_DELCHAIN | NFT_MSG_DELRULE | NFT_MSG_DELSET | NFT_MSG_DELSETELEM => Body::Deleted {
            kind,
            table: name(attrs, NFTA_RULE_TABLE, "nft_rule_attributes")?,
        },
        other => Body::Other(other),
    };
    Ok(Decoded { family, body })
}

impl Message {
    /// Decode the message.
    ///
    /// # Errors
    /// As [`decode`].
    pub fn decode(&self) -> Result<Decoded, DecodeError> {
        decode(self.kind, &self.body)
    }
}

fn name(attrs: &[u8], kind: u16, within: &'static str) -> Result<String, DecodeError> {
    for attr in Attributes::new(attrs, within) {
        let attr = attr?;
        if attr.kind == kind {
            return Ok(attr.string()?.to_owned());
        }
    }
    Err(DecodeError::Missing {
        within,
        attribute: kind,
    })
}

fn owned(attr: Attribute<'_>) -> Result<Option<String>, DecodeError> {
    Ok(Some(attr.string()?.to_owned()))
}

fn table(attrs: &[u8], family: Option<Family>) -> Result<Body, DecodeError> {
    const WITHIN: &str = "nft_table_attributes";
    let (mut name, mut comment) = (None, None);
    for attr in Attributes::new(attrs, WITHIN) {
        let attr = attr?;
        match attr.kind {
            NFTA_TABLE_NAME => name = owned(attr)?,
            NFTA_TABLE_USERDATA => comment = udata::comment(attr.value, NFTNL_UDATA_COMMENT),
            _ => {}
        }
    }
    Ok(Body::Table(Table {
        // `Decoded::family` is `None` for a family that sluice does not model.
        family: family.unwrap_or(Family::Inet),
        name: need(name, WITHIN, NFTA_TABLE_NAME)?,
        comment,
    }))
}

fn chain(attrs: &[u8]) -> Result<Body, DecodeError> {
    const WITHIN: &str = "nft_chain_attributes";
    let (mut table, mut name, mut hook, mut policy, mut kind, mut comment) =
        (None, None, None, None, None, None);
    let mut counters = None;
    for attr in Attributes::new(attrs, WITHIN) {
        let attr = attr?;
        match attr.kind {
            NFTA_CHAIN_COUNTERS => counters = Some(packets_and_bytes(attr)?),
            NFTA_CHAIN_TABLE => table = owned(attr)?,
            NFTA_CHAIN_NAME => name = owned(attr)?,
            NFTA_CHAIN_HOOK => hook = Some(hook_and_priority(attr)?),
            NFTA_CHAIN_POLICY => policy = Some(attr.be32()?),
            NFTA_CHAIN_TYPE => kind = Some(attr.string()?),
            NFTA_CHAIN_USERDATA => comment = udata::comment(attr.value, NFTNL_UDATA_COMMENT),
            _ => {}
        }
    }
    let base = match (hook, kind) {
        (Some((hook, priority)), Some(kind)) => Some(BaseChain {
            kind: ChainKind::from_name(kind)?,
            hook,
            priority,
            policy: policy.map_or(Policy::Accept, Policy::from_number),
        }),
        _ => None,
    };
    Ok(Body::Chain {
        table: need(table, WITHIN, NFTA_CHAIN_TABLE)?,
        chain: Chain {
            name: need(name, WITHIN, NFTA_CHAIN_NAME)?,
            base,
            comment,
        },
        counters,
    })
}

fn packets_and_bytes(attr: Attribute<'_>) -> Result<(u64, u64), DecodeError> {
    let (mut packets, mut bytes) = (0, 0);
    for inner in attr.nested("nft_counter_attributes") {
        let inner = inner?;
        match inner.kind {
            NFTA_COUNTER_PACKETS => packets = inner.be64()?,
            NFTA_COUNTER_BYTES => bytes = inner.be64()?,
            _ => {}
        }
    }
    Ok((packets, bytes))
}

fn hook_and_priority(attr: Attribute<'_>) -> Result<(Hook, i32), DecodeError> {
    const WITHIN: &str = "nft_hook_attributes";
    let (mut hook, mut priority) = (None, None);
    for inner in attr.nested(WITHIN) {
        let inner = inner?;
        match inner.kind {
            NFTA_HOOK_HOOKNUM => hook = Some(Hook::from_number(inner.be32()?)?),
            NFTA_HOOK_PRIORITY => priority = Some(inner.be32()?.cast_signed()),
            _ => {}
        }
    }
    Ok((
        need(hook, WITHIN, NFTA_HOOK_HOOKNUM)?,
        need(priority, WITHIN, NFTA_HOOK_PRIORITY)?,
    ))
}

fn rule(attrs: &[u8]) -> Result<Body, DecodeError> {
    const WITHIN: &str = "nft_rule_attributes";
    let (mut table, mut chain, mut handle, mut comment) = (None, None, 0, None);
    let mut exprs = Ok(Vec::new());
    for attr in Attributes::new(attrs, WITHIN) {
        let attr = attr?;
        match attr.kind {
            NFTA_RULE_TABLE => table = owned(attr)?,
            NFTA_RULE_CHAIN => chain = owned(attr)?,
            NFTA_RULE_HANDLE => handle = attr.be64()?,
            NFTA_RULE_EXPRESSIONS => exprs = decode_expr::exprs(attr),
            NFTA_RULE_USERDATA => comment = udata::comment(attr.value, NFTNL_UDATA_COMMENT),
            _ => {}
        }
    }
    let chain = need(chain, WITHIN, NFTA_RULE_CHAIN)?;
    Ok(Body::Rule {
        table: need(table, WITHIN, NFTA_RULE_TABLE)?,
        handle,
        rule: match exprs {
            Ok(exprs) => Ok(Rule {
                chain,
                exprs,
                comment,
            }),
            Err(error) => Err((chain, error)),
        },
    })
}

fn set(attrs: &[u8]) -> Result<Body, DecodeError> {
    const WITHIN: &str = "nft_set_attributes";
    let (mut table, mut name, mut timeout_ms, mut size) = (None, None, None, None);
    let mut count = None;
    let (mut flags, mut key_type, mut data_type) = (0, 0, None);
    let mut userdata: &[u8] = &[];
    for attr in Attributes::new(attrs, WITHIN) {
        let attr = attr?;
        match attr.kind {
            NFTA_SET_TABLE => table = owned(attr)?,
            NFTA_SET_NAME => name = owned(attr)?,
            NFTA_SET_FLAGS => flags = attr.be32()?,
            NFTA_SET_KEY_TYPE => key_type = attr.be32()?,
            NFTA_SET_DATA_TYPE => data_type = Some(attr.be32()?),
            NFTA_SET_COUNT => count = Some(attr.be32()?),
            NFTA_SET_DESC => size = description_size(attr)?,
            NFTA_SET_TIMEOUT => timeout_ms = Some(attr.be64()?).filter(|t| *t != 0),
            NFTA_SET_USERDATA => userdata = attr.value,
            _ => {}
        }
    }
    let name = need(name, WITHIN, NFTA_SET_NAME)?;
    let fields = |number, udata| fields(number, udata::get(userdata, udata));
    let decoded = fields(key_type, NFTNL_UDATA_SET_KEY_TYPEOF).and_then(|key| {
        Ok(Set {
            name: name.clone(),
            key,
            data: match data_type {
                None => SetData::None,
                Some(NFT_DATA_VERDICT) => SetData::Verdict,
                Some(number) => SetData::Fields(fields(number, NFTNL_UDATA_SET_DATA_TYPEOF)?),
            },
            flags: SetFlags {
                anonymous: flags & NFT_SET_ANONYMOUS != 0,
                constant: flags & NFT_SET_CONSTANT != 0,
                interval: flags & NFT_SET_INTERVAL != 0,
                timeout: flags & NFT_SET_TIMEOUT != 0,
                dynamic: flags & NFT_SET_EVAL != 0,
            },
            timeout_ms,
            size,
            comment: udata::comment(userdata, NFTNL_UDATA_SET_COMMENT),
        })
    });
    Ok(Body::Set {
        table: need(table, WITHIN, NFTA_SET_TABLE)?,
        set: decoded.map_err(|error| (name, error)),
        count,
    })
}

fn description_size(attr: Attribute<'_>) -> Result<Option<u32>, DecodeError> {
    for inner in attr.nested("nft_set_desc_attributes") {
        let inner = inner?;
        if inner.kind == NFTA_SET_DESC_SIZE {
            return inner.be32().map(Some);
        }
    }
    Ok(None)
}

/// Return the fields of a type number, refined by the typeof in nft's user data if it is known.
fn fields(number: u32, typeof_data: Option<&[u8]>) -> Result<Fields, DecodeError> {
    if let Some(selectors) = typeof_data.and_then(selectors) {
        let fields = Fields::Typeof(selectors);
        if fields.number() == number {
            return Ok(fields);
        }
    }
    let mut types = Vec::new();
    let mut rest = number;
    while rest != 0 {
        let t = DataType::from_number(rest & 0x3f).ok_or(DecodeError::Unknown {
            what: "datatypes",
            value: u64::from(rest & 0x3f),
        })?;
        types.insert(0, t);
        rest >>= 6;
    }
    if types.is_empty() {
        return Err(DecodeError::Unknown {
            what: "datatypes",
            value: 0,
        });
    }
    Ok(Fields::Types(types))
}

fn selectors(data: &[u8]) -> Option<Vec<Selector>> {
    let kind = number(udata::get(data, NFTNL_UDATA_SET_TYPEOF_EXPR)?)?;
    let parts = udata::get(data, NFTNL_UDATA_SET_TYPEOF_DATA)?;
    if kind != EXPR_CONCAT {
        return Some(vec![selector(data)?]);
    }
    let mut found = Vec::new();
    for part in 0..=u8::MAX {
        let Some(data) = udata::get(parts, part) else {
            break;
        };
        found.push(selector(data)?);
    }
    (!found.is_empty()).then_some(found)
}

fn selector(data: &[u8]) -> Option<Selector> {
    let kind = number(udata::get(data, NFTNL_UDATA_SET_TYPEOF_EXPR)?)?;
    let parts = udata::get(data, NFTNL_UDATA_SET_TYPEOF_DATA)?;
    Selector::ALL.into_iter().find(|s| {
        let (k, numbers) = s.userdata();
        k == kind
            && numbers.iter().enumerate().all(|(at, expected)| {
                udata::get(parts, at as u8).and_then(number) == Some(*expected)
            })
    })
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn elements(attrs: &[u8]) -> Result<Body, DecodeError> {
    const WITHIN: &str = "nft_set_elem_list_attributes";
    let (mut table, mut set, mut elements) = (None, None, Vec::new());
    for attr in Attributes::new(attrs, WITHIN) {
        let attr = attr?;
        match attr.kind {
            NFTA_SET_ELEM_LIST_TABLE => table = owned(attr)?,
            NFTA_SET_ELEM_LIST_SET => set = owned(attr)?,
            NFTA_SET_ELEM_LIST_ELEMENTS => {
                for item in attr.nested("nft_list_attributes") {
                    if let Some(e) = element(item?)? {
                        elements.push(e);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(Body::Elements {
        table: need(table, WITHIN, NFTA_SET_ELEM_LIST_TABLE)?,
        set: need(set, WITHIN, NFTA_SET_ELEM_LIST_SET)?,
        elements,
    })
}

/// Decode an element; `None` for a catch-all element, which has no key.
fn element(item: Attribute<'_>) -> Result<Option<Element>, DecodeError> {
    let mut key = None;
    let mut e = Element::key(Value::EMPTY);
    for attr in item.nested("nft_set_elem_attributes") {
        let attr = attr?;
        match attr.kind {
            NFTA_SET_ELEM_KEY => key = value(attr)?,
            NFTA_SET_ELEM_DATA => e.data = decode_expr::data(attr)?,
            NFTA_SET_ELEM_FLAGS => e.interval_end = attr.be32()? & NFT_SET_ELEM_INTERVAL_END != 0,
            NFTA_SET_ELEM_TIMEOUT => e.timeout_ms = Some(attr.be64()?).filter(|t| *t != 0),
            NFTA_SET_ELEM_USERDATA => {
                e.comment =
                    udata::comment(attr.value, NFTNL_UDATA_COMMENT).map(String::into_boxed_str);
                e.open_end = udata::get(attr.value, NFTNL_UDATA_SET_ELEM_FLAGS).and_then(number)
                    == Some(SET_ELEM_F_INTERVAL_OPEN);
            }
            NFTA_SET_ELEM_KEY_END => e.key_end = value(attr)?.map(Box::new),
            _ => {}
        }
    }
    Ok(key.map(|key| {
        e.key = key;
        e
    }))
}

fn value(attr: Attribute<'_>) -> Result<Option<Value>, DecodeError> {
    Ok(match decode_expr::data(attr)? {
        Data::Value(value) => Some(value),
        Data::None | Data::Verdict(_) => None,
    })
}

fn generation(attrs: &[u8]) -> Result<Body, DecodeError> {
    const WITHIN: &str = "nft_gen_attributes";
    let mut generation = Generation::default();
    let mut id = None;
    for attr in Attributes::new(attrs, WITHIN) {
        let attr = attr?;
        match attr.kind {
            NFTA_GEN_ID => id = Some(attr.be32()?),
            NFTA_GEN_PROC_PID => generation.pid = Some(attr.be32()?),
            NFTA_GEN_PROC_NAME => generation.process = Some(attr.string_lossy()),
            _ => {}
        }
    }
    generation.id = need(id, WITHIN, NFTA_GEN_ID)?;
    Ok(Body::Generation(generation))
}

impl ChainKind {
    fn from_name(name: &str) -> Result<Self, DecodeError> {
        [ChainKind::Filter, ChainKind::Nat, ChainKind::Route]
            .into_iter()
            .find(|k| k.name() == name)
            .ok_or(DecodeError::Unknown {
                what: "the chain types, one of another name, of length",
                value: name.len() as u64,
            })
    }
}
