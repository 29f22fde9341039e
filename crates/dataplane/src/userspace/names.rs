//! The names in the table.

use model::IpFamily;
use netfilter::nft::{DataType, Fields, Set, SetData, SetFlags};

use crate::nft_table::SetName;

/// The table's name, in the families `ip` and `ip6`.
pub const TABLE: &str = "sluice-userspace";

/// The chain that elements for frontends without endpoints go to.
pub(super) const REJECT: &str = "reject-chain";

/// The table's sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetId {
    /// The addresses that answer for NodePorts.
    NodePortIps,
    /// The relay's own ports.
    RelayPorts,
    /// Frontends that only certain sources may use.
    SourceRanged,
    /// Those sources.
    SourceRanges,
    /// The verdict on traffic to frontends without endpoints: drop or reject.
    NoEndpoints,
    /// The same for NodePorts.
    NodePortNoEndpoints,
    /// Frontends with external policy Local.
    LocalFrontends,
    /// The same for NodePorts.
    LocalNodePorts,
    /// The relay's port of a frontend with external policy Local, for clients outside.
    OutsideFrontends,
    /// The same for NodePorts.
    OutsideNodePorts,
    /// The relay's port of a frontend.
    Frontends,
    /// The same for NodePorts.
    NodePorts,
}

impl SetId {
    /// All of them.
    pub const ALL: [SetId; 12] = [
        SetId::NodePortIps,
        SetId::RelayPorts,
        SetId::SourceRanged,
        SetId::SourceRanges,
        SetId::NoEndpoints,
        SetId::NodePortNoEndpoints,
        SetId::LocalFrontends,
        SetId::LocalNodePorts,
        SetId::OutsideFrontends,
        SetId::OutsideNodePorts,
        SetId::Frontends,
        SetId::NodePorts,
    ];

    /// Return the set's name.
    pub fn name(self) -> &'static str {
        match self {
            SetId::NodePortIps => "node-port-ips",
            SetId::RelayPorts => "relay-ports",
            SetId::SourceRanged => "source-ranged",
            SetId::SourceRanges => "source-ranges",
            SetId::NoEndpoints => "no-endpoints",
            SetId::NodePortNoEndpoints => "node-port-no-endpoints",
            SetId::LocalFrontends => "local-frontends",
            SetId::LocalNodePorts => "local-node-ports",
            SetId::OutsideFrontends => "outside-frontends",
            SetId::OutsideNodePorts => "outside-node-ports",
            SetId::Frontends => "frontends",
            SetId::NodePorts => "node-ports",
        }
    }

    /// Return the set as it is declared.
    pub fn declare(self, family: IpFamily) -> Set {
        let (key, data) = self.types(family);
        Set {
            name: self.name().to_owned(),
            key,
            data,
            flags: SetFlags {
                interval: self == SetId::SourceRanges,
                ..SetFlags::default()
            },
            timeout_ms: None,
            size: None,
            comment: Some(self.comment().to_owned()),
        }
    }

    fn types(self, family: IpFamily) -> (Fields, SetData) {
        use DataType::{InetProto as Proto, InetService as Port};
        let ip = match family {
            IpFamily::V4 => DataType::Ipv4Addr,
            IpFamily::V6 => DataType::Ipv6Addr,
        };
        let types = |types: &[DataType]| Fields::Types(types.to_vec());
        let relay_port = SetData::Fields(types(&[Port]));
        let (frontend, node_port) = (types(&[ip, Proto, Port]), types(&[Proto, Port]));
        match self {
            SetId::NodePortIps => (types(&[ip]), SetData::None),
            SetId::SourceRanges => (types(&[ip, Proto, Port, ip]), SetData::None),
            SetId::RelayPorts | SetId::LocalNodePorts => (node_port, SetData::None),
            SetId::SourceRanged | SetId::LocalFrontends => (frontend, SetData::None),
            SetId::NoEndpoints => (frontend, SetData::Verdict),
            SetId::NodePortNoEndpoints => (node_port, SetData::Verdict),
            SetId::OutsideFrontends | SetId::Frontends => (frontend, relay_port),
            SetId::OutsideNodePorts | SetId::NodePorts => (node_port, relay_port),
        }
    }

    fn comment(self) -> &'static str {
        match self {
            SetId::NodePortIps => "addresses that answer for NodePorts",
            SetId::RelayPorts => "ports of the relay, only for redirected connections",
            SetId::SourceRanged => "destinations that are subject to LoadBalancerSourceRanges",
            SetId::SourceRanges => "the LoadBalancerSourceRanges",
            SetId::NoEndpoints => "verdicts for frontends without endpoints",
            SetId::NodePortNoEndpoints => "verdicts for NodePorts without endpoints",
            SetId::LocalFrontends => "frontends with external policy Local",
            SetId::LocalNodePorts => "NodePorts with external policy Local",
            SetId::OutsideFrontends => "relay port of each of these frontends, for clients outside",
            SetId::OutsideNodePorts => "relay port of each of these NodePorts, for clients outside",
            SetId::Frontends => "the port of the relay for each frontend",
            SetId::NodePorts => "the port of the relay for each NodePort",
        }
    }
}

impl SetName for SetId {
    fn set_name(self) -> &'static str {
        self.name()
    }
}
