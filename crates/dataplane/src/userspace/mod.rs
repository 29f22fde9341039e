//! The userspace mode: a relay carries the connections, and one small table in each family leads
//! them to it.
//!
//! This module decides nothing that the plan has not decided: [`listeners`] says where the relay
//! has to listen for a Service port and which endpoints each listener is for, and [`State`] lays
//! out the table. Rules are constant in number; a Service is elements of sets and maps:
//!
//! ```text
//! chain services { dnat to NODE-IP : ip daddr . meta l4proto . th dport map @frontends ... }
//! ```
//!
//! **What becomes of a connection** is what the other modes make of it, as far as a relay can:
//!
//! | frontend | policy | who | goes to |
//! |---|---|---|---|
//! | any | any, no endpoint anywhere | all | rejected |
//! | cluster IP | internal Cluster | all | the cluster's endpoints |
//! | cluster IP | internal Local | all | this node's endpoints; dropped where there are none |
//! | the others | external Cluster | all | the cluster's endpoints |
//! | the others | external Local | pods, the node | the cluster's endpoints |
//! | the others | external Local | others | this node's endpoints; dropped where there are none |
//!
//! kube-proxy's userspace mode, gone since 1.26, knew no policies and refused where it had nobody
//! to send to. What no relay can do: endpoints see the node's address, not the client's, and SCTP is
//! not served ([`unserved`]); it is rejected, so that clients need not wait.
//!
//! **Why DNAT to the node's address and not `redirect`**: redirect takes the address of the
//! interface that the packet came in through, and drops the packet where that has none, as the
//! interfaces of routed pods do not. One address also means that a UDP answer leaves from the
//! address that the question was led to, without `IP_PKTINFO`.
//!
//! Source ranges are enforced before the translation, while the packet still says which address of
//! the Service it asked for, and the relay's ports take nothing that was not led to them.

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

use netfilter::nft::text::table_text;
use plan::{Plan, PortKey};

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
    /// The bit of the packet mark that the relay's own packets have, so that they are not led back
    /// to it.
    pub relay_mark: u32,
    /// Whether NodePorts answer on loopback addresses too, where `nodePortAddresses` does not
    /// exclude them.
    pub localhost_node_ports: bool,
}

/// The relay's ports as they would be if each listener got the next free one from 20,000 on.
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

/// The whole table in nft's language, with [`numbered_ports`].
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
