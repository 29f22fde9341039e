//! Statements without registers.

use std::fmt::Write as _;

use super::object::text;
use super::value::{ICMP_CODE, ICMPV6_CODE, ICMPX_CODE, Type, duration};
use crate::netlink::{Attribute, DecodeError};

/// The attributes of an expression by their type.
pub(super) struct Slots<'a>([Option<Attribute<'a>>; 16]);

impl<'a> Slots<'a> {
    pub(super) fn new(
        attrs: impl Iterator<Item = Result<Attribute<'a>, DecodeError>>,
    ) -> Option<Self> {
        let mut slots = [None; 16];
        for attr in attrs {
            let attr = attr.ok()?;
            if let Some(slot) = slots.get_mut(usize::from(attr.kind)) {
                *slot = Some(attr);
            }
        }
        Some(Self(slots))
    }

    pub(super) fn get(&self, kind: usize) -> Option<&Attribute<'a>> {
        self.0.get(kind)?.as_ref()
    }

    pub(super) fn number(&self, kind: usize) -> Option<u32> {
        self.get(kind)?.be32().ok()
    }

    pub(super) fn number_or(&self, kind: usize, default: u32) -> u32 {
        self.number(kind).unwrap_or(default)
    }

    pub(super) fn long(&self, kind: usize) -> Option<u64> {
        self.get(kind)?.be64().ok()
    }

    pub(super) fn byte(&self, kind: usize) -> Option<u8> {
        self.get(kind)?.u8().ok()
    }

    pub(super) fn short(&self, kind: usize) -> Option<u16> {
        self.get(kind)?.be16().ok()
    }

    pub(super) fn text(&self, kind: usize) -> Option<String> {
        self.get(kind).map(text)
    }

    /// Return the bytes of a `nft_data_attributes` value.
    pub(super) fn value(&self, kind: usize) -> Option<Vec<u8>> {
        super::set::data(self.get(kind)?).ok()?.0
    }
}

/// Return nft's word for a kind of object (`NFT_OBJECT_*`).
pub(super) fn object_word(kind: u32) -> Option<&'static str> {
    Some(match kind {
        1 => "counter",
        2 => "quota",
        3 => "ct helper",
        4 => "limit",
        7 => "ct timeout",
        8 => "secmark",
        9 => "ct expectation",
        10 => "synproxy",
        _ => return None,
    })
}

/// Return a verdict (`enum nft_verdict_attributes`).
pub(super) fn verdict(attr: &Attribute<'_>) -> Result<String, DecodeError> {
    let (mut code, mut chain) = (0, String::new());
    for inner in attr.nested("nft_verdict_attributes") {
        let inner = inner?;
        match inner.kind {
            1 => code = inner.be32()?.cast_signed(),
            2 => chain = text(&inner),
            _ => {}
        }
    }
    Ok(match code {
        0 => "drop".to_owned(),
        1 => "accept".to_owned(),
        -1 => "continue".to_owned(),
        -3 => format!("jump {chain}"),
        -4 => format!("goto {chain}"),
        -5 => "return".to_owned(),
        3 => "queue".to_owned(),
        other => format!("unknown verdict {other}"),
    })
}

/// Return a statement of an expression that uses no register; `None` for other expressions.
/// `family` is that of the packet, as far as it is known; `single` that of a table of one family.
pub(super) fn plain(name: &str, s: &Slots<'_>, family: u8, single: bool) -> Option<String> {
    Some(match name {
        "counter" => format!(
            "counter packets {} bytes {}",
            s.long(2).unwrap_or(0),
            s.long(1).unwrap_or(0)
        ),
        "limit" => limit(s)?,
        "quota" => quota(s)?,
        "log" => log(s),
        "reject" => reject(s, family, single)?,
        "notrack" => "notrack".to_owned(),
        "queue" => queue(s)?,
        "connlimit" => {
            let over = if s.number_or(2, 0) & 1 != 0 {
                "over "
            } else {
                ""
            };
            format!("ct count {over}{}", s.number(1)?)
        }
        "last" => match s.number_or(1, 0) {
            0 => "last used never".to_owned(),
            _ => format!("last used {}", duration(s.long(2).unwrap_or(0))),
        },
        "flow_offload" => format!("flow add @{}", s.text(1)?),
        "match" => format!("xt match \"{}\"", s.text(1)?),
        "target" => format!("xt target \"{}\"", s.text(1)?),
        "synproxy" => "synproxy".to_owned(),
        "objref" if s.get(1).is_some() => {
            let word = object_word(s.number(1)?)?;
            let name = s.text(2)?;
            match word.strip_prefix("ct ") {
                Some(kind) => format!("ct {kind} set \"{name}\""),
                None => format!("{word} name \"{name}\""),
            }
        }
        _ => return None,
    })
}

fn limit(s: &Slots<'_>) -> Option<String> {
    let (rate, unit) = (s.long(1)?, s.long(2)?);
    let burst = s.number_or(3, 0);
    let is_bytes = s.number_or(4, 0) == 1;
    let over = if s.number_or(5, 0) & 1 != 0 {
        "over "
    } else {
        ""
    };
    let per = match unit {
        1 => "second",
        60 => "minute",
        3600 => "hour",
        86400 => "day",
        604_800 => "week",
        _ => return None,
    };
    let mut text = format!("limit rate {over}");
    match is_bytes {
        true => {
            let _ = write!(text, "{}/{per}", bytes(rate));
            if burst != 0 {
                let _ = write!(text, " burst {}", bytes(burst.into()));
            }
        }
        false => {
            let _ = write!(text, "{rate}/{per}");
            if burst != 0 && burst != 5 {
                let _ = write!(text, " burst {burst} packets");
            }
        }
    }
    Some(text)
}

/// Return a number of bytes in the largest unit that divides it.
fn bytes(number: u64) -> String {
    let units = [(1 << 20, "mbytes"), (1 << 10, "kbytes")];
    let unit = units
        .iter()
        .find(|(size, _)| number >= *size && number.is_multiple_of(*size));
    match unit {
        Some((size, unit)) => format!("{} {unit}", number / size),
        None => format!("{number} bytes"),
    }
}

fn quota(s: &Slots<'_>) -> Option<String> {
    let over = if s.number_or(2, 0) & 1 != 0 {
        "over "
    } else {
        ""
    };
    let mut text = format!("quota {over}{}", bytes(s.long(1)?));
    if let Some(used) = s.long(4).filter(|used| *used != 0) {
        let _ = write!(text, " used {}", bytes(used));
    }
    Some(text)
}

/// `NFTA_LOG_*`: group 1, prefix 2, snaplen 3, threshold 4, level 5, flags 6.
fn log(s: &Slots<'_>) -> String {
    const LEVELS: [&str; 9] = [
        "emerg", "alert", "crit", "err", "warn", "notice", "info", "debug", "audit",
    ];
    const FLAGS: [(u32, &str); 5] = [
        (1, "tcp sequence"),
        (2, "tcp options"),
        (4, "ip options"),
        (8, "skuid"),
        (0x20, "ether"),
    ];
    let mut text = "log".to_owned();
    if let Some(prefix) = s.text(2).filter(|prefix| !prefix.is_empty()) {
        let _ = write!(text, " prefix \"{prefix}\"");
    }
    if let Some(group) = s.short(1) {
        let _ = write!(text, " group {group}");
        if let Some(length) = s.number(3).filter(|length| *length != 0) {
            let _ = write!(text, " snaplen {length}");
        }
        if let Some(threshold) = s.short(4).filter(|threshold| *threshold != 0) {
            let _ = write!(text, " queue-threshold {threshold}");
        }
        return text;
    }
    let level = s.number_or(5, 4);
    if level != 4 {
        let name = LEVELS.get(level as usize).copied().unwrap_or("warn");
        let _ = write!(text, " level {name}");
    }
    let flags = s.number_or(6, 0);
    if flags == 0x2f {
        text.push_str(" flags all");
        return text;
    }
    for (_, name) in FLAGS.iter().filter(|(bit, _)| flags & bit != 0) {
        let _ = write!(text, " flags {name}");
    }
    text
}

fn reject(s: &Slots<'_>, family: u8, single: bool) -> Option<String> {
    let code = s.byte(2).unwrap_or(0);
    let is_v6 = family == 10;
    // Port unreachable is the default in a table of one family.
    let default = match s.number(1)? {
        0 => single && ((family == 2 && code == 3) || (is_v6 && code == 4)),
        2 => code == 1,
        _ => false,
    };
    if default {
        return Some("reject".to_owned());
    }
    let (word, of) = match s.number(1)? {
        0 if is_v6 => ("icmpv6", ICMPV6_CODE),
        0 => ("icmp", ICMP_CODE),
        1 => return Some("reject with tcp reset".to_owned()),
        2 => ("icmpx", ICMPX_CODE),
        _ => return None,
    };
    Some(format!("reject with {word} {}", Type::of(of).text(&[code])))
}

/// `NFTA_QUEUE_*`: number 1, total 2, flags 3.
fn queue(s: &Slots<'_>) -> Option<String> {
    let (first, total) = (s.short(1)?, s.short(2).unwrap_or(1).max(1));
    let flags = s.short(3).unwrap_or(0);
    let words = [(1, "bypass"), (2, "fanout")];
    let set = words.iter().filter(|(bit, _)| flags & bit != 0);
    let words: Vec<&str> = set.map(|(_, word)| *word).collect();
    let flags = match words.is_empty() {
        true => String::new(),
        false => format!(" flags {}", words.join(",")),
    };
    Some(match total {
        1 => format!("queue{flags} to {first}"),
        _ => format!(
            "queue{flags} to {first}-{}",
            first.saturating_add(total - 1)
        ),
    })
}
