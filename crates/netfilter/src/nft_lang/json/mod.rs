//! What `nft -j list ruleset` prints (libnftables-json(5)).

mod expr;
mod words;

use std::collections::HashMap;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;

use self::expr::{elements, expr, names, set_ref, string, typed_expr, types, unknown, verdict};
use super::statement::split_target;
use super::{
    BaseDecl, ChainDecl, ChainType, Elements, Literal, NatStatement, NatType, Op, ParseError,
    RuleDecl, Ruleset, SetDecl, SetOp, Statement, TableDecl, TableFamily, Term, TermType, Unknown,
    block,
};

/// Return the position of an object of the list; parsed JSON does not contain it.
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

/// Return serde_json's message without the position at its end.
fn bare_message(e: &serde_json::Error) -> String {
    let said = e.to_string();
    said.split(" at line ")
        .next()
        .unwrap_or_default()
        .to_owned()
}

pub(super) fn parse(text: &str) -> Result<Ruleset, ParseError> {
    let mut reader = Reader::default();
    let mut json = serde_json::Deserializer::from_str(text);
    let read = json.deserialize_map(&mut reader).and_then(|()| json.end());
    if let Some((index, message)) = reader.failed {
        let (line, column) = place(text, index);
        return Err(ParseError {
            line,
            column,
            message,
        });
    }
    read.map_err(|e| ParseError {
        line: e.line(),
        column: e.column().max(1),
        message: bare_message(&e),
    })?;
    if !reader.found {
        return Err(ParseError {
            line: 1,
            column: 1,
            message: "an object without the list \"nftables\": is this `nft -j list ruleset`?"
                .into(),
        });
    }
    Ok(reader.ruleset)
}

/// Reads the objects of the list one by one: parsed JSON is many times as large as its text.
#[derive(Default)]
struct Reader {
    ruleset: Ruleset,
    places: HashMap<(TableFamily, Box<str>), usize>,
    found: bool,
    /// The index of the invalid object, and the reason.
    failed: Option<(usize, String)>,
}

impl<'de> Visitor<'de> for &mut Reader {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the list \"nftables\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "nftables" {
                self.found = true;
                map.next_value_seed(&mut *self)?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(object) = seq.next_element::<Json>()? {
            if let Err(message) = self.object(index, &object) {
                self.failed = Some((index, message));
                return Err(serde::de::Error::custom("invalid object"));
            }
            index += 1;
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for &mut Reader {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl Reader {
    fn object(&mut self, index: usize, object: &Json) -> Result<(), String> {
        let Some((kind, body)) = object.as_object().and_then(|o| o.iter().next()) else {
            return Err(format!("nftables[{index}] is not an object"));
        };
        if kind == "metainfo" {
            return Ok(());
        }
        let at = |e: String| format!("nftables[{index}] ({kind}): {e}");
        let family = TableFamily::parse(string(body, "family").map_err(at)?)
            .ok_or_else(|| at("unknown family".into()))?;
        let tables = &mut self.ruleset.tables;
        if kind == "table" {
            let name = string(body, "name").map_err(at)?;
            let mut table = TableDecl::new(family, name);
            table.dormant = names(body.get("flags")).iter().any(|f| &**f == "dormant");
            self.places.insert((family, name.into()), tables.len());
            tables.push(table);
            return Ok(());
        }
        let table_name = string(body, "table").map_err(at)?;
        let place = self.places.get(&(family, table_name.into()));
        let table = place
            .and_then(|i| tables.get_mut(*i))
            .ok_or_else(|| at(format!("table {table_name} is not listed before it")))?;
        object_of(table, kind, body, object).map_err(at)
    }
}

fn object_of(table: &mut TableDecl, kind: &str, body: &Json, whole: &Json) -> Result<(), String> {
    match kind {
        "chain" => {
            let chain = chain(body)?;
            if !table.add_chain(chain) {
                return Err("duplicate chain".into());
            }
        }
        "rule" => {
            let name = string(body, "chain")?;
            let rule = rule(body);
            table
                .chain_mut(name)
                .ok_or_else(|| format!("chain {name} is not listed before it"))?
                .rules
                .push(rule);
        }
        "set" | "map" => {
            let set = set(body)?;
            if !table.add_set(set) {
                return Err("duplicate set".into());
            }
        }
        _ => table.others.push(unknown(whole)),
    }
    Ok(())
}

fn chain(body: &Json) -> Result<ChainDecl, String> {
    let mut chain = ChainDecl {
        name: string(body, "name")?.into(),
        ..ChainDecl::default()
    };
    if let Some(hook) = body.get("hook").and_then(Json::as_str) {
        let kind = match string(body, "type")? {
            "filter" => ChainType::Filter,
            "nat" => ChainType::Nat,
            "route" => ChainType::Route,
            other => return Err(format!("{other:?} is not a chain type")),
        };
        let priority = match body.get("prio") {
            Some(Json::Number(n)) => n.as_i64().and_then(|n| i32::try_from(n).ok()),
            Some(Json::String(s)) => block::priority(s, hook),
            _ => None,
        };
        let devices = match body.get("dev") {
            Some(Json::String(one)) => vec![one.as_str().into()],
            Some(Json::Array(all)) => all
                .iter()
                .filter_map(Json::as_str)
                .map(Into::into)
                .collect(),
            _ => Vec::new(),
        };
        chain.base = Some(BaseDecl {
            kind,
            hook: hook.into(),
            devices,
            priority: priority.ok_or("\"prio\" is not a priority")?,
            drops: body.get("policy").and_then(Json::as_str) == Some("drop"),
        });
    }
    Ok(chain)
}

fn rule(body: &Json) -> RuleDecl {
    let mut rule = RuleDecl::default();
    let family = string(body, "family").unwrap_or_default();
    let empty = Vec::new();
    let statements = body.get("expr").and_then(Json::as_array).unwrap_or(&empty);
    let mut text = String::new();
    for json in statements {
        if !text.is_empty() {
            text.push(' ');
        }
        let shown = words::statement(json, family);
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

fn set(body: &Json) -> Result<SetDecl, String> {
    let mut set = SetDecl {
        name: string(body, "name")?.into(),
        key: types(body.get("type")),
        data: types(body.get("map")),
        flags: names(body.get("flags")),
        timeout: body.get("timeout").map(|t| t.to_string().into()),
        elements: Elements::default(),
    };
    if let Some(all) = body.get("elem").and_then(Json::as_array) {
        set.elements = elements(all, &set.key)
            .ok_or("an element is not modelled")?
            .into();
    }
    Ok(set)
}

fn statement(json: &Json) -> Option<Statement> {
    if let Some(v) = verdict(json) {
        return Some(Statement::Verdict(v));
    }
    let (name, body) = json.as_object()?.iter().next()?;
    let text = || Box::from(words::statement(json, ""));
    Some(match name.as_str() {
        "match" => comparison(body)?,
        "vmap" => {
            let key = expr(body.get("key")?)?;
            let map = set_ref(body.get("data")?, &key.types(), &[TermType::Verdict])?;
            Statement::Vmap { key, map }
        }
        "mangle" => {
            let field = expr(body.get("key")?)?;
            match field {
                Term::Meta(super::Meta::Mark) | Term::Ct(super::Ct::Mark) => Statement::Assign {
                    value: expr(body.get("value")?)?,
                    field,
                },
                Term::Field(_) => return None,
                _ => Statement::Inert(text()),
            }
        }
        "dnat" | "snat" | "masquerade" | "redirect" => nat(name, body)?,
        "reject" => Statement::Reject(reject(body).into()),
        "set" | "map" => dynset(body)?,
        "limit" | "quota" if body.is_object() => Statement::Limit {
            over: body.get("inv").and_then(Json::as_bool).unwrap_or(false),
            text: text(),
        },
        "notrack" => Statement::Notrack,
        "counter" | "log" | "last" | "flow" | "ct helper" | "ct timeout" | "ct expectation" => {
            Statement::Inert(text())
        }
        _ => return None,
    })
}

/// Return the text of a reject: `with icmpx admin-prohibited`, `with tcp reset`.
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
    // nft prints == also where the rule was written without an operator.
    let plain = !left.data_type().is_flags() || matches!(right, Term::Set(_) | Term::SetName(_));
    let op = if op == Op::Eq && plain {
        Op::Implicit
    } else {
        op
    };
    Some(Statement::Match { left, op, right })
}

fn nat(name: &str, body: &Json) -> Option<Statement> {
    let of = |key| match body.get(key) {
        None => Some(None),
        Some(json) => typed_expr(json, &[]).map(Some),
    };
    let mut address = of("addr")?;
    let mut port = of("port")?;
    if let Some(Term::Value(Literal::Text(text))) = &address {
        (address, port) = split_target(text)?;
    }
    Some(Statement::Nat(NatStatement {
        kind: match name {
            "dnat" => NatType::Dnat,
            "snat" => NatType::Snat,
            "masquerade" => NatType::Masquerade,
            _ => NatType::Redirect,
        },
        address,
        port,
        flags: names(body.get("flags")),
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
        condition: conditions.map(|s| words::statements(s).into()),
    })
}
