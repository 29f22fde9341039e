//! What happens to a packet.

use std::fmt;
use std::net::IpAddr;

use crate::fraction::Fraction;
use crate::packet::{Endpoint, Flow};

/// Everything that can happen to one packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The possibilities; their probabilities add up to 1. The most likely comes first; of equally
    /// likely ones, the one whose rules come first.
    pub outcomes: Vec<Outcome>,
    /// Limits of the answer: unknown matches, missing facts, choices that the kernel makes by a secret
    /// hash.
    pub warnings: Vec<String>,
}

/// One possibility.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Its probability.
    pub probability: Fraction,
    /// Whether the packet arrives.
    pub verdict: Verdict,
    /// The new destination, if it was rewritten.
    pub dnat: Option<Endpoint>,
    /// The new source, if it was rewritten.
    pub snat: Option<Snat>,
    /// Whether it returns to its sender: source and destination are the same address after
    /// destination NAT.
    pub hairpin: bool,
    /// Source and destination at the end, replies and errors included.
    pub src: Endpoint,
    /// See `src`.
    pub dst: Endpoint,
    /// The interface through which it leaves; `None` if it does not leave.
    pub out_iface: Option<String>,
    /// Whether connection tracking knows the connection; if not (`NOTRACK`), `flow` is empty.
    pub tracked: bool,
    /// The entry in connection tracking.
    pub flow: Flow,
    /// The steps, in order.
    pub path: Vec<Step>,
    /// Assumptions about unknown facts; see [`Trace::warnings`].
    pub assuming: Vec<String>,
}

/// The end of a packet's path through this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Delivered here or forwarded.
    Accept,
    /// Dropped without an answer.
    Drop,
    /// Dropped with an answer to the sender (ICMP error or TCP reset).
    Reject,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Accept => "accept",
            Verdict::Drop => "drop",
            Verdict::Reject => "reject",
        })
    }
}

/// How the source was rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Snat {
    /// To an address of the outgoing interface; `None` if the address is not known.
    Masquerade(Option<IpAddr>),
    /// To the rule's address.
    To(IpAddr),
}

/// One thing that happened to the packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Step {
    /// Where: a netfilter hook, or `bridge`, `routing`, `ipvs`.
    pub hook: &'static str,
    /// The back end that contains the rule; `None` outside of rules, and for a dump of iptables that
    /// does not state it.
    pub backend: Option<Backend>,
    /// `ip`, `ip6` or `inet`: the family of the rule's table.
    pub family: &'static str,
    /// The table; empty outside of rules.
    pub table: String,
    /// The chain; empty outside of rules.
    pub chain: String,
    /// The rule in its own syntax, `policy`, or what decided outside of rules.
    pub rule: String,
    /// The effect, for people.
    pub effect: String,
    /// The effect, for programs.
    pub did: Did,
}

/// What runs a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// iptables-legacy's tables.
    Legacy,
    /// nf_tables, for native rules and for iptables-nft's.
    NfTables,
}

impl Backend {
    /// `legacy` or `nf_tables`.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Legacy => "legacy",
            Backend::NfTables => "nf_tables",
        }
    }
}

/// What a step did with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Did {
    /// The packet continued, changed or not.
    WentOn,
    /// A rule accepted it.
    Accepted,
    /// A rule, a policy or a route dropped it.
    Dropped,
    /// Dropped, with this answer to the sender.
    Rejected(Answer),
    /// No route leads to the destination; the sender is informed if [`Outcome::verdict`] is `Reject`.
    NoRoute,
    /// `rp_filter` dropped it: the route back is another.
    ReversePath,
    /// Its addresses are not allowed on a network.
    Martian,
    /// It is for another host, and this host does not forward.
    NotForwarding,
}

/// The answer to the sender of a rejected packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// A TCP reset.
    Reset,
    /// An ICMP (ICMPv6) error of this type and code.
    #[allow(missing_docs)]
    Icmp { kind: u8, code: u8 },
}

impl Answer {
    /// `Destination Unreachable` with a code of IPv4 or of IPv6.
    pub(crate) fn unreachable(v6: bool, code4: u8, code6: u8) -> Self {
        if v6 {
            Answer::Icmp {
                kind: 1,
                code: code6,
            }
        } else {
            Answer::Icmp {
                kind: 3,
                code: code4,
            }
        }
    }

    /// Port unreachable.
    pub(crate) fn port(v6: bool) -> Self {
        Self::unreachable(v6, 3, 4)
    }
}

impl Trace {
    /// Combine possibilities that differ only in their path, and sort them.
    pub fn summary(&self) -> Vec<Summary> {
        let mut all: Vec<Summary> = Vec::new();
        for o in &self.outcomes {
            let key = (o.verdict, o.dnat, o.snat, o.hairpin);
            match all.iter_mut().find(|s| s.key() == key) {
                Some(s) => s.probability = s.probability.plus(o.probability),
                None => all.push(Summary {
                    probability: o.probability,
                    verdict: o.verdict,
                    dnat: o.dnat,
                    snat: o.snat,
                    hairpin: o.hairpin,
                }),
            }
        }
        all.sort_by_key(|s| (s.verdict, s.dnat, s.snat, s.hairpin));
        all
    }
}

/// An [`Outcome`] without its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // As in `Outcome`.
pub struct Summary {
    pub probability: Fraction,
    pub verdict: Verdict,
    pub dnat: Option<Endpoint>,
    pub snat: Option<Snat>,
    pub hairpin: bool,
}

impl Summary {
    fn key(&self) -> (Verdict, Option<Endpoint>, Option<Snat>, bool) {
        (self.verdict, self.dnat, self.snat, self.hairpin)
    }
}
