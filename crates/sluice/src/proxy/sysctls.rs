//! Kernel settings of the proxy, the same as kube-proxy's.

use config::Config;
use kernel::conntrack::{Conntrack, Filter};
use kernel::sysctl::{Sysctl, SysctlTree};
use model::Mode;

use super::driver::Chain;
use crate::settings::node_ports::localhost_node_ports;

/// Upper bound of the connection-tracking limit from `maxPerCore`.
const CONNTRACK_LIMIT: u64 = 1_048_576;

/// Return the settings in the order in which they are written.
fn wanted(config: &Config, cores: usize) -> Vec<(Sysctl, String)> {
    let conntrack = &config.conntrack;
    let mut wanted = Vec::new();
    if let Some(max) = conntrack_max(conntrack, cores) {
        wanted.push((Sysctl::CONNTRACK_MAX, max.to_string()));
    }
    let timeouts = [
        (
            Sysctl::CONNTRACK_TCP_TIMEOUT_ESTABLISHED,
            conntrack.tcp_established_timeout,
        ),
        (
            Sysctl::CONNTRACK_TCP_TIMEOUT_CLOSE_WAIT,
            conntrack.tcp_close_wait_timeout,
        ),
        (Sysctl::CONNTRACK_UDP_TIMEOUT, conntrack.udp_timeout),
        (
            Sysctl::CONNTRACK_UDP_TIMEOUT_STREAM,
            conntrack.udp_stream_timeout,
        ),
    ];
    for (name, timeout) in timeouts {
        if let Some(timeout) = timeout {
            wanted.push((name, timeout.as_secs().to_string()));
        }
    }
    if conntrack.tcp_be_liberal {
        wanted.push((Sysctl::CONNTRACK_TCP_BE_LIBERAL, "1".to_owned()));
    }
    match config.mode {
        Mode::Iptables if localhost_node_ports(config) => {
            wanted.push((Sysctl::ROUTE_LOCALNET, "1".to_owned()));
        }
        Mode::Ipvs => wanted.extend(ipvs(config)),
        Mode::Iptables | Mode::Nftables | Mode::Userspace => {}
    }
    wanted
}

/// Return the settings for ipvs mode. `conn_reuse_mode` is unchanged: kernels since 5.9 handle it
/// correctly, and older ones are not supported.
fn ipvs(config: &Config) -> Vec<(Sysctl, String)> {
    let mut wanted = vec![
        (Sysctl::VS_CONNTRACK, "1"),
        (Sysctl::VS_EXPIRE_NODEST_CONN, "1"),
        (Sysctl::VS_EXPIRE_QUIESCENT_TEMPLATE, "1"),
        (Sysctl::IP_FORWARD, "1"),
    ];
    if config.ipvs.strict_arp {
        wanted.push((Sysctl::ARP_IGNORE, "1"));
        wanted.push((Sysctl::ARP_ANNOUNCE, "2"));
    }
    let owned = |(name, value): (Sysctl, &str)| (name, value.to_owned());
    wanted.into_iter().map(owned).collect()
}

/// Return `maxPerCore` times the cores, at least `min`, at most [`CONNTRACK_LIMIT`].
fn conntrack_max(conntrack: &config::Conntrack, cores: usize) -> Option<u64> {
    let per_core = u64::from(conntrack.max_per_core?);
    let scaled = per_core.saturating_mul(cores as u64);
    Some(if scaled > CONNTRACK_LIMIT {
        CONNTRACK_LIMIT
    } else {
        scaled.max(u64::from(conntrack.min))
    })
}

/// Apply the settings. A failure, for example in a restricted namespace, is a warning: Services
/// still work without.
pub(crate) fn apply(config: &Config) {
    if config.mode.has_virtual_servers() {
        // Makes the kernel load the module with its settings. A failure is reported when the mode
        // starts.
        let _ = kernel::ipvs::Ipvs::open();
    }
    let sysctls = SysctlTree::default();
    if sysctls.read_number(&Sysctl::CONNTRACK_MAX).is_err() {
        // Makes the kernel load connection tracking with its settings.
        let _ = Conntrack::open().and_then(|mut table| {
            let all = Filter::all(kernel::Family::Ipv4);
            table.dump(&all, |_| {})
        });
    }
    let cores = kernel::process::online_processors();
    apply_to(&sysctls, &SysctlTree::at("/sys"), config, cores);
}

fn apply_to(sysctls: &SysctlTree, sys: &SysctlTree, config: &Config, cores: usize) {
    for (name, value) in wanted(config, cores) {
        set(sysctls, &name, &value);
    }
    let Some(max) = conntrack_max(&config.conntrack, cores) else {
        return;
    };
    // The hash table grows with the limit.
    let buckets = max / 4;
    let has = sys.read_number(&Sysctl::CONNTRACK_BUCKETS);
    if has.is_ok_and(|has| u64::try_from(has).is_ok_and(|has| has < buckets)) {
        set(sys, &Sysctl::CONNTRACK_BUCKETS, &buckets.to_string());
    }
}

fn set(tree: &SysctlTree, name: &Sysctl, value: &str) {
    match tree.set(name, value) {
        Ok(true) => tracing::info!(path = %name.path(), value, "Sysctl set"),
        Ok(false) => {}
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "Sysctl not set; continuing without it");
        }
    }
}

/// Return whether the kernel treats out-of-window TCP packets as valid.
pub(crate) fn tcp_is_liberal() -> bool {
    let value = SysctlTree::default().read_number(&Sysctl::CONNTRACK_TCP_BE_LIBERAL);
    // Absent without connection tracking.
    value.is_ok_and(|v| v != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::KubeProxyConfiguration;

    fn config(yaml: &str) -> Config {
        let header = format!(
            "apiVersion: {}\nkind: {}\n",
            config::API_VERSION,
            config::KIND
        );
        let mut file = KubeProxyConfiguration::from_yaml(&(header + yaml)).unwrap();
        file.set_defaults();
        Config::from_file(file).unwrap()
    }

    fn names_and_values(config: &Config, cores: usize) -> Vec<String> {
        wanted(config, cores)
            .into_iter()
            .map(|(name, value)| format!("{}={value}", name.path().rsplit('/').next().unwrap()))
            .collect()
    }

    #[test]
    fn defaults_agree_with_kube_proxy() {
        assert_eq!(
            names_and_values(&config(""), 2),
            [
                "nf_conntrack_max=131072",
                "nf_conntrack_tcp_timeout_established=86400",
                "nf_conntrack_tcp_timeout_close_wait=3600",
                "route_localnet=1",
            ]
        );
    }

    #[test]
    fn every_conntrack_field_has_its_sysctl() {
        let config = config(
            "mode: nftables\nconntrack: {maxPerCore: 100, min: 10, tcpEstablishedTimeout: 0s, \
             tcpCloseWaitTimeout: 5m, tcpBeLiberal: true, udpTimeout: 7s, udpStreamTimeout: 8s}",
        );
        assert_eq!(
            names_and_values(&config, 4),
            [
                "nf_conntrack_max=400",
                "nf_conntrack_tcp_timeout_close_wait=300",
                "nf_conntrack_udp_timeout=7",
                "nf_conntrack_udp_timeout_stream=8",
                "nf_conntrack_tcp_be_liberal=1",
            ]
        );
    }

    #[test]
    fn the_conntrack_table_gets_entries_and_buckets() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &Sysctl| folder.path().join(name.path());
        let written = |yaml: &str, buckets: &str| {
            for name in [Sysctl::CONNTRACK_MAX, Sysctl::CONNTRACK_BUCKETS] {
                std::fs::create_dir_all(file(&name).parent().unwrap()).unwrap();
            }
            std::fs::write(file(&Sysctl::CONNTRACK_MAX), "1\n").unwrap();
            std::fs::write(file(&Sysctl::CONNTRACK_BUCKETS), buckets).unwrap();
            let tree = SysctlTree::at(folder.path());
            apply_to(&tree, &tree, &config(yaml), 8);
            [Sysctl::CONNTRACK_MAX, Sysctl::CONNTRACK_BUCKETS]
                .map(|name| std::fs::read_to_string(file(&name)).unwrap())
        };
        assert_eq!(written("", "1024\n"), ["262144", "65536"]);
        assert_eq!(written("", "65536\n"), ["262144", "65536\n"]);
        let flags = "conntrack: {maxPerCore: 100, min: 2000}";
        assert_eq!(written(flags, "1\n"), ["2000", "500"]);
        let left = "conntrack: {maxPerCore: 0}";
        assert_eq!(written(left, "1\n"), ["1\n", "1\n"]);
    }

    #[test]
    fn ipvs_mode_has_its_own_sysctls() {
        let strict = config("mode: ipvs\nipvs: {strictARP: true}");
        let all = names_and_values(&strict, 2);
        assert_eq!(
            all[all.len() - 6..],
            [
                "conntrack=1",
                "expire_nodest_conn=1",
                "expire_quiescent_template=1",
                "ip_forward=1",
                "arp_ignore=1",
                "arp_announce=2",
            ]
        );
        let lax = names_and_values(&config("mode: ipvs"), 2);
        assert_eq!(lax.last().map(String::as_str), Some("ip_forward=1"));
    }

    #[test]
    fn the_conntrack_limit_has_a_floor_and_a_ceiling() {
        let max = |yaml: &str, cores| conntrack_max(&config(yaml).conntrack, cores);
        assert_eq!(max("", 1), Some(131_072));
        assert_eq!(max("", 8), Some(262_144));
        assert_eq!(max("", 1000), Some(1_048_576));
        assert_eq!(max("conntrack: {maxPerCore: 0}", 8), None);
    }

    #[test]
    fn route_localnet_is_set_only_for_node_ports_on_loopback() {
        let elsewhere = config("nodePortAddresses: [10.0.0.0/8]");
        assert!(!names_and_values(&elsewhere, 2).contains(&"route_localnet=1".to_owned()));
        let asked = config("iptables: {localhostNodePorts: false}");
        assert!(!names_and_values(&asked, 2).contains(&"route_localnet=1".to_owned()));
    }
}
