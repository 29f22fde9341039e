//! IPv4 texts as IPv6 ones: `10.244.1.11` is `fd00:10:244:1::11`, in rules and in packets alike.

use std::net::{IpAddr, Ipv4Addr};

/// An address by its IPv4 name.
pub fn ip(v6: bool, name: &str) -> IpAddr {
    let v4: Ipv4Addr = name.parse().unwrap();
    if v6 {
        six(v4).parse().unwrap()
    } else {
        v4.into()
    }
}

fn six(ip: Ipv4Addr) -> String {
    if ip.is_loopback() {
        return "::1".to_owned();
    }
    let [a, b, c, d] = ip.octets();
    match (a, b) {
        // As in `common::node_facts`.
        (10, 200) => format!("fd00:200:{c}::{d}"),
        _ => format!("fd00:{a}:{b}:{c}::{d}"),
    }
}

fn length(v4: &str) -> String {
    let bits: u32 = v4.parse().unwrap();
    match bits {
        // Within the last number.
        25..=32 => (128 - (32 - bits)).to_string(),
        // Each of the others is sixteen bits, after the first sixteen.
        _ => (16 + bits * 2).to_string(),
    }
}

/// The words of both languages that differ.
const WORDS: [(&str, &str); 26] = [
    ("icmp-port-unreachable", "icmp6-port-unreachable"),
    ("icmp-admin-prohibited", "icmp6-adm-prohibited"),
    ("icmp-host-unreachable", "icmp6-addr-unreachable"),
    ("icmp-net-unreachable", "icmp6-no-route"),
    ("icmp-net-prohibited", "icmp6-policy-fail"),
    ("icmp-host-prohibited", "icmp6-reject-route"),
    ("icmp-proto-unreachable", "icmp6-port-unreachable"),
    ("-p icmp", "-p ipv6-icmp"),
    ("-m icmp ", "-m icmp6 "),
    ("--icmp-type", "--icmpv6-type"),
    ("family inet", "family inet6"),
    ("ip saddr", "ip6 saddr"),
    ("ip daddr", "ip6 daddr"),
    ("ip version 4", "ip6 version 6"),
    ("ip protocol", "ip6 nexthdr"),
    ("ipv4_addr", "ipv6_addr"),
    ("ip to", "ip6 to"),
    ("table ip ", "table ip6 "),
    ("icmp type", "icmpv6 type"),
    ("icmp code", "icmpv6 code"),
    ("icmp host-unreachable", "icmpv6 addr-unreachable"),
    ("icmp net-prohibited", "icmpv6 policy-fail"),
    ("nfproto ipv4", "nfproto ipv6"),
    ("protocol ip ", "protocol ip6 "),
    ("ip ttl", "ip6 hoplimit"),
    ("l3proto ipv4", "l3proto ipv6"),
];

/// A text of rules or sets for IPv6.
pub fn text(v6: bool, v4: &str) -> String {
    if !v6 {
        return v4.to_owned();
    }
    let mut out = String::new();
    let mut rest = v4;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let joined = rest[..start].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = rest
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        let Ok(ip) = word.parse::<Ipv4Addr>() else {
            out.push_str(word);
            continue;
        };
        assert!(!joined, "{word}");
        let port = after
            .strip_prefix(':')
            .is_some_and(|p| p.starts_with(|c: char| c.is_ascii_digit()));
        out.push_str(&if port {
            format!("[{}]", six(ip))
        } else {
            six(ip)
        });
        if let Some(bits) = after.strip_prefix('/') {
            let end = bits
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(bits.len());
            out.push('/');
            out.push_str(&length(&bits[..end]));
            rest = &bits[end..];
        }
    }
    out.push_str(rest);
    for (a, b) in WORDS {
        out = out.replace(a, b);
    }
    out
}
