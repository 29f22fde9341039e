//! `iptables -L -n -v`.

use std::fmt::Write as _;

use super::PasteError;
use super::iptables::refuse;

/// Convert the chains of `iptables -L -n -v` to lines of `iptables-save`.
pub(super) fn to_rules(text: &str) -> Result<String, PasteError> {
    let mut out = String::with_capacity(text.len());
    let mut chain = "";
    let mut has_numbers = false;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            ["Chain", name, "(policy", policy, ..] => {
                chain = name;
                let policy = policy.trim_end_matches(')');
                let _ = write!(out, ":{name} {policy} [0:0]");
            }
            ["Chain", name, ..] => {
                chain = name;
                let _ = write!(out, ":{name} - [0:0]");
            }
            ["num", "pkts", "bytes", ..] => has_numbers = true,
            ["pkts", "bytes", ..] => has_numbers = false,
            ["target" | "num", ..] => {
                return Err(refuse("`iptables -L` without -v does not show interfaces"));
            }
            // Lines before the first chain are not part of the list.
            _ if chain.is_empty() => {}
            _ => {
                let line = line.trim_start();
                let line = if has_numbers { after_word(line) } else { line };
                rule(&mut out, chain, line)?;
            }
        }
        out.push('\n');
    }
    // Chains are declared before rules.
    let (chains, rules): (Vec<&str>, Vec<&str>) =
        out.lines().partition(|line| line.starts_with(':'));
    Ok(format!("{}\n{}\n", chains.join("\n"), rules.join("\n")))
}

fn after_word(text: &str) -> &str {
    let text = text.trim_start();
    text.find(char::is_whitespace)
        .map_or("", |end| text[end..].trim_start())
}

/// The words of a rule, one after the other.
struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    fn peek(&self) -> &'a str {
        let rest = self.rest.trim_start();
        &rest[..rest.find(char::is_whitespace).unwrap_or(rest.len())]
    }

    fn next(&mut self) -> &'a str {
        let word = self.peek();
        self.rest = after_word(self.rest);
        word
    }
}

fn rule(out: &mut String, chain: &str, line: &str) -> Result<(), PasteError> {
    let mut words = Words { rest: line };
    let (packets, bytes) = (words.next(), words.next());
    if !packets.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(refuse(format!(
            "{line:?} is not a rule of `iptables -L -n -v`"
        )));
    }
    let _ = write!(out, "[{}:{}] -A {chain}", exact(packets), exact(bytes));
    let mut next = words.next();
    let mut target = "";
    if !is_protocol(next) || is_protocol(words.peek()) || is_opt(words.peek()).is_none() {
        (target, next) = (next, words.next());
    }
    if !is_protocol(next) {
        return Err(refuse(format!("{next:?} is not a protocol, in {line:?}")));
    }
    let protocol = next;
    if let Some(is_fragment) = is_opt(words.peek()) {
        words.next();
        if is_fragment {
            out.push_str(" -f");
        }
    }
    for (option, any) in [("-i", &["*", "any"][..]), ("-o", &["*", "any"])] {
        let value = words.next();
        if !any.contains(&value) {
            out.push_str(&negated(option, value));
        }
    }
    for option in ["-s", "-d"] {
        let value = words.next();
        let address = value.trim_start_matches('!');
        let is_any = matches!(address, "anywhere" | "0.0.0.0/0" | "::/0");
        let host = address.split('/').next().unwrap_or_default();
        if !is_any && host.parse::<std::net::IpAddr>().is_err() {
            return Err(refuse(format!(
                "{value:?} is not an address: -L resolves names unless -n is given"
            )));
        }
        if !is_any || value.starts_with('!') {
            out.push_str(&negated(option, value));
        }
    }
    if !matches!(protocol, "all" | "0") {
        out.push_str(&negated("-p", protocol));
    }
    let mut jump = if target.is_empty() {
        String::new()
    } else {
        format!(" -j {target}")
    };
    extensions(out, &mut jump, target, &mut words)?;
    out.push_str(&jump);
    Ok(())
}

/// `-i eth0`, or `! -i eth0`.
fn negated(option: &str, value: &str) -> String {
    match value.strip_prefix('!') {
        Some(value) => format!(" ! {option} {value}"),
        None => format!(" {option} {value}"),
    }
}

/// Counters are rounded from 100,000 on: `120K`.
fn exact(counter: &str) -> String {
    let unit = counter.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = &counter[..counter.len() - unit.len()];
    let zeros = match unit {
        "K" => "000",
        "M" => "000000",
        "G" => "000000000",
        "T" => "000000000000",
        _ => "",
    };
    format!("{number}{zeros}")
}

fn is_protocol(word: &str) -> bool {
    const NAMES: [&str; 11] = [
        "all",
        "tcp",
        "udp",
        "sctp",
        "icmp",
        "icmpv6",
        "ipv6-icmp",
        "esp",
        "ah",
        "gre",
        "udplite",
    ];
    let word = word.trim_start_matches('!');
    NAMES.contains(&word) || word.parse::<u8>().is_ok()
}

/// Return whether the word is the column `opt` and, if so, whether it requests fragments; ip6tables leaves it
/// empty.
fn is_opt(word: &str) -> Option<bool> {
    match word {
        "--" | "----" | "!f" => Some(false),
        "-f" => Some(true),
        _ => None,
    }
}

/// Convert what follows the addresses.
#[expect(
    clippy::too_many_lines,
    reason = "one arm for each match and target option"
)]
fn extensions(
    out: &mut String,
    jump: &mut String,
    target: &str,
    words: &mut Words<'_>,
) -> Result<(), PasteError> {
    while !words.peek().is_empty() {
        let not = if words.peek() == "!" {
            words.next();
            " !"
        } else {
            ""
        };
        let word = words.next();
        let _ = match word {
            "/*" => {
                let (comment, rest) = words.rest.split_once(" */").unwrap_or((words.rest, ""));
                words.rest = rest;
                write!(
                    out,
                    " -m comment --comment \"{}\"",
                    comment.replace('"', "'")
                )
            }
            "[goto]" => {
                *jump = format!(" -g {target}");
                Ok(())
            }
            "tcp" | "udp" | "sctp" => {
                let _ = write!(out, " -m {word}");
                ports(out, words)?;
                Ok(())
            }
            "ADDRTYPE" => {
                words.next();
                let _ = write!(out, " -m addrtype");
                while let "src-type" | "dst-type" = words.peek() {
                    let option = format!("--{}", words.next());
                    out.push_str(&negated(&option, words.next()));
                }
                Ok(())
            }
            "mark" | "connmark" => {
                words.next();
                let mut value = words.next();
                let mut not = not;
                if value == "!" {
                    (not, value) = (" !", words.next());
                }
                let value = value.trim_start_matches('!');
                write!(out, " -m {word}{not} --mark {value}")
            }
            "statistic" => {
                let (_, mode, _) = (words.next(), words.next(), words.next());
                if mode != "random" {
                    return Err(refuse(format!("statistic mode {mode} is not convertible")));
                }
                let odds = words.next();
                write!(out, " -m statistic --mode random --probability {odds}")
            }
            "ctstate" => write!(out, " -m conntrack{not} --ctstate {}", words.next()),
            "state" => write!(out, " -m state{not} --state {}", words.next()),
            "multiport" => {
                let side = words.next();
                write!(out, " -m multiport{not} --{side} {}", words.next())
            }
            "match-set" => {
                let (set, directions) = (words.next(), words.next());
                write!(out, " -m set{not} --match-set {set} {directions}")
            }
            "nfacct-name" => write!(out, " -m nfacct --nfacct-name {}", words.next()),
            "limit:" => {
                words.next();
                let (rate, _, burst) = (words.next(), words.next(), words.next());
                write!(out, " -m limit --limit {rate} --limit-burst {burst}")
            }
            "reject-with" => write!(jump, " --reject-with {}", words.next()),
            "MARK" | "CONNMARK" => {
                jump.push_str(&mark(words)?);
                Ok(())
            }
            "random-fully" | "random" | "persistent" if !target.is_empty() => {
                write!(jump, " --{word}")
            }
            "redir" | "masq" => {
                words.next();
                write!(jump, " --to-ports {}", words.next())
            }
            word if word.starts_with("to:") => {
                let option = if target == "SNAT" {
                    "--to-source"
                } else {
                    "--to-destination"
                };
                write!(jump, " {option} {}", &word[3..])
            }
            "LOG" | "NFLOG" | "nflog-prefix" => {
                words.rest = "";
                Ok(())
            }
            other => {
                return Err(refuse(format!(
                    "`iptables -L` shows {other:?} in a form that cannot be converted"
                )));
            }
        };
    }
    Ok(())
}

fn ports(out: &mut String, words: &mut Words<'_>) -> Result<(), PasteError> {
    while let Some((kind, value)) = words.peek().split_once(':') {
        let option = match kind {
            "spt" | "spts" => "--sport",
            "dpt" | "dpts" => "--dport",
            "flags" => {
                words.next();
                let (mask, set) = value.split_once('/').unwrap_or((value, "0"));
                let (not, mask) = match mask.strip_prefix('!') {
                    Some(mask) => (" !", mask),
                    None => ("", mask),
                };
                let _ = write!(out, "{not} --tcp-flags {} {}", flags(mask)?, flags(set)?);
                continue;
            }
            _ => break,
        };
        words.next();
        let number = value.trim_start_matches('!');
        if number.split(':').any(|n| n.parse::<u16>().is_err()) {
            return Err(refuse(format!(
                "{value:?} is not a port: -L resolves names unless -n is given"
            )));
        }
        out.push_str(&negated(option, value));
    }
    Ok(())
}

/// `0x17` as names.
fn flags(hex: &str) -> Result<String, PasteError> {
    const NAMES: [&str; 6] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];
    let bits = number(hex)?;
    let set = NAMES.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1);
    let names: Vec<&str> = set.map(|(_, name)| *name).collect();
    Ok(if names.is_empty() {
        "NONE".to_owned()
    } else {
        names.join(",")
    })
}

fn number(text: &str) -> Result<u32, PasteError> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| refuse(format!("{text:?} is not a number")))
}

/// `or 0x4000` as an option of the target.
fn mark(words: &mut Words<'_>) -> Result<String, PasteError> {
    let action = words.next();
    if matches!(action, "save" | "restore") {
        return Ok(format!(" --{action}-mark"));
    }
    let value = words.next();
    let (value, mask) = match value.split_once('/') {
        Some((value, mask)) => (number(value)?, number(mask)?),
        None => (number(value)?, u32::MAX),
    };
    let (value, mask) = match action {
        "set" | "xset" => (value, mask),
        "or" => (value, value),
        "xor" => (value, 0),
        "and" => (0, !value),
        other => return Err(refuse(format!("MARK {other} cannot be converted"))),
    };
    Ok(format!(" --set-xmark {value:#x}/{mask:#x}"))
}
