//! Types of flag values.

use super::{Draft, Set};
use crate::{Quantity, VModuleItem};

impl Set {
    /// Return the placeholder of the value in the help.
    pub(super) fn value_name(self) -> &'static str {
        match self {
            Set::Bool(_) => "true|false",
            Set::Int(_) | Set::Level(_) => "NUMBER",
            Set::Float(_) => "DECIMAL",
            Set::Text(_) => "TEXT",
            Set::Ip(_) => "IP",
            Set::IpPort(_) => "IP:PORT",
            Set::Bytes(_) => "BYTES",
            Set::Duration(_) => "DURATION",
            Set::List(_) => "A,B,...",
            Set::Gates(_) => "NAME=true|false,...",
            Set::Modules(_) => "PATTERN=N,...",
            Set::Version(_) => "true|false|raw",
        }
    }

    /// Return whether repeated values accumulate.
    pub(super) fn repeats(self) -> bool {
        matches!(self, Set::List(_) | Set::Gates(_) | Set::Modules(_))
    }

    /// Parse and set a value.
    pub(super) fn apply(self, draft: &mut Draft, text: &str) -> Result<(), String> {
        match self {
            Set::Bool(to) => *to(draft) = boolean(text)?,
            Set::Int(to) => *to(draft) = number(text)?,
            Set::Level(to) => *to(draft) = number(text)?,
            Set::Float(to) => *to(draft) = number(text)?,
            Set::Text(to) => *to(draft) = text.into(),
            // As upstream: an empty value equals an absent flag.
            Set::Ip(_) | Set::IpPort(_) if text.is_empty() => {}
            Set::Ip(to) => {
                model::parse_ip(text).ok_or_else(|| format!("{text:?} is not an IP address"))?;
                *to(draft) = text.into();
            }
            Set::IpPort(to) => {
                ip_port(text)?;
                *to(draft) = text.into();
            }
            Set::Bytes(to) => {
                let quantity = Quantity(text.into());
                quantity.bytes().ok_or_else(|| {
                    format!("{text:?} is not a number of bytes such as 512 or 4Ki")
                })?;
                *to(draft) = quantity.0;
            }
            Set::Duration(to) => *to(draft) = text.parse()?,
            Set::List(_) if text.is_empty() => {}
            Set::List(to) => to(draft).extend(text.split(',').map(str::to_owned)),
            Set::Gates(to) => {
                for piece in pieces(text) {
                    let (name, value) = pair(piece)?;
                    to(draft).insert(name.into(), boolean(value)?);
                }
            }
            Set::Modules(to) => {
                for piece in pieces(text) {
                    let (pattern, level) = pair(piece)?;
                    to(draft).push(VModuleItem {
                        file_pattern: pattern.into(),
                        verbosity: number(level)?,
                    });
                }
            }
            Set::Version(to) => {
                if !matches!(text, "true" | "false" | "raw") {
                    return Err(format!("{text:?} is not true, false or raw"));
                }
                *to(draft) = (text != "false").then(|| text.into());
            }
        }
        Ok(())
    }
}

/// Accepts the forms of Go's `strconv.ParseBool`.
fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is not true or false")),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a number that fits"))
}

/// An address, with or without a port.
fn ip_port(text: &str) -> Result<(), String> {
    let bad = || format!("{text:?} is not an IP address, with or without a port");
    let mut address = text.to_owned();
    crate::file::append_port(&mut address, 1);
    if crate::validate::socket_address(&address).is_ok() {
        Ok(())
    } else {
        Err(bad())
    }
}

fn pieces(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|p| !p.is_empty())
}

fn pair(text: &str) -> Result<(&str, &str), String> {
    text.split_once('=')
        .map(|(name, value)| (name.trim(), value.trim()))
        .ok_or_else(|| format!("{text:?} lacks a \"=\""))
}
