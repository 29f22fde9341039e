//! userspace mode: a relay carries the connections, and one small table per family leads them to it.
//!
//! All decisions are the plan's: [`listeners`] returns the sockets of a Service port with their
//! endpoints, [`State`] lays out the table, and [`Sync`] sequences both. Rules are constant in number;
//! a Service is elements of sets and maps:
//!
//! ```text
//! chain services { dnat to NODE-IP : ip daddr . meta l4proto . th dport map @frontends ... }
//! ```
//!
//! Connections are treated as in the other modes, as far as a relay can:
//!
//! | frontend | policy | client | result |
//! |---|---|---|---|
//! | any | any, no endpoint anywhere | any | rejected |
//! | cluster IP | internal Cluster | any | all endpoints |
//! | cluster IP | internal Local | any | this node's endpoints; dropped if there are none |
//! | other | external Cluster | any | all endpoints |
//! | other | external Local | pods, the node | all endpoints |
//! | other | external Local | other | this node's endpoints; dropped if there are none |
//!
//! kube-proxy's userspace mode, removed in 1.26, had no policies. Limits of a relay: endpoints see the
//! node's address instead of the client's, and SCTP is not served ([`unserved`]); it is rejected, so
//! that clients do not wait.
//!
//! DNAT to the node's address instead of `redirect`: redirect uses the address of the input interface
//! and drops the packet if it has none, as with routed pods. One address also means that a UDP reply
//! leaves from the address to which the request was led, without `IP_PKTINFO`.
//!
//! Source ranges are enforced before the translation, while the packet still has the address of the
//! Service. The relay's ports reject connections that the table did not lead to them.

mod elements;
mod listeners;
mod names;
mod skeleton;
mod state;
mod sync;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::IpFamily;
use netfilter::nft::Op;
use netfilter::nft::text::table_text;
use plan::{Plan, PortKey};

use crate::Feature;
use crate::nft_table::features;

pub use elements::ports_in;
pub use listeners::{Listener, RelayPorts, Spread, listeners, unserved};
pub use names::{SetId, TABLE};
pub use state::{Change, State, Target};
pub use sync::{Served, Socket, Sync, Table, Transport};

/// The operator's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The bit of the packet mark for the relay's own packets.
    pub mark: u32,
    /// Whether NodePorts answer on loopback.
    pub localhost_node_ports: bool,
}

/// What the layout depends on besides the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The address of this host, of the table's family, that the relay listens on.
    pub relay_ip: IpAddr,
    /// The bit of the packet mark that exempts the relay's own packets from the table.
    pub relay_mark: u32,
    /// Whether NodePorts answer on loopback addresses too, unless `nodePortAddresses` excludes them.
    pub localhost_node_ports: bool,
}

/// Return the features of the kernel that the table needs, each with an operation on a new table that
/// the kernel refuses without it. The first is that of the table itself.
pub fn features(family: IpFamily) -> Vec<(Feature, Op)> {
    features::relayed(family)
}

/// Return ports for all listeners, numbered from 20,000.
pub fn numbered_ports(plan: &Plan) -> BTreeMap<PortKey, RelayPorts> {
    let mut free = 20_000_u16..=u16::MAX;
    let of = |port: &std::sync::Arc<plan::PortPlan>| {
        let mut ports = RelayPorts::default();
        for (listener, number) in listeners(port).into_iter().zip(&mut free) {
            ports.set(listener.spread, number);
        }
        (port.key(), ports)
    };
    plan.ports.values().map(of).collect()
}

/// Return the table in nft syntax, with [`numbered_ports`].
pub fn render(plan: &Plan, options: Options) -> String {
    let ports = numbered_ports(plan);
    let mut state = State::new(plan.family, options, plan.node.clone());
    let target = |port: &std::sync::Arc<plan::PortPlan>| -> Target {
        let key = port.key();
        let ports = ports.get(&key).copied().unwrap_or_default();
        (key, Some((port.clone(), ports)))
    };
    let change = state.change(plan.ports.values().map(target).collect(), None);
    state.commit(change);
    let family = crate::nft_table::table_family(plan.family);
    table_text(family, TABLE, &state.contents())
}
