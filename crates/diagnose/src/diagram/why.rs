//! Why a rule matched: its conditions beside the packet's values.

use serde::Serialize;
use trace::{Packet, Step};

/// One condition of a rule, and what the packet has.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Condition {
    /// The condition, as the rule states it.
    pub rule: String,
    /// The packet's value when it reached the rule.
    pub packet: String,
}

/// One step in a box.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Detail {
    /// The rule in its own syntax, or what decided outside of rules.
    pub rule: String,
    /// The conditions of the rule.
    pub conditions: Vec<Condition>,
    /// The effect.
    pub effect: String,
    /// Packets and bytes that the rule has counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counters: Option<(u64, u64)>,
}

/// The header of a packet on its path.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    src: String,
    dst: String,
    proto: String,
    mark: String,
    is_new: bool,
    in_iface: Option<String>,
}

impl Header {
    pub(crate) fn of(packet: &Packet) -> Self {
        let end = |ip, port| trace::Endpoint { ip, port }.to_string();
        let ports = packet.proto.has_ports();
        Self {
            src: end(packet.src, if ports { packet.sport } else { 0 }),
            dst: end(packet.dst, if ports { packet.dport } else { 0 }),
            proto: packet.proto.to_string(),
            mark: format!("{:#x}", packet.mark),
            is_new: packet.ct == trace::CtState::New,
            in_iface: packet.in_iface.clone(),
        }
    }

    /// Apply the effect of a step.
    pub(crate) fn apply(&mut self, step: &Step) {
        for effect in step.effect.split(", ") {
            let Some((before, after)) = effect.split_once("becomes ") else {
                continue;
            };
            let value = after.split([' ', ',']).next().unwrap_or_default();
            let is_address = value.starts_with(|c: char| c.is_ascii_hexdigit() || c == '[');
            match before.split(' ').next() {
                Some("destination") if is_address => value.clone_into(&mut self.dst),
                // `the outgoing interface's address`.
                Some("source") if !is_address => "this node's address".clone_into(&mut self.src),
                Some("source") => value.clone_into(&mut self.src),
                Some("mark") => value.clone_into(&mut self.mark),
                _ => {}
            }
        }
    }

    /// Return the conditions of a step's rule, with this header's values.
    pub(crate) fn conditions(&self, step: &Step) -> Vec<Condition> {
        if step.chain.is_empty() || step.rule == "policy" || step.rule == "conntrack" {
            return Vec::new();
        }
        let is_iptables = step.rule.starts_with('-') || step.rule.starts_with('!');
        let found = if is_iptables {
            self.of_iptables(&step.rule)
        } else {
            self.of_nft(&step.rule)
        };
        let shown = found
            .into_iter()
            .map(|(rule, packet)| Condition { rule, packet });
        shown.collect()
    }

    fn of_iptables(&self, rule: &str) -> Vec<(String, String)> {
        let words: Vec<&str> = words(rule);
        let mut all = Vec::new();
        let mut at = 0;
        while let Some(word) = words.get(at) {
            if matches!(*word, "-j" | "-g") {
                break;
            }
            let negated = at > 0 && words.get(at - 1) == Some(&"!");
            let argument = words.get(at + 1).copied().unwrap_or_default();
            let value = match *word {
                "-s" | "--src-range" | "--src-type" => Some(format!("source {}", self.src)),
                "-d" | "--dst-range" | "--dst-type" => Some(format!("destination {}", self.dst)),
                "-p" => Some(format!("protocol {}", self.proto)),
                "--dport" | "--dports" => Some(format!("destination {}", self.dst)),
                "--sport" | "--sports" => Some(format!("source {}", self.src)),
                "--mark" => Some(format!("mark {}", self.mark)),
                "--ctstate" | "--state" => Some(self.state().to_owned()),
                "-i" => Some(self.entered()),
                "-o" => Some("the interface of its route".to_owned()),
                "--match-set" => Some(format!("source {}, destination {}", self.src, self.dst)),
                "--probability" | "--every" => Some("a random choice".to_owned()),
                "--limit" | "--hashlimit-upto" => Some("the limit is not reached".to_owned()),
                _ => None,
            };
            if let Some(value) = value {
                let not = if negated { "! " } else { "" };
                let flags = if *word == "--match-set" {
                    format!(" {}", words.get(at + 2).copied().unwrap_or_default())
                } else {
                    String::new()
                };
                all.push((format!("{not}{word} {argument}{flags}"), value));
                at += 1;
            }
            at += 1;
        }
        all
    }

    fn of_nft(&self, rule: &str) -> Vec<(String, String)> {
        // A selector ends where the next one or a verdict begins.
        let selectors: [(&str, String); 14] = [
            ("ip saddr", format!("source {}", self.src)),
            ("ip6 saddr", format!("source {}", self.src)),
            ("ip daddr", format!("destination {}", self.dst)),
            ("ip6 daddr", format!("destination {}", self.dst)),
            ("meta l4proto", format!("protocol {}", self.proto)),
            ("th dport", format!("destination {}", self.dst)),
            ("tcp dport", format!("destination {}", self.dst)),
            ("udp dport", format!("destination {}", self.dst)),
            ("th sport", format!("source {}", self.src)),
            ("fib daddr type", format!("destination {}", self.dst)),
            ("mark", format!("mark {}", self.mark)),
            ("ct state", self.state().to_owned()),
            ("iifname", self.entered()),
            ("numgen random", "a random choice".to_owned()),
        ];
        let mut found: Vec<(usize, &str, String)> = Vec::new();
        for (selector, value) in selectors {
            let places = rule.match_indices(selector).filter(|(at, _)| {
                let before = rule[..*at].chars().next_back();
                before.is_none_or(|c| c == ' ' || c == '(')
            });
            found.extend(places.map(|(at, _)| (at, selector, value.clone())));
        }
        found.sort_by_key(|(at, ..)| *at);
        let shown = found.into_iter().map(|(at, selector, value)| {
            let rest = &rule[at + selector.len()..];
            let operand = rest.split_whitespace().take_while(|word| *word != ".");
            let operand: Vec<&str> = operand.take(2).collect();
            let operand = match operand.as_slice() {
                [op @ ("!=" | "&" | "==" | "vmap" | "mod" | "map"), value] => {
                    format!(" {op} {value}")
                }
                [value, ..] if is_value(value) => format!(" {value}"),
                _ => String::new(),
            };
            (format!("{selector}{operand}"), value)
        });
        shown.collect()
    }

    fn state(&self) -> &'static str {
        if self.is_new {
            "a new connection"
        } else {
            "a known connection"
        }
    }

    fn entered(&self) -> String {
        match &self.in_iface {
            Some(name) => format!("entered through {name}"),
            None => "the interface towards its source".to_owned(),
        }
    }
}

/// Whether a word after a selector is its operand, and not the next statement.
fn is_value(word: &str) -> bool {
    const STATEMENTS: [&str; 9] = [
        "goto",
        "jump",
        "accept",
        "drop",
        "return",
        "counter",
        "masquerade",
        "dnat",
        "reject",
    ];
    !STATEMENTS.contains(&word)
}

/// Split a rule into words; a quoted text is one word.
fn words(rule: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = rule.trim_start();
    while !rest.is_empty() {
        let end = match rest.strip_prefix('"') {
            Some(quoted) => quoted.find('"').map_or(rest.len(), |end| end + 2),
            None => rest.find(' ').unwrap_or(rest.len()),
        };
        let (word, after) = rest.split_at(end);
        words.push(word);
        rest = after.trim_start();
    }
    words
}

#[cfg(test)]
mod tests {
    use trace::{Backend, Did, Origin, Proto};

    use super::*;

    fn step(rule: &str, effect: &str) -> Step {
        Step {
            hook: "prerouting",
            backend: Some(Backend::NfTables),
            family: "ip",
            table: "nat".into(),
            chain: "A".into(),
            rule: rule.into(),
            effect: effect.into(),
            did: Did::WentOn,
        }
    }

    fn header() -> Header {
        let [src, dst] = ["10.1.0.9", "10.96.0.1"].map(|ip| ip.parse().unwrap());
        Header::of(&Packet::new(Origin::Pod, src, dst, Proto::TCP, 80))
    }

    fn shown(rule: &str) -> Vec<String> {
        let all = header().conditions(&step(rule, ""));
        all.iter()
            .map(|c| format!("{}: {}", c.rule, c.packet))
            .collect()
    }

    #[test]
    fn conditions_of_iptables_rules_show_the_values_of_the_packet() {
        assert_eq!(
            shown(
                "-d 10.96.0.1/32 ! -s 10.1.0.0/16 -p tcp -m comment --comment \"-s no -d no\" -m tcp --dport 80 -j A"
            ),
            [
                "-d 10.96.0.1/32: destination 10.96.0.1:80",
                "! -s 10.1.0.0/16: source 10.1.0.9:50000",
                "-p tcp: protocol tcp",
                "--dport 80: destination 10.96.0.1:80",
            ]
        );
        let set = shown("-m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT");
        assert_eq!(
            set,
            [
                "--match-set KUBE-CLUSTER-IP dst,dst: source 10.1.0.9:50000, destination 10.96.0.1:80"
            ]
        );
    }

    #[test]
    fn conditions_of_nft_rules_show_the_values_of_the_packet() {
        assert_eq!(
            shown("ip daddr . meta l4proto . th dport vmap @service-ips"),
            [
                "ip daddr: destination 10.96.0.1:80",
                "meta l4proto: protocol tcp",
                "th dport vmap @service-ips: destination 10.96.0.1:80",
            ]
        );
        assert_eq!(
            shown("meta mark & 0x4000 != 0x0 masquerade fully-random"),
            ["mark & 0x4000: mark 0x0"]
        );
        assert_eq!(
            shown("ct state new drop"),
            ["ct state new: a new connection"]
        );
    }

    #[test]
    fn headers_follow_translations() {
        let mut header = header();
        header.apply(&step("-j DNAT", "destination becomes 10.1.0.7:8080"));
        header.apply(&step(
            "x",
            "mark becomes 0x4000, source becomes 10.2.0.1 with a free port",
        ));
        let conditions = header.conditions(&step("-s 1 -d 2 --mark 0x4000/0x4000 -j A", ""));
        let packet: Vec<&str> = conditions.iter().map(|c| &*c.packet).collect();
        assert_eq!(
            packet,
            [
                "source 10.2.0.1",
                "destination 10.1.0.7:8080",
                "mark 0x4000"
            ]
        );
        header.apply(&step(
            "-j MASQUERADE",
            "source becomes the outgoing interface's address",
        ));
        assert_eq!(header.src, "this node's address");
    }
}
