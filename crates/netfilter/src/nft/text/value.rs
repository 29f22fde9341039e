//! Values as text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::object::DataType;
use super::super::value::Value;

/// Protocol names that nft knows without /etc/protocols.
const PROTOCOLS: [(u8, &str); 5] = [
    (1, "icmp"),
    (6, "tcp"),
    (17, "udp"),
    (58, "ipv6-icmp"),
    (132, "sctp"),
];

/// Return the text of a value; hexadecimal digits if it does not have the size of the type.
pub(super) fn scalar(kind: DataType, bytes: &[u8]) -> String {
    match (kind, bytes) {
        (DataType::Ipv4Addr | DataType::Ipv6Addr, _) => match address(bytes) {
            Some(ip) => ip.to_string(),
            None => hex(bytes),
        },
        (DataType::InetProto, [number, ..]) => PROTOCOLS
            .iter()
            .find(|(n, _)| n == number)
            .map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned()),
        (DataType::InetService, [high, low, ..]) => u16::from_be_bytes([*high, *low]).to_string(),
        (DataType::Integer, [a, b, c, d]) => u32::from_ne_bytes([*a, *b, *c, *d]).to_string(),
        (DataType::Mark, [a, b, c, d]) => {
            format!("0x{:08x}", u32::from_ne_bytes([*a, *b, *c, *d]))
        }
        _ => hex(bytes),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    let octets = <[u8; 16]>::try_from(bytes).ok()?;
    Some(Ipv6Addr::from(octets).into())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = "0x".to_owned();
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// Return the text of a concatenation, or of a concatenation of ranges if there is an end.
pub(super) fn range(types: &[DataType], from: &Value, to: Option<&Value>) -> String {
    let mut fields = Vec::new();
    let mut at = 0;
    for kind in types {
        let field = |v: &Value| v.as_bytes().get(at..at + kind.size()).map(<[u8]>::to_vec);
        let low = field(from).unwrap_or_default();
        fields.push(match to.and_then(field) {
            Some(high) if high != low => closed(*kind, &low, &high),
            _ => scalar(*kind, &low),
        });
        at += kind.padded();
    }
    fields.join(" . ")
}

/// Return the text of an inclusive range; a prefix if it is one.
fn closed(kind: DataType, low: &[u8], high: &[u8]) -> String {
    let (from, to) = (wide(low), wide(high));
    let host_bits = (from ^ to).count_ones();
    let mask = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
    if (from ^ to) == mask && from & mask == 0 && address(low).is_some() {
        let prefix = low.len() as u32 * 8 - host_bits;
        return format!("{}/{prefix}", scalar(kind, low));
    }
    format!("{}-{}", scalar(kind, low), scalar(kind, high))
}

fn wide(bytes: &[u8]) -> u128 {
    bytes
        .iter()
        .take(16)
        .fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// Return the text of a range without its end; to the last value if there is no end.
pub(super) fn half_open(kind: DataType, low: &Value, end: Option<&Value>) -> String {
    let low = low.as_bytes();
    let last = match end {
        Some(end) => wide(end.as_bytes()).wrapping_sub(1),
        None => u128::MAX,
    };
    let bytes = last.to_be_bytes();
    let high = bytes.get(16 - low.len().min(16)..).unwrap_or(&bytes);
    if high == low {
        scalar(kind, low)
    } else {
        closed(kind, low, high)
    }
}

/// Return the text of an address prefix from its first bytes.
pub(super) fn prefix(bytes: &[u8], size: usize, length: usize) -> String {
    let mut whole = bytes.to_vec();
    whole.resize(size, 0);
    let kind = if size == 4 {
        DataType::Ipv4Addr
    } else {
        DataType::Ipv6Addr
    };
    if length == size * 8 {
        scalar(kind, &whole)
    } else {
        format!("{}/{length}", scalar(kind, &whole))
    }
}

/// Return the length of a contiguous mask.
pub(super) fn mask_length(mask: &[u8]) -> Option<usize> {
    let number = wide(mask) << (128 - 8 * mask.len().min(16));
    let ones = number.leading_ones();
    let rest = number.checked_shl(ones).unwrap_or(0);
    (rest == 0).then_some(ones as usize)
}
