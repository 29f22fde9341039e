//! Values of options.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::words::Word;
use super::{Fault, Parsed};
use crate::iptables::name::Family;
use crate::iptables::value::{Interface, Net, PortRange, Protocol};

/// Parse a decimal number, or a hexadecimal one after `0x`, within the range of the type.
pub(crate) fn number<T: TryFrom<u64>>(word: &Word<'_>) -> Parsed<T> {
    number_in(&word.text).ok_or_else(|| Fault::not_a(word, "a number in range"))
}

pub(crate) fn number_in<T: TryFrom<u64>>(text: &str) -> Option<T> {
    let n = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        // from_str_radix accepts a sign.
        Some(digits) if digits.starts_with('+') => return None,
        Some(digits) => u64::from_str_radix(digits, 16).ok()?,
        None if text.starts_with('+') => return None,
        None => text.parse().ok()?,
    };
    T::try_from(n).ok()
}

/// `10.0.0.1`, `10.0.0.0/8`, `10.0.0.1/255.0.0.255`.
pub(crate) fn net(family: Family, word: &Word<'_>) -> Parsed<Net> {
    let expected = match family {
        Family::Ipv4 => "an IPv4 address or range",
        Family::Ipv6 => "an IPv6 address or range",
    };
    if word.text.contains(',') {
        let message = "a list of addresses is not supported; write one rule for each address";
        return Err(Fault::new(word.column, message));
    }
    net_in(family, &word.text).ok_or_else(|| Fault::not_a(word, expected))
}

fn net_in(family: Family, text: &str) -> Option<Net> {
    let (addr, mask) = match text.split_once('/') {
        Some((addr, mask)) => (addr, Some(mask)),
        None => (text, None),
    };
    let addr = address_in(family, addr)?;
    match mask {
        None => Some(Net::host(addr)),
        Some(mask) => {
            let mask = match number_in::<u8>(mask) {
                Some(length) => prefix_mask(family, length)?,
                None => address_in(family, mask)?,
            };
            Net::new(addr, mask)
        }
    }
}

fn prefix_mask(family: Family, length: u8) -> Option<IpAddr> {
    let length = u32::from(length);
    match family {
        Family::Ipv4 if length <= 32 => {
            let bits = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            Some(Ipv4Addr::from_bits(bits).into())
        }
        Family::Ipv6 if length <= 128 => {
            let bits = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            Some(Ipv6Addr::from_bits(bits).into())
        }
        _ => None,
    }
}

fn address_in(family: Family, text: &str) -> Option<IpAddr> {
    match family {
        Family::Ipv4 => text.parse().map(IpAddr::V4).ok(),
        Family::Ipv6 => text.parse().map(IpAddr::V6).ok(),
    }
}

pub(crate) fn address(family: Family, word: &Word<'_>) -> Parsed<IpAddr> {
    address_in(family, &word.text)
        .ok_or_else(|| Fault::not_a(word, &format!("an {family} address")))
}

/// `a-b`.
pub(crate) fn address_range(family: Family, word: &Word<'_>) -> Parsed<(IpAddr, IpAddr)> {
    let (first, last) = word
        .text
        .split_once('-')
        .unwrap_or((&word.text, &word.text));
    address_in(family, first)
        .zip(address_in(family, last))
        .ok_or_else(|| Fault::not_a(word, &format!("a range of {family} addresses")))
}

/// Parse an interface name of at most 15 bytes (`IFNAMSIZ`).
pub(crate) fn interface(word: &Word<'_>) -> Parsed<Interface> {
    if word.text.is_empty() || word.text.len() > 15 || word.text.contains(char::is_whitespace) {
        return Err(Fault::not_a(word, "an interface name of 1 to 15 bytes"));
    }
    Ok(match word.text.strip_suffix('+') {
        Some(prefix) => Interface::Prefix(prefix.into()),
        None => Interface::Name((&*word.text).into()),
    })
}

/// Parse a protocol; `None` for `all`.
pub(crate) fn protocol(word: &Word<'_>) -> Parsed<Option<Protocol>> {
    if word.text.eq_ignore_ascii_case("all") {
        return Ok(None);
    }
    Protocol::parse(&word.text)
        .map(|protocol| Some(protocol).filter(|p| p.0 != 0))
        .ok_or_else(|| Fault::not_a(word, "a protocol (a name, or a number up to 255)"))
}

/// `80`, `80:90`, `:90`, `80:`.
pub(crate) fn ports(word: &Word<'_>, separator: char) -> Parsed<PortRange> {
    ports_in(&word.text, separator).ok_or_else(|| Fault::not_a(word, "a port or a range of ports"))
}

pub(crate) fn ports_in(text: &str, separator: char) -> Option<PortRange> {
    let range = match text.split_once(separator) {
        None => PortRange::single(number_in(text)?),
        Some((first, last)) => PortRange {
            first: if first.is_empty() {
                0
            } else {
                number_in(first)?
            },
            last: if last.is_empty() {
                u16::MAX
            } else {
                number_in(last)?
            },
        },
    };
    (range.first <= range.last).then_some(range)
}

/// `5`, or `5:10` with the separator.
pub(crate) fn u32_range(text: &str, separator: char) -> Option<(u32, u32)> {
    match text.split_once(separator) {
        None => number_in(text).map(|n| (n, n)),
        Some((first, last)) => {
            let first = if first.is_empty() {
                0
            } else {
                number_in(first)?
            };
            let last = if last.is_empty() {
                u32::MAX
            } else {
                number_in(last)?
            };
            (first <= last).then_some((first, last))
        }
    }
}

/// `value`, or `value/mask`; a missing mask is all ones.
pub(crate) fn value_and_mask(word: &Word<'_>) -> Parsed<(u32, u32)> {
    let parsed = match word.text.split_once('/') {
        None => number_in(&word.text).map(|v| (v, u32::MAX)),
        Some((value, mask)) => number_in(value).zip(number_in(mask)),
    };
    parsed.ok_or_else(|| Fault::not_a(word, "a mark, or a mark with a mask such as 0x4000/0x4000"))
}

/// Parse a comma-separated list of names from a table.
pub(crate) fn names<T: Copy>(
    word: &Word<'_>,
    table: &[(&'static str, T)],
    expected: &str,
    mut add: impl FnMut(T),
) -> Parsed<()> {
    for name in word.text.split(',') {
        match table.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)) {
            Some((_, value)) => add(*value),
            None => return Err(Fault::not_a(word, expected)),
        }
    }
    Ok(())
}
