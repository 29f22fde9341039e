//! Time to parse and walk a large dump.
#![allow(missing_docs)]

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Instant;

use netfilter::iptables::Family;
use trace::{Origin, Packet, Proto, World, walk};

/// kube-proxy's rules for Services with ten endpoints: 21 rules each.
fn iptables(services: u32) -> String {
    let mut chains = String::new();
    let mut rules = String::from("-A PREROUTING -j KUBE-SERVICES\n");
    for s in 0..services {
        let ip = Ipv4Addr::from_bits(0x0a60_0000 + s);
        let _ = writeln!(chains, ":KUBE-SVC-{s:016} - [0:0]");
        let _ = writeln!(
            rules,
            "-A KUBE-SERVICES -d {ip}/32 -p tcp -m comment --comment \"ns/s{s}:http cluster IP\" -m tcp --dport 80 -j KUBE-SVC-{s:016}"
        );
        for e in 0..10_u32 {
            let to = Ipv4Addr::from_bits(0x0af4_0000 + s * 10 + e);
            let _ = writeln!(chains, ":KUBE-SEP-{s:012}{e:04} - [0:0]");
            let odds = if e < 9 {
                let p = 1.0 / f64::from(10 - e);
                format!(" -m statistic --mode random --probability {p:.10}")
            } else {
                String::new()
            };
            let _ = writeln!(
                rules,
                "-A KUBE-SVC-{s:016} -m comment --comment \"ns/s{s}:http -> {to}:8080\"{odds} -j KUBE-SEP-{s:012}{e:04}"
            );
            let _ = writeln!(
                rules,
                "-A KUBE-SEP-{s:012}{e:04} -p tcp -m comment --comment ns/s{s}:http -m tcp -j DNAT --to-destination {to}:8080"
            );
        }
    }
    format!(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n{chains}{rules}COMMIT\n"
    )
}

/// Rules in one chain of nf_tables, and as many elements in a map.
fn nft(rules: u32) -> String {
    let mut out = String::from(
        "table ip t {\n\tmap services {\n\t\ttype ipv4_addr . inet_proto . inet_service : verdict\n\t\telements = {",
    );
    for n in 0..rules {
        let ip = Ipv4Addr::from_bits(0x0a60_0000 + n);
        let _ = write!(out, " {ip} . tcp . 80 : drop,\n\t\t\t");
    }
    out.push_str(
        " }\n\t}\n\tchain c {\n\t\ttype filter hook forward priority filter; policy accept;\n",
    );
    for n in 0..rules {
        let ip = Ipv4Addr::from_bits(0x0b00_0000 + n);
        let _ = writeln!(out, "\t\tip daddr {ip} tcp dport 80 drop");
    }
    out.push_str("\t\tip daddr . meta l4proto . th dport vmap @services\n\t}\n}\n");
    out
}

/// The same as JSON.
fn nft_json(rules: u32) -> String {
    let mut out = String::from(
        r#"{"nftables": [{"table": {"family": "ip", "name": "t"}}, {"map": {"family": "ip", "name": "services", "table": "t", "type": ["ipv4_addr", "inet_proto", "inet_service"], "map": "verdict", "elem": ["#,
    );
    for n in 0..rules {
        let ip = Ipv4Addr::from_bits(0x0a60_0000 + n);
        let between = if n > 0 { ", " } else { "" };
        let _ = write!(
            out,
            r#"{between}[{{"concat": ["{ip}", "tcp", 80]}}, {{"drop": null}}]"#
        );
    }
    out.push_str(r#"]}}, {"chain": {"family": "ip", "table": "t", "name": "c", "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}}"#);
    for n in 0..rules {
        let ip = Ipv4Addr::from_bits(0x0b00_0000 + n);
        let _ = write!(
            out,
            r#", {{"rule": {{"family": "ip", "table": "t", "chain": "c", "handle": {n}, "expr": [{{"match": {{"op": "==", "left": {{"payload": {{"protocol": "ip", "field": "daddr"}}}}, "right": "{ip}"}}}}, {{"match": {{"op": "==", "left": {{"payload": {{"protocol": "tcp", "field": "dport"}}}}, "right": 80}}}}, {{"drop": null}}]}}}}"#
        );
    }
    out.push_str(r#", {"rule": {"family": "ip", "table": "t", "chain": "c", "expr": [{"vmap": {"key": {"concat": [{"payload": {"protocol": "ip", "field": "daddr"}}, {"meta": {"key": "l4proto"}}, {"payload": {"protocol": "th", "field": "dport"}}]}, "data": "@services"}}]}}]}"#);
    out
}

fn measure(name: &str, text: &str, last: Ipv4Addr, add: impl Fn(&mut World, &str)) {
    let packet = Packet::new(
        Origin::Outside,
        Ipv4Addr::new(192, 0, 2, 1).into(),
        last.into(),
        Proto::TCP,
        80,
    );
    let start = Instant::now();
    let mut world = World::default();
    add(&mut world, text);
    let read = start.elapsed();
    let start = Instant::now();
    let outcomes = walk(&world, &packet).map_or(0, |t| t.outcomes.len());
    println!(
        "{name:>24} {:>10} bytes   read {read:>10.1?}   walk {:>10.1?}   {outcomes} outcomes",
        text.len(),
        start.elapsed()
    );
}

fn main() {
    for services in [480_u32, 4_800, 48_000] {
        let text = iptables(services);
        let rules = text.lines().filter(|l| l.starts_with("-A")).count();
        let last = Ipv4Addr::from_bits(0x0a60_0000 + services - 1);
        measure(&format!("iptables, {rules} rules"), &text, last, |w, t| {
            w.add_iptables(Family::Ipv4, t).expect("the dump is whole");
        });
    }
    for rules in [10_000, 100_000] {
        let text = nft(rules);
        let last = Ipv4Addr::from_bits(0x0a60_0000 + rules - 1);
        measure(&format!("nft list, {rules} rules"), &text, last, |w, t| {
            w.add_nft(t).expect("the dump is whole");
        });
        let json = nft_json(rules);
        measure(&format!("nft -j, {rules} rules"), &json, last, |w, t| {
            w.add_nft(t).expect("the dump is whole");
        });
    }
}
