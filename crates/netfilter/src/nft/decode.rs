//! Messages to objects: the kernel's dumps and notifications, and our own messages.

use super::consts::{DATA_VERDICT, UDATA_COMMENT, elem_udata, msg, set_flag, set_udata};
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
    /// The table's family; `None` for one that sluice has no tables in.
    pub family: Option<Family>,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A table is there, or was added.
    Table(Table),
    /// A table was deleted.
    TableGone(String),
    /// A chain of a table.
    Chain {
        /// The table's name.
        table: String,
        /// The chain.
        chain: Chain,
    },
    /// A rule of a table, in the order of its chain.
    Rule {
        /// The table's name.
        table: String,
        /// Its handle, by which it can be deleted.
        handle: u64,
        /// The rule, or why it cannot be decoded: then it is not one of ours.
        rule: Result<Rule, (String, DecodeError)>,
    },
    /// A set of a table.
    Set {
        /// The table's name.
        table: String,
        /// The set, or its name and why it cannot be decoded: then it is not one of ours.
        set: Result<Set, (String, DecodeError)>,
        /// How many elements it has; only kernels since 6.16 tell (`NFTA_SET_COUNT`).
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
    /// The generation: how often the ruleset was changed, and by whom last.
    Generation(Generation),
    /// What a traced packet met.
    Trace(TraceEvent),
    /// Something in a table was deleted; what exactly does not matter to who reads it.
    Deleted {
        /// `NFT_MSG_DEL*`.
        kind: u16,
        /// The table's name.
        table: String,
    },
    /// A message of another kind.
    Other(u16),
}

/// `NFT_MSG_NEWGEN`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Goes up with every committed batch.
    pub id: u32,
    /// The process that committed it.
    pub pid: Option<u32>,
    /// Its name.
    pub process: Option<String>,
}

/// Decodes a message of nf_tables: `kind` is the low byte of its type, `body` what follows the
/// netlink header.
pub fn decode(kind: u16, body: &[u8]) -> Result<Decoded, DecodeError> {
    let [family, _version, _, _, attrs @ ..] = body else {
        return Err(DecodeError::Header(body.len()));
    };
    let family = Family::from_number(*family);
    let body = match kind {
        msg::NEWTABLE => table(attrs, family)?,
        msg::DELTABLE => Body::TableGone(name(attrs, 1, "nft_table_attributes")?),
        msg::NEWCHAIN => chain(attrs)?,
        msg::NEWRULE => rule(attrs)?,
        msg::NEWSET => set(attrs)?,
        msg::NEWSETELEM => elements(attrs)?,
        msg::NEWGEN => generation(attrs)?,
        msg::TRACE => Body::Trace(trace::decode(attrs)?),
        msg::DELCHAIN | msg::DELRULE | msg::DELSET | msg::DELSETELEM => Body::Deleted {
            kind,
            table: name(attrs, 1, "nft attributes")?,
        },
        other => Body::Other(other),
    };
    Ok(Decoded { family, body })
}

impl Message {
    /// What the message says.
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
            1 => name = owned(attr)?,
            6 => comment = udata::comment(attr.value, UDATA_COMMENT),
            _ => {}
        }
    }
    Ok(Body::Table(Table {
        // For a family that sluice does not know, the header's says so.
        family: family.unwrap_or(Family::Inet),
        name: need(name, WITHIN, 1)?,
        comment,
    }))
}

fn chain(attrs: &[u8]) -> Result<Body, DecodeError> {
    const WITHIN: &str = "nft_chain_attributes";
    let (mut table, mut name, mut hook, mut policy, mut kind, mut comment) =
        (None, None, None, None, None, None);
    for attr in Attributes::new(attrs, WITHIN) {
        let attr = attr?;
        match attr.kind {
            1 => table = owned(attr)?,
            3 => name = owned(attr)?,
            4 => hook = Some(hook_and_priority(attr)?),
            5 => policy = Some(attr.be32()?),
            7 => kind = Some(attr.string()?),
            12 => comment = udata::comment(attr.value, UDATA_COMMENT),
            _ => {}
        }
    }
    let base = match (hook, kind) {
        (Some((hook, priority)), Some(kind)) => Some(BaseChain {
            kind: ChainKind::from_name(kind)?,
            hook,
            priority,
            policy: match policy {
                Some(0) => Policy::Drop,
                _ => Policy::Accept,
            },
        }),
        _ => None,
    };
    Ok(Body::Chain {
        table: need(table, WITHIN, 1)?,
        chain: Chain {
            name: need(name, WITHIN, 3)?,
            base,
            comment,
        },
    })
}

fn hook_and_priority(attr: Attribute<'_>) -> Result<(Hook, i32), DecodeError> {
    const WITHIN: &str = "nft_hook_attributes";
    let (mut hook, mut priority) = (None, None);
    for inner in attr.nested(WITHIN) {
        let inner = inner?;
        match inner.kind {
            1 => hook = Some(Hook::from_number(inner.be32()?)?),
            2 => priority = Some(inner.be32()?.cast_signed()),
            _ => {}
        }
    }
    Ok((need(hook, WITHIN, 1)?, need(priority, WITHIN, 2)?))
}

fn rule(attrs: &[u8]) -> Result<Body, DecodeError> {
    const WITHIN: &str = "nft_rule_attributes";
    let (mut table, mut chain, mut handle, mut comment) = (None, None, 0, None);
    let mut exprs = Ok(Vec::new());
    for attr in Attributes::new(attrs, WITHIN) {
        let attr = attr?;
        match attr.kind {
            1 => table = owned(attr)?,
            2 => chain = owned(attr)?,
            3 => handle = attr.be64()?,
            4 => exprs = decode_expr::exprs(attr),
            7 => comment = udata::comment(attr.value, UDATA_COMMENT),
            _ => {}
        }
    }
    let chain = need(chain, WITHIN, 2)?;
    Ok(Body::Rule {
        table: need(table, WITHIN, 1)?,
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
            1 => table = owned(attr)?,
            2 => name = owned(attr)?,
            3 => flags = attr.be32()?,
            4 => key_type = attr.be32()?,
            6 => data_type = Some(attr.be32()?),
            20 => count = Some(attr.be32()?),
            9 => size = description_size(attr)?,
            11 => timeout_ms = Some(attr.be64()?).filter(|t| *t != 0),
            13 => userdata = attr.value,
            _ => {}
        }
    }
    let name = need(name, WITHIN, 2)?;
    let fields = |number, udata| fields(number, udata::get(userdata, udata));
    let decoded = fields(key_type, set_udata::KEY_TYPEOF).and_then(|key| {
        Ok(Set {
            name: name.clone(),
            key,
            data: match data_type {
                None => SetData::None,
                Some(DATA_VERDICT) => SetData::Verdict,
                Some(number) => SetData::Fields(fields(number, set_udata::DATA_TYPEOF)?),
            },
            flags: SetFlags {
                anonymous: flags & set_flag::ANONYMOUS != 0,
                constant: flags & set_flag::CONSTANT != 0,
                interval: flags & set_flag::INTERVAL != 0,
                timeout: flags & set_flag::TIMEOUT != 0,
                dynamic: flags & set_flag::EVAL != 0,
            },
            timeout_ms,
            size,
            comment: udata::comment(userdata, set_udata::COMMENT),
        })
    });
    Ok(Body::Set {
        table: need(table, WITHIN, 1)?,
        set: decoded.map_err(|error| (name, error)),
        count,
    })
}

fn description_size(attr: Attribute<'_>) -> Result<Option<u32>, DecodeError> {
    for inner in attr.nested("nft_set_desc_attributes") {
        let inner = inner?;
        if inner.kind == 1 {
            return inner.be32().map(Some);
        }
    }
    Ok(None)
}

/// The fields of a type number, refined by the typeof where nft's user data has one that we know.
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
            what: "the datatypes that sluice knows",
            value: u64::from(rest & 0x3f),
        })?;
        types.insert(0, t);
        rest >>= 6;
    }
    if types.is_empty() {
        return Err(DecodeError::Unknown {
            what: "the datatypes that sluice knows",
            value: 0,
        });
    }
    Ok(Fields::Types(types))
}

fn selectors(data: &[u8]) -> Option<Vec<Selector>> {
    let kind = number(udata::get(data, set_udata::TYPEOF_EXPR)?)?;
    let parts = udata::get(data, set_udata::TYPEOF_DATA)?;
    if kind != set_udata::EXPR_CONCAT {
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
    let kind = number(udata::get(data, set_udata::TYPEOF_EXPR)?)?;
    let parts = udata::get(data, set_udata::TYPEOF_DATA)?;
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
            1 => table = owned(attr)?,
            2 => set = owned(attr)?,
            3 => {
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
        table: need(table, WITHIN, 1)?,
        set: need(set, WITHIN, 2)?,
        elements,
    })
}

/// An element; `None` for a catch-all, which has no key and no set of ours has.
fn element(item: Attribute<'_>) -> Result<Option<Element>, DecodeError> {
    let mut key = None;
    let mut e = Element::key(Value::EMPTY);
    for attr in item.nested("nft_set_elem_attributes") {
        let attr = attr?;
        match attr.kind {
            1 => key = value(attr)?,
            2 => e.data = decode_expr::data(attr)?,
            3 => e.interval_end = attr.be32()? & 1 != 0,
            4 => e.timeout_ms = Some(attr.be64()?).filter(|t| *t != 0),
            6 => {
                e.comment = udata::comment(attr.value, UDATA_COMMENT).map(String::into_boxed_str);
                e.open_end = udata::get(attr.value, elem_udata::FLAGS).and_then(number)
                    == Some(elem_udata::INTERVAL_OPEN);
            }
            10 => e.key_end = value(attr)?.map(Box::new),
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
            1 => id = Some(attr.be32()?),
            2 => generation.pid = Some(attr.be32()?),
            3 => generation.process = Some(attr.string_lossy()),
            _ => {}
        }
    }
    generation.id = need(id, WITHIN, 1)?;
    Ok(Body::Generation(generation))
}

impl Hook {
    fn from_number(number: u32) -> Result<Self, DecodeError> {
        [
            Hook::Prerouting,
            Hook::Input,
            Hook::Forward,
            Hook::Output,
            Hook::Postrouting,
        ]
        .into_iter()
        .find(|h| h.number() == number)
        .ok_or(DecodeError::Unknown {
            what: "nf_inet_hooks",
            value: u64::from(number),
        })
    }
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
