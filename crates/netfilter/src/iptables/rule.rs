//! Rules, and the conditions that need no extension.

use super::matches::Match;
use super::targets::Target;
use super::value::{Interface, Negatable, Net, Protocol};

/// A rule: if the header and all matches, tried in order, are true, the target applies. Without a
/// target the packet continues with the next rule.
///
/// Two rules are equal if the kernel stores the same rule for both, whatever their counters.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// The conditions that need no extension.
    pub header: Header,
    /// The matches in the order of evaluation.
    pub matches: Vec<Match>,
    /// The target of packets that satisfy every condition.
    pub target: Option<Target>,
    /// Matched packets and bytes, if known.
    pub counters: Option<Counters>,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.header == other.header && self.matches == other.matches && self.target == other.target
    }
}

impl Eq for Rule {}

impl Rule {
    /// Return the text of the rule's comments, in order.
    pub fn comments(&self) -> impl Iterator<Item = &str> {
        self.matches.iter().filter_map(|m| match m {
            Match::Comment(text) => Some(&**text),
            _ => None,
        })
    }
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Counters {
    pub packets: u64,
    pub bytes: u64,
}

/// The conditions that every rule can have (`struct ipt_ip` and `struct ip6t_ip6` of the kernel's
/// headers). An absent condition is true.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Header {
    /// `-s`: the source address.
    pub source: Option<Negatable<Net>>,
    /// `-d`: the destination address.
    pub destination: Option<Negatable<Net>>,
    /// `-i`: the input interface, which locally generated packets lack in OUTPUT and POSTROUTING.
    pub in_interface: Option<Negatable<Interface>>,
    /// `-o`: the output interface.
    pub out_interface: Option<Negatable<Interface>>,
    /// `-p`.
    pub protocol: Option<Negatable<Protocol>>,
    /// `-f`: second and further fragments (IPv4 only).
    pub fragment: Option<Negatable<()>>,
}
