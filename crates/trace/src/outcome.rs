//! What becomes of a packet.

use std::fmt;
use std::net::IpAddr;

use crate::fraction::Fraction;
use crate::packet::{Endpoint, Flow};

/// Everything that can become of one packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The possibilities; their probabilities add up to 1. Sorted by probability, most likely
    /// first, then in the order in which the rules come.
    pub outcomes: Vec<Outcome>,
    /// What the answer rests on that could not be known: matches that are not understood, facts
    /// that are missing, choices that the kernel makes by a secret hash.
    pub warnings: Vec<String>,
}

/// One possibility.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// How likely it is.
    pub probability: Fraction,
    /// Whether the packet arrives.
    pub verdict: Verdict,
    /// The destination it was given, where that was rewritten.
    pub dnat: Option<Endpoint>,
    /// The source it was given, where that was rewritten.
    pub snat: Option<Snat>,
    /// Whether it was sent back to where it came from: after destination NAT, source and
    /// destination are the same address.
    pub hairpin: bool,
    /// Source and destination as they are in the end, replies and answers to errors included.
    pub src: Endpoint,
    /// See `src`.
    pub dst: Endpoint,
    /// The interface through which it leaves; `None` where it stays (or never got so far).
    pub out_iface: Option<String>,
    /// Whether connection tracking knows the connection; if not (`NOTRACK`), `flow` says nothing.
    pub tracked: bool,
    /// What connection tracking then remembers.
    pub flow: Flow,
    /// What happened on the way, in order.
    pub path: Vec<Step>,
    /// What was assumed on the way because it could not be known; see [`Trace::warnings`].
    pub assuming: Vec<String>,
}

/// The end of a packet's way through this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Delivered here or sent on.
    Accept,
    /// Gone without a word.
    Drop,
    /// Gone, and the sender is told (ICMP error or TCP reset).
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
    /// To an address of the interface that it leaves through; the address, where the facts tell.
    Masquerade(Option<IpAddr>),
    /// To the address that the rule gives.
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
    /// `ip`, `ip6` or `inet`, as the rule's table has it.
    pub family: &'static str,
    /// The table; empty outside of rules.
    pub table: String,
    /// The chain; empty outside of rules.
    pub chain: String,
    /// The rule in its own language, `policy`, or what decided outside of rules.
    pub rule: String,
    /// What it did, in words.
    pub effect: String,
    /// What it did, for programs.
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

/// What a step did to the packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Did {
    /// The packet went on, changed or not.
    WentOn,
    /// A rule let it through.
    Accepted,
    /// A rule, a policy or a route dropped it.
    Dropped,
    /// Dropped, and the sender is told with this.
    Rejected(Answer),
    /// No route leads there; the sender is told where [`Outcome::verdict`] says so.
    NoRoute,
    /// `rp_filter` dropped it: answers would take another way.
    ReversePath,
    /// Its addresses may not be on a wire.
    Martian,
    /// It is for elsewhere, and this host does not forward.
    NotForwarding,
}

/// What a sender is told about a packet that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// A TCP reset.
    Reset,
    /// An ICMP (ICMPv6) error of this type and code.
    #[allow(missing_docs)]
    Icmp { kind: u8, code: u8 },
}

impl Answer {
    /// The error of `Destination Unreachable` with a code of IPv4's or of IPv6's.
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
    /// The possibilities with those put together that differ only in the way they come about:
    /// `(probability, verdict, dnat, snat, hairpin)`, sorted.
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

/// An [`Outcome`] without the way it came about.
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
