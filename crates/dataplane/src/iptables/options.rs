//! Inputs of the rules except the plan.

/// The configuration and the capabilities of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `iptables.masqueradeBit`: the bit of the packet mark that requests masquerading, 0 to 31.
    pub masquerade_bit: u8,
    /// Whether NodePorts answer on IPv4 loopback addresses: `iptables.localhostNodePorts`, and
    /// [`NodePortAddresses::contains_ipv4_loopback`](plan::NodePortAddresses::contains_ipv4_loopback).
    pub localhost_node_ports: bool,
    /// Whether the sysctl `nf_conntrack_tcp_be_liberal` is on, so that packets outside the window are
    /// not dropped.
    pub conntrack_tcp_be_liberal: bool,
    /// Whether iptables supports `MASQUERADE --random-fully` (1.6.2 and later).
    pub random_fully: bool,
    /// The existing counters.
    pub nfacct: Nfacct,
}

impl Default for Options {
    /// kube-proxy's defaults on a current host.
    fn default() -> Self {
        Self {
            masquerade_bit: 14,
            localhost_node_ports: true,
            conntrack_tcp_be_liberal: false,
            random_fully: true,
            nfacct: Nfacct::default(),
        }
    }
}

impl Options {
    /// The packet mark that requests masquerading.
    pub fn masquerade_mark(&self) -> u32 {
        1u32.checked_shl(self.masquerade_bit.into()).unwrap_or(0)
    }
}

/// The existing nfacct objects. A rule that names a missing one is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nfacct {
    /// [`Nfacct::INVALID_DROPPED`]
    pub invalid_dropped: bool,
    /// [`Nfacct::LOCALHOST_NODE_PORTS`]
    pub localhost_node_ports: bool,
}

impl Nfacct {
    /// Counts dropped invalid packets: the metric
    /// `iptables_ct_state_invalid_dropped_packets_total`.
    pub const INVALID_DROPPED: &'static str = "ct_state_invalid_dropped_pkts";
    /// Counts packets to NodePorts on loopback addresses: the metric
    /// `iptables_localhost_nodeports_accepted_packets_total`.
    pub const LOCALHOST_NODE_PORTS: &'static str = "localhost_nps_accepted_pkts";
}
