//! Addresses and ranges as in the Kubernetes API.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Parse an IP address.
///
/// Like the API, accept leading zeros in IPv4 addresses (`010.0.0.1`, decimal), which were valid
/// until 1.33 and may still be stored, and convert `::ffff:10.0.0.1` to the IPv4 address in it
/// (KEP-4858).
pub fn parse_ip(s: &str) -> Option<IpAddr> {
    if s.contains(':') {
        return Some(s.parse::<Ipv6Addr>().ok()?.to_canonical());
    }
    let mut octets = [0; 4];
    let mut parts = s.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        let digits = (1..=15).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        *octet = digits.then(|| part.parse().ok()).flatten()?;
    }
    parts
        .next()
        .is_none()
        .then(|| Ipv4Addr::from(octets).into())
}

/// Parse an address range and mask its host bits.
pub fn parse_cidr(s: &str) -> Option<IpNet> {
    let (address, len) = s.split_once('/')?;
    if !(1..=3).contains(&len.len()) || !len.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let len = len.parse().ok()?;
    Some(match parse_ip(address)? {
        // `::ffff:a.b.c.d/n` has a length that counts from the IPv6 address, which is never
        // intended.
        IpAddr::V4(_) if address.contains(':') => return None,
        IpAddr::V4(ip) => Ipv4Net::new(ip, len).ok()?.trunc().into(),
        IpAddr::V6(ip) => Ipv6Net::new(ip, len).ok()?.trunc().into(),
    })
}

/// Return why an address cannot belong to a pod or an external host. The API server refuses such
/// endpoints and external IPs, because a Service could reach into the node itself through them.
pub(super) fn special(ip: IpAddr) -> Option<&'static str> {
    let (link_local, link_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), matches!(ip.octets(), [224, 0, 0, _])),
        IpAddr::V6(ip) => (
            ip.is_unicast_link_local(),
            ip.octets()[0] == 0xff && ip.octets()[1] & 0xf == 2,
        ),
    };
    if ip.is_unspecified() {
        Some("is the unspecified address")
    } else if ip.is_loopback() {
        Some("is a loopback address")
    } else if link_local || link_multicast {
        Some("is a link-local address")
    } else {
        None
    }
}
