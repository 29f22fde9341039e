//! NodePorts on loopback addresses by way of the relay, for the nftables mode.
//!
//! kube-proxy's nftables mode never answers there, and its users miss it (kubernetes/kubernetes
//! 138427): what DNAT makes of a packet from 127.0.0.1 cannot leave the host without
//! `route_localnet`. A relay has no such trouble. As upstream's default is to stay silent, it has to
//! be asked for: by a loopback range in `nodePortAddresses` (`127.0.0.0/8`, `::1/128`), unless
//! `iptables.localhostNodePorts` is set to false. That setting alone cannot be what asks, for it is
//! true where nothing is said.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use model::Protocol;
use plan::{Plan, PortKey};
use relay::{Backends, Error, Frontend};

use super::local_relay::{LocalRelay, backends};

/// The NodePorts of one family on this host's loopback addresses, TCP and UDP.
#[derive(Default)]
pub(crate) struct LoopbackNodePorts {
    relay: LocalRelay,
}

impl LoopbackNodePorts {
    /// Serves what the plan says and nothing else; connections that are open go on. Returns the
    /// Service ports whose NodePort could not be opened, with the reason.
    ///
    /// # Errors
    /// The relay could not be started, or has died.
    pub(crate) fn sync(&mut self, plan: &Plan) -> Result<BTreeMap<PortKey, String>, Error> {
        let (frontends, owners) = frontends(plan);
        let errors = self.relay.serve(frontends)?;
        let failed = errors.iter().filter_map(|error| match error {
            Error::Listen { frontend, .. } | Error::Unsupported { frontend } => {
                Some((owners.get(frontend)?.clone(), error.to_string()))
            }
            Error::Start(_) | Error::Stopped => None,
        });
        Ok(failed.collect())
    }
}

type Frontends = BTreeMap<Frontend, Backends>;
type Owners = BTreeMap<Frontend, PortKey>;

/// Where to listen and for whom. Who connects from this node gets the cluster's endpoints, whatever
/// the external policy.
fn frontends(plan: &Plan) -> (Frontends, Owners) {
    let (mut frontends, mut owners) = (Frontends::new(), Owners::new());
    let asked = plan.node.node_port_ips.iter().flatten();
    let asked: Vec<&IpAddr> = asked.filter(|ip| ip.is_loopback()).collect();
    if asked.is_empty() {
        // Most nodes: not a look at the Services.
        return (frontends, owners);
    }
    for (key, port) in &plan.ports {
        let Some(node_port) = port.node_port else {
            continue;
        };
        if port.protocol == Protocol::Sctp {
            continue;
        }
        for ip in &asked {
            let frontend = Frontend {
                address: SocketAddr::new(**ip, node_port.get()),
                protocol: port.protocol,
            };
            frontends.insert(frontend, backends(port, &port.cluster));
            owners.insert(frontend, key.clone());
        }
    }
    (frontends, owners)
}
