//! The iptables language: tables, chains, rules, matches and targets as typed data.
//!
//! A rule here is the rule as the kernel keeps it, so that the many spellings of one rule
//! (`--or-mark 0x4000` and `--set-xmark 0x4000/0x4000`, an implied and a written `-m tcp`, an
//! address with and without `/32`) are one value. The writer prints what `iptables-save` 1.8.9
//! prints; the parser reads what `iptables-save` prints and what `iptables-restore` accepts, from
//! any version and any author. An extension that is not modelled is kept word for word
//! ([`Extension`]), never dropped.
//!
//! ```
//! use netfilter::iptables::{Family, TableSet};
//! let save = "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:WEB - [0:0]\n-A OUTPUT -j WEB\nCOMMIT\n";
//! let set = TableSet::parse(Family::Ipv4, save).unwrap();
//! assert_eq!(set.to_string(), save);
//! ```

mod apply;
mod fuzz;
mod matches;
mod name;
mod parse;
mod restore;
mod rule;
mod tables;
mod target;
#[cfg(test)]
mod tests;
mod write;

pub use apply::{ApplyError, Flush, Refusal};
pub use fuzz::fuzz_one;
pub use matches::{
    AddrType, AddrTypes, CtDirection, CtState, CtStates, CtStatus, CtStatuses, Extension, IcmpType,
    IpvsDirection, LimitUnit, MarkMatch, Match, MatchAddrType, MatchConntrack, MatchIpRange,
    MatchIpvs, MatchLimit, MatchMultiport, MatchOwner, MatchPhysdev, MatchRecent, MatchRpfilter,
    MatchSet, MatchTcp, PortMatch, PortSide, Probability, RecentAction, SetDirection, Statistic,
    TcpFlags,
};
pub use name::{Chain, ChainError, Family, Policy, Table};
pub use parse::{Line, ParseError};
pub use restore::{Command, Restore, RestoreTable};
pub use rule::{Counters, Header, Interface, Negatable, Net, PortRange, Protocol, Rule};
pub use tables::{ChainState, TableSet, TableState};
pub use target::{
    ConnmarkAction, CtTarget, LogTarget, MasqueradeTarget, NatTarget, NflogTarget, RejectWith,
    SetTarget, Target, TcpmssTarget, TproxyTarget, Xmark,
};
