//! Match extensions (`-m`), one file each. Names and meanings are those of iptables-extensions(8).
//!
//! A file contains the extension's type, names, options, parser and writer, and examples that cover
//! every option. The table below is the only list of them.

pub(crate) mod addrtype;
pub(crate) mod comment;
pub(crate) mod connmark;
pub(crate) mod conntrack;
pub(crate) mod icmp;
pub(crate) mod icmp6;
pub(crate) mod iprange;
pub(crate) mod ipvs;
pub(crate) mod limit;
pub(crate) mod mark;
pub(crate) mod multiport;
pub(crate) mod nfacct;
pub(crate) mod owner;
pub(crate) mod physdev;
pub(crate) mod ports;
pub(crate) mod recent;
pub(crate) mod rpfilter;
pub(crate) mod sctp;
pub(crate) mod set;
pub(crate) mod state;
pub(crate) mod statistic;
pub(crate) mod tcp;
pub(crate) mod udp;

use super::extension::{Row, extensions};
use super::name::Family;
use super::syntax::segment::{Extension, Segment};
use super::syntax::text::{raw_word, words};
use super::syntax::{Options, Parsed};
use super::value::Negatable;

/// One match extension of a rule.
///
/// The variants that kube-proxy's rules use are small and unboxed; rare ones are boxed, since a
/// large cluster has 300,000 rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// `comment`: true for every packet. At most 255 bytes.
    Comment(Box<str>),
    /// `tcp`.
    Tcp(tcp::MatchTcp),
    /// `udp`.
    Udp(ports::PortMatch),
    /// `sctp`, ports only; with `--chunk-types` it is an [`Extension`].
    Sctp(ports::PortMatch),
    /// `multiport`.
    Multiport(Box<multiport::MatchMultiport>),
    /// `mark`: the packet's mark.
    Mark(Negatable<mark::MarkMatch>),
    /// `connmark`: the connection's mark.
    Connmark(Negatable<mark::MarkMatch>),
    /// `conntrack`.
    Conntrack(Box<conntrack::MatchConntrack>),
    /// `state`, the older form of `conntrack --ctstate`.
    State(Negatable<conntrack::CtStates>),
    /// `addrtype`.
    Addrtype(addrtype::MatchAddrType),
    /// `statistic`.
    Statistic(Negatable<statistic::Statistic>),
    /// `recent`.
    Recent(Box<recent::MatchRecent>),
    /// `nfacct`: counts in the named object; true for every packet.
    Nfacct(Box<str>),
    /// `set`: membership in an ipset.
    Set(Box<set::MatchSet>),
    /// `physdev`: the bridge port.
    Physdev(Box<physdev::MatchPhysdev>),
    /// `limit`: a token bucket.
    Limit(limit::MatchLimit),
    /// `icmp` and `icmp6`.
    Icmp(Negatable<icmp::IcmpType>),
    /// `rpfilter`: whether a reply would leave through the packet's input interface.
    Rpfilter(rpfilter::MatchRpfilter),
    /// `owner`: the socket's owner, for locally generated packets.
    Owner(Box<owner::MatchOwner>),
    /// `ipvs`: the IPVS connection.
    Ipvs(Box<ipvs::MatchIpvs>),
    /// `iprange`.
    IpRange(Box<iprange::MatchIpRange>),
    /// Any other extension, word for word.
    Unknown(Box<Extension>),
}

extensions! {
    Match, " -m ", |out| {}
    Comment => comment,
    Tcp => tcp,
    Udp => udp,
    Sctp => sctp,
    Statistic => statistic,
    Mark => mark,
    Addrtype => addrtype,
    Conntrack => conntrack,
    Recent => recent,
    Set => set,
    Nfacct => nfacct,
    Multiport => multiport,
    Connmark => connmark,
    State => state,
    Physdev => physdev,
    Limit => limit,
    Icmp => icmp | icmp6,
    Rpfilter => rpfilter,
    Owner => owner,
    Ipvs => ipvs,
    IpRange => iprange,
}

/// Return the options of a match; `None` if it is not modelled.
pub(crate) fn options(name: &str) -> Option<Options> {
    Row::find(ROWS, name).map(|row| row.options)
}

/// Build the match of a segment. A match with options or values beyond the model is kept word for
/// word.
pub(crate) fn build(family: Family, segment: &Segment<'_>) -> Parsed<Match> {
    let modelled = match Row::find(ROWS, segment.name) {
        Some(row) if !segment.foreign => (row.parse)(family, segment)?,
        _ => None,
    };
    Ok(modelled.unwrap_or_else(|| Match::Unknown(Box::new(segment.verbatim()))))
}
