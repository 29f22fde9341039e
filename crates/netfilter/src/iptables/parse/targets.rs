//! Targets from their options.

use super::super::{
    Chain, ConnmarkAction, CtTarget, Family, LogTarget, MasqueradeTarget, NatTarget, NflogTarget,
    PortRange, RejectWith, SetTarget, Target, TcpmssTarget, TproxyTarget, Xmark,
};
use super::segment::{Item, Segment, needed, plain, value, verbatim};
use super::words::Word;
use super::{Fault, Parsed, options, values};

/// The target that a segment says. An extension with options beyond the model is kept word for
/// word; a name that is no extension's is a chain's.
pub(super) fn build(family: Family, segment: &Segment<'_>) -> Parsed<Target> {
    let unknown = || Target::Unknown(Box::new(verbatim(segment)));
    if segment.foreign || options::OTHER_TARGETS.contains(&segment.name) {
        return Ok(unknown());
    }
    for item in &segment.items {
        plain(item)?;
    }
    Ok(match segment.name {
        "ACCEPT" => Target::Accept,
        "DROP" => Target::Drop,
        "RETURN" => Target::Return,
        "REJECT" => Target::Reject(reject(family, segment)?),
        "MARK" => Target::Mark(mark(segment)?),
        "CONNMARK" => Target::Connmark(connmark(segment)?),
        "DNAT" => match nat(family, segment, "--to-destination")? {
            Some(nat) => Target::Dnat(nat),
            None => unknown(),
        },
        "SNAT" => match nat(family, segment, "--to-source")? {
            Some(nat) => Target::Snat(nat),
            None => unknown(),
        },
        "MASQUERADE" => Target::Masquerade(masquerade(segment)?),
        "REDIRECT" => {
            let MasqueradeTarget { ports, random, .. } = masquerade(segment)?;
            Target::Redirect { ports, random }
        }
        "NOTRACK" => Target::Notrack,
        "CT" => ct(segment)?,
        "LOG" => Target::Log(Box::new(log(segment)?)),
        "NFLOG" => Target::Nflog(Box::new(nflog(segment)?)),
        "TCPMSS" => Target::Tcpmss(tcpmss(segment)?),
        "SET" => match set(segment)? {
            Some(set) => Target::Set(Box::new(set)),
            None => unknown(),
        },
        "TPROXY" => Target::Tproxy(Box::new(tproxy(family, segment)?)),
        name => {
            let chain = Chain::new(name).map_err(|e| Fault::new(segment.column, e.to_string()))?;
            Target::Jump(chain)
        }
    })
}

/// Short names that iptables takes beside those it prints.
const REJECT_ALIASES: &[(&str, RejectWith)] = &[
    ("net-unreach", RejectWith::IcmpNetUnreachable),
    ("host-unreach", RejectWith::IcmpHostUnreachable),
    ("port-unreach", RejectWith::IcmpPortUnreachable),
    ("proto-unreach", RejectWith::IcmpProtoUnreachable),
    ("net-prohib", RejectWith::IcmpNetProhibited),
    ("host-prohib", RejectWith::IcmpHostProhibited),
    ("admin-prohib", RejectWith::IcmpAdminProhibited),
    ("tcp-rst", RejectWith::TcpReset),
    ("no-route", RejectWith::Icmp6NoRoute),
    ("adm-prohibited", RejectWith::Icmp6AdmProhibited),
    ("addr-unreach", RejectWith::Icmp6AddrUnreachable),
];

fn reject(family: Family, segment: &Segment<'_>) -> Parsed<RejectWith> {
    let mut found = match family {
        Family::Ipv4 => RejectWith::IcmpPortUnreachable,
        Family::Ipv6 => RejectWith::Icmp6PortUnreachable,
    };
    for item in &segment.items {
        let word = value(item)?;
        let mut names = RejectWith::NAMES.iter().chain(REJECT_ALIASES);
        found = match names.find(|(name, _)| *name == word.text) {
            Some((name, _)) if family == Family::Ipv6 && *name == "port-unreach" => {
                RejectWith::Icmp6PortUnreachable
            }
            Some((_, with)) => *with,
            None => return Err(Fault::not_a(word, "an answer that REJECT can give")),
        };
    }
    Ok(found)
}

fn mark(segment: &Segment<'_>) -> Parsed<Xmark> {
    let mut found = None;
    for item in &segment.items {
        if let Some(xmark) = values::set_mark(item.option, value(item)?) {
            found = Some(xmark?);
        }
    }
    needed(found, segment, "--set-xmark")
}

fn connmark(segment: &Segment<'_>) -> Parsed<ConnmarkAction> {
    let mut action = None;
    let (mut nfmask, mut ctmask) = (u32::MAX, u32::MAX);
    for item in &segment.items {
        match item.option {
            "--save-mark" => action = Some(ConnmarkAction::Save { nfmask, ctmask }),
            "--restore-mark" => action = Some(ConnmarkAction::Restore { nfmask, ctmask }),
            "--nfmask" => nfmask = values::number(value(item)?)?,
            "--ctmask" => ctmask = values::number(value(item)?)?,
            "--mask" => {
                nfmask = values::number(value(item)?)?;
                ctmask = nfmask;
            }
            option => {
                if let Some(xmark) = values::set_mark(option, value(item)?) {
                    action = Some(ConnmarkAction::Set(xmark?));
                }
            }
        }
    }
    Ok(match needed(action, segment, "--set-xmark")? {
        ConnmarkAction::Save { .. } => ConnmarkAction::Save { nfmask, ctmask },
        ConnmarkAction::Restore { .. } => ConnmarkAction::Restore { nfmask, ctmask },
        set @ ConnmarkAction::Set(_) => set,
    })
}

/// `None` where the target goes beyond the model: a base for shifted ports, or several targets.
fn nat(family: Family, segment: &Segment<'_>, option: &str) -> Parsed<Option<NatTarget>> {
    let mut found = NatTarget::default();
    let mut given = false;
    for item in &segment.items {
        match item.option {
            "--random" => found.random = true,
            "--random-fully" => found.random_fully = true,
            "--persistent" => found.persistent = true,
            name if name == option && !given => {
                let word = value(item)?;
                if word
                    .text
                    .rsplit(':')
                    .next()
                    .is_some_and(|p| p.contains('/'))
                {
                    return Ok(None);
                }
                given = true;
                nat_address(family, word, &mut found)?;
            }
            _ => return Ok(None),
        }
    }
    needed(given.then_some(()), segment, option)?;
    Ok(Some(found))
}

/// `addr`, `addr-addr`, `addr:port`, `:port-port`, and in IPv6 `[addr]:port`.
fn nat_address(family: Family, word: &Word<'_>, into: &mut NatTarget) -> Parsed<()> {
    let text = &*word.text;
    let (addresses, ports) = match family {
        Family::Ipv4 => match text.split_once(':') {
            Some((addresses, ports)) => (addresses, Some(ports)),
            None => (text, None),
        },
        Family::Ipv6 => match text.strip_prefix('[') {
            Some(rest) => {
                let (addresses, ports) = rest
                    .split_once(']')
                    .ok_or_else(|| Fault::not_a(word, "an address in brackets"))?;
                (addresses, ports.strip_prefix(':'))
            }
            None => match text.strip_prefix(':') {
                // `:80` is a port, `::1` an address.
                Some(port)
                    if port.starts_with(|c: char| c.is_ascii_digit()) && !port.contains(':') =>
                {
                    ("", Some(port))
                }
                _ => (text, None),
            },
        },
    };
    if !addresses.is_empty() {
        let part = Word {
            text: addresses.into(),
            column: word.column,
        };
        into.addresses = Some(values::address_range(family, &part)?);
    }
    if let Some(ports) = ports {
        into.ports = Some(nat_ports(ports).ok_or_else(|| Fault::not_a(word, "a port to go to"))?);
    }
    if into.addresses.is_none() && into.ports.is_none() {
        return Err(Fault::not_a(word, "an address or port to go to"));
    }
    Ok(())
}

fn nat_ports(text: &str) -> Option<PortRange> {
    let whole = !text.starts_with('-') && !text.ends_with('-');
    values::ports_in(text, '-').filter(|_| whole)
}

fn masquerade(segment: &Segment<'_>) -> Parsed<MasqueradeTarget> {
    let mut found = MasqueradeTarget::default();
    for item in &segment.items {
        match item.option {
            "--to-ports" => {
                let word = value(item)?;
                let ports = nat_ports(&word.text);
                found.ports = Some(ports.ok_or_else(|| Fault::not_a(word, "a range of ports"))?);
            }
            "--random" => found.random = true,
            _ => found.random_fully = true,
        }
    }
    Ok(found)
}

fn ct(segment: &Segment<'_>) -> Parsed<Target> {
    let mut found = CtTarget::default();
    for item in &segment.items {
        match item.option {
            "--notrack" => found.notrack = true,
            "--zone" => match values::number_in(&value(item)?.text) {
                Some(zone) => found.zone = Some(zone),
                None => keep(item, &mut found.other),
            },
            "--helper" => found.helper = Some(Box::from(&*value(item)?.text)),
            _ => keep(item, &mut found.other),
        }
    }
    let notrack = CtTarget {
        notrack: true,
        ..CtTarget::default()
    };
    Ok(if found == notrack {
        Target::Notrack
    } else {
        Target::Ct(Box::new(found))
    })
}

fn keep(item: &Item<'_>, words: &mut Vec<Box<str>>) {
    words.push(item.option.into());
    words.extend(item.values.as_slice().iter().map(|w| Box::from(&*w.text)));
}

/// Names of syslog's levels.
const LEVELS: &[(&str, u8)] = &[
    ("emerg", 0),
    ("panic", 0),
    ("alert", 1),
    ("crit", 2),
    ("err", 3),
    ("error", 3),
    ("warning", 4),
    ("warn", 4),
    ("notice", 5),
    ("info", 6),
    ("debug", 7),
];

/// Flags of `LOG` in the order in which iptables prints them.
const LOG_FLAGS: [&str; 5] = [
    "--log-tcp-sequence",
    "--log-tcp-options",
    "--log-ip-options",
    "--log-uid",
    "--log-macdecode",
];

fn log(segment: &Segment<'_>) -> Parsed<LogTarget> {
    let mut found = LogTarget::default();
    for item in &segment.items {
        match item.option {
            "--log-prefix" => found.prefix = Some(Box::from(&*value(item)?.text)),
            "--log-level" => {
                let word = value(item)?;
                let named = LEVELS.iter().find(|(name, _)| *name == word.text);
                let level = match named {
                    Some((_, level)) => *level,
                    None => values::number_in(&word.text)
                        .filter(|level| *level <= 7)
                        .ok_or_else(|| Fault::not_a(word, "a level: a name, or 0 to 7"))?,
                };
                // iptables does not print the level that it takes where none is given.
                found.level = (level != 4).then_some(level);
            }
            _ => {}
        }
    }
    let given = |flag: &&&str| segment.items.iter().any(|i| i.option == **flag);
    found.flags = LOG_FLAGS
        .iter()
        .filter(given)
        .map(|flag| Box::from(*flag))
        .collect();
    Ok(found)
}

fn nflog(segment: &Segment<'_>) -> Parsed<NflogTarget> {
    let mut found = NflogTarget::default();
    for item in &segment.items {
        match item.option {
            "--nflog-prefix" => found.prefix = Some(Box::from(&*value(item)?.text)),
            "--nflog-group" => found.group = values::number(value(item)?)?,
            _ => keep(item, &mut found.other),
        }
    }
    Ok(found)
}

fn tcpmss(segment: &Segment<'_>) -> Parsed<TcpmssTarget> {
    let mut found = None;
    for item in &segment.items {
        found = Some(match item.option {
            "--set-mss" => TcpmssTarget::Set(values::number(value(item)?)?),
            _ => TcpmssTarget::ClampToPmtu,
        });
    }
    needed(found, segment, "--set-mss or --clamp-mss-to-pmtu")
}

/// `None` where the target both adds and deletes.
fn set(segment: &Segment<'_>) -> Parsed<Option<SetTarget>> {
    let mut found: Option<SetTarget> = None;
    let (mut exist, mut timeout) = (false, None);
    for item in &segment.items {
        match (item.option, item.values.as_slice()) {
            ("--add-set" | "--del-set", [name, directions]) if found.is_none() => {
                found = Some(SetTarget {
                    delete: item.option == "--del-set",
                    name: Box::from(&*name.text),
                    directions: values::set_directions(directions)?,
                    exist: false,
                    timeout: None,
                });
            }
            ("--exist", _) => exist = true,
            ("--timeout", [seconds]) => timeout = Some(values::number(seconds)?),
            _ => return Ok(None),
        }
    }
    let found = needed(found, segment, "--add-set or --del-set")?;
    Ok(Some(SetTarget {
        exist,
        timeout,
        ..found
    }))
}

fn tproxy(family: Family, segment: &Segment<'_>) -> Parsed<TproxyTarget> {
    let (mut port, mut ip, mut mark) = (None, None, None);
    for item in &segment.items {
        let word = value(item)?;
        match item.option {
            "--on-port" => port = Some(values::number(word)?),
            "--on-ip" => ip = Some(values::address(family, word)?),
            _ => {
                let (value, mask) = values::value_and_mask(word)?;
                mark = Some(Xmark { value, mask });
            }
        }
    }
    Ok(TproxyTarget {
        port: needed(port, segment, "--on-port")?,
        ip,
        mark,
    })
}
