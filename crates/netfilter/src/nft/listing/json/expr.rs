//! Expressions, values and elements in the JSON of `nft -j`.

use serde_json::Value as Json;

use super::super::expr::fib;
use super::super::literal::{self, value as typed};
use super::super::statement::all_flags;
use super::super::{
    BinaryOp, Data, DataType, Element, Expr, Item, Set, SetRef, Unknown, Value, Verdict,
};
use super::words;

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
        .ok_or_else(|| format!("{key:?} is not there or not a string"))
}

/// A string or a list of strings.
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

pub(super) fn types(json: Option<&Json>) -> Vec<DataType> {
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

pub(super) fn elements(all: &[Json], key: &[DataType]) -> Option<Vec<Element>> {
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

pub(super) fn verdict(json: &Json) -> Option<Verdict> {
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

pub(super) fn set_ref(json: &Json, key: &[DataType], data: &[DataType]) -> Option<SetRef> {
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

pub(super) fn expr(json: &Json) -> Option<Expr> {
    typed_expr(json, &[])
}

pub(super) fn typed_expr(json: &Json, types: &[DataType]) -> Option<Expr> {
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
            let flags = names(body.get("flags"));
            let flags: Vec<&str> = flags.iter().map(|f| &**f).collect();
            fib(&flags, text("result")?)
        }
        "numgen" => Some(Expr::Numgen {
            random: text("mode")? == "random",
            modulus: number("mod").filter(|m| *m > 0)?,
            offset: number("offset").unwrap_or(0),
        }),
        "jhash" | "symhash" => Some(Expr::Hash {
            text: words::hash(name, body)?.into(),
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
