//! What `nft -j list ruleset` prints (libnftables-json(5)).

use std::collections::HashMap;

use serde_json::Value as Json;

use super::expr::fib;
use super::literal::{self, value as typed};
use super::statement::{all_flags, split_target};
use super::{
    Base, BinaryOp, Chain, ChainKind, Data, DataType, Element, Expr, Family, Item, Nat, NatKind,
    Op, ParseError, Rule, Ruleset, Set, SetOp, SetRef, Statement, Table, Unknown, Value, Verdict,
    block, words as in_words,
};

/// Where an object of the list starts: parsed JSON does not remember.
fn place(text: &str, index: usize) -> (usize, usize) {
    let list = text.find("\"nftables\"").unwrap_or(0);
    let start = text.get(list..).and_then(|t| t.find('[')).unwrap_or(0) + list;
    let (mut depth, mut in_string, mut escaped, mut found) = (0_usize, false, false, 0);
    for (at, c) in text.char_indices().skip_while(|(at, _)| *at < start) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = in_string,
            '"' => in_string = !in_string,
            _ if in_string => {}
            '{' | '[' => {
                found += usize::from(depth == 1);
                if found > index {
                    let before = text.get(..at).unwrap_or_default();
                    let line_start = before.rfind('\n').map_or(0, |n| n + 1);
                    return (before.matches('\n').count() + 1, at - line_start + 1);
                }
                depth += 1;
            }
            '}' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    (1, 1)
}

/// What serde_json says, without the place that it ends with.
fn bare_message(e: &serde_json::Error) -> String {
    let said = e.to_string();
    said.split(" at line ")
        .next()
        .unwrap_or_default()
        .to_owned()
}

pub(super) fn parse(text: &str) -> Result<Ruleset, ParseError> {
    let json: Json = serde_json::from_str(text).map_err(|e| ParseError {
        line: e.line(),
        column: e.column().max(1),
        message: bare_message(&e),
    })?;
    let Some(objects) = json.get("nftables").and_then(Json::as_array) else {
        return Err(ParseError {
            line: 1,
            column: 1,
            message: "an object without the list \"nftables\": is this `nft -j list ruleset`?"
                .into(),
        });
    };
    let mut ruleset = Ruleset::default();
    let mut places: HashMap<(Family, Box<str>), usize> = HashMap::new();
    for (index, object) in objects.iter().enumerate() {
        let error = |message: String| {
            let (line, column) = place(text, index);
            ParseError {
                line,
                column,
                message,
            }
        };
        let Some((kind, body)) = object.as_object().and_then(|o| o.iter().next()) else {
            return Err(error(format!("nftables[{index}] is not an object")));
        };
        if kind == "metainfo" {
            continue;
        }
        let at = |e: String| error(format!("nftables[{index}] ({kind}): {e}"));
        let family = Family::parse(string(body, "family").map_err(at)?)
            .ok_or_else(|| at("its family is not known".into()))?;
        if kind == "table" {
            let name = string(body, "name").map_err(at)?;
            let mut table = Table::new(family, name);
            table.dormant = words(body.get("flags")).iter().any(|f| &**f == "dormant");
            places.insert((family, name.into()), ruleset.tables.len());
            ruleset.tables.push(table);
            continue;
        }
        let table_name = string(body, "table").map_err(at)?;
        let table = places
            .get(&(family, table_name.into()))
            .and_then(|i| ruleset.tables.get_mut(*i))
            .ok_or_else(|| at(format!("table {table_name} was not listed before it")))?;
        object_of(table, kind, body, object).map_err(at)?;
    }
    Ok(ruleset)
}

fn object_of(table: &mut Table, kind: &str, body: &Json, whole: &Json) -> Result<(), String> {
    match kind {
        "chain" => {
            let chain = chain(body)?;
            if !table.add_chain(chain) {
                return Err("a chain of this name comes twice".into());
            }
        }
        "rule" => {
            let name = string(body, "chain")?;
            let rule = rule(body);
            table
                .chain_mut(name)
                .ok_or_else(|| format!("chain {name} was not listed before it"))?
                .rules
                .push(rule);
        }
        "set" | "map" => {
            let set = set(body)?;
            if !table.add_set(set) {
                return Err("a set of this name comes twice".into());
            }
        }
        _ => table.others.push(unknown(whole)),
    }
    Ok(())
}

fn unknown(json: &Json) -> Unknown {
    Unknown {
        text: json.to_string().into(),
        line: 0,
        column: 0,
    }
}

fn string<'a>(body: &'a Json, key: &str) -> Result<&'a str, String> {
    body.get(key)
        .and_then(Json::as_str)
        .ok_or_else(|| format!("{key:?} is not there or not a string"))
}

/// A string or a list of strings.
pub(super) fn words(json: Option<&Json>) -> Vec<Box<str>> {
    match json {
        Some(Json::String(s)) => vec![s.as_str().into()],
        Some(Json::Array(all)) => all
            .iter()
            .filter_map(Json::as_str)
            .map(Into::into)
            .collect(),
        _ => Vec::new(),
    }
}

fn chain(body: &Json) -> Result<Chain, String> {
    let mut chain = Chain {
        name: string(body, "name")?.into(),
        ..Chain::default()
    };
    if let Some(hook) = body.get("hook").and_then(Json::as_str) {
        let kind = match string(body, "type")? {
            "filter" => ChainKind::Filter,
            "nat" => ChainKind::Nat,
            "route" => ChainKind::Route,
            other => return Err(format!("{other:?} is not a type of chain")),
        };
        let priority = match body.get("prio") {
            Some(Json::Number(n)) => n.as_i64().and_then(|n| i32::try_from(n).ok()),
            Some(Json::String(s)) => block::priority(s, hook),
            _ => None,
        };
        chain.base = Some(Base {
            kind,
            hook: hook.into(),
            priority: priority.ok_or("\"prio\" is not a priority")?,
            drops: body.get("policy").and_then(Json::as_str) == Some("drop"),
        });
    }
    Ok(chain)
}

fn rule(body: &Json) -> Rule {
    let mut rule = Rule::default();
    let family = string(body, "family").unwrap_or_default();
    let empty = Vec::new();
    let statements = body.get("expr").and_then(Json::as_array).unwrap_or(&empty);
    let mut text = String::new();
    for json in statements {
        if !text.is_empty() {
            text.push(' ');
        }
        let shown = in_words::statement(json, family);
        text.push_str(&shown);
        let parsed = statement(json).unwrap_or_else(|| {
            Statement::Unknown(Unknown {
                text: shown.into(),
                ..unknown(json)
            })
        });
        rule.statements.push(parsed);
    }
    if let Some(comment) = body.get("comment").and_then(Json::as_str) {
        text.push_str(&format!(" comment {comment:?}"));
    }
    rule.text = text.into();
    rule
}

fn types(json: Option<&Json>) -> Vec<DataType> {
    match json {
        Some(Json::String(s)) => s.split(" . ").map(DataType::parse).collect(),
        Some(Json::Array(all)) => all
            .iter()
            .map(|t| t.as_str().map_or(DataType::Other, DataType::parse))
            .collect(),
        // `typeof`, in newer versions.
        Some(object) => object
            .get("typeof")
            .and_then(expr)
            .map_or(Vec::new(), |e| e.types()),
        None => Vec::new(),
    }
}

fn set(body: &Json) -> Result<Set, String> {
    let mut set = Set {
        name: string(body, "name")?.into(),
        key: types(body.get("type")),
        data: types(body.get("map")),
        flags: words(body.get("flags")),
        timeout: body.get("timeout").map(|t| t.to_string().into()),
        elements: Vec::new(),
    };
    if let Some(all) = body.get("elem").and_then(Json::as_array) {
        set.elements = elements(all, &set.key).ok_or("an element is not understood")?;
    }
    Ok(set)
}

fn elements(all: &[Json], key: &[DataType]) -> Option<Vec<Element>> {
    all.iter().map(|json| element(json, key)).collect()
}

fn element(json: &Json, types: &[DataType]) -> Option<Element> {
    // A map's element is a pair of key and value.
    let (key, data) = match json {
        Json::Array(pair) => match pair.as_slice() {
            [key, data] => (key, Some(data)),
            _ => return None,
        },
        other => (other, None),
    };
    let (key, comment) = match key.get("elem") {
        Some(elem) => (
            elem.get("val")?,
            elem.get("comment").and_then(Json::as_str).map(Into::into),
        ),
        None => (key, None),
    };
    let key = match key {
        Json::String(s) if s == "*" => Vec::new(),
        other => items(other, types)?,
    };
    let data = match data {
        None => None,
        Some(json) => Some(match verdict(json) {
            Some(v) => Data::Verdict(v),
            None => Data::Items(items(json, &[])?.into()),
        }),
    };
    Some(Element {
        key: key.into(),
        data,
        comment,
    })
}

fn items(json: &Json, types: &[DataType]) -> Option<Vec<Item>> {
    let at = |i: usize| types.get(i).copied().unwrap_or(DataType::Other);
    match json.get("concat").and_then(Json::as_array) {
        Some(parts) => parts
            .iter()
            .enumerate()
            .map(|(i, part)| item(part, at(i)))
            .collect(),
        None => Some(vec![item(json, at(0))?]),
    }
}

fn item(json: &Json, of: DataType) -> Option<Item> {
    Some(match literal_of(json, of)? {
        Expr::Value(v) => Item::Value(v),
        Expr::Range(a, b) => Item::Range(a, b),
        Expr::Prefix(net) => Item::Prefix(net),
        _ => return None,
    })
}

/// A value, range or prefix.
fn literal_of(json: &Json, of: DataType) -> Option<Expr> {
    match json {
        Json::Number(n) => Some(Expr::Value(Value::Int(n.as_u64()?))),
        // Of a way: whether there is one.
        Json::Bool(b) => {
            let word = if *b { "exists" } else { "missing" };
            Some(Expr::Value(Value::Text(word.into())))
        }
        Json::String(s) => Some(Expr::Value(match of {
            DataType::Other if s.parse::<std::net::IpAddr>().is_err() => literal::name(s),
            _ => typed(s, of),
        })),
        Json::Object(o) => {
            if let Some(p) = o.get("prefix") {
                let addr: std::net::IpAddr = string(p, "addr").ok()?.parse().ok()?;
                let len = u8::try_from(p.get("len")?.as_u64()?).ok()?;
                return Some(Expr::Prefix(ipnet::IpNet::new(addr, len).ok()?.trunc()));
            }
            let range = o.get("range")?.as_array()?;
            let [first, last] = range.as_slice() else {
                return None;
            };
            match (literal_of(first, of)?, literal_of(last, of)?) {
                (Expr::Value(a), Expr::Value(b)) => Some(Expr::Range(a, b)),
                _ => None,
            }
        }
        _ => None,
    }
}

fn verdict(json: &Json) -> Option<Verdict> {
    let (name, body) = json.as_object()?.iter().next()?;
    let target = || string(body, "target").ok().map(Box::from);
    Some(match name.as_str() {
        "accept" => Verdict::Accept,
        "drop" => Verdict::Drop,
        "continue" => Verdict::Continue,
        "return" => Verdict::Return,
        "queue" => Verdict::Queue,
        "jump" => Verdict::Jump(target()?),
        "goto" => Verdict::Goto(target()?),
        _ => return None,
    })
}

fn statement(json: &Json) -> Option<Statement> {
    if let Some(v) = verdict(json) {
        return Some(Statement::Verdict(v));
    }
    let (name, body) = json.as_object()?.iter().next()?;
    let text = || Box::from(in_words::statement(json, ""));
    Some(match name.as_str() {
        "match" => comparison(body)?,
        "vmap" => {
            let key = expr(body.get("key")?)?;
            let map = set_ref(body.get("data")?, &key.types(), &[DataType::Verdict])?;
            Statement::Vmap { key, map }
        }
        "mangle" => {
            let field = expr(body.get("key")?)?;
            match field {
                Expr::Meta(super::Meta::Mark) | Expr::Ct(super::Ct::Mark) => Statement::Assign {
                    value: expr(body.get("value")?)?,
                    field,
                },
                Expr::Field(_) => return None,
                _ => Statement::Inert(text()),
            }
        }
        "dnat" | "snat" | "masquerade" | "redirect" => nat(name, body)?,
        "reject" => Statement::Reject(reject(body).into()),
        "set" | "map" => dynset(body)?,
        "limit" => Statement::Limit {
            over: body.get("inv").and_then(Json::as_bool).unwrap_or(false),
            text: text(),
        },
        "notrack" => Statement::Notrack,
        "counter" | "log" | "quota" | "last" | "flow" | "ct helper" | "ct timeout"
        | "ct expectation" => Statement::Inert(text()),
        _ => return None,
    })
}

/// In the words that the text has: `with icmpx admin-prohibited`, `with tcp reset`.
fn reject(body: &Json) -> String {
    let word = |key| body.get(key).and_then(Json::as_str);
    match (word("type"), body.get("expr")) {
        (Some("tcp reset"), _) => "with tcp reset".to_owned(),
        (Some(kind), Some(Json::Number(code))) => format!("with {kind} {code}"),
        (Some(kind), Some(Json::String(reason))) => format!("with {kind} {reason}"),
        _ => String::new(),
    }
}

fn comparison(body: &Json) -> Option<Statement> {
    let left = expr(body.get("left")?)?;
    let op = match body.get("op")?.as_str()? {
        "in" => Op::Implicit,
        "==" => Op::Eq,
        "!=" => Op::Ne,
        "<" => Op::Lt,
        ">" => Op::Gt,
        "<=" => Op::Le,
        ">=" => Op::Ge,
        "!" => Op::Not,
        _ => return None,
    };
    let right = body.get("right")?;
    let right = typed_expr(right, &left.types())?;
    // nft prints == for what was written without an operator, too.
    let plain = !left.data_type().is_flags() || matches!(right, Expr::Set(_) | Expr::SetName(_));
    let op = if op == Op::Eq && plain {
        Op::Implicit
    } else {
        op
    };
    Some(Statement::Match { left, op, right })
}

fn set_ref(json: &Json, key: &[DataType], data: &[DataType]) -> Option<SetRef> {
    if let Some(name) = json.as_str().and_then(|s| s.strip_prefix('@')) {
        return Some(SetRef::Name(name.into()));
    }
    let elements = elements(json.get("set")?.as_array()?, key)?;
    Some(SetRef::Anonymous(Box::new(Set {
        key: key.to_vec(),
        data: data.to_vec(),
        elements,
        ..Set::default()
    })))
}

fn nat(name: &str, body: &Json) -> Option<Statement> {
    let of = |key| match body.get(key) {
        None => Some(None),
        Some(json) => typed_expr(json, &[]).map(Some),
    };
    let mut address = of("addr")?;
    let mut port = of("port")?;
    if let Some(Expr::Value(Value::Text(text))) = &address {
        (address, port) = split_target(text)?;
    }
    Some(Statement::Nat(Nat {
        kind: match name {
            "dnat" => NatKind::Dnat,
            "snat" => NatKind::Snat,
            "masquerade" => NatKind::Masquerade,
            _ => NatKind::Redirect,
        },
        address,
        port,
        flags: words(body.get("flags")),
    }))
}

fn dynset(body: &Json) -> Option<Statement> {
    let elem = body.get("elem")?;
    let key = elem.get("elem").and_then(|e| e.get("val")).unwrap_or(elem);
    let conditions = body.get("stmt").filter(|s| {
        let text = s.to_string();
        text.contains("\"limit\"") || text.contains("\"ct count\"") || text.contains("\"quota\"")
    });
    Some(Statement::Dynset {
        op: match body.get("op")?.as_str()? {
            "add" => SetOp::Add,
            "update" => SetOp::Update,
            "delete" => SetOp::Delete,
            _ => return None,
        },
        set: body
            .get("set")
            .or_else(|| body.get("map"))?
            .as_str()?
            .strip_prefix('@')?
            .into(),
        key: expr(key)?,
        value: match body.get("data") {
            Some(data) => Some(expr(data)?),
            None => None,
        },
        condition: conditions.map(|s| s.to_string().into()),
    })
}

pub(super) fn expr(json: &Json) -> Option<Expr> {
    typed_expr(json, &[])
}

fn typed_expr(json: &Json, types: &[DataType]) -> Option<Expr> {
    let of = types.first().copied().unwrap_or(DataType::Other);
    match json {
        Json::Array(all) => {
            // Flags, any of which will do.
            let values: Option<Vec<Value>> = all
                .iter()
                .map(|v| match literal_of(v, of)? {
                    Expr::Value(v) => Some(v),
                    _ => None,
                })
                .collect();
            Some(Expr::Flags(values?))
        }
        Json::String(s) => Some(match s.strip_prefix('@') {
            Some(name) => Expr::SetName(name.into()),
            None => literal_of(json, of)?,
        }),
        Json::Object(o) => {
            if let Some(literal) = literal_of(json, of) {
                return Some(literal);
            }
            let (name, body) = o.iter().next()?;
            let known = object_expr(name, body, types);
            Some(known.unwrap_or_else(|| Expr::Unknown(unknown(json))))
        }
        _ => literal_of(json, of),
    }
}

fn object_expr(name: &str, body: &Json, types: &[DataType]) -> Option<Expr> {
    let of = types.first().copied().unwrap_or(DataType::Other);
    let operator = match name {
        "&" => Some(BinaryOp::And),
        "|" => Some(BinaryOp::Or),
        "^" => Some(BinaryOp::Xor),
        "<<" => Some(BinaryOp::Shl),
        ">>" => Some(BinaryOp::Shr),
        _ => None,
    };
    if let Some(op) = operator {
        let mut operands = body.as_array()?.iter();
        let mut left = typed_expr(operands.next()?, &[of])?;
        for right in operands {
            let of = match left.data_type() {
                DataType::Other => of,
                known => known,
            };
            left = Expr::Binary {
                op,
                right: Box::new(all_flags(typed_expr(right, &[of])?)),
                left: Box::new(left),
            };
        }
        return Some(left);
    }
    let text = |key| string(body, key).ok();
    let number = |key| {
        body.get(key)
            .and_then(Json::as_u64)
            .and_then(|n| u32::try_from(n).ok())
    };
    match name {
        "payload" => literal::field(text("protocol")?, text("field")?),
        "meta" => literal::meta(text("key")?),
        "ct" => literal::ct(text("key")?, text("dir")),
        "fib" => {
            let flags = words(body.get("flags"));
            let flags: Vec<&str> = flags.iter().map(|f| &**f).collect();
            fib(&flags, text("result")?)
        }
        "numgen" => Some(Expr::Numgen {
            random: text("mode")? == "random",
            modulus: number("mod").filter(|m| *m > 0)?,
            offset: number("offset").unwrap_or(0),
        }),
        "jhash" | "symhash" => Some(Expr::Hash {
            text: format!("{name} {body}").into(),
            modulus: number("mod").filter(|m| *m > 0)?,
            offset: number("offset").unwrap_or(0),
        }),
        "concat" => {
            let parts = body.as_array()?.iter().enumerate().map(|(i, part)| {
                let of = types.get(i).copied().unwrap_or(DataType::Other);
                typed_expr(part, &[of])
            });
            Some(Expr::Concat(parts.collect::<Option<_>>()?))
        }
        "set" => {
            let elements = elements(body.as_array()?, types)?;
            Some(Expr::Set(Box::new(Set {
                key: types.to_vec(),
                elements,
                ..Set::default()
            })))
        }
        "map" => {
            let key = expr(body.get("key")?)?;
            let map = set_ref(body.get("data")?, &key.types(), &[DataType::Other; 3])?;
            Some(Expr::Map {
                key: Box::new(key),
                map,
            })
        }
        _ => None,
    }
}
