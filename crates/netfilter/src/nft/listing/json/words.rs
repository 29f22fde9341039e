//! JSON's statements in the words that the text form has for them, to be shown to people.

use serde_json::{Map, Value as Json};

use super::super::DataType;
use super::expr::{self, names};

/// The one key of an object with what it has.
fn only(json: &Json) -> Option<(&str, &Json)> {
    let (key, body) = json.as_object()?.iter().next()?;
    Some((key, body))
}

/// A statement of a table of this family; one that is not known stays JSON.
pub(super) fn statement(json: &Json, family: &str) -> String {
    known_statement(json, family).unwrap_or_else(|| json.to_string())
}

/// Those of an element, in order.
pub(super) fn statements(all: &Json) -> String {
    let all = all
        .as_array()
        .map_or(std::slice::from_ref(all), Vec::as_slice);
    let shown: Vec<String> = all.iter().map(|json| statement(json, "")).collect();
    shown.join(" ")
}

fn known_statement(json: &Json, family: &str) -> Option<String> {
    let (name, body) = only(json)?;
    Some(match name {
        "accept" | "drop" | "continue" | "return" | "notrack" => name.to_owned(),
        "jump" | "goto" => format!("{name} {}", body.get("target")?.as_str()?),
        "match" => comparison(body)?,
        "vmap" => lookup(body, "vmap"),
        "mangle" => {
            let (key, types) = typed(body.get("key")?);
            format!("{key} set {}", value(body.get("value")?, &types))
        }
        "dnat" | "snat" | "masquerade" | "redirect" => nat(name, body),
        "reject" => reject(body, family),
        "set" | "map" => dynset(body)?,
        "limit" => limit(body)?,
        "counter" => match body {
            Json::Object(o) => format!("counter{}", numbers(o, &["packets", "bytes"])),
            Json::String(name) => format!("counter name {name:?}"),
            _ => "counter".to_owned(),
        },
        "log" => log(body),
        "quota" => quota(body)?,
        "ct count" => format!("ct count {}{}", over(body), body.get("val")?),
        "xt" => {
            let word = |key: &str| body.get(key).and_then(Json::as_str);
            format!("xt {} {:?}", word("type")?, word("name")?)
        }
        "ct helper" | "ct timeout" | "ct expectation" => format!("{name} set {:?}", body.as_str()?),
        _ => return None,
    })
}

/// `packets 0 bytes 0`, of those that are there.
fn numbers(of: &Map<String, Json>, keys: &[&str]) -> String {
    let there = keys.iter().filter_map(|key| Some((key, of.get(*key)?)));
    there.map(|(key, n)| format!(" {key} {n}")).collect()
}

fn comparison(body: &Json) -> Option<String> {
    let left = body.get("left")?;
    let (text, types) = typed(left);
    let right = value(body.get("right")?, &types);
    let op = match body.get("op")?.as_str()? {
        "in" => "",
        other => other,
    };
    // `tcp flags syn / fin,syn`: of the mask, exactly these.
    let masked = left.get("&").and_then(Json::as_array);
    if let Some([field, mask @ Json::Array(_)]) = masked.map(Vec::as_slice) {
        let op = if op == "!=" { "!= " } else { "" };
        let (field, mask) = (value(field, &types), value(mask, &types));
        return Some(format!("{field} {op}{right} / {mask}"));
    }
    Some(match op {
        "==" | "" if masked.is_none() => format!("{text} {right}"),
        _ => format!("{text} {op} {right}"),
    })
}

/// `tcp dport vmap { 80 : accept }`.
fn lookup(body: &Json, word: &str) -> String {
    let (key, types) = body.get("key").map(typed).unwrap_or_default();
    let data = body.get("data").map(|d| value(d, &types));
    format!("{key} {word} {}", data.unwrap_or_default())
}

fn nat(name: &str, body: &Json) -> String {
    let word = |key| body.get(key).map(|json| value(json, &[]));
    let mut text = name.to_owned();
    let port = word("port");
    if let Some(address) = word("addr") {
        if let Some(family) = body.get("family").and_then(Json::as_str) {
            text.push_str(&format!(" {family}"));
        }
        let bare = port.is_none() || !address.contains(':');
        text.push_str(&if bare {
            format!(" to {address}")
        } else {
            format!(" to [{address}]")
        });
    } else if port.is_some() {
        text.push_str(" to ");
    }
    if let Some(port) = port {
        text.push_str(&format!(":{port}"));
    }
    let flags = names(body.get("flags"));
    if !flags.is_empty() {
        text.push_str(&format!(" {}", flags.join(",")));
    }
    text
}

fn reject(body: &Json, family: &str) -> String {
    let usual = match family {
        "ip" => "icmp",
        "ip6" => "icmpv6",
        _ => "icmpx",
    };
    let kind = body.get("type").and_then(Json::as_str);
    match (kind, body.get("expr")) {
        (Some(kind), Some(Json::String(s))) if kind == usual && s == "port-unreachable" => {
            "reject".to_owned()
        }
        (Some(kind), Some(reason)) => format!("reject with {kind} {}", value(reason, &[])),
        (Some(kind), None) => format!("reject with {kind}"),
        _ => "reject".to_owned(),
    }
}

fn dynset(body: &Json) -> Option<String> {
    let word = |key: &str| body.get(key).and_then(Json::as_str);
    let set = word("set").or_else(|| word("map"))?;
    let mut element = value(body.get("elem")?, &[]);
    if let Some(all) = body.get("stmt") {
        element.push_str(&format!(" {}", statements(all)));
    }
    if let Some(data) = body.get("data") {
        element.push_str(&format!(" : {}", value(data, &[])));
    }
    Some(format!("{} {set} {{ {element} }}", word("op")?))
}

/// `quota over 10 mbytes`.
fn quota(body: &Json) -> Option<String> {
    let unit = |key: &str| body.get(key).and_then(Json::as_str).unwrap_or("bytes");
    let mut text = format!(
        "quota {}{} {}",
        over(body),
        body.get("val")?,
        unit("val_unit")
    );
    if let Some(used) = body.get("used").filter(|n| n.as_u64() != Some(0)) {
        text.push_str(&format!(" used {used} {}", unit("used_unit")));
    }
    Some(text)
}

/// Whether only what goes beyond is meant.
fn over(body: &Json) -> &'static str {
    let beyond = body.get("inv").and_then(Json::as_bool) == Some(true);
    if beyond { "over " } else { "" }
}

fn limit(body: &Json) -> Option<String> {
    let word = |key: &str| body.get(key).and_then(Json::as_str);
    let Some(per) = word("per") else {
        return Some(format!("limit name {:?}", body.as_str()?));
    };
    let over = over(body);
    let of_rate = word("rate_unit").filter(|u| *u != "packets");
    let unit = of_rate.map_or(String::new(), |u| format!(" {u}"));
    let mut text = format!("limit rate {over}{}{unit}/{per}", body.get("rate")?);
    // Five packets go without saying.
    let burst = body.get("burst").and_then(Json::as_u64);
    if let Some(burst) = burst.filter(|n| *n != 0 && *n != 5) {
        let unit = word("burst_unit").unwrap_or("packets");
        text.push_str(&format!(" burst {burst} {unit}"));
    }
    Some(text)
}

fn log(body: &Json) -> String {
    let mut text = "log".to_owned();
    for key in ["prefix", "level", "group", "snaplen", "queue-threshold"] {
        match body.get(key) {
            Some(Json::String(word)) if key == "prefix" => {
                text.push_str(&format!(" {key} {word:?}"));
            }
            Some(other) => text.push_str(&format!(" {key} {}", value(other, &[]))),
            None => {}
        }
    }
    text
}

/// An expression with the types of its parts.
fn typed(json: &Json) -> (String, Vec<DataType>) {
    let types = expr::expr(json).map_or(Vec::new(), |e| e.types());
    (value(json, &types), types)
}

/// An expression or value of these types.
fn value(json: &Json, types: &[DataType]) -> String {
    let of = types.first().copied().unwrap_or(DataType::Other);
    match json {
        Json::String(s) if matches!(of, DataType::Ifname | DataType::IfaceIndex) => {
            if s.starts_with('@') || s == "0" {
                s.clone()
            } else {
                format!("{s:?}")
            }
        }
        Json::String(s) => s.clone(),
        Json::Number(n) if of == DataType::Mark => {
            n.as_u64().map_or(n.to_string(), |n| format!("{n:#010x}"))
        }
        // Flags, any of which will do.
        Json::Array(all) => join(all, ",", types),
        Json::Object(_) => object(json, types).unwrap_or_else(|| json.to_string()),
        // Of a way: whether there is one.
        Json::Bool(there) => (if *there { "exists" } else { "missing" }).to_owned(),
        other => other.to_string(),
    }
}

fn join(all: &[Json], between: &str, types: &[DataType]) -> String {
    let words: Vec<String> = all.iter().map(|json| value(json, types)).collect();
    words.join(between)
}

fn object(json: &Json, types: &[DataType]) -> Option<String> {
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
        "jhash" | "symhash" => hash(name, body)?,
        "map" => lookup(body, "map"),
        "set" => {
            let elements = body.as_array()?.iter().map(|json| element(json, types));
            format!("{{ {} }}", elements.collect::<Vec<_>>().join(", "))
        }
        "concat" => {
            let parts = body.as_array()?.iter().enumerate();
            let parts = parts.map(|(i, part)| value(part, types.get(i..).unwrap_or_default()));
            parts.collect::<Vec<_>>().join(" . ")
        }
        "prefix" => format!("{}/{}", word("addr")?, body.get("len")?),
        "range" => join(body.as_array()?, "-", types),
        "elem" => element(json, types),
        "&" | "|" | "^" | "<<" | ">>" => operation(name, body.as_array()?, types),
        "accept" | "drop" | "continue" | "return" | "jump" | "goto" => statement(json, ""),
        _ => return None,
    })
}

/// `jhash ip saddr mod 4 seed 0x1`.
pub(super) fn hash(name: &str, body: &Json) -> Option<String> {
    let of = body
        .get("expr")
        .map_or(String::new(), |e| format!(" {}", value(e, &[])));
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

fn operation(op: &str, operands: &[Json], types: &[DataType]) -> String {
    let words: Vec<String> = operands
        .iter()
        .map(|operand| {
            let text = value(operand, types);
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

/// An element of a set, with its comment, and what it maps to.
fn element(json: &Json, types: &[DataType]) -> String {
    let (key, data) = match json {
        Json::Array(pair) => match pair.as_slice() {
            [key, data] => (key, Some(data)),
            _ => return json.to_string(),
        },
        other => (other, None),
    };
    let mut text = match key.get("elem") {
        Some(elem) => {
            let mut text = elem.get("val").map_or(String::new(), |v| value(v, types));
            if let Some(seconds) = elem.get("timeout") {
                text.push_str(&format!(" timeout {seconds}s"));
            }
            if let Some(comment) = elem.get("comment") {
                text.push_str(&format!(" comment {comment}"));
            }
            text
        }
        None => value(key, types),
    };
    if let Some(data) = data {
        text.push_str(&format!(" : {}", value(data, &[])));
    }
    text
}
