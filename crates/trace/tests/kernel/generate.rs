//! Rules and packets at random, small and crowded, so that what can meet does meet.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::wire::Probe;

/// Marsaglia's xorshift: what fails once fails again.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % n as u64).unwrap()
    }

    pub fn pick<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }
}

const SOURCES: [&str; 4] = ["10.77.0.2", "198.51.100.30", "198.51.100.7", "198.51.100.8"];
const DESTINATIONS: [&str; 7] = [
    "10.96.0.1",
    "10.96.0.2",
    "10.244.1.1",
    "10.77.0.1",
    "10.78.0.1",
    "203.0.113.5",
    "198.51.100.99",
];
const PORTS: [u16; 5] = [53, 80, 443, 8080, 30080];

/// Packets with source ports that no other rule set of the same test uses.
pub fn probes(random: &mut Random, seed: u64, from_router: bool) -> Vec<Probe> {
    let base = 1024 + u16::try_from(seed).unwrap() * 100 + if from_router { 50 } else { 0 };
    (0..36)
        .map(|n| Probe {
            src: if from_router {
                random.pick(&["10.77.0.1", "10.78.0.1"]).parse().unwrap()
            } else {
                random.pick(&SOURCES).parse::<Ipv4Addr>().unwrap()
            },
            dst: random.pick(&DESTINATIONS).parse().unwrap(),
            proto: if random.below(4) == 0 { 17 } else { 6 },
            sport: base + n,
            dport: PORTS[random.below(PORTS.len())],
        })
        .collect()
}

pub const IPSETS: &str = "
ipset create web hash:ip,port family inet
ipset add web 10.96.0.1,tcp:80
ipset add web 203.0.113.5,udp:53
ipset create clients hash:net family inet
ipset add clients 198.51.100.0/24
ipset add clients 198.51.100.8/32 nomatch
ipset create ports bitmap:port range 0-65535
ipset add ports 30080
ipset create loop hash:ip,port,ip family inet
ipset add loop 10.244.1.1,tcp:8080,10.77.0.2
ipset create all list:set size 8
ipset add all clients";

pub const SPREAD_IPTABLES: &str = "*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -d 10.96.0.1 -p tcp --dport 80 -m statistic --mode random --probability 0.2500000000 -j DNAT --to-destination 10.244.1.1:8080
-A PREROUTING -d 10.96.0.1 -p tcp --dport 80 -m statistic --mode random --probability 0.3333333333 -j DNAT --to-destination 10.244.1.2:8080
-A PREROUTING -d 10.96.0.1 -p tcp --dport 80 -m statistic --mode random --probability 0.7000000000 -j DNAT --to-destination 10.244.1.3:8080
-A PREROUTING -d 10.96.0.1 -p tcp --dport 80 -j DNAT --to-destination 10.244.1.4:8080
COMMIT
";

pub const SPREAD_NFT: &str = "table ip t {
 chain pre {
  type nat hook prerouting priority dstnat
  ip daddr 10.96.0.1 tcp dport 80 numgen random mod 6 < 1 dnat to 10.244.1.9:80
  ip daddr 10.96.0.1 tcp dport 80 dnat ip addr . port to numgen random mod 3 map { 0 : 10.244.1.1 . 8080, 1 : 10.244.1.2 . 8080, 2 : 10.244.1.3 . 8081 }
 }
}
";

fn ipt_match(r: &mut Random, hook: &str) -> String {
    let not = if r.below(4) == 0 { "! " } else { "" };
    let dst_local = matches!(hook, "PREROUTING" | "INPUT" | "OUTPUT");
    match r.below(17) {
        0 => format!(
            " {not}-s {}",
            r.pick(&[
                "10.77.0.0/24",
                "198.51.100.7",
                "198.51.100.0/24",
                "10.78.0.1"
            ])
        ),
        1 => format!(
            " {not}-d {}",
            r.pick(&[
                "10.96.0.0/16",
                "10.96.0.1",
                "10.244.0.0/16",
                "10.77.0.1",
                "203.0.113.5"
            ])
        ),
        2 => format!(
            " -p tcp {not}--dport {}",
            r.pick(&["80", "443", "53:80", "8080", "30080"])
        ),
        3 => format!(" -p udp {not}--dport {}", r.pick(&["53", "80:443"])),
        4 => " -p tcp -m multiport --dports 53,80:443,30080".into(),
        5 => format!(
            " -m mark {not}--mark {}",
            r.pick(&["0x1/0x1", "0x2/0x3", "0x4000/0x4000", "0x0"])
        ),
        6 => format!(
            " -m conntrack {not}--ctstate {}",
            r.pick(&["NEW", "ESTABLISHED", "DNAT", "NEW,RELATED", "INVALID"])
        ),
        7 if dst_local => format!(" -m addrtype {not}--dst-type LOCAL"),
        8 => format!(
            " -m addrtype {not}--src-type {}",
            r.pick(&["LOCAL", "UNICAST"])
        ),
        9 => format!(" -m iprange {not}--dst-range 10.96.0.1-10.244.1.1"),
        10 => " -p tcp --syn".into(),
        11 => format!(
            " -m conntrack {not}--ctorigdst {}",
            r.pick(&["10.96.0.0/16", "10.77.0.1"])
        ),
        12 => format!(
            " -m set {not}--match-set {}",
            r.pick(&[
                "web dst,dst",
                "clients src",
                "ports dst",
                "loop dst,dst,src",
                "all src"
            ])
        ),
        13 => format!(" -m connmark {not}--mark {}", r.pick(&["0x1/0x1", "0x0"])),
        14 => " -m statistic --mode random --probability 0.5".into(),
        15 => format!(" -m recent --rcheck --name {}", r.pick(&["a", "b"])),
        16 if matches!(hook, "PREROUTING" | "FORWARD") => {
            format!(" {not}-i {}", r.pick(&["rc", "r+", "eth0"]))
        }
        16 if hook == "POSTROUTING" => format!(" {not}-o {}", r.pick(&["rs", "rc", "lo"])),
        _ => String::new(),
    }
}

fn ipt_target(r: &mut Random, table: &str, hook: &str) -> String {
    let chain = |r: &mut Random| format!("{} {table}{}", r.pick(&["-j", "-j", "-g"]), r.below(2));
    let dnat = |r: &mut Random| {
        r.pick(&[
            "-p tcp -j DNAT --to-destination 10.244.1.1:8080",
            "-j DNAT --to-destination 10.244.1.2",
            "-p tcp -j DNAT --to-destination 10.77.0.1:80",
            "-p tcp -j DNAT --to-destination 10.244.3.1-10.244.3.3:53",
        ])
        .to_owned()
    };
    match (table, r.below(8)) {
        (_, 0) => "-j RETURN".into(),
        (_, 1) => "-j ACCEPT".into(),
        ("raw", 2) => "-j NOTRACK".into(),
        ("filter", 2 | 3) => "-j DROP".into(),
        ("filter", 4) => "-j REJECT --reject-with icmp-port-unreachable".into(),
        ("nat", 2 | 3) if matches!(hook, "PREROUTING" | "OUTPUT") => dnat(r),
        ("nat", 4) if hook == "PREROUTING" => "-p tcp -j REDIRECT --to-ports 8080".into(),
        ("nat", 2..=4) if hook == "POSTROUTING" => r
            .pick(&[
                "-j MASQUERADE",
                "-j MASQUERADE --random-fully",
                "-j SNAT --to-source 10.78.0.77",
            ])
            .into(),
        ("mangle", 2) => "-j CONNMARK --save-mark".into(),
        ("mangle", 3) => "-j CONNMARK --restore-mark".into(),
        (_, 5 | 6) => format!(
            "-j MARK --set-xmark {}",
            r.pick(&["0x1/0x1", "0x2/0x3", "0x4000/0x4000", "0x4000/0x0"])
        ),
        (_, 7) if !hook.is_empty() && table != "raw" => chain(r),
        _ => String::new(),
    }
}

/// A rule set of iptables that uses whatever there is.
pub fn iptables(r: &mut Random) -> String {
    let mut out = String::new();
    for (table, hooks) in [
        ("raw", &["PREROUTING", "OUTPUT"][..]),
        (
            "mangle",
            &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
        ),
        ("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
        ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
    ] {
        let _ = writeln!(out, "*{table}");
        for hook in hooks {
            let policy = if table == "filter" && *hook == "FORWARD" && r.below(4) == 0 {
                "DROP"
            } else {
                "ACCEPT"
            };
            let _ = writeln!(out, ":{hook} {policy} [0:0]");
        }
        let user: &[&str] = if table == "raw" { &[] } else { &["0", "1"] };
        for n in user {
            let _ = writeln!(out, ":{table}{n} - [0:0]");
        }
        for hook in hooks {
            // Answers must get out, or nobody could tell what happened.
            if *hook == "OUTPUT" && matches!(table, "filter" | "raw") {
                out.push_str(
                    "-A OUTPUT -p icmp -j ACCEPT\n-A OUTPUT -p tcp --tcp-flags RST RST -j ACCEPT\n",
                );
            }
            let count = if table == "raw" {
                r.below(2)
            } else {
                1 + r.below(4)
            };
            for _ in 0..count {
                let matches: String = (0..1 + r.below(2)).map(|_| ipt_match(r, hook)).collect();
                if unusable(&matches) || (table == "raw" && matches.contains("ct")) {
                    continue;
                }
                let target = ipt_target(r, table, hook);
                if target.contains("-p tcp") && matches.contains("-p ") {
                    continue;
                }
                let _ = writeln!(out, "-A {hook}{matches} {target}");
            }
            if *hook == "FORWARD" || (*hook == "PREROUTING" && table == "mangle") {
                let name = r.pick(&["a", "b"]);
                let _ = writeln!(
                    out,
                    "-A {hook} -s 198.51.100.0/24 -p udp --dport 9 -m recent --set --name {name} --rsource"
                );
            }
        }
        for n in user {
            for _ in 0..2 {
                let matches = ipt_match(r, "");
                let target = ipt_target(r, table, "");
                let _ = writeln!(out, "-A {table}{n}{matches} {target}");
            }
        }
        out.push_str("COMMIT\n");
    }
    out
}

/// Two protocols, or one option twice, are refused.
fn unusable(matches: &str) -> bool {
    let twice = |what: &str| matches.matches(what).count() > 1;
    twice("-p ") || twice(" -s ") || twice(" -d ") || twice(" -i ") || twice(" -o ")
}

fn nft_match(r: &mut Random, hook: &str) -> String {
    let ne = if r.below(4) == 0 { "!= " } else { "" };
    match r.below(17) {
        0 => format!(
            "ip saddr {ne}{}",
            r.pick(&[
                "10.77.0.0/24",
                "198.51.100.7",
                "{ 10.77.0.2, 198.51.100.0/29 }",
                "@clients"
            ])
        ),
        1 => format!(
            "ip daddr {ne}{}",
            r.pick(&[
                "10.96.0.0/16",
                "10.96.0.1",
                "10.96.0.1-10.244.1.1",
                "@services"
            ])
        ),
        2 => format!(
            "tcp dport {ne}{}",
            r.pick(&["80", "53-443", "{ 53, 8080-30080 }"])
        ),
        3 => format!("udp dport {ne}53"),
        4 => format!("meta l4proto {}", r.pick(&["tcp", "{ udp, sctp }"])),
        5 => format!(
            "meta mark & {} == {}",
            r.pick(&["0x1", "0x3"]),
            r.pick(&["0x1", "0x0"])
        ),
        6 => format!(
            "ct state {}",
            r.pick(&["new", "established,related", "{ new, invalid }"])
        ),
        7 => "ct status dnat".into(),
        8 if hook == "prerouting" => format!(
            "iifname {ne}{}",
            r.pick(&["\"rc\"", "\"r*\"", "{ \"eth0\", \"rc\" }"])
        ),
        8 if hook == "postrouting" => format!("oifname {ne}\"rs\""),
        9 if matches!(hook, "prerouting" | "input" | "output") => {
            format!("fib daddr type {ne}local")
        }
        10 => format!("ip daddr . meta l4proto . th dport {ne}@triples"),
        11 => format!("ct original ip daddr {ne}10.96.0.0/16"),
        12 => "tcp flags & (syn | ack) == syn".into(),
        13 => format!("ct mark {ne}0x1"),
        14 => format!("numgen random mod 4 {}", r.pick(&["< 2", "0", "{ 1, 2 }"])),
        15 => {
            format!("ip saddr . tcp dport {ne}{{ 10.77.0.0/24 . 80-443, 198.51.100.7 . 0-65535 }}")
        }
        _ => "counter".into(),
    }
}

fn nft_action(r: &mut Random, kind: &str, hook: &str) -> String {
    let chains = ["jump c0", "jump c1", "goto c0", "goto c1"];
    match (kind, r.below(9)) {
        (_, 0) => "accept".into(),
        (_, 1) => "return".into(),
        (_, 2) => r.pick(&["meta mark set meta mark | 0x1", "meta mark set 0x2", "ct mark set meta mark", "meta mark set ct mark ^ 0x1"]).into(),
        ("filter", 3 | 4) => "drop".into(),
        ("filter", 5) if hook != "postrouting" => "reject".into(),
        ("filter", 6) if !hook.is_empty() => r.pick(&chains).into(),
        ("filter", 7) if !hook.is_empty() => "ip daddr . meta l4proto . th dport vmap @verdicts".into(),
        ("filter", 8) => "numgen random mod 3 vmap { 0 : drop, 1 : accept }".into(),
        ("nat", 3 | 4) if matches!(hook, "prerouting" | "output") => r.pick(&["meta l4proto tcp dnat ip to 10.244.1.1:8080", "dnat ip to 10.244.1.2", "dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 2 map @endpoints"]).into(),
        ("nat", 5) if hook == "prerouting" => "meta l4proto tcp redirect to :8080".into(),
        ("nat", 6) if hook == "prerouting" => "dnat ip to ip daddr map { 10.96.0.1 : 10.244.9.1, 10.96.0.2 : 10.244.9.2 }".into(),
        ("nat", 3..=6) if hook == "postrouting" => r.pick(&["masquerade", "masquerade fully-random", "snat ip to 10.78.0.77"]).into(),
        _ => "counter".into(),
    }
}

/// Two parts of a rule that both ask for a protocol are often refused.
fn clashes(a: &str, b: &str) -> bool {
    let asks = |text: &str| ["tcp", "udp"].iter().any(|p| text.contains(p));
    asks(a) && asks(b)
}

/// A rule set of nf_tables that uses whatever there is.
pub fn nftables(r: &mut Random) -> String {
    let family = r.pick(&["ip", "inet"]);
    let mut out = format!("table {family} t {{
 set clients {{ type ipv4_addr; flags interval; elements = {{ 198.51.100.0/29, 198.51.100.30 }} }}
 set services {{ type ipv4_addr; elements = {{ 10.96.0.1, 10.96.0.2 }} }}
 set triples {{ type ipv4_addr . inet_proto . inet_service; elements = {{ 10.96.0.1 . tcp . 80, 203.0.113.5 . udp . 53, 10.77.0.1 . tcp . 443 }} }}
 map verdicts {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ 10.96.0.1 . tcp . 443 : drop, 10.96.0.2 . tcp . 80 : goto c1, 203.0.113.5 . tcp . 80 : accept }} }}
 map endpoints {{ typeof ip daddr . meta l4proto . th dport . numgen random mod 2 : ip daddr . th dport
  elements = {{ 10.96.0.1 . tcp . 80 . 0 : 10.244.1.1 . 8080, 10.96.0.1 . tcp . 80 . 1 : 10.244.1.2 . 8081, 10.96.0.2 . udp . 53 . 1 : 10.244.1.3 . 5353 }} }}
");
    for n in 0..2 {
        let _ = writeln!(out, " chain c{n} {{");
        for _ in 0..2 {
            let _ = writeln!(
                out,
                "  {} {}",
                nft_match(r, ""),
                nft_action(r, "filter", "")
            );
        }
        out.push_str(" }\n");
    }
    for (name, kind, hook, priority) in [
        ("early", "filter", "prerouting", "-350"),
        ("mark", "filter", "prerouting", "mangle"),
        ("pre", "nat", "prerouting", "dstnat"),
        ("pre2", "nat", "prerouting", "-90"),
        ("late", "filter", "prerouting", "-50"),
        ("in", "filter", "input", "filter"),
        ("fwd", "filter", "forward", "filter"),
        ("outnat", "nat", "output", "-100"),
        ("outroute", "route", "output", "mangle"),
        ("out", "filter", "output", "filter"),
        ("post", "nat", "postrouting", "srcnat"),
    ] {
        let _ = writeln!(
            out,
            " chain x{name} {{\n  type {kind} hook {hook} priority {priority};"
        );
        if name == "out" {
            out.push_str("  meta l4proto icmp accept\n  tcp flags & rst == rst accept\n");
        }
        let kind = if kind == "route" { "mark" } else { kind };
        for _ in 0..r.below(4) {
            let mut matches = nft_match(r, hook);
            let more = nft_match(r, hook);
            if !clashes(&matches, &more) {
                let _ = write!(matches, " {more}");
            }
            let action = nft_action(r, kind, hook);
            if !clashes(&matches, &action) {
                let _ = writeln!(out, "  {matches} {action}");
            }
        }
        out.push_str(" }\n");
    }
    out.push_str("}\n");
    out
}
