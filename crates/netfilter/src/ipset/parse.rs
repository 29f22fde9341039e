//! Parser of `ipset save`.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Element, Method, Part, PartKind, PortProtocol, Set, Sets};

/// Position and cause of a parse failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ipset dump, line {line}, column {column}: {message}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// The column in bytes, from 1.
    pub column: usize,
    /// The cause.
    pub message: String,
}

/// A line as words with their columns.
struct Line<'a> {
    number: usize,
    length: usize,
    words: Vec<(usize, &'a str)>,
    next: usize,
}

impl<'a> Line<'a> {
    fn error(&self, column: usize, message: impl Into<String>) -> ParseError {
        ParseError {
            line: self.number,
            column,
            message: message.into(),
        }
    }

    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.next).map(|(_, w)| *w)
    }

    fn column(&self) -> usize {
        self.words
            .get(self.next)
            .map_or(self.length + 1, |(column, _)| *column)
    }

    fn word(&mut self, what: &str) -> Result<(usize, &'a str), ParseError> {
        match self.words.get(self.next) {
            Some(w) => {
                self.next += 1;
                Ok(*w)
            }
            None => Err(self.error(self.length + 1, format!("the line ends before {what}"))),
        }
    }
}

/// Split at white space outside double quotes.
fn split(number: usize, text: &str) -> Result<Line<'_>, ParseError> {
    let mut line = Line {
        number,
        length: text.len(),
        words: Vec::new(),
        next: 0,
    };
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(b) = bytes.get(at) {
        if b.is_ascii_whitespace() {
            at += 1;
        } else if *b == b'"' {
            let rest = text.get(at + 1..).unwrap_or_default();
            let Some(len) = rest.find('"') else {
                return Err(line.error(at + 1, "the quote is not closed"));
            };
            line.words
                .push((at + 1, rest.get(..len).unwrap_or_default()));
            at += len + 2;
        } else {
            let rest = text.get(at..).unwrap_or_default();
            let len = rest
                .find(|c: char| c.is_ascii_whitespace())
                .unwrap_or(rest.len());
            line.words
                .push((at + 1, rest.get(..len).unwrap_or_default()));
            at += len.max(1);
        }
    }
    Ok(line)
}

pub(super) fn parse(text: &str) -> Result<Sets, ParseError> {
    let mut sets = Sets::default();
    let mut by_name: HashMap<Box<str>, usize> = HashMap::new();
    for (i, raw) in text.lines().enumerate() {
        let mut line = split(i + 1, raw)?;
        match line.peek() {
            None => {}
            Some(w) if w.starts_with('#') => {}
            Some("create" | "-N" | "--create") => {
                line.next += 1;
                let (column, _) = (line.column(), ());
                let set = create(&mut line)?;
                if by_name.insert(set.name.clone(), sets.sets.len()).is_some() {
                    return Err(line.error(column, format!("set {} already exists", set.name)));
                }
                sets.sets.push(set);
            }
            Some("add" | "-A" | "--add") => {
                line.next += 1;
                let (column, name) = line.word("the name of a set")?;
                let set = by_name.get(name).and_then(|i| sets.sets.get_mut(*i));
                let Some(set) = set else {
                    return Err(line.error(column, format!("set {name} does not exist")));
                };
                let element = element(&mut line, set)?;
                set.elements.push(element);
            }
            // Accepted by `ipset restore`; absent from dumps.
            Some("COMMIT" | "quit") => {}
            Some(other) => {
                return Err(line.error(
                    line.column(),
                    format!(
                        "expected create or add, found {other:?}: the text is not from `ipset save`"
                    ),
                ));
            }
        }
    }
    Ok(sets)
}

fn create(line: &mut Line<'_>) -> Result<Set, ParseError> {
    let (column, name) = line.word("the name of a set")?;
    if name.len() > 31 {
        return Err(line.error(column, "a set name has at most 31 bytes"));
    }
    let (column, kind) = line.word("the type of the set")?;
    let unknown = |line: &Line<'_>| {
        line.error(
            column,
            format!("{kind:?} is not a set type such as hash:ip,port"),
        )
    };
    let Some((method, parts)) = kind.split_once(':') else {
        return Err(unknown(line));
    };
    let method = match method {
        "hash" => Method::Hash,
        "bitmap" => Method::Bitmap,
        "list" => Method::List,
        _ => return Err(unknown(line)),
    };
    let Some(parts) = parts.split(',').map(PartKind::parse).collect() else {
        return Err(unknown(line));
    };
    Ok(Set {
        name: name.into(),
        method,
        parts,
        options: options(line)?,
        elements: Vec::new(),
    })
}

/// The options without a value; every other option has one.
const FLAGS: [&str; 7] = [
    "counters", "forceadd", "skbinfo", "nomatch", "wildcard", "noprobe", "-exist",
];

type Options = Vec<(Box<str>, Option<Box<str>>)>;

fn options(line: &mut Line<'_>) -> Result<Options, ParseError> {
    let mut all = Options::new();
    // `comment` is a flag in `create` and has a text in `add`, in quotes and never last.
    while let Some(name) = line.peek() {
        line.next += 1;
        let lone = name == "comment" && line.peek().is_none_or(|w| FLAGS.contains(&w));
        let value = if lone || FLAGS.contains(&name) {
            None
        } else {
            let (_, v) = line.word("the option's value")?;
            Some(v.into())
        };
        all.push((name.into(), value));
    }
    Ok(all)
}

fn element(line: &mut Line<'_>, set: &Set) -> Result<Element, ParseError> {
    let (column, text) = line.word("an element")?;
    let words: Vec<&str> = text.split(',').collect();
    if words.len() != set.parts.len() {
        return Err(line.error(
            column,
            format!(
                "{text:?} has {} parts, but {} has {}",
                words.len(),
                set.type_name(),
                set.parts.len()
            ),
        ));
    }
    let mut parts = Vec::with_capacity(words.len());
    let mut at = column;
    for (word, kind) in words.iter().zip(&set.parts) {
        let Some(part) = part(word, *kind) else {
            return Err(line.error(at, format!("{word:?} is not {}", describe(*kind))));
        };
        parts.push(part);
        at += word.len() + 1;
    }
    let mut options = options(line)?;
    let before = options.len();
    options.retain(|(n, _)| &**n != "nomatch");
    Ok(Element {
        parts,
        nomatch: options.len() != before,
        options,
    })
}

fn describe(kind: PartKind) -> &'static str {
    match kind {
        PartKind::Ip => "an address",
        PartKind::Net => "an address range",
        PartKind::Port => "a port (such as tcp:80)",
        PartKind::Mac => "a hardware address",
        PartKind::Mark => "a mark",
        PartKind::Iface => "an interface",
        PartKind::Set => "the name of a set",
    }
}

fn part(text: &str, kind: PartKind) -> Option<Part> {
    match kind {
        PartKind::Ip | PartKind::Net => address(text),
        PartKind::Port => port(text),
        PartKind::Mac => {
            let bytes: Option<Vec<u8>> = text
                .split(':')
                .map(|b| u8::from_str_radix(b, 16).ok())
                .collect();
            Some(Part::Mac(bytes?.try_into().ok()?))
        }
        PartKind::Mark => {
            let mark = match text.strip_prefix("0x") {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => text.parse().ok()?,
            };
            Some(Part::Mark(mark))
        }
        PartKind::Iface => {
            let (name, physical) = match text.strip_prefix("physdev:") {
                Some(name) => (name, true),
                None => (text, false),
            };
            (!name.is_empty()).then(|| Part::Iface {
                name: name.into(),
                physical,
            })
        }
        PartKind::Set => (!text.is_empty()).then(|| Part::Set(text.into())),
    }
}

fn address(text: &str) -> Option<Part> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(Part::Ip(ip));
    }
    if let Ok(net) = text.parse::<IpNet>() {
        return Some(Part::Net(net.trunc()));
    }
    let (a, b) = text.split_once('-')?;
    let (a, b) = (a.parse::<IpAddr>().ok()?, b.parse::<IpAddr>().ok()?);
    (a.is_ipv4() == b.is_ipv4() && a <= b).then_some(Part::IpRange(a, b))
}

/// The names of ipset for pairs of ICMP type and code.
const ICMP: [(&str, u8, u8); 22] = [
    ("echo-reply", 0, 0),
    ("network-unreachable", 3, 0),
    ("host-unreachable", 3, 1),
    ("protocol-unreachable", 3, 2),
    ("port-unreachable", 3, 3),
    ("fragmentation-needed", 3, 4),
    ("source-route-failed", 3, 5),
    ("network-unknown", 3, 6),
    ("host-unknown", 3, 7),
    ("network-prohibited", 3, 9),
    ("host-prohibited", 3, 10),
    ("communication-prohibited", 3, 13),
    ("source-quench", 4, 0),
    ("network-redirect", 5, 0),
    ("host-redirect", 5, 1),
    ("echo-request", 8, 0),
    ("router-advertisement", 9, 0),
    ("router-solicitation", 10, 0),
    ("ttl-zero-during-transit", 11, 0),
    ("ttl-zero-during-reassembly", 11, 1),
    ("timestamp-request", 13, 0),
    ("timestamp-reply", 14, 0),
];

/// Like [`ICMP`], for ICMPv6.
const ICMPV6: [(&str, u8, u8); 14] = [
    ("no-route", 1, 0),
    ("communication-prohibited", 1, 1),
    ("address-unreachable", 1, 3),
    ("port-unreachable", 1, 4),
    ("packet-too-big", 2, 0),
    ("ttl-zero-during-transit", 3, 0),
    ("ttl-zero-during-reassembly", 3, 1),
    ("echo-request", 128, 0),
    ("echo-reply", 129, 0),
    ("router-solicitation", 133, 0),
    ("router-advertisement", 134, 0),
    ("neighbour-solicitation", 135, 0),
    ("neighbour-advertisement", 136, 0),
    ("redirect", 137, 0),
];

fn icmp_name(protocol: Option<PortProtocol>, text: &str) -> Option<(u8, u8)> {
    let names: &[_] = match protocol?.0 {
        1 => &ICMP,
        58 => &ICMPV6,
        _ => return None,
    };
    let found = names.iter().find(|(name, ..)| *name == text)?;
    Some((found.1, found.2))
}

fn port(text: &str) -> Option<Part> {
    let (protocol, ports) = match text.split_once(':') {
        Some((p, ports)) => (Some(PortProtocol::parse(p)?), ports),
        None => (None, text),
    };
    if let Some((kind, code)) = icmp_name(protocol, ports) {
        let packed = u16::from_be_bytes([kind, code]);
        return Some(Part::Port {
            protocol,
            first: packed,
            last: packed,
        });
    }
    // The "port" of ICMP is type and code, as in the kernel: type << 8 | code.
    if let Some((kind, code)) = ports.split_once('/') {
        let packed = u16::from_be_bytes([kind.parse().ok()?, code.parse().ok()?]);
        return Some(Part::Port {
            protocol,
            first: packed,
            last: packed,
        });
    }
    let (first, last) = match ports.split_once('-') {
        Some((a, b)) => (a.parse().ok()?, b.parse().ok()?),
        None => {
            let port = ports.parse().ok()?;
            (port, port)
        }
    };
    (first <= last).then_some(Part::Port {
        protocol,
        first,
        last,
    })
}
