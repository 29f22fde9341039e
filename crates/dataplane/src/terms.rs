//! The plan's terms as iptables rules, for iptables and ipvs mode.

use std::net::{Ipv4Addr, Ipv6Addr};

use model::IpFamily;
use netfilter::iptables::{Family, Header, Interface, Match, Negatable, Net, Rule, Target};
use plan::LocalDetector;

/// Return the address family.
pub(crate) fn rule_family(family: IpFamily) -> Family {
    match family {
        IpFamily::V4 => Family::Ipv4,
        IpFamily::V6 => Family::Ipv6,
    }
}

/// Return the header condition for traffic of this node's pods, or for all other traffic; `None` if local
/// traffic is not detected.
pub(crate) fn local_traffic(detector: &LocalDetector, negated: bool) -> Option<Header> {
    let interface = |value| Header {
        in_interface: Some(Negatable { negated, value }),
        ..Header::default()
    };
    match detector {
        LocalDetector::None => None,
        LocalDetector::Source(range) => {
            let value = Net::from(*range);
            // A condition that is always true is omitted.
            let source =
                (negated || !value.is_everything()).then_some(Negatable { negated, value });
            Some(Header {
                source,
                ..Header::default()
            })
        }
        LocalDetector::Interface(name) => {
            // To iptables a name that ends in + is a prefix.
            Some(interface(match name.strip_suffix('+') {
                Some(prefix) => Interface::Prefix(prefix.into()),
                None => Interface::Name(name.as_str().into()),
            }))
        }
        LocalDetector::InterfacePrefix(prefix) => {
            Some(interface(Interface::Prefix(prefix.as_str().into())))
        }
    }
}

/// `127.0.0.0/8`, `::1/128`.
pub(crate) fn loopback(family: IpFamily) -> Net {
    match family {
        IpFamily::V4 => {
            let mask = Ipv4Addr::new(255, 0, 0, 0);
            Net::new(Ipv4Addr::LOCALHOST.into(), mask.into())
                .expect("an address and a mask of one family")
        }
        IpFamily::V6 => Net::from(Ipv6Addr::LOCALHOST),
    }
}

/// Return a rule comment.
pub(crate) fn comment(text: impl Into<Box<str>>) -> Match {
    Match::Comment(text.into())
}

/// Return a rule without a header condition.
pub(crate) fn simple(matches: Vec<Match>, target: Target) -> Rule {
    Rule {
        matches,
        target: Some(target),
        ..Rule::default()
    }
}
