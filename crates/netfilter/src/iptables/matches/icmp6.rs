//! `-m icmp6`.

use crate::iptables::syntax::Options;

pub(crate) const NAMES: &[&str] = &["icmp6", "icmpv6"];

pub(crate) const OPTIONS: Options = &[("--icmpv6-type", 1)];

pub(crate) use super::icmp::parse;

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &[
    "-p ipv6-icmp -m icmp6 ! --icmpv6-type 3/1",
    "-p ipv6-icmp -m icmpv6 --icmpv6-type 135",
];
