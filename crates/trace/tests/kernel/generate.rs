//! Random rules and packets, small and dense, so that they match often. All are for IPv4;
//! [`crate::six`] converts them to IPv6.

use std::fmt::Write as _;

use crate::net::Place;
use crate::six;
use crate::wire::{Kind, Probe};

/// Marsaglia's xorshift: failures are reproducible.
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

const DESTINATIONS: [&str; 7] = [
    "10.96.0.1",
    "10.96.0.2",
    "10.244.1.11",
    "10.200.1.2",
    "10.244.1.1",
    "203.0.113.5",
    "10.244.2.12",
];
const PORTS: [u16; 5] = [53, 80, 443, 8080, 30080];

fn sources(from: Place) -> &'static [&'static str] {
    match from {
        Place::Pods => &["10.244.1.50", "10.244.1.51", "10.244.1.11"],
        Place::Node => &["10.200.1.2", "10.244.1.1"],
        Place::Outside => &[
            "198.51.100.7",
            "198.51.100.8",
            "198.51.100.30",
            "10.200.1.77",
            "10.244.2.50",
        ],
    }
}

/// Packets that open a connection or belong to none, each with its own source port.
pub fn probes(random: &mut Random, v6: bool, from: Place, first: u16, count: u16) -> Vec<Probe> {
    (first..first + count)
        .map(|id| {
            let stray = random.below(7) == 0;
            let proto = match random.below(10) {
                0..5 => 6,
                5..7 if !stray => 17,
                7 => 132,
                _ if v6 => 58,
                _ => 1,
            };
            let icmp = matches!(proto, 1 | 58);
            Probe {
                src: six::ip(v6, random.pick(sources(from))),
                dst: six::ip(v6, random.pick(&DESTINATIONS)),
                proto,
                sport: id,
                dport: if icmp { 0 } else { PORTS[random.below(5)] },
                id,
                kind: if stray { Kind::Stray } else { Kind::Open },
            }
        })
        .collect()
}

pub const IPSETS: &str = "create web hash:ip,port family inet
add web 10.96.0.1,tcp:80
add web 203.0.113.5,udp:53
add web 10.96.0.2,sctp:443
create clients hash:net family inet
add clients 198.51.100.0/24
add clients 198.51.100.8/32 nomatch
create ports bitmap:port range 0-65535
add ports 30080
create loop hash:ip,port,ip family inet
add loop 10.244.1.11,tcp:8080,10.244.1.50
create nets hash:net,port family inet
add nets 10.96.0.0/16,tcp:443
add nets 10.96.0.1/32,tcp:443 nomatch
create through hash:net,iface family inet
add through 198.51.100.0/24,eth0
add through 10.244.1.0/24,cbr0
create porting hash:ip,port,net family inet
add porting 10.96.0.1,tcp:80,198.51.100.0/29
create told hash:ip,port family inet
create all list:set size 8
add all clients
";

pub const SPREAD_IPTABLES: &str = "*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -d 10.96.0.1 -p tcp --dport 80 -m statistic --mode random --probability 0.2500000000 -j DNAT --to-destination 10.244.1.11:8080
-A PREROUTING -d 10.96.0.1 -p tcp --dport 80 -m statistic --mode random --probability 0.3333333333 -j DNAT --to-destination 10.244.1.12:8080
-A PREROUTING -d 10.96.0.1 -p tcp --dport 80 -m statistic --mode random --probability 0.7000000000 -j DNAT --to-destination 10.244.1.13:8080
-A PREROUTING -d 10.96.0.1 -p tcp --dport 80 -j DNAT --to-destination 10.244.1.14:8080
COMMIT
";

pub const SPREAD_NFT: &str = "table ip t {
 chain pre {
  type nat hook prerouting priority dstnat
  ip daddr 10.96.0.1 tcp dport 80 numgen random mod 6 < 1 dnat to 10.244.1.19:80
  ip daddr 10.96.0.1 tcp dport 80 dnat ip to numgen random mod 3 map { 0 : 10.244.1.11 . 8080, 1 : 10.244.1.12 . 8080, 2 : 10.244.1.13 . 8081 }
 }
}
";

fn ipt_header(r: &mut Random, hook: &str, not: &str) -> String {
    match r.below(3) {
        0 => {
            let nets = [
                "10.244.1.0/24",
                "198.51.100.7",
                "198.51.100.0/24",
                "10.200.1.2",
            ];
            format!(" {not}-s {}", r.pick(&nets))
        }
        1 => {
            let nets = [
                "10.96.0.0/16",
                "10.96.0.1",
                "10.244.0.0/16",
                "10.200.1.2",
                "203.0.113.5",
            ];
            format!(" {not}-d {}", r.pick(&nets))
        }
        _ if matches!(hook, "PREROUTING" | "FORWARD") => {
            format!(" {not}-i {}", r.pick(&["eth0", "cbr0", "c+", "wlan0"]))
        }
        _ if hook == "POSTROUTING" => format!(" {not}-o {}", r.pick(&["eth0", "cbr0", "lo"])),
        _ => String::new(),
    }
}

fn ipt_ports(r: &mut Random, not: &str) -> String {
    let ports = ["80", "443", "53:80", "8080", "30080"];
    match r.below(10) {
        0 | 1 => format!(" -p tcp {not}--dport {}", r.pick(&ports)),
        2 => format!(" -p udp {not}--dport {}", r.pick(&ports)),
        3 => format!(" -p sctp {not}--dport {}", r.pick(&ports)),
        4 => " -p tcp -m multiport --dports 53,80:443,30080".into(),
        5 => format!(" -p tcp -m multiport {not}--sports 1000:40000"),
        6 => " -p udp -m multiport --ports 53,443".into(),
        7 => format!(" -p tcp {not}--syn"),
        8 => " -p tcp --tcp-flags SYN,ACK ACK".into(),
        _ => format!(" -p icmp {not}--icmp-type echo-request"),
    }
}

fn ipt_connection(r: &mut Random, not: &str) -> String {
    match r.below(10) {
        0..4 => {
            let states = [
                "NEW",
                "ESTABLISHED",
                "DNAT",
                "NEW,RELATED",
                "INVALID",
                "SNAT",
            ];
            format!(" -m conntrack {not}--ctstate {}", r.pick(&states))
        }
        4 => format!(
            " -m state {not}--state {}",
            r.pick(&["NEW", "INVALID,ESTABLISHED"])
        ),
        5 => {
            let nets = ["10.96.0.0/16", "10.200.1.2"];
            format!(" -m conntrack {not}--ctorigdst {}", r.pick(&nets))
        }
        6 => format!(" -m conntrack {not}--ctreplsrc 10.244.0.0/16"),
        7 => format!(
            " -m conntrack {not}--ctorigdstport {}",
            r.pick(&["80", "1:443"])
        ),
        8 => " -m conntrack --ctdir REPLY".into(),
        _ => {
            let all = [
                " -m conntrack --ctstatus SEEN_REPLY",
                " -m conntrack --ctstate INVALID --ctproto tcp",
                " -m conntrack --ctproto udp",
                " -m conntrack --ctorigsrc 198.51.100.0/24",
                " -m conntrack --ctrepldst 10.200.1.2",
            ];
            r.pick(&all).into()
        }
    }
}

fn ipt_other(r: &mut Random, hook: &str, not: &str) -> String {
    let dst_local = matches!(hook, "PREROUTING" | "INPUT" | "OUTPUT");
    match r.below(17) {
        0 if dst_local => format!(" -m addrtype {not}--dst-type LOCAL"),
        1 => format!(
            " -m addrtype {not}--src-type {}",
            r.pick(&["LOCAL", "UNICAST"])
        ),
        2 => format!(" -m iprange {not}--dst-range 10.96.0.1-10.244.1.1"),
        3 => format!(" -m iprange {not}--src-range 198.51.100.7-198.51.100.8"),
        4 | 5 => {
            let sets = [
                "web dst,dst",
                "clients src",
                "ports dst",
                "loop dst,dst,src",
                "nets dst,dst",
                "through src,src",
                "porting dst,dst,src",
                "told src,src",
                "all src",
            ];
            format!(" -m set {not}--match-set {}", r.pick(&sets))
        }
        6 => format!(" -m connmark {not}--mark {}", r.pick(&["0x1/0x1", "0x0"])),
        7 => " -m statistic --mode random --probability 0.5".into(),
        8 => " -m statistic --mode nth --every 3 --packet 1".into(),
        9 => format!(
            " -m recent {not}--rcheck --name {}",
            r.pick(&["on", "off", "never"])
        ),
        10 => format!(
            " -m mark {not}--mark {}",
            r.pick(&["0x1/0x1", "0x2/0x3", "0x4000/0x4000", "0x0"])
        ),
        11 if matches!(hook, "PREROUTING" | "FORWARD") => {
            format!(" -m physdev {not}--physdev-is-in")
        }
        12 => " -m limit --limit 10000/sec --limit-burst 10000 -m comment --comment \"a b\"".into(),
        13 if matches!(hook, "OUTPUT" | "POSTROUTING") => {
            format!(" -m owner {not}--socket-exists")
        }
        14 => " -m pkttype --pkt-type unicast".into(),
        15 if hook == "PREROUTING" => " -m addrtype --dst-type LOCAL --limit-iface-in".into(),
        16 => " -m length --length 0:100".into(),
        _ => String::new(),
    }
}

fn ipt_match(r: &mut Random, table: &str, hook: &str) -> String {
    let not = if r.below(4) == 0 { "! " } else { "" };
    match r.below(8) {
        0 | 1 => ipt_header(r, hook, not),
        2 | 3 => ipt_ports(r, not),
        4 | 5 => ipt_connection(r, not),
        6 if hook == "PREROUTING" && matches!(table, "mangle" | "raw") && r.below(3) == 0 => {
            format!(
                " -m rpfilter {}",
                r.pick(&["--invert", "--loose", "--validmark --accept-local"])
            )
        }
        _ => ipt_other(r, hook, not),
    }
}

fn ipt_target(r: &mut Random, table: &str, hook: &str) -> String {
    let chain = |r: &mut Random| format!("{} {table}{}", r.pick(&["-j", "-j", "-g"]), r.below(2));
    let dnat = [
        "-p tcp -j DNAT --to-destination 10.244.1.11:8080",
        "-j DNAT --to-destination 10.244.1.12",
        "-p tcp -j DNAT --to-destination 10.200.1.2:80",
        "-j DNAT --to-destination 10.244.3.1-10.244.3.3",
        "-p sctp -j DNAT --to-destination 10.244.2.12:443",
    ];
    let rejects = [
        "-j REJECT --reject-with icmp-port-unreachable",
        "-j REJECT --reject-with icmp-admin-prohibited",
        "-j REJECT --reject-with icmp-host-unreachable",
        "-p tcp -j REJECT --reject-with tcp-reset",
    ];
    let connmarks = [
        "-j CONNMARK --save-mark",
        "-j CONNMARK --restore-mark",
        "-j CONNMARK --set-xmark 0x1/0x1",
    ];
    match (table, r.below(8)) {
        (_, 0) => "-j RETURN".into(),
        (_, 1) => "-j ACCEPT".into(),
        ("raw", 2) => "-j NOTRACK".into(),
        ("raw", 3) => "-j CT --ctevents new".into(),
        ("filter", 2 | 3) => "-j DROP".into(),
        ("filter", 4) => r.pick(&rejects).into(),
        ("filter", 7) if r.below(3) == 0 => r
            .pick(&["-j LOG --log-prefix \"x: \"", "-j NFLOG --nflog-group 5"])
            .into(),
        ("nat", 2 | 3) if matches!(hook, "PREROUTING" | "OUTPUT") => r.pick(&dnat).into(),
        ("nat", 4) if hook == "PREROUTING" => "-p tcp -j REDIRECT --to-ports 8080".into(),
        ("nat", 2..=4) if hook == "POSTROUTING" => r
            .pick(&[
                "-j MASQUERADE",
                "-j MASQUERADE --random-fully",
                "-j SNAT --to-source 10.200.1.99",
                "-j SNAT --to-source 198.51.100.1-198.51.100.8",
            ])
            .into(),
        ("nat", 4) if hook == "INPUT" => "-j SNAT --to-source 10.244.1.99".into(),
        ("mangle", 2) => r.pick(&connmarks).into(),
        ("mangle", 3) => "-j SET --add-set told src,src".into(),
        ("mangle", 4) if hook == "FORWARD" => "-p tcp -j TCPMSS --clamp-mss-to-pmtu".into(),
        ("mangle", 4) if hook == "PREROUTING" && r.below(2) == 0 => {
            "-p udp -j TPROXY --on-port 15001 --tproxy-mark 0x8/0x8".into()
        }
        ("mangle", 4) => "-j DSCP --set-dscp 0x10".into(),
        (_, 5 | 6) => format!(
            "-j MARK --set-xmark {}",
            r.pick(&["0x1/0x1", "0x2/0x3", "0x4000/0x4000", "0x4000/0x0"])
        ),
        (_, 7) if !hook.is_empty() && table != "raw" => chain(r),
        _ => String::new(),
    }
}

/// The beginning of every generated rule set: rules that let answers leave, so that results are
/// visible, a `recent` list with every client, and an empty one.
fn ipt_fixed(table: &str, hook: &str) -> &'static str {
    match (table, hook) {
        ("filter" | "raw", "OUTPUT") => {
            "-A OUTPUT -p icmp -m icmp --icmp-type echo-reply -j ACCEPT
-A OUTPUT -p icmp -m icmp --icmp-type destination-unreachable -j ACCEPT
-A OUTPUT -p tcp --tcp-flags RST RST -j ACCEPT
"
        }
        ("mangle", "PREROUTING") => {
            "-A PREROUTING -m recent --set --name on --rsource
-A PREROUTING -m recent --set --name off --rsource
-A PREROUTING -m recent --update --seconds 60 --name on --rsource
-A PREROUTING -m recent --remove --name off --rsource
"
        }
        ("mangle", "OUTPUT") => {
            "-A OUTPUT -m recent --set --name on --rsource
-A OUTPUT -m recent --set --name off --rsource
-A OUTPUT -m recent --remove --name off --rsource
"
        }
        _ => "",
    }
}

/// An iptables rule set that uses every kind of match and target.
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
            out.push_str(ipt_fixed(table, hook));
            let count = if table == "raw" {
                r.below(2)
            } else {
                1 + r.below(4)
            };
            for _ in 0..count {
                let matches: String = (0..1 + r.below(2))
                    .map(|_| ipt_match(r, table, hook))
                    .collect();
                let target = ipt_target(r, table, hook);
                if usable(table, &matches, &target) {
                    let _ = writeln!(out, "-A {hook}{matches} {target}");
                }
            }
        }
        for n in user {
            for _ in 0..2 {
                let matches = ipt_match(r, table, "");
                let target = ipt_target(r, table, "");
                if usable(table, &matches, &target) {
                    let _ = writeln!(out, "-A {table}{n}{matches} {target}");
                }
            }
        }
        out.push_str("COMMIT\n");
    }
    out
}

/// Two protocols, or one option twice, are refused; raw precedes connection tracking.
fn usable(table: &str, matches: &str, target: &str) -> bool {
    let all = format!("{matches} {target}");
    let twice = |what: &str| all.matches(what).count() > 1;
    let options = [
        "-p ",
        " -s ",
        " -d ",
        " -i ",
        " -o ",
        "--dst-range",
        "--src-range",
    ];
    let again = options.iter().any(|o| twice(o));
    // Matches on connections are useless in raw.
    let early = table == "raw" && (matches.contains("conntrack") || matches.contains("-m state"));
    let limits = table == "nat" && matches.contains("-m limit");
    !again && !early && !limits
}

fn nft_header(r: &mut Random, hook: &str, ne: &str) -> String {
    match r.below(8) {
        0 | 1 => {
            let from = [
                "10.244.1.0/24",
                "198.51.100.7",
                "{ 10.244.1.50, 198.51.100.0/29 }",
                "@clients",
            ];
            format!("ip saddr {ne}{}", r.pick(&from))
        }
        2 | 3 => {
            let to = [
                "10.96.0.0/16",
                "10.96.0.1",
                "10.96.0.1-10.244.1.1",
                "@services",
            ];
            format!("ip daddr {ne}{}", r.pick(&to))
        }
        4 if matches!(hook, "prerouting" | "forward") => {
            let names = ["\"eth0\"", "\"c*\"", "{ \"eth0\", \"wlan0\" }"];
            format!("iifname {ne}{}", r.pick(&names))
        }
        4 if hook == "postrouting" => format!("oifname {ne}\"eth0\""),
        5 if matches!(hook, "prerouting" | "forward") => format!("iif {ne}\"eth0\""),
        5 if hook == "postrouting" => format!("oif {ne}\"cbr0\""),
        6 => format!(
            "ip saddr & 10.0.0.0 {}",
            r.pick(&["== 10.0.0.0", "!= 10.0.0.0"])
        ),
        _ => {
            let all = [
                "ip version 4",
                "ip protocol tcp",
                "meta nfproto ipv4",
                "meta protocol ip",
                "meta pkttype host",
                "ip daddr . meta l4proto . th dport @triples",
                "ip saddr . ip daddr { 198.51.100.0/24 . 10.96.0.1-10.96.0.2 }",
                "ip saddr . tcp dport { 10.244.1.0/24 . 80-443, 198.51.100.7 . 0-65535 }",
            ];
            r.pick(&all).into()
        }
    }
}

fn nft_ports(r: &mut Random, ne: &str) -> String {
    match r.below(10) {
        0 | 1 => {
            let ports = ["80", "53-443", "{ 53, 8080-30080 }"];
            format!("tcp dport {ne}{}", r.pick(&ports))
        }
        2 => format!("udp dport {ne}53"),
        3 => format!("sctp dport {ne}{{ 80, 443 }}"),
        4 => format!("th dport {}", r.pick(&["> 443", "<= 80", ">= 443", "< 80"])),
        5 => format!("tcp sport {ne}1000-40000"),
        6 => format!("meta l4proto {}", r.pick(&["tcp", "{ udp, sctp }"])),
        7 => format!("icmp type {ne}echo-request"),
        8 => "icmp code 0".into(),
        _ => {
            let all = [
                "tcp flags & (syn | ack) == syn",
                "tcp flags ack",
                "tcp flags ! syn",
                "tcp flags { ack, syn }",
                "tcp option maxseg size > 500",
            ];
            r.pick(&all).into()
        }
    }
}

fn nft_connection(r: &mut Random, ne: &str) -> String {
    match r.below(8) {
        0..3 => {
            let states = [
                "new",
                "established,related",
                "{ new, invalid }",
                "vmap { invalid : drop, established : accept }",
                "untracked",
                "!= new",
            ];
            format!("ct state {}", r.pick(&states))
        }
        3 => format!(
            "ct status {}",
            r.pick(&["dnat", "snat", "seen-reply", "confirmed"])
        ),
        4 => format!("ct original ip daddr {ne}10.96.0.0/16"),
        5 => format!("ct mark {ne}0x1"),
        _ => {
            let all = [
                "ct direction original",
                "ct reply ip saddr 10.244.0.0/16",
                "ct original ip saddr 198.51.100.0/24",
                "ct reply ip daddr 10.200.1.2",
                "meta l4proto tcp ct original proto-dst 80",
                "meta l4proto udp ct original proto-src > 40000",
                "meta l4proto tcp ct reply proto-src 8080",
                "meta l4proto tcp ct reply proto-dst > 40000",
                "ct protocol tcp",
                "ct l3proto ipv4",
                "ct zone 0",
            ];
            r.pick(&all).into()
        }
    }
}

fn nft_other(r: &mut Random, hook: &str, ne: &str) -> String {
    match r.below(9) {
        0 => format!(
            "meta mark & {} == {}",
            r.pick(&["0x1", "0x3"]),
            r.pick(&["0x1", "0x0"])
        ),
        1 if matches!(hook, "prerouting" | "input" | "output") => {
            format!("fib daddr type {ne}local")
        }
        2 if matches!(hook, "prerouting" | "input" | "forward") => {
            let all = [
                "fib saddr . iif oif missing",
                "fib saddr oif exists",
                "fib saddr . mark . iif oifname \"eth0\"",
                "fib saddr . iif type local",
            ];
            r.pick(&all).into()
        }
        3 => format!("numgen random mod 4 {}", r.pick(&["< 2", "0", "{ 1, 2 }"])),
        4 => "numgen inc mod 3 0".into(),
        5 => "jhash ip saddr mod 2 seed 0x1 == 0".into(),
        6 => "limit rate 10000/second burst 10000 packets".into(),
        7 => "meta mark != 0x4000".into(),
        _ => "counter".into(),
    }
}

fn nft_match(r: &mut Random, hook: &str) -> String {
    let ne = if r.below(4) == 0 { "!= " } else { "" };
    match r.below(8) {
        0..3 => nft_header(r, hook, ne),
        3 | 4 => nft_ports(r, ne),
        5 | 6 => nft_connection(r, ne),
        _ => nft_other(r, hook, ne),
    }
}

fn nft_mark(r: &mut Random) -> String {
    let all = [
        "meta mark set meta mark | 0x1",
        "meta mark set 0x2",
        "ct mark set meta mark",
        "meta mark set ct mark ^ 0x1",
        "meta mark set meta mark << 1",
        "meta mark set meta mark >> 1",
        "meta mark set ip saddr map { 198.51.100.7 : 0x1, 10.244.1.50 : 0x2 }",
        "log prefix \"x: \"",
        "update @told { ip saddr . th sport }",
        "ip ttl > 1",
    ];
    r.pick(&all).into()
}

fn nft_action(r: &mut Random, kind: &str, hook: &str) -> String {
    let chains = ["jump c0", "jump c1", "goto c0", "goto c1"];
    let dnat = [
        "meta l4proto tcp dnat ip to 10.244.1.11:8080",
        "dnat ip to 10.244.1.12",
        "dnat ip to 10.244.3.1-10.244.3.3",
        "meta l4proto sctp dnat ip to 10.244.2.12:443",
        "dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 2 map @endpoints",
    ];
    let rejects = [
        "reject",
        "reject with icmpx admin-prohibited",
        "reject with icmpx no-route",
        "reject with icmp host-unreachable",
        "reject with icmp net-prohibited",
        "meta l4proto tcp reject with tcp reset",
    ];
    let snat = [
        "masquerade",
        "masquerade fully-random",
        "snat ip to 10.200.1.99",
        "snat ip to 198.51.100.1-198.51.100.8",
    ];
    match (kind, r.below(9)) {
        (_, 0) => "accept".into(),
        (_, 1) => r.pick(&["return", "continue"]).into(),
        (_, 2) => nft_mark(r),
        // Only if the kernel accepts it.
        ("filter", 4 | 5) if matches!(hook, "input" | "forward" | "output") => {
            r.pick(&rejects).into()
        }
        ("filter", 3 | 4) => "drop".into(),
        ("filter", 6) if !hook.is_empty() => r.pick(&chains).into(),
        ("filter", 7) if !hook.is_empty() => {
            "ip daddr . meta l4proto . th dport vmap @verdicts".into()
        }
        ("filter", 8) => r
            .pick(&[
                "numgen random mod 3 vmap { 0 : drop, 1 : accept }",
                "ip saddr . th sport @told drop",
            ])
            .into(),
        ("early", 3) => "notrack".into(),
        ("nat", 3 | 4) if matches!(hook, "prerouting" | "output") => r.pick(&dnat).into(),
        ("nat", 5) if hook == "prerouting" => "meta l4proto tcp redirect to :8080".into(),
        ("nat", 6) if hook == "prerouting" => {
            "dnat ip to ip daddr map { 10.96.0.1 : 10.244.2.21, 10.96.0.2 : 10.244.2.22 }".into()
        }
        ("nat", 3..=6) if hook == "postrouting" => r.pick(&snat).into(),
        ("nat", 3..=4) if hook == "input" => "snat ip to 10.244.1.99".into(),
        _ => "counter".into(),
    }
}

/// Two parts of a rule that both match a protocol are often refused.
fn clashes(a: &str, b: &str) -> bool {
    let asks = |text: &str| {
        ["tcp", "udp", "sctp", "icmp", "l4proto"]
            .iter()
            .any(|p| text.contains(p))
    };
    (asks(a) && asks(b)) || (a.contains("vmap") && !b.is_empty())
}

const NFT_SETS: &str = "
 set clients { type ipv4_addr; flags interval; elements = { 198.51.100.0/29, 198.51.100.30 } }
 set services { type ipv4_addr; elements = { 10.96.0.1, 10.96.0.2 } }
 set told { type ipv4_addr . inet_service; flags dynamic,timeout; size 65535; timeout 1h; }
 set triples { type ipv4_addr . inet_proto . inet_service; elements = { 10.96.0.1 . tcp . 80, 203.0.113.5 . udp . 53, 10.200.1.2 . tcp . 443 } }
 map verdicts { type ipv4_addr . inet_proto . inet_service : verdict; elements = { 10.96.0.1 . tcp . 443 : drop, 10.96.0.2 . tcp . 80 : goto c1, 203.0.113.5 . tcp . 80 : accept } }
 map endpoints { typeof ip daddr . meta l4proto . th dport . numgen random mod 2 : ip daddr . th dport
  elements = { 10.96.0.1 . tcp . 80 . 0 : 10.244.1.11 . 8080, 10.96.0.1 . tcp . 80 . 1 : 10.244.1.12 . 8081, 10.96.0.2 . udp . 53 . 1 : 10.244.1.13 . 5353 } }
";

/// An nf_tables rule set that uses every kind of statement.
pub fn nftables(r: &mut Random) -> String {
    let family = r.pick(&["ip", "inet"]);
    // Other tables have one family.
    let redundant =
        |rule: &str| family == "ip" && (rule.contains("nfproto") || rule.contains("icmpx"));
    let mut out = format!("table {family} t {{{NFT_SETS}");
    for n in 0..2 {
        let _ = writeln!(out, " chain c{n} {{");
        for _ in 0..2 {
            let (matches, action) = (nft_match(r, ""), nft_action(r, "filter", ""));
            if !clashes(&matches, &action) && !redundant(&format!("{matches} {action}")) {
                let _ = writeln!(out, "  {matches} {action}");
            }
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
        ("innat", "nat", "input", "100"),
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
            out.push_str(
                "  meta l4proto { icmp, ipv6-icmp } accept\n  tcp flags & rst == rst accept\n",
            );
        }
        let kind = match name {
            "early" => "early",
            "outroute" => "mark",
            _ => kind,
        };
        for _ in 0..1 + r.below(4) {
            let mut matches = nft_match(r, hook);
            if name == "early" && matches.contains("ct ") {
                continue;
            }
            let more = nft_match(r, hook);
            let untracked = name == "early" && more.contains("ct ");
            if !clashes(&matches, &more) && !untracked {
                let _ = write!(matches, " {more}");
            }
            let action = nft_action(r, kind, hook);
            if !clashes(&matches, &action) && !redundant(&format!("{matches} {action}")) {
                let _ = writeln!(out, "  {matches} {action}");
            }
        }
        out.push_str(" }\n");
    }
    out.push_str("}\n");
    out
}
