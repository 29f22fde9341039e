//! Checks that the address families of the configuration match those of this node, with the verdicts of
//! kube-proxy's `checkBadConfig`, `checkBadIPConfig` and `platformCheckSupported`. Fields without effect
//! in the current mode are not checked.

use std::net::{IpAddr, SocketAddr};

use config::Config;
use model::{
    Cidr, IpFamily, LocalTraffic, Node, NodeAddressType, NodePortAddresses, family_of_net,
};

/// The result of the check. Each line names the field.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Errors: the proxy must not program the kernel.
    pub(crate) refused: Vec<String>,
    /// Warnings: probably unintended.
    pub(crate) doubtful: Vec<String>,
    /// Information for the log.
    pub(crate) notes: Vec<String>,
}

/// Check a configuration on a node where these families can be served.
pub(crate) fn check(config: &Config, node: Option<&Node>, served: &[IpFamily]) -> Verdict {
    let mut verdict = Verdict::default();
    let primary = primary_family(config, node);
    if !served.contains(&primary) {
        let whose = if config.bind_address.is_unspecified() {
            "the Node's first address"
        } else {
            "bindAddress"
        };
        let refused = format!("{whose} is {primary}, which cannot be served on this host");
        verdict.refused.push(refused);
        return verdict;
    }
    let pods = node.map_or(&[][..], |node| node.pod_cidrs.as_slice());
    let single = served.len() == 1;
    verdict.local_traffic(config, primary, pods, single);
    verdict.node_ports(config, primary, pods);
    if single {
        verdict.other_family_only(config, primary);
    }
    verdict
}

/// Return the primary family as kube-proxy does: that of `bindAddress`, otherwise that of the Node's
/// first InternalIP or ExternalIP.
fn primary_family(config: &Config, node: Option<&Node>) -> IpFamily {
    if !config.bind_address.is_unspecified() {
        return IpFamily::of(config.bind_address);
    }
    let first = |kind| {
        let mut addresses = node?.addresses.iter();
        addresses.find(|address| address.kind == kind)
    };
    first(NodeAddressType::InternalIp)
        .or_else(|| first(NodeAddressType::ExternalIp))
        .map_or(IpFamily::V4, |address| IpFamily::of(address.ip))
}

impl Verdict {
    fn local_traffic(&mut self, config: &Config, primary: IpFamily, pods: &[Cidr], single: bool) {
        let (field, ranges, refused) = match &config.local_traffic {
            LocalTraffic::ClusterCidr(ranges) => ("clusterCIDR", ranges.as_slice(), single),
            LocalTraffic::NodeCidr => ("the Node's spec.podCIDRs", pods, true),
            LocalTraffic::BridgeInterface(_) | LocalTraffic::InterfaceNamePrefix(_) => return,
        };
        if has(ranges, primary) {
            return;
        }
        let meaning = "traffic of pods cannot be distinguished from other traffic";
        let line =
            format!("{field} has no range for {primary}, the node's primary family: {meaning}");
        if ranges.is_empty() {
            self.notes.push(line);
        } else if refused {
            self.refused.push(line);
        } else {
            self.doubtful.push(line);
        }
    }

    fn node_ports(&mut self, config: &Config, primary: IpFamily, pods: &[Cidr]) {
        let ranges = match &config.node_port_addresses {
            NodePortAddresses::Primary | NodePortAddresses::PrimaryAnd(_) => return,
            NodePortAddresses::All => {
                let line = "nodePortAddresses is unset: NodePorts answer on all addresses of this \
                            node; \"primary\" would limit them to the Node's own";
                return self.notes.push(line.to_owned());
            }
            NodePortAddresses::Ranges(ranges) => ranges,
        };
        let cluster = match &config.local_traffic {
            LocalTraffic::ClusterCidr(ranges) => ranges.as_slice(),
            _ => &[],
        };
        let two_families = [pods, cluster, &config.ipvs.exclude_cidrs]
            .into_iter()
            .any(|ranges| IpFamily::ALL.into_iter().all(|family| has(ranges, family)));
        for family in IpFamily::ALL {
            if !has(ranges, family) && (two_families || family == primary) {
                self.doubtful.push(format!(
                    "nodePortAddresses has no range for {family}: NodePorts answer on all {family} \
                     addresses of this node"
                ));
            }
        }
    }

    /// Report fields that only have addresses of a family that this node lacks.
    fn other_family_only(&mut self, config: &Config, primary: IpFamily) {
        let exclude = &config.ipvs.exclude_cidrs;
        if config.mode.has_virtual_servers() && !exclude.is_empty() && !has(exclude, primary) {
            let line =
                format!("ipvs.excludeCIDRs has no range for {primary}, this node's only family");
            self.doubtful.push(line);
        }
        for (field, address) in [
            ("healthzBindAddress", config.healthz_bind_address),
            ("metricsBindAddress", config.metrics_bind_address),
        ] {
            let ip = address.map(|address: SocketAddr| address.ip());
            let named = ip.filter(|ip: &IpAddr| !ip.is_unspecified());
            if named.is_some_and(|ip| IpFamily::of(ip) != primary) {
                let line = format!("{field} is not {primary}, this node's only family");
                self.doubtful.push(line);
            }
        }
    }
}

fn has(ranges: &[Cidr], family: IpFamily) -> bool {
    ranges.iter().any(|range| family_of_net(range) == family)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use model::NodeAddress;

    use super::*;

    fn node(addresses: &[&str], pods: &[&str]) -> Node {
        let internal = |ip: &&str| NodeAddress {
            kind: NodeAddressType::InternalIp,
            ip: ip.parse().unwrap(),
        };
        Node {
            name: "node1".into(),
            uid: "".into(),
            addresses: addresses.iter().map(internal).collect(),
            pod_cidrs: pods.iter().map(|net| net.parse().unwrap()).collect(),
            topology: BTreeMap::new(),
            deleting: false,
        }
    }

    /// Return `refused` or `doubtful` with the field for each finding about a file with these fields.
    fn verdict(stated: &str, node: &Node, served: &[IpFamily]) -> String {
        let head = format!(
            "apiVersion: {}\nkind: {}\n{stated}\n",
            config::API_VERSION,
            config::KIND
        );
        let mut file = config::KubeProxyConfiguration::from_yaml(&head).unwrap();
        file.set_defaults();
        let config = Config::from_file(file).unwrap();
        let found = check(&config, Some(node), served);
        let name = |line: &String| {
            let (field, _) = line
                .split_once(" has ")
                .or(line.split_once(" is "))
                .unwrap();
            field.to_owned()
        };
        let lines = |kind: &str, lines: &[String]| -> Vec<String> {
            lines
                .iter()
                .map(|line| format!("{kind} {}", name(line)))
                .collect()
        };
        [
            lines("refused", &found.refused),
            lines("doubtful", &found.doubtful),
        ]
        .concat()
        .join("; ")
    }

    const V4: &str = "10.200.1.2";
    const V6: &str = "fd00:200:1::2";
    const PODS4: &str = "10.244.1.0/24";
    const PODS6: &str = "fd00:10:244:1::/64";

    /// The node's address and pod range, the fields of the file, and the verdict of kube-proxy
    /// v1.36.2, recorded with a real API server.
    type Case = (&'static str, &'static str, &'static str, &'static str);

    fn verdicts_are(cases: &[Case], served: &[IpFamily]) {
        for (address, pods, stated, expected) in cases {
            let node = node(&[address], &[pods]);
            let stated = format!("nodePortAddresses: [primary]\n{stated}");
            let found = verdict(&stated, &node, served);
            assert_eq!(found, *expected, "{stated} {node:?} {served:?}");
        }
    }

    #[test]
    fn verdicts_on_dual_stack_nodes_equal_those_of_kube_proxy() {
        let cases = [
            (V4, PODS4, "", ""),
            (V4, PODS4, "clusterCIDR: 10.244.0.0/16", ""),
            (V4, PODS4, "clusterCIDR: fd00::/56", "doubtful clusterCIDR"),
            (V4, PODS6, "clusterCIDR: 10.244.0.0/16", ""),
            (V4, PODS4, "healthzBindAddress: \"[fd00::1]:1\"", ""),
            (
                V4,
                PODS6,
                "detectLocalMode: NodeCIDR",
                "refused the Node's spec.podCIDRs",
            ),
            (
                V6,
                PODS4,
                "detectLocalMode: NodeCIDR",
                "refused the Node's spec.podCIDRs",
            ),
            (
                V4,
                PODS4,
                "bindAddress: fd00::1\nclusterCIDR: 10.0.0.0/8",
                "doubtful clusterCIDR",
            ),
        ];
        verdicts_are(&cases, &IpFamily::ALL);
    }

    #[test]
    fn verdicts_on_ipv4_nodes_equal_those_of_kube_proxy() {
        let cases = [
            (V4, PODS4, "detectLocalMode: NodeCIDR", ""),
            (V4, PODS4, "clusterCIDR: fd00::/56", "refused clusterCIDR"),
            (V4, PODS4, "bindAddress: fd00::1", "refused bindAddress"),
            (V6, PODS6, "", "refused the Node's first address"),
            (
                V4,
                PODS6,
                "detectLocalMode: NodeCIDR",
                "refused the Node's spec.podCIDRs",
            ),
            (
                V4,
                PODS4,
                "healthzBindAddress: \"[fd00::1]:1\"\nmetricsBindAddress: \"[fd00::1]:2\"",
                "doubtful healthzBindAddress; doubtful metricsBindAddress",
            ),
            (
                V4,
                PODS4,
                "mode: ipvs\nipvs: {excludeCIDRs: [fd00::/8]}",
                "doubtful ipvs.excludeCIDRs",
            ),
        ];
        verdicts_are(&cases, &[IpFamily::V4]);
    }

    #[test]
    fn node_port_ranges_missing_a_family_are_warned_about() {
        let all = IpFamily::ALL.as_slice();
        let (four, dual) = (node(&[V4], &[PODS4]), node(&[V4, V6], &[PODS4, PODS6]));
        let doubtful = "doubtful nodePortAddresses";
        for (ranges, node, served, expected) in [
            ("10.0.0.0/8", &four, all, ""),
            ("10.0.0.0/8", &dual, all, doubtful),
            ("fd00::/8", &four, all, doubtful),
            ("fd00::/8", &four, &[IpFamily::V4], doubtful),
            ("10.0.0.0/8, fd00::/8", &dual, all, ""),
        ] {
            let stated = format!("nodePortAddresses: [{ranges}]");
            assert_eq!(
                verdict(&stated, node, served),
                expected,
                "{stated} {node:?}"
            );
        }
    }
}
