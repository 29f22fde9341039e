//! Statements of `nft -j` as text.

use serde_json::{Map, Value as Json};

use super::expr::{self, names};

/// Return the text of a statement; an unknown one stays JSON.
pub(super) fn statement(json: &Json, family: &str) -> String {
    known_statement(json, family).unwrap_or_else(|| json.to_string())
}

/// Return the text of the statements of an element.
pub(super) fn statements(all: &Json) -> String {
    let all = all
        .as_array()
        .map_or(std::slice::from_ref(all), Vec::as_slice);
    let shown: Vec<String> = all.iter().map(|json| statement(json, "")).collect();
    shown.join(" ")
}

fn known_statement(json: &Json, family: &str) -> Option<String> {
    let (name, body) = expr::only(json)?;
    Some(match name {
        "accept" | "drop" | "continue" | "return" | "notrack" => name.to_owned(),
        "jump" | "goto" => format!("{name} {}", body.get("target")?.as_str()?),
        "match" => comparison(body)?,
        "vmap" => expr::lookup(body, "vmap"),
        "mangle" => {
            let (key, types) = expr::typed_text(body.get("key")?);
            format!("{key} set {}", expr::expr_text(body.get("value")?, &types))
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

/// Return `packets 0 bytes 0`, as far as present.
fn numbers(of: &Map<String, Json>, keys: &[&str]) -> String {
    let there = keys.iter().filter_map(|key| Some((key, of.get(*key)?)));
    there.map(|(key, n)| format!(" {key} {n}")).collect()
}

fn comparison(body: &Json) -> Option<String> {
    let left = body.get("left")?;
    let (text, types) = expr::typed_text(left);
    let right = expr::expr_text(body.get("right")?, &types);
    let op = match body.get("op")?.as_str()? {
        "in" => "",
        other => other,
    };
    // `tcp flags syn / fin,syn`: exactly these of the mask.
    let masked = left.get("&").and_then(Json::as_array);
    if let Some([field, mask @ Json::Array(_)]) = masked.map(Vec::as_slice) {
        let op = if op == "!=" { "!= " } else { "" };
        let (field, mask) = (
            expr::expr_text(field, &types),
            expr::expr_text(mask, &types),
        );
        return Some(format!("{field} {op}{right} / {mask}"));
    }
    Some(match op {
        "==" | "" if masked.is_none() => format!("{text} {right}"),
        _ => format!("{text} {op} {right}"),
    })
}

fn nat(name: &str, body: &Json) -> String {
    let word = |key| body.get(key).map(|json| expr::expr_text(json, &[]));
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
        (Some(kind), Some(reason)) => {
            format!("reject with {kind} {}", expr::expr_text(reason, &[]))
        }
        (Some(kind), None) => format!("reject with {kind}"),
        _ => "reject".to_owned(),
    }
}

fn dynset(body: &Json) -> Option<String> {
    let word = |key: &str| body.get(key).and_then(Json::as_str);
    let set = word("set").or_else(|| word("map"))?;
    let mut element = expr::expr_text(body.get("elem")?, &[]);
    if let Some(all) = body.get("stmt") {
        element.push_str(&format!(" {}", statements(all)));
    }
    if let Some(data) = body.get("data") {
        element.push_str(&format!(" : {}", expr::expr_text(data, &[])));
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

/// Return `over ` for an inverted limit.
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
    // nft omits the default burst of five packets.
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
            Some(other) => text.push_str(&format!(" {key} {}", expr::expr_text(other, &[]))),
            None => {}
        }
    }
    text
}
