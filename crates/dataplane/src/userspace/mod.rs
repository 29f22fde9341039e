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

#[cfg(test)]
mod tests;

use std::net::IpAddr;

pub use elements::ports_in;
pub use listeners::{Listener, RelayPorts, Spread, listeners, unserved};
pub use names::{SetId, TABLE};
pub use state::{Change, State, Target};

/// What the layout depends on beside the plan.
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
