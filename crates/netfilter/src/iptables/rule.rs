//! Rules, and the conditions that need no extension.

use super::matches::Match;
use super::targets::Target;
use super::value::{Interface, Negatable, Net, Protocol};

/// A rule: every condition must hold, from the header through the matches in order; then the
/// target decides. Without a target the packet goes on to the next rule.
///
/// Two rules are equal when the kernel would keep the same rule for both; counters do not count.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// What is matched without an extension.
    pub header: Header,
    /// The matches, in the order in which they are tried.
    pub matches: Vec<Match>,
    /// What becomes of a packet for which all holds.
    pub target: Option<Target>,
    /// Packets and bytes that matched, where known.
    pub counters: Option<Counters>,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.header == other.header && self.matches == other.matches && self.target == other.target
    }
}

impl Eq for Rule {}

impl Rule {
    /// The text of the rule's comments, in order.
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
/// headers). An absent one holds for every packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Header {
    /// `-s`: the source address.
    pub source: Option<Negatable<Net>>,
    /// `-d`: the destination address.
    pub destination: Option<Negatable<Net>>,
    /// `-i`: the interface through which the packet came in. There is none in OUTPUT and
    /// POSTROUTING of locally made packets.
    pub in_interface: Option<Negatable<Interface>>,
    /// `-o`: the interface through which the packet leaves.
    pub out_interface: Option<Negatable<Interface>>,
    /// `-p`.
    pub protocol: Option<Negatable<Protocol>>,
    /// `-f`: second and further fragments (IPv4 only).
    pub fragment: Option<Negatable<()>>,
}
