//! Expressions, values and elements of `nft -j`, as data and as text.

use serde_json::Value as Json;

use super::super::expr::fib;
use super::super::literal::{self, value as typed};
use super::super::statement::all_flags;
use super::super::{
    BinaryOp, ElementDecl, Item, Literal, Mapped, SetDecl, SetRef, Term, TermType, Unknown,
    VerdictStatement,
};

pub(super) fn unknown(json: &Json) -> Unknown {
    Unknown {
        text: json.to_string().into(),
        line: 0,
        column: 0,
    }
}

pub(super) fn string<'a>(body: &'a Json, key: &str) -> Result<&'a str, String> {
    body.get(key)
        .and_then(Json::as_str)
        .ok_or_else(|| format!("{key:?} is missing or not a string"))
}

/// Return a string or a list of strings.
pub(super) fn names(json: Option<&Json>) -> Vec<Box<str>> {
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

pub(super) fn types(json: Option<&Json>) -> Vec<TermType> {
    match json {
        Some(Json::String(s)) => s.split(" . ").map(TermType::parse).collect(),
        Some(Json::Array(all)) => all
            .iter()
            .map(|t| t.as_str().map_or(TermType::Other, TermType::parse))
            .collect(),
        // `typeof`, in newer versions.
        Some(object) => object
            .get("typeof")
            .and_then(expr)
            .map_or(Vec::new(), |e| e.types()),
        None => Vec::new(),
    }
}

pub(super) fn elements(all: &[Json], key: &[TermType]) -> Option<Vec<ElementDecl>> {
    all.iter().map(|json| element(json, key)).collect()
}

fn element(json: &Json, types: &[TermType]) -> Option<ElementDecl> {
    // A map's element is a pair of key and data.
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
            Some(v) => Mapped::Verdict(v),
            None => Mapped::Items(items(json, &[])?.into()),
        }),
    };
    Some(ElementDecl {
        key: key.into(),
        data,
        comment,
    })
}

fn items(json: &Json, types: &[TermType]) -> Option<Vec<Item>> {
    let at = |i: usize| types.get(i).copied().unwrap_or(TermType::Other);
    match json.get("concat").and_then(Json::as_array) {
        Some(parts) => parts
            .iter()
            .enumerate()
            .map(|(i, part)| item(part, at(i)))
            .collect(),
        None => Some(vec![item(json, at(0))?]),
    }
}

fn item(json: &Json, of: TermType) -> Option<Item> {
    Some(match literal_of(json, of)? {
        Term::Value(v) => Item::Value(v),
        Term::Range(a, b) => Item::Range(a, b),
        Term::Prefix(net) => Item::Prefix(net),
        _ => return None,
    })
}

/// Return a value, range or prefix.
fn literal_of(json: &Json, of: TermType) -> Option<Term> {
    match json {
        Json::Number(n) => Some(Term::Value(Literal::Int(n.as_u64()?))),
        // A route: whether it exists.
        Json::Bool(b) => {
            let word = if *b { "exists" } else { "missing" };
            Some(Term::Value(Literal::Text(word.into())))
        }
        Json::String(s) => Some(Term::Value(match of {
            TermType::Other if s.parse::<std::net::IpAddr>().is_err() => literal::name(s),
            _ => typed(s, of),
        })),
        Json::Object(o) => {
            if let Some(p) = o.get("prefix") {
                let addr: std::net::IpAddr = string(p, "addr").ok()?.parse().ok()?;
                let len = u8::try_from(p.get("len")?.as_u64()?).ok()?;
                return Some(Term::Prefix(ipnet::IpNet::new(addr, len).ok()?.trunc()));
            }
            let range = o.get("range")?.as_array()?;
            let [first, last] = range.as_slice() else {
                return None;
            };
            match (literal_of(first, of)?, literal_of(last, of)?) {
                (Term::Value(a), Term::Value(b)) => Some(Term::Range(a, b)),
                _ => None,
            }
        }
        _ => None,
    }
}

pub(super) fn verdict(json: &Json) -> Option<VerdictStatement> {
    let (name, body) = json.as_object()?.iter().next()?;
    let target = || string(body, "target").ok().map(Box::from);
    Some(match name.as_str() {
        "accept" => VerdictStatement::Accept,
        "drop" => VerdictStatement::Drop,
        "continue" => VerdictStatement::Continue,
        "return" => VerdictStatement::Return,
        "queue" => VerdictStatement::Queue,
        "jump" => VerdictStatement::Jump(target()?),
        "goto" => VerdictStatement::Goto(target()?),
        _ => return None,
    })
}

pub(super) fn set_ref(json: &Json, key: &[TermType], data: &[TermType]) -> Option<SetRef> {
    if let Some(name) = json.as_str().and_then(|s| s.strip_prefix('@')) {
        return Some(SetRef::Name(name.into()));
    }
    let elements = elements(json.get("set")?.as_array()?, key)?;
    Some(SetRef::Anonymous(Box::new(SetDecl {
        key: key.to_vec(),
        data: data.to_vec(),
        elements: elements.into(),
        ..SetDecl::default()
    })))
}

pub(super) fn expr(json: &Json) -> Option<Term> {
    typed_expr(json, &[])
}

pub(super) fn typed_expr(json: &Json, types: &[TermType]) -> Option<Term> {
    let of = types.first().copied().unwrap_or(TermType::Other);
    match json {
        Json::Array(all) => {
            // Flags: any of them.
            let values: Option<Vec<Literal>> = all
                .iter()
                .map(|v| match literal_of(v, of)? {
                    Term::Value(v) => Some(v),
                    _ => None,
                })
                .collect();
            Some(Term::Flags(values?))
        }
        Json::String(s) => Some(match s.strip_prefix('@') {
            Some(name) => Term::SetName(name.into()),
            None => literal_of(json, of)?,
        }),
        Json::Object(o) => {
            if let Some(literal) = literal_of(json, of) {
                return Some(literal);
            }
            let (name, body) = o.iter().next()?;
            let known = object_expr(name, body, types);
            Some(known.unwrap_or_else(|| Term::Unknown(unknown(json))))
        }
        _ => literal_of(json, of),
    }
}

fn object_expr(name: &str, body: &Json, types: &[TermType]) -> Option<Term> {
    let of = types.first().copied().unwrap_or(TermType::Other);
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
                TermType::Other => of,
                known => known,
            };
            left = Term::Binary {
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
            let flags = names(body.get("flags"));
            let flags: Vec<&str> = flags.iter().map(|f| &**f).collect();
            fib(&flags, text("result")?)
        }
        "numgen" => Some(Term::Numgen {
            random: text("mode")? == "random",
            modulus: number("mod").filter(|m| *m > 0)?,
            offset: number("offset").unwrap_or(0),
        }),
        "jhash" | "symhash" => Some(Term::Hash {
            text: hash_text(name, body)?.into(),
            modulus: number("mod").filter(|m| *m > 0)?,
            offset: number("offset").unwrap_or(0),
        }),
        "concat" => {
            let parts = body.as_array()?.iter().enumerate().map(|(i, part)| {
                let of = types.get(i).copied().unwrap_or(TermType::Other);
                typed_expr(part, &[of])
            });
            Some(Term::Concat(parts.collect::<Option<_>>()?))
        }
        "set" => {
            let elements = elements(body.as_array()?, types)?;
            Some(Term::Set(Box::new(SetDecl {
                key: types.to_vec(),
                elements: elements.into(),
                ..SetDecl::default()
            })))
        }
        "map" => {
            let key = expr(body.get("key")?)?;
            let map = set_ref(body.get("data")?, &key.types(), &[TermType::Other; 3])?;
            Some(Term::Map {
                key: Box::new(key),
                map,
            })
        }
        _ => None,
    }
}

/// Return the single key of an object, with its value.
pub(super) fn only(json: &Json) -> Option<(&str, &Json)> {
    let (key, body) = json.as_object()?.iter().next()?;
    Some((key, body))
}

/// Return the text of an expression, and the types of its fields.
pub(super) fn typed_text(json: &Json) -> (String, Vec<TermType>) {
    let types = expr(json).map_or(Vec::new(), |e| e.types());
    (expr_text(json, &types), types)
}

/// Return the text of an expression or value of these types.
pub(super) fn expr_text(json: &Json, types: &[TermType]) -> String {
    let of = types.first().copied().unwrap_or(TermType::Other);
    match json {
        Json::String(s) if matches!(of, TermType::Ifname | TermType::IfaceIndex) => {
            if s.starts_with('@') || s == "0" {
                s.clone()
            } else {
                format!("{s:?}")
            }
        }
        Json::String(s) => s.clone(),
        Json::Number(n) if of == TermType::Mark => {
            n.as_u64().map_or(n.to_string(), |n| format!("{n:#010x}"))
        }
        // Flags: any of them.
        Json::Array(all) => join(all, ",", types),
        Json::Object(_) => object_text(json, types).unwrap_or_else(|| json.to_string()),
        // A route: whether it exists.
        Json::Bool(there) => (if *there { "exists" } else { "missing" }).to_owned(),
        other => other.to_string(),
    }
}

fn join(all: &[Json], between: &str, types: &[TermType]) -> String {
    let words: Vec<String> = all.iter().map(|json| expr_text(json, types)).collect();
    words.join(between)
}

fn object_text(json: &Json, types: &[TermType]) -> Option<String> {
    let (name, body) = only(json)?;
    let word = |key: &str| body.get(key).and_then(Json::as_str);
    Some(match name {
        "payload" => match word("protocol") {
            Some(protocol) => format!("{protocol} {}", word("field")?),
            None => format!(
                "@{},{},{}",
                word("base")?,
                body.get("offset")?,
                body.get("len")?
            ),
        },
        "meta" => {
            let key = word("key")?;
            let alone = key.starts_with("iif") || key.starts_with("oif") || key.starts_with("sk");
            if alone {
                key.to_owned()
            } else {
                format!("meta {key}")
            }
        }
        "ct" => match word("dir") {
            Some(direction) => format!("ct {direction} {}", word("key")?),
            None => format!("ct {}", word("key")?),
        },
        "fib" => format!(
            "fib {} {}",
            names(body.get("flags")).join(" . "),
            word("result")?
        ),
        "socket" => format!("socket {}", word("key")?),
        "numgen" => format!("numgen {}{}", word("mode")?, modulus(body)?),
        "jhash" | "symhash" => hash_text(name, body)?,
        "map" => lookup(body, "map"),
        "set" => {
            let elements = body
                .as_array()?
                .iter()
                .map(|json| element_text(json, types));
            format!("{{ {} }}", elements.collect::<Vec<_>>().join(", "))
        }
        "concat" => {
            let parts = body.as_array()?.iter().enumerate();
            let parts = parts.map(|(i, part)| expr_text(part, types.get(i..).unwrap_or_default()));
            parts.collect::<Vec<_>>().join(" . ")
        }
        "prefix" => format!("{}/{}", word("addr")?, body.get("len")?),
        "range" => join(body.as_array()?, "-", types),
        "elem" => element_text(json, types),
        "&" | "|" | "^" | "<<" | ">>" => operation(name, body.as_array()?, types),
        "accept" | "drop" | "continue" | "return" => name.to_owned(),
        "jump" | "goto" => format!("{name} {}", body.get("target")?.as_str()?),
        _ => return None,
    })
}

/// `jhash ip saddr mod 4 seed 0x1`.
fn hash_text(name: &str, body: &Json) -> Option<String> {
    let of = body
        .get("expr")
        .map_or(String::new(), |e| format!(" {}", expr_text(e, &[])));
    Some(format!("{name}{of}{}", modulus(body)?))
}

fn modulus(body: &Json) -> Option<String> {
    let mut text = format!(" mod {}", body.get("mod")?);
    let number = |key: &str| body.get(key).and_then(Json::as_u64).filter(|n| *n != 0);
    if let Some(seed) = number("seed") {
        text.push_str(&format!(" seed {seed:#x}"));
    }
    if let Some(offset) = number("offset") {
        text.push_str(&format!(" offset {offset}"));
    }
    Some(text)
}

fn operation(op: &str, operands: &[Json], types: &[TermType]) -> String {
    let words: Vec<String> = operands
        .iter()
        .map(|operand| {
            let text = expr_text(operand, types);
            let inner = only(operand).is_some_and(|(name, _)| name == "|");
            if inner && op != "|" {
                format!("({text})")
            } else {
                text
            }
        })
        .collect();
    words.join(&format!(" {op} "))
}

/// Return the text of an element of a set, with its comment and data.
fn element_text(json: &Json, types: &[TermType]) -> String {
    let (key, data) = match json {
        Json::Array(pair) => match pair.as_slice() {
            [key, data] => (key, Some(data)),
            _ => return json.to_string(),
        },
        other => (other, None),
    };
    let mut text = match key.get("elem") {
        Some(elem) => {
            let mut text = elem
                .get("val")
                .map_or(String::new(), |v| expr_text(v, types));
            if let Some(seconds) = elem.get("timeout") {
                text.push_str(&format!(" timeout {seconds}s"));
            }
            if let Some(comment) = elem.get("comment") {
                text.push_str(&format!(" comment {comment}"));
            }
            text
        }
        None => expr_text(key, types),
    };
    if let Some(data) = data {
        text.push_str(&format!(" : {}", expr_text(data, &[])));
    }
    text
}

/// `tcp dport vmap { 80 : accept }`.
pub(super) fn lookup(body: &Json, word: &str) -> String {
    let (key, types) = body.get("key").map(typed_text).unwrap_or_default();
    let data = body.get("data").map(|d| expr_text(d, &types));
    format!("{key} {word} {}", data.unwrap_or_default())
}
