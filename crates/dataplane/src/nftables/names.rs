//! The names in the table.
//!
//! Base chains, and sets with the same meaning as in kube-proxy's table, have kube-proxy's names and
//! types: a kube-proxy that starts after sluice recreates the former and takes over the latter in its
//! first transaction, and nothing jumps to the other chains that sluice leaves behind.

use crate::nft_table::SetName;
use model::IpFamily;
use netfilter::nft::{DataType, Fields, Selector, Set, SetData, SetFlags};

/// The table's name in the families `ip` and `ip6`: kube-proxy's, so that its cleanup finds it.
pub const TABLE: &str = "kube-proxy";

/// The most clients with affinity, which bounds the kernel's memory (some 200 bytes each). If the map
/// is full, further clients are balanced without affinity.
const AFFINITY_SIZE: u32 = 1 << 20;

/// The index of the first endpoint that is only for clients from outside, in the maps of endpoints.
pub const LOCAL_INDEX: u32 = 1 << 16;

/// The table's sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetId {
    /// Every cluster IP.
    ClusterIps,
    /// The addresses that answer for NodePorts.
    NodePortIps,
    /// Endpoints on this node: a connection to itself through a Service must be masqueraded.
    Hairpin,
    /// The sources that may use a frontend with `loadBalancerSourceRanges`.
    SourceRanges,
    /// The number of endpoints of each frontend, as a sum of powers of two; for those only for clients
    /// from outside, plus [`LOCAL_INDEX`].
    EndpointCounts,
    /// The same for NodePorts.
    NodePortEndpointCounts,
    /// The endpoints of frontends by index; those only for clients from outside under external policy
    /// Local begin at [`LOCAL_INDEX`].
    Endpoints,
    /// The same for NodePorts.
    NodePortEndpoints,
    /// The endpoint of each client of a frontend with affinity.
    Affinity,
    /// The same for NodePorts.
    NodePortAffinity,
    /// The content of [`SetId::Endpoints`] for frontends with affinity, in the form in which affinity
    /// learns it.
    StickyEndpoints,
    /// The same for NodePorts.
    NodePortStickyEndpoints,
    /// The live endpoints of frontends with affinity.
    LiveEndpoints,
    /// The same for NodePorts.
    NodePortLiveEndpoints,
    /// Cluster IPs that only need a choice of endpoint.
    ClusterIpPorts,
    /// The verdicts of all other frontends: the chain, drop or reject.
    ServiceIps,
    /// The verdicts of NodePorts.
    ServiceNodePorts,
    /// The verdicts of NodePorts without endpoints.
    NoEndpointNodePorts,
}

impl SetId {
    /// All sets; those that refer to others come last.
    pub const ALL: [SetId; 18] = [
        SetId::ClusterIps,
        SetId::NodePortIps,
        SetId::Hairpin,
        SetId::SourceRanges,
        SetId::EndpointCounts,
        SetId::NodePortEndpointCounts,
        SetId::Endpoints,
        SetId::NodePortEndpoints,
        SetId::Affinity,
        SetId::NodePortAffinity,
        SetId::StickyEndpoints,
        SetId::NodePortStickyEndpoints,
        SetId::LiveEndpoints,
        SetId::NodePortLiveEndpoints,
        SetId::ClusterIpPorts,
        SetId::ServiceIps,
        SetId::ServiceNodePorts,
        SetId::NoEndpointNodePorts,
    ];

    /// Return the set's name.
    pub fn name(self) -> &'static str {
        match self {
            SetId::ClusterIps => "cluster-ips",
            SetId::NodePortIps => "nodeport-ips",
            SetId::Hairpin => "hairpin-connections",
            SetId::SourceRanges => "source-ranges",
            SetId::EndpointCounts => "endpoint-counts",
            SetId::NodePortEndpointCounts => "nodeport-endpoint-counts",
            SetId::Endpoints => "endpoints",
            SetId::NodePortEndpoints => "nodeport-endpoints",
            SetId::Affinity => "affinity",
            SetId::NodePortAffinity => "nodeport-affinity",
            SetId::StickyEndpoints => "sticky-endpoints",
            SetId::NodePortStickyEndpoints => "nodeport-sticky-endpoints",
            SetId::LiveEndpoints => "live-endpoints",
            SetId::NodePortLiveEndpoints => "nodeport-live-endpoints",
            SetId::ClusterIpPorts => "cluster-ip-ports",
            SetId::ServiceIps => "service-ips",
            SetId::ServiceNodePorts => "service-nodeports",
            SetId::NoEndpointNodePorts => "no-endpoint-nodeports",
        }
    }

    /// Return the set of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        SetId::ALL.into_iter().find(|id| id.name() == name)
    }

    /// Return whether rules fill the set.
    pub fn is_learned(self) -> bool {
        matches!(self, SetId::Affinity | SetId::NodePortAffinity)
    }

    /// Return the declaration of the set.
    pub fn declare(self, family: IpFamily) -> Set {
        let (key, data) = self.types(family);
        let comment = self.comment().to_owned();
        Set {
            name: self.name().to_owned(),
            key,
            data,
            flags: SetFlags {
                interval: self == SetId::SourceRanges,
                timeout: self.is_learned(),
                dynamic: self.is_learned(),
                ..SetFlags::default()
            },
            timeout_ms: None,
            size: self.is_learned().then_some(AFFINITY_SIZE),
            comment: Some(comment),
        }
    }

    fn types(self, family: IpFamily) -> (Fields, SetData) {
        use DataType::{InetProto as Proto, InetService as Port};
        let (ip, daddr) = match family {
            IpFamily::V4 => (DataType::Ipv4Addr, Selector::IpDaddr),
            IpFamily::V6 => (DataType::Ipv6Addr, Selector::Ip6Daddr),
        };
        let types = |types: &[DataType]| Fields::Types(types.to_vec());
        // See `pick` for why affinity has the frontend's port before the endpoint.
        let remembered = SetData::Fields(types(&[Port, ip, Port]));
        // A field of type integer can only be declared with typeof.
        let index = Selector::RandomIndex;
        let (protocol, dport) = (Selector::L4proto, Selector::Dport);
        let endpoint = SetData::Fields(Fields::Typeof(vec![daddr, dport]));
        let sticky = SetData::Fields(Fields::Typeof(vec![dport, daddr, dport]));
        let address = Fields::Typeof(vec![daddr, protocol, dport, index]);
        let node_port = Fields::Typeof(vec![protocol, dport, index]);
        match self {
            SetId::ClusterIps | SetId::NodePortIps => (types(&[ip]), SetData::None),
            SetId::Hairpin => (types(&[ip, ip, Proto, Port]), SetData::None),
            SetId::ServiceIps => (types(&[ip, Proto, Port]), SetData::Verdict),
            SetId::ServiceNodePorts | SetId::NoEndpointNodePorts => {
                (types(&[Proto, Port]), SetData::Verdict)
            }
            SetId::ClusterIpPorts => (types(&[ip, Proto, Port]), SetData::None),
            SetId::SourceRanges => (types(&[ip, Proto, Port, ip]), SetData::None),
            SetId::EndpointCounts => (address, SetData::None),
            SetId::NodePortEndpointCounts => (node_port, SetData::None),
            SetId::Endpoints => (address, endpoint),
            SetId::NodePortEndpoints => (node_port, endpoint),
            SetId::StickyEndpoints => (address, sticky),
            SetId::NodePortStickyEndpoints => (node_port, sticky),
            SetId::Affinity => (types(&[ip, Proto, ip, Port]), remembered),
            SetId::NodePortAffinity => (types(&[ip, Proto, Port]), remembered),
            SetId::LiveEndpoints => (types(&[Proto, ip, Port, ip, Port]), SetData::None),
            SetId::NodePortLiveEndpoints => (types(&[Proto, Port, ip, Port]), SetData::None),
        }
    }

    fn comment(self) -> &'static str {
        match self {
            SetId::ClusterIps => "Active ClusterIPs",
            SetId::NodePortIps => "IPs that accept NodePort traffic",
            SetId::Hairpin => "service hairpin connections",
            SetId::SourceRanges => "the LoadBalancerSourceRanges",
            SetId::EndpointCounts => "frontend . a power of two in its number of endpoints",
            SetId::NodePortEndpointCounts => "NodePort . a power of two in its number of endpoints",
            SetId::Endpoints => "endpoints of ClusterIPs, external and load-balancer IPs",
            SetId::NodePortEndpoints => "endpoints of NodePorts",
            SetId::Affinity => "client . frontend : the endpoint of the client",
            SetId::NodePortAffinity => "client . NodePort : the endpoint of the client",
            SetId::StickyEndpoints => "endpoints of frontends with affinity",
            SetId::NodePortStickyEndpoints => "endpoints of NodePorts with affinity",
            SetId::LiveEndpoints => "frontend . endpoint that affinity may return to",
            SetId::NodePortLiveEndpoints => "NodePort . endpoint that affinity may return to",
            SetId::ClusterIpPorts => "ClusterIP traffic that is only load-balanced",
            SetId::ServiceIps => "other ClusterIP, ExternalIP and LoadBalancer IP traffic",
            SetId::ServiceNodePorts => "NodePort traffic",
            SetId::NoEndpointNodePorts => "verdicts for NodePorts without endpoints",
        }
    }
}

impl SetName for SetId {
    fn set_name(self) -> &'static str {
        self.name()
    }
}
