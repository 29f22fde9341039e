//! The iptables language: tables, chains, rules, matches and targets as typed data.
//!
//! A rule has the form in which the kernel stores it, so that the many spellings of one rule
//! (`--or-mark 0x4000` and `--set-xmark 0x4000/0x4000`, an implied and a written `-m tcp`, an
//! address with and without `/32`) are one value. The writer prints the format of `iptables-save`
//! 1.8.9; the parser reads the output of any `iptables-save` and the input of `iptables-restore`.
//! An extension that is not modelled is kept word for word ([`Extension`]), never dropped.
//!
//! ```
//! use netfilter::iptables::{Family, TableSet};
//! let save = "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:WEB - [0:0]\n-A OUTPUT -j WEB\nCOMMIT\n";
//! let set = TableSet::parse(Family::Ipv4, save).unwrap();
//! assert_eq!(set.to_string(), save);
//! ```

pub(crate) mod apply;
mod extension;
mod fuzz;
pub(crate) mod matches;
mod name;
mod parse;
mod restore;
mod rule;
mod syntax;
mod tables;
pub(crate) mod targets;
#[cfg(test)]
mod tests;
mod value;
mod write;

pub use apply::{ApplyError, Flush, Refusal};
pub use fuzz::fuzz_one;
pub use matches::Match;
pub use matches::addrtype::{AddrType, AddrTypes, MatchAddrType};
pub use matches::conntrack::{
    CtDirection, CtState, CtStates, CtStatus, CtStatuses, MatchConntrack,
};
pub use matches::icmp::IcmpType;
pub use matches::iprange::MatchIpRange;
pub use matches::ipvs::{IpvsDirection, MatchIpvs};
pub use matches::limit::{LimitUnit, MatchLimit};
pub use matches::mark::MarkMatch;
pub use matches::multiport::{MatchMultiport, PortSide};
pub use matches::owner::MatchOwner;
pub use matches::physdev::MatchPhysdev;
pub use matches::ports::PortMatch;
pub use matches::recent::{MatchRecent, RecentAction};
pub use matches::rpfilter::MatchRpfilter;
pub use matches::set::{MatchSet, SetDirection};
pub use matches::statistic::{Probability, Statistic};
pub use matches::tcp::{MatchTcp, TcpFlags};
pub use name::{Chain, ChainError, Family, Policy, Table};
pub use parse::Line;
pub use restore::{Command, Restore, RestoreTable};
pub use rule::{Counters, Header, Rule};
pub use syntax::ParseError;
pub use syntax::segment::Extension;
pub(crate) use tables::push_exact;
pub use tables::{ChainState, TableSet, TableState};
pub use targets::Target;
pub use targets::connmark::ConnmarkAction;
pub use targets::ct::CtTarget;
pub use targets::log::LogTarget;
pub use targets::mark::Xmark;
pub use targets::masquerade::MasqueradeTarget;
pub use targets::nat::NatTarget;
pub use targets::nflog::NflogTarget;
pub use targets::redirect::RedirectTarget;
pub use targets::reject::RejectWith;
pub use targets::set::SetTarget;
pub use targets::tcpmss::TcpmssTarget;
pub use targets::tproxy::TproxyTarget;
pub use value::{Interface, Negatable, Net, PortRange, Protocol};
