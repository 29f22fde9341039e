//! The same tests for both families: addresses and commands are written for IPv4.

use model::IpFamily;

/// IPv4 addresses by their beginning, and the beginning of the IPv6 address with the same end.
const ADDRESSES: [(&str, &str); 7] = [
    ("10.244.1.", "fd00:10:244::"),
    ("10.244.2.", "fd00:10:244:2::"),
    ("10.96.10.", "fd00:10:96::"),
    ("10.200.1.", "fd00:200:1::"),
    ("10.201.0.", "fd00:201::"),
    ("10.99.0.", "fd00:99::"),
    ("192.0.2.", "2001:db8:80::"),
];

/// Ranges, and words of commands. The hash of a chain for an endpoint contains its address.
const WORDS: [(&str, &str); 23] = [
    ("10.244.0.0/16", "fd00:10:244::/56"),
    ("10.244.1.0/24", "fd00:10:244::/64"),
    ("10.244.2.0/24", "fd00:10:244:2::/64"),
    ("10.244.1.48/30", "fd00:10:244::50/126"),
    ("10.244.1.128/25", "fd00:10:244::100/120"),
    ("10.244.1.129/25", "fd00:10:244::129/120"),
    (
        "net.bridge.bridge-nf-call-iptables=0",
        "net.bridge.bridge-nf-call-ip6tables=0",
    ),
    ("10.201.0.0/24", "fd00:201::/64"),
    ("10.201.0.2/31", "fd00:201::2/127"),
    ("10.201.0.2/32", "fd00:201::2/128"),
    ("10.96.0.0/16", "fd00:10:96::/112"),
    ("addressType: IPv4", "addressType: IPv6"),
    ("iptables-", "ip6tables-"),
    ("ip route", "ip -6 route"),
    ("ip rule", "ip -6 rule"),
    (" ip kube-proxy", " ip6 kube-proxy"),
    (" ip sluice-userspace", " ip6 sluice-userspace"),
    ("ip daddr", "ip6 daddr"),
    ("ip saddr", "ip6 saddr"),
    ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"),
    // An ICMPv6 error that arrives during `connect` is only noticed with the SYN's repetition, after 1 s.
    ("nodePort: 30082", "nodePort: 30082, protocol: UDP"),
    ("tcp . 30082", "udp . 30082"),
    ("KUBE-SEP-4R67FX26EEAQJQLI", "KUBE-SEP-3V7MMOPGWQH675DJ"),
];

/// Tables that the tests make.
const TABLES: [&str; 2] = ["early", "late"];

/// Return text with addresses and commands of a family.
pub(crate) fn of(family: IpFamily, text: &str) -> String {
    if family == IpFamily::V4 {
        return text.replace("-p PING", "-p icmp");
    }
    let mut text = text.replace("-p PING", "-p ipv6-icmp");
    for (from, to) in WORDS {
        text = text.replace(from, to);
    }
    for table in TABLES {
        text = text.replace(&format!("ip {table}"), &format!("ip6 {table}"));
    }
    for (from, to) in ADDRESSES {
        text = addresses(&text, from, to);
    }
    text
}

/// Replace addresses, in brackets where a port follows.
fn addresses(text: &str, from: &str, to: &str) -> String {
    let mut parts = text.split(from);
    let mut done = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_digit());
        let (last, rest) = part.split_at(end.unwrap_or(part.len()));
        let mut after = rest.chars();
        let has_port =
            after.next() == Some(':') && after.next().is_some_and(|c| c.is_ascii_digit());
        let address = format!("{to}{last}");
        done += &if has_port {
            format!("[{address}]{rest}")
        } else {
            format!("{address}{rest}")
        };
    }
    done
}
