use ipnet::IpNet;
use model::IpFamily;
use plan::{LocalTraffic, NodePortAddresses, Planner, Settings};

use crate::{CLUSTER_CIDR, NODE, host_addresses, objects, read, version};

/// A configuration in which kube-proxy was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The name in the recordings' file names.
    pub name: &'static str,
    /// The flags, without the node name and the cluster range.
    pub flags: &'static [&'static str],
    /// The same as fields of a configuration file.
    pub fields: &'static str,
}

const DEFAULT: Configuration = Configuration {
    name: "default",
    flags: &[],
    fields: "",
};

const MASQUERADE_ALL: Configuration = Configuration {
    name: "masquerade-all",
    flags: &["--masquerade-all"],
    fields: "iptables: {masqueradeAll: true}\n",
};

const PRIMARY: Configuration = Configuration {
    name: "primary",
    flags: &["--nodeport-addresses=primary"],
    fields: "nodePortAddresses: [primary]\n",
};

const NODEPORT_CIDR: Configuration = Configuration {
    name: "nodeport-cidr",
    flags: &["--nodeport-addresses=10.200.1.0/24,fd00:200:1::/64"],
    fields: "nodePortAddresses: [10.200.1.0/24, 'fd00:200:1::/64']\n",
};

const BRIDGE: Configuration = Configuration {
    name: "bridge",
    flags: &[
        "--detect-local-mode=BridgeInterface",
        "--pod-bridge-interface=cbr0",
    ],
    fields: "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cbr0}\n",
};

const PREFIX: Configuration = Configuration {
    name: "prefix",
    flags: &[
        "--detect-local-mode=InterfaceNamePrefix",
        "--pod-interface-name-prefix=veth",
    ],
    fields: "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}\n",
};

const NODECIDR: Configuration = Configuration {
    name: "nodecidr",
    flags: &["--detect-local-mode=NodeCIDR"],
    fields: "detectLocalMode: NodeCIDR\n",
};

const NO_LOCALHOST: Configuration = Configuration {
    name: "no-localhost",
    flags: &["--iptables-localhost-nodeports=false"],
    fields: "iptables: {localhostNodePorts: false}\n",
};

const LC_STRICTARP: Configuration = Configuration {
    name: "lc-strictarp",
    flags: &["--ipvs-scheduler=lc", "--ipvs-strict-arp"],
    fields: "ipvs: {scheduler: lc, strictARP: true}\n",
};

/// The configurations of iptables mode.
pub const IPTABLES: [Configuration; 8] = [
    DEFAULT,
    MASQUERADE_ALL,
    PRIMARY,
    NODEPORT_CIDR,
    BRIDGE,
    PREFIX,
    NODECIDR,
    NO_LOCALHOST,
];

/// The configurations of nftables mode.
pub const NFTABLES: [Configuration; 7] = [
    DEFAULT,
    MASQUERADE_ALL,
    PRIMARY,
    NODEPORT_CIDR,
    BRIDGE,
    PREFIX,
    NODECIDR,
];

/// The configurations of ipvs mode.
pub const IPVS: [Configuration; 3] = [DEFAULT, MASQUERADE_ALL, LC_STRICTARP];

fn cidrs(texts: &str) -> Vec<IpNet> {
    texts.split(',').map(|text| text.parse().unwrap()).collect()
}

/// Return the configuration of a name.
pub fn configuration(name: &str) -> Configuration {
    let mut all = IPTABLES.into_iter().chain(IPVS);
    let found = all.find(|configuration| configuration.name == name);
    found.unwrap_or_else(|| panic!("no recording has the name {name}"))
}

impl Configuration {
    /// Return whether local traffic is detected by the cluster range.
    pub fn has_cluster_cidr(&self) -> bool {
        !self.fields.contains("detectLocalMode")
    }

    /// Return all flags of kube-proxy but those that name the mode and the API server.
    pub fn all_flags(&self) -> Vec<String> {
        let cluster = format!("--cluster-cidr={CLUSTER_CIDR}");
        let mut flags = vec![format!("--hostname-override={NODE}")];
        flags.extend(self.has_cluster_cidr().then_some(cluster));
        flags.extend(self.flags.iter().map(ToString::to_string));
        flags
    }

    /// Return the configuration file for a mode. ipvs mode reads `iptables.masqueradeAll` too.
    pub fn file(&self, mode: &str) -> String {
        let cluster = match self.has_cluster_cidr() {
            true => format!("clusterCIDR: {CLUSTER_CIDR}\n"),
            false => String::new(),
        };
        let fields = match mode {
            "nftables" => self.fields.replace("iptables:", "nftables:"),
            _ => self.fields.to_owned(),
        };
        format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
             mode: {mode}\n{cluster}{fields}"
        )
    }

    /// Return the plan's settings.
    pub fn settings(&self) -> Settings {
        Settings {
            node_name: NODE.to_owned(),
            local_traffic: match self.name {
                "bridge" => LocalTraffic::BridgeInterface("cbr0".to_owned()),
                "prefix" => LocalTraffic::InterfaceNamePrefix("veth".to_owned()),
                "nodecidr" => LocalTraffic::NodeCidr,
                _ => LocalTraffic::ClusterCidr(cidrs(CLUSTER_CIDR)),
            },
            masquerade_all: self.name == "masquerade-all",
            node_port_addresses: match self.name {
                "primary" => NodePortAddresses::Primary,
                "nodeport-cidr" => {
                    NodePortAddresses::Ranges(cidrs("10.200.1.0/24,fd00:200:1::/64"))
                }
                _ => NodePortAddresses::All,
            },
        }
    }

    /// Return a planner with the node's addresses and the objects, and no pending change.
    pub fn planner(&self) -> Planner {
        let mut planner = Planner::new(self.settings());
        planner.set_host_addresses(host_addresses());
        planner.apply_all(objects());
        planner.take_diff();
        planner
    }

    /// Return the recorded rules of iptables or ipvs mode, as `iptables-save` prints them.
    pub fn iptables_save(&self, mode: &str, family: IpFamily) -> String {
        let (name, version) = (self.name, version(family));
        read(&format!("{mode}-{name}.{version}.iptables-save"))
    }

    /// Return the recorded table of nftables mode, as `nft` prints it.
    pub fn nft(&self, family: IpFamily) -> String {
        read(&format!("nftables-{}.{}.nft", self.name, version(family)))
    }
}
