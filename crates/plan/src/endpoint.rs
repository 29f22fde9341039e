//! Endpoints and their order.

use std::cmp::Ordering;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A destination of connections.
///
/// Ordered like kube-proxy's, because the order of rules and the probabilities in them are part of
/// the kernel state to reproduce: by the bytes of `ip:port` (`[ip]:port` for IPv6), so that
/// `10.0.0.10:80` precedes `10.0.0.9:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Address.
    pub ip: IpAddr,
    /// Port.
    pub port: u16,
    /// Whether the endpoint is on this node.
    pub is_local: bool,
}

/// `ip:port`, or `[ip]:port` for IPv6.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            IpAddr::V4(ip) => write!(f, "{ip}:{}", self.port),
            IpAddr::V6(ip) => write!(f, "[{ip}]:{}", self.port),
        }
    }
}

impl Ord for Endpoint {
    fn cmp(&self, other: &Self) -> Ordering {
        SortKey::of(self.ip, self.port)
            .cmp(&SortKey::of(other.ip, other.port))
            .then(self.is_local.cmp(&other.is_local))
    }
}

impl PartialOrd for Endpoint {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A key with the order of the text `ip:port`, usually without formatting that text. Different
/// endpoints have different keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SortKey {
    /// Ranks of the four octets, then of the port.
    V4(u64),
    /// The text, padded with zero bytes.
    V6([u8; V6_TEXT]),
}

/// `[xxxx:xxxx:xxxx:xxxx:xxxx:xxxx:255.255.255.255]:65535`
const V6_TEXT: usize = 53;

impl SortKey {
    pub(crate) fn of(ip: IpAddr, port: u16) -> Self {
        match ip {
            IpAddr::V4(ip) => SortKey::V4(v4_key(ip, port)),
            IpAddr::V6(ip) => SortKey::V6(v6_key(ip, port)),
        }
    }
}

/// Return the [`SortKey`] of an IPv4 endpoint, without the space for IPv6.
pub(crate) fn v4_sort_key(endpoint: &Endpoint) -> u64 {
    match endpoint.ip {
        IpAddr::V4(ip) => v4_key(ip, endpoint.port),
        IpAddr::V6(_) => u64::MAX,
    }
}

fn v4_key(ip: Ipv4Addr, port: u16) -> u64 {
    let [a, b, c, d] = ip.octets();
    // '.' sorts before digits, so of two octets with a common prefix the shorter is first; the last
    // octet ends in ':', which sorts after digits.
    let rank = |table: &[u8; 256], octet: u8| u64::from(table[usize::from(octet)]);
    let ip = rank(&BEFORE_DOT, a) << 24
        | rank(&BEFORE_DOT, b) << 16
        | rank(&BEFORE_DOT, c) << 8
        | rank(&BEFORE_COLON, d);
    ip << 32 | port_rank(port)
}

/// Return a key with the order of the decimal digits: left-aligned, the shorter first.
fn port_rank(port: u16) -> u64 {
    let digits = port.checked_ilog10().unwrap_or(0);
    let aligned = u64::from(port) * 10_u64.pow(4 - digits);
    aligned << 3 | u64::from(digits)
}

const BEFORE_DOT: [u8; 256] = octet_ranks(false);
const BEFORE_COLON: [u8; 256] = octet_ranks(true);

/// Rank of each octet's decimal text if the next character sorts before (`false`) or after (`true`)
/// every digit.
const fn octet_ranks(end_is_high: bool) -> [u8; 256] {
    let mut keys = [0_u16; 256];
    let mut n = 0;
    while n < 256 {
        // Digits are 1..=10 in base 12; the next character is 0 or 11.
        let end = if end_is_high { 11 } else { 0 };
        let n16 = n as u16;
        keys[n] = if n < 10 {
            (n16 + 1) * 144 + end * 12
        } else if n < 100 {
            (n16 / 10 + 1) * 144 + (n16 % 10 + 1) * 12 + end
        } else {
            (n16 / 100 + 1) * 144 + (n16 / 10 % 10 + 1) * 12 + (n16 % 10 + 1)
        };
        n += 1;
    }
    let mut ranks = [0_u8; 256];
    let mut i = 0;
    while i < 256 {
        let mut below = 0_u8;
        let mut j = 0;
        while j < 256 {
            if keys[j] < keys[i] {
                below += 1;
            }
            j += 1;
        }
        ranks[i] = below;
        i += 1;
    }
    ranks
}

fn v6_key(ip: Ipv6Addr, port: u16) -> [u8; V6_TEXT] {
    let mut text = StackText {
        bytes: [0; V6_TEXT],
        len: 0,
    };
    // Cannot fail: the buffer fits the longest text.
    let _ = write!(text, "[{ip}]:{port}");
    text.bytes
}

struct StackText {
    bytes: [u8; V6_TEXT],
    len: usize,
}

impl fmt::Write for StackText {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let end = self.len + s.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?;
        room.copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
