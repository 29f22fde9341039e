//! The addresses that answer for NodePorts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use config::Config;
use model::{Cidr, IpFamily};

/// Return whether NodePorts answer on IPv4 loopback: enabled, and not excluded by `nodePortAddresses`.
pub(crate) fn localhost_node_ports(config: &Config) -> bool {
    config.localhost_node_ports && config.node_port_addresses.contains_ipv4_loopback()
}

/// Return the loopback address on which the relay answers for NodePorts in nftables mode: if
/// `nodePortAddresses` contain it, or, without ranges of the family, if `iptables.localhostNodePorts`
/// is set explicitly. The default serves nothing there, like upstream's nftables mode.
pub(crate) fn localhost(config: &Config, family: IpFamily) -> Option<IpAddr> {
    let ip = match family {
        IpFamily::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpFamily::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    let ranges = config.node_port_addresses.ranges();
    let of_family = |range: &&Cidr| IpFamily::of(range.addr()) == family && range.prefix_len() > 0;
    let mut ranges = ranges.iter().filter(of_family).peekable();
    let asked = match ranges.peek() {
        Some(_) => ranges.any(|range| range.contains(&ip)),
        None => config.localhost_node_ports_stated,
    };
    (config.localhost_node_ports && asked).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relay_answers_on_loopback_only_if_configured() {
        let asked = |stated, value, ranges: &[&str]| {
            let mut file = config::KubeProxyConfiguration::defaulted();
            file.mode = "nftables".to_owned();
            file.iptables.localhost_node_ports = Some(value);
            let ranges = ranges.iter().map(|r| (*r).to_owned());
            file.node_port_addresses = Some(ranges.collect());
            let mut config = Config::from_file(file).unwrap();
            config.localhost_node_ports_stated = stated;
            IpFamily::ALL.map(|family| localhost(&config, family).is_some())
        };
        assert_eq!(asked(false, true, &[]), [false, false]);
        assert_eq!(asked(true, true, &[]), [true, true]);
        assert_eq!(asked(true, true, &["primary"]), [true, true]);
        assert_eq!(asked(true, false, &["127.0.0.0/8"]), [false, false]);
        assert_eq!(asked(false, true, &["127.0.0.0/8"]), [true, false]);
        assert_eq!(
            asked(false, true, &["10.0.0.0/8", "::1/128"]),
            [false, true]
        );
        assert_eq!(asked(true, true, &["10.0.0.0/8"]), [false, true]);
        assert_eq!(asked(false, true, &["primary", "localhost"]), [true, true]);
        assert_eq!(asked(false, false, &["localhost"]), [false, false]);
        assert_eq!(asked(false, true, &["all"]), [false, false]);
    }
}
