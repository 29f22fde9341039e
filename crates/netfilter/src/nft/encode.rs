//! Operations to messages.

use super::consts::*;
use super::encode_expr;
use super::expr::{CmpOp, Expr, MetaKey};
use super::object::{
    BaseChain, Chain, ChainKind, Data, Element, Family, Fields, Rule, Selector, Set, SetData,
    SetFlags, Verdict,
};
use super::udata;
use crate::netlink::{
    NFNL_SUBSYS_NFTABLES, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST,
    NLMSG_HDRLEN, Writer, nfgenmsg, nfnl_msg_type,
};

/// A message of nf_tables without its netlink header, which the transport adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `NFT_MSG_*`, see [`super::consts`].
    pub kind: u16,
    /// `NLM_F_*` in addition to `NLM_F_REQUEST`, see [`crate::netlink`].
    pub flags: u16,
    /// `struct nfgenmsg` and the attributes.
    pub body: Vec<u8>,
}

impl Message {
    /// Append the message with a netlink header, padded to four bytes. Sequence number and port are
    /// zero; the transport sets them.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        let len = (NLMSG_HDRLEN + self.body.len()) as u32;
        let kind = nfnl_msg_type(NFNL_SUBSYS_NFTABLES, self.kind as u8);
        out.extend_from_slice(&len.to_ne_bytes());
        out.extend_from_slice(&kind.to_ne_bytes());
        out.extend_from_slice(&(self.flags | NLM_F_REQUEST).to_ne_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.body);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

/// A change to a table. The encoder has the family and name of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Create the table, if it does not exist.
    AddTable {
        /// The comment.
        comment: Option<String>,
    },
    /// Delete the table and its contents; rejected (`ENOENT`) if it does not exist.
    DeleteTable,
    /// Create a chain, if it does not exist.
    AddChain(Chain),
    /// Delete all rules of a chain.
    FlushChain(String),
    /// Delete a chain; rejected (`EBUSY`) while it is referenced.
    DeleteChain(String),
    /// Append a rule to its chain.
    AddRule(Rule),
    /// Create a set, if the same set does not exist.
    AddSet(Set),
    /// Delete a set; rejected (`EBUSY`) while a rule refers to it.
    DeleteSet(String),
    /// Add elements to a set. An existing element with the same data is left alone; one with other
    /// data is rejected (`EEXIST`).
    AddElements {
        /// The set's name.
        set: String,
        /// The elements.
        elements: Vec<Element>,
    },
    /// Delete elements of a set; rejected (`ENOENT`) if one does not exist.
    DeleteElements {
        /// The set's name.
        set: String,
        /// The elements; only their keys are used.
        elements: Vec<Element>,
    },
    /// Delete all elements of a set.
    FlushSet(String),
}

/// The list of elements cannot exceed an attribute's 16-bit length. A message is closed once its list
/// has passed this size, which leaves room for the largest element.
const ELEMENTS_LIMIT: usize = 60_000;

/// The place of a rule in its chain, by the handles of other rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RulePlace {
    /// Before all rules.
    First,
    /// After all rules.
    Last,
    /// Before the rule of this handle.
    Before(u64),
    /// After the rule of this handle.
    After(u64),
    /// In place of the rule of this handle. The new rule has a new handle.
    Replacing(u64),
}

/// Encodes operations on one table.
#[derive(Clone, Copy, Debug)]
pub struct Encoder<'a> {
    /// The table's family.
    pub family: Family,
    /// The table's name.
    pub table: &'a str,
}

impl Encoder<'_> {
    /// Start a message with its `struct nfgenmsg`.
    fn start(self) -> Vec<u8> {
        nfgenmsg(self.family.number(), 0).to_vec()
    }

    fn message(self, kind: u16, flags: u16, fill: impl FnOnce(&mut Writer<'_>)) -> Message {
        let mut body = self.start();
        fill(&mut Writer(&mut body));
        Message { kind, flags, body }
    }

    /// Append the messages of an operation. Each contains as many elements as its 16-bit lengths
    /// permit.
    pub fn op(self, op: &Op, out: &mut Vec<Message>) {
        match op {
            Op::AddTable { comment } => out.push(self.add_table(0, comment.as_deref())),
            Op::DeleteTable => out.push(self.message(NFT_MSG_DELTABLE, 0, |w| {
                w.string(NFTA_TABLE_NAME, self.table);
            })),
            Op::AddChain(chain) => out.push(self.add_chain(chain)),
            Op::FlushChain(name) => out.push(self.message(NFT_MSG_DELRULE, 0, |w| {
                w.string(NFTA_RULE_TABLE, self.table);
                w.string(NFTA_RULE_CHAIN, name);
            })),
            Op::DeleteChain(name) => out.push(self.message(NFT_MSG_DELCHAIN, 0, |w| {
                w.string(NFTA_CHAIN_TABLE, self.table);
                w.string(NFTA_CHAIN_NAME, name);
            })),
            Op::AddRule(rule) => out.push(self.add_rule(rule)),
            Op::AddSet(set) => out.push(self.add_set(set, 1)),
            Op::DeleteSet(name) => out.push(self.message(NFT_MSG_DELSET, 0, |w| {
                w.string(NFTA_SET_TABLE, self.table);
                w.string(NFTA_SET_NAME, name);
            })),
            Op::AddElements { set, elements } => {
                self.elements(NFT_MSG_NEWSETELEM, NLM_F_CREATE, set, elements, out);
            }
            Op::DeleteElements { set, elements } => {
                self.elements(NFT_MSG_DELSETELEM, 0, set, elements, out);
            }
            Op::FlushSet(set) => out.push(self.message(NFT_MSG_DELSETELEM, 0, |w| {
                w.string(NFTA_SET_ELEM_LIST_TABLE, self.table);
                w.string(NFTA_SET_ELEM_LIST_SET, set);
            })),
        }
    }

    /// Return the messages of all operations, in order.
    pub fn ops(self, ops: &[Op]) -> Vec<Message> {
        let mut out = Vec::new();
        for op in ops {
            self.op(op, &mut out);
        }
        out
    }

    fn add_table(self, flags: u32, comment: Option<&str>) -> Message {
        self.message(NFT_MSG_NEWTABLE, NLM_F_CREATE, |w| {
            w.string(NFTA_TABLE_NAME, self.table);
            w.be32(NFTA_TABLE_FLAGS, flags);
            comment_udata(w, NFTA_TABLE_USERDATA, comment);
        })
    }

    fn add_chain(self, chain: &Chain) -> Message {
        self.message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, |w| {
            w.string(NFTA_CHAIN_TABLE, self.table);
            w.string(NFTA_CHAIN_NAME, &chain.name);
            if let Some(base) = &chain.base {
                base_chain(w, base);
            }
            comment_udata(w, NFTA_CHAIN_USERDATA, chain.comment.as_deref());
        })
    }

    fn add_rule(self, rule: &Rule) -> Message {
        self.rule(NLM_F_CREATE | NLM_F_APPEND, rule, None)
    }

    /// Encode a rule at a place in its chain.
    pub fn place_rule(self, rule: &Rule, place: RulePlace) -> Message {
        match place {
            RulePlace::First => self.rule(NLM_F_CREATE, rule, None),
            RulePlace::Last => self.add_rule(rule),
            RulePlace::Before(handle) => {
                self.rule(NLM_F_CREATE, rule, Some((NFTA_RULE_POSITION, handle)))
            }
            RulePlace::After(handle) => {
                let flags = NLM_F_CREATE | NLM_F_APPEND;
                self.rule(flags, rule, Some((NFTA_RULE_POSITION, handle)))
            }
            RulePlace::Replacing(handle) => {
                self.rule(NLM_F_REPLACE, rule, Some((NFTA_RULE_HANDLE, handle)))
            }
        }
    }

    /// Delete the rule of a handle; rejected (`ENOENT`) if the chain does not contain it.
    pub fn delete_rule(self, chain: &str, handle: u64) -> Message {
        self.message(NFT_MSG_DELRULE, 0, |w| {
            w.string(NFTA_RULE_TABLE, self.table);
            w.string(NFTA_RULE_CHAIN, chain);
            w.be64(NFTA_RULE_HANDLE, handle);
        })
    }

    fn rule(self, flags: u16, rule: &Rule, place: Option<(u16, u64)>) -> Message {
        self.message(NFT_MSG_NEWRULE, flags, |w| {
            w.string(NFTA_RULE_TABLE, self.table);
            w.string(NFTA_RULE_CHAIN, &rule.chain);
            if let Some((kind, handle)) = place {
                w.be64(kind, handle);
            }
            w.nest(NFTA_RULE_EXPRESSIONS, |w| {
                for e in &rule.exprs {
                    encode_expr::expr(w, e);
                }
            });
            compat(w, &rule.exprs);
            comment_udata(w, NFTA_RULE_USERDATA, rule.comment.as_deref());
        })
    }

    /// Encode a new set; the id distinguishes the new sets of a batch.
    fn add_set(self, set: &Set, id: u32) -> Message {
        self.message(NFT_MSG_NEWSET, NLM_F_CREATE, |w| {
            w.string(NFTA_SET_TABLE, self.table);
            w.string(NFTA_SET_NAME, &set.name);
            w.be32(NFTA_SET_FLAGS, set_flags(set));
            w.be32(NFTA_SET_KEY_TYPE, set.key.number());
            w.be32(NFTA_SET_KEY_LEN, set.key.len() as u32);
            match &set.data {
                SetData::None => {}
                SetData::Verdict => {
                    w.be32(NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT);
                    w.be32(NFTA_SET_DATA_LEN, NFT_VERDICT_LEN);
                }
                SetData::Fields(fields) => {
                    w.be32(NFTA_SET_DATA_TYPE, fields.number());
                    w.be32(NFTA_SET_DATA_LEN, fields.len() as u32);
                }
            }
            w.be32(NFTA_SET_ID, id);
            if let Some(timeout) = set.timeout_ms {
                w.be64(NFTA_SET_TIMEOUT, timeout);
            }
            set_description(w, set);
            w.bytes(NFTA_SET_USERDATA, &set_userdata(set));
        })
    }

    fn elements(
        self,
        kind: u16,
        flags: u16,
        set: &str,
        elements: &[Element],
        out: &mut Vec<Message>,
    ) {
        let with_data = kind == NFT_MSG_NEWSETELEM;
        let mut rest = elements.iter().peekable();
        while rest.peek().is_some() {
            out.push(self.message(kind, flags, |w| {
                w.string(NFTA_SET_ELEM_LIST_TABLE, self.table);
                w.string(NFTA_SET_ELEM_LIST_SET, set);
                let list = w.open(NFTA_SET_ELEM_LIST_ELEMENTS);
                while w.0.len() - list < ELEMENTS_LIMIT
                    && let Some(e) = rest.next()
                {
                    element(w, e, with_data);
                }
                w.end(list);
            }));
        }
    }

    /// Request all objects of a kind: the chains, rules or sets of the table (`NFT_MSG_GETCHAIN`, …), or
    /// the elements of a set (`NFT_MSG_GETSETELEM`). Send it with `NLM_F_DUMP`.
    pub fn dump(self, kind: u16, set: Option<&str>) -> Message {
        self.message(kind, NLM_F_DUMP, |w| {
            // The table is attribute 1 of every request.
            w.string(NFTA_SET_ELEM_LIST_TABLE, self.table);
            if let Some(set) = set {
                w.string(NFTA_SET_ELEM_LIST_SET, set);
            }
        })
    }

    /// Request the elements of these keys of a set. Each is answered with a message of its own, in
    /// order; the answer ends with `ENOENT` at the first missing key.
    pub fn get_elements<'e>(self, set: &str, keys: impl Iterator<Item = &'e Element>) -> Message {
        self.message(NFT_MSG_GETSETELEM, 0, |w| {
            w.string(NFTA_SET_ELEM_LIST_TABLE, self.table);
            w.string(NFTA_SET_ELEM_LIST_SET, set);
            let list = w.open(NFTA_SET_ELEM_LIST_ELEMENTS);
            for key in keys {
                element(w, key, false);
            }
            w.end(list);
        })
    }

    /// Create the table so that it is removed with the sending socket and no other process can change
    /// it (`NFT_TABLE_F_OWNER`, Linux 5.12). Older kernels reject it (`EOPNOTSUPP`).
    pub fn owned_table(self, comment: &str) -> Message {
        self.add_table(NFT_TABLE_F_OWNER, Some(comment))
    }

    /// Create the table without effect on packets: its base chains are not registered.
    pub fn dormant_table(self) -> Message {
        self.add_table(NFT_TABLE_F_DORMANT, None)
    }

    /// Request the table; the answer is the table or `ENOENT`.
    pub fn get_table(self) -> Message {
        self.message(NFT_MSG_GETTABLE, 0, |w| {
            w.string(NFTA_TABLE_NAME, self.table);
        })
    }
}

/// Write `NFTA_RULE_COMPAT` for rules with xtables extensions: the kernel checks the protocol that an
/// extension requires against it.
fn compat(w: &mut Writer<'_>, exprs: &[Expr]) {
    let xtables = |e: &Expr| matches!(e, Expr::Match { .. } | Expr::Target { .. });
    if !exprs.iter().any(xtables) {
        return;
    }
    let protocol = exprs.windows(2).find_map(|pair| match pair {
        [
            Expr::Meta {
                key: MetaKey::L4proto,
                ..
            },
            Expr::Cmp { op, value, .. },
        ] => Some((value.as_bytes().first().copied()?, *op == CmpOp::Neq)),
        _ => None,
    });
    if let Some((protocol, inverted)) = protocol {
        w.nest(NFTA_RULE_COMPAT, |w| {
            w.be32(NFTA_RULE_COMPAT_PROTO, protocol.into());
            let flags = if inverted { NFT_RULE_COMPAT_F_INV } else { 0 };
            w.be32(NFTA_RULE_COMPAT_FLAGS, flags);
        });
    }
}

fn comment_udata(w: &mut Writer<'_>, kind: u16, comment: Option<&str>) {
    if let Some(comment) = comment {
        let mut bytes = Vec::new();
        udata::put_comment(&mut bytes, NFTNL_UDATA_COMMENT, comment);
        w.bytes(kind, &bytes);
    }
}

fn base_chain(w: &mut Writer<'_>, base: &BaseChain) {
    w.nest(NFTA_CHAIN_HOOK, |w| {
        w.be32(NFTA_HOOK_HOOKNUM, base.hook.number());
        w.be32(NFTA_HOOK_PRIORITY, base.priority.cast_unsigned());
    });
    w.be32(NFTA_CHAIN_POLICY, base.policy.number());
    w.string(NFTA_CHAIN_TYPE, base.kind.name());
}

fn element(w: &mut Writer<'_>, e: &Element, with_data: bool) {
    w.nest(NFTA_LIST_ELEM, |w| {
        encode_expr::data(w, NFTA_SET_ELEM_KEY, &e.key);
        if let Some(end) = &e.key_end {
            encode_expr::data(w, NFTA_SET_ELEM_KEY_END, end);
        }
        if e.interval_end {
            w.be32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
        }
        if !with_data {
            return;
        }
        match &e.data {
            Data::None => {}
            Data::Value(value) => encode_expr::data(w, NFTA_SET_ELEM_DATA, value),
            Data::Verdict(v) => encode_expr::verdict_data(w, NFTA_SET_ELEM_DATA, v),
        }
        if let Some(timeout) = e.timeout_ms {
            w.be64(NFTA_SET_ELEM_TIMEOUT, timeout);
        }
        if e.comment.is_some() || e.open_end {
            let mut bytes = Vec::new();
            if let Some(comment) = &e.comment {
                udata::put_comment(&mut bytes, NFTNL_UDATA_COMMENT, comment);
            }
            if e.open_end {
                let flags = SET_ELEM_F_INTERVAL_OPEN.to_ne_bytes();
                udata::put(&mut bytes, NFTNL_UDATA_SET_ELEM_FLAGS, &flags);
            }
            w.bytes(NFTA_SET_ELEM_USERDATA, &bytes);
        }
    });
}

fn set_flags(set: &Set) -> u32 {
    let SetFlags {
        anonymous,
        constant,
        interval,
        timeout,
        dynamic,
    } = set.flags;
    let mut flags = 0;
    let mut add = |on: bool, flag: u32| flags |= if on { flag } else { 0 };
    add(anonymous, NFT_SET_ANONYMOUS);
    add(constant, NFT_SET_CONSTANT);
    add(interval, NFT_SET_INTERVAL);
    add(interval && set.key.is_concatenation(), NFT_SET_CONCAT);
    add(set.data != SetData::None, NFT_SET_MAP);
    add(timeout, NFT_SET_TIMEOUT);
    add(dynamic, NFT_SET_EVAL);
    flags
}

/// Write `NFTA_SET_DESC`: the size and, for ranges of several fields, the fields' lengths.
fn set_description(w: &mut Writer<'_>, set: &Set) {
    let fields = set.flags.interval && set.key.is_concatenation();
    if set.size.is_none() && !fields {
        return;
    }
    w.nest(NFTA_SET_DESC, |w| {
        if let Some(size) = set.size {
            w.be32(NFTA_SET_DESC_SIZE, size);
        }
        if fields {
            w.nest(NFTA_SET_DESC_CONCAT, |w| {
                for t in set.key.types() {
                    w.nest(NFTA_LIST_ELEM, |w| {
                        w.be32(NFTA_SET_FIELD_LEN, t.size() as u32);
                    });
                }
            });
        }
    });
}

/// Return the user data from which nft lists the set as it was declared.
fn set_userdata(set: &Set) -> Vec<u8> {
    let mut out = Vec::new();
    udata::put(
        &mut out,
        NFTNL_UDATA_SET_KEYBYTEORDER,
        &byteorder(&set.key).to_ne_bytes(),
    );
    let is_map = set.data != SetData::None;
    if is_map {
        let order = match &set.data {
            SetData::Fields(fields) => byteorder(fields),
            SetData::None | SetData::Verdict => 0,
        };
        udata::put(
            &mut out,
            NFTNL_UDATA_SET_DATABYTEORDER,
            &order.to_ne_bytes(),
        );
    }
    put_typeof(&mut out, NFTNL_UDATA_SET_KEY_TYPEOF, &set.key);
    if let SetData::Fields(fields) = &set.data {
        put_typeof(&mut out, NFTNL_UDATA_SET_DATA_TYPEOF, fields);
    }
    if is_map {
        udata::put(&mut out, NFTNL_UDATA_SET_DATA_INTERVAL, &[0; 4]);
    }
    if let Some(comment) = &set.comment {
        udata::put_comment(&mut out, NFTNL_UDATA_SET_COMMENT, comment);
    }
    out
}

/// Return nft's byte order of a type: 0 for a concatenation.
fn byteorder(fields: &Fields) -> u32 {
    if fields.is_concatenation() {
        0
    } else {
        BYTEORDER_BIG_ENDIAN
    }
}

/// Append the typeof of a declaration. For concatenated `type`s nft writes an empty concatenation.
fn put_typeof(out: &mut Vec<u8>, kind: u8, fields: &Fields) {
    let mut value = Vec::new();
    match fields {
        Fields::Types(types) if types.len() < 2 => return,
        Fields::Types(_) => put_expr(&mut value, EXPR_CONCAT, &[]),
        Fields::Typeof(selectors) => match selectors.as_slice() {
            [one] => put_selector(&mut value, *one),
            many => {
                let mut parts = Vec::new();
                for (number, selector) in many.iter().enumerate() {
                    let mut part = Vec::new();
                    put_selector(&mut part, *selector);
                    udata::put(&mut parts, number as u8, &part);
                }
                put_expr(&mut value, EXPR_CONCAT, &parts);
            }
        },
    }
    udata::put(out, kind, &value);
}

fn put_expr(out: &mut Vec<u8>, kind: u32, data: &[u8]) {
    udata::put(out, NFTNL_UDATA_SET_TYPEOF_EXPR, &kind.to_ne_bytes());
    udata::put(out, NFTNL_UDATA_SET_TYPEOF_DATA, data);
}

fn put_selector(out: &mut Vec<u8>, selector: Selector) {
    let (kind, numbers) = selector.userdata();
    let mut data = Vec::new();
    for (number, value) in numbers.iter().enumerate() {
        udata::put(&mut data, number as u8, &value.to_ne_bytes());
    }
    put_expr(out, kind, &data);
}

impl Selector {
    /// Return the kind of expression and its numbers in nft's user data: protocol and field of a
    /// payload; the key of meta; kind, modulus and offset of numgen.
    pub(super) fn userdata(self) -> (u32, &'static [u32]) {
        match self {
            Selector::IpSaddr => (EXPR_PAYLOAD, &[PROTO_DESC_IP, 11]),
            Selector::IpDaddr => (EXPR_PAYLOAD, &[PROTO_DESC_IP, 12]),
            Selector::Ip6Saddr => (EXPR_PAYLOAD, &[PROTO_DESC_IP6, 8]),
            Selector::Ip6Daddr => (EXPR_PAYLOAD, &[PROTO_DESC_IP6, 9]),
            Selector::L4proto => (EXPR_META, &[16]),
            Selector::Dport => (EXPR_PAYLOAD, &[PROTO_DESC_TH, 2]),
            Selector::RandomIndex => (EXPR_NUMGEN, &[1, 1, 0]),
        }
    }
}

impl ChainKind {
    /// Return the name in the kernel and in nft.
    pub fn name(self) -> &'static str {
        match self {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
            ChainKind::Route => "route",
        }
    }
}

impl Verdict {
    /// Return the target chain of a jump or goto.
    pub fn chain(&self) -> Option<&str> {
        match self {
            Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain),
            _ => None,
        }
    }
}
