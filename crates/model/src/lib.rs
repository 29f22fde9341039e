//! The parts of Services, EndpointSlices, Nodes and ServiceCIDRs that sluice uses.
//!
//! There are two layers. [`object`] contains the objects as received from a server or a manifest,
//! unchecked. The types re-exported here are the checked form that the rest of sluice uses: parsed
//! addresses, ports in range, enumerations. [`Service::check`] and its siblings convert the first
//! into the second. They are the only place that validates input; an error names object and field.

mod change;
mod check;
mod endpoint_slice;
mod family;
mod intern;
mod kind;
mod mode;
mod name;
mod node;
pub mod object;
mod restate;
mod service;
mod settings;

pub use change::{Change, Event, Key};
pub use check::{Checked, Invalid, Subject, Warning, parse_cidr, parse_ip, parse_rfc3339};
pub use endpoint_slice::{AddressType, Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
pub use family::{IpFamily, Protocol, family_of_net};
pub use intern::Interner;
pub use kind::Kind;
pub use mode::{Mode, UnknownMode};
pub use name::{NamespacedName, ServicePortName};
pub use node::{Node, NodeAddress, NodeAddressType, TopologyLabels};
pub use service::{
    IngressIp, IpMode, Service, ServiceCidr, ServicePort, ServiceType, SessionAffinity,
    TrafficPolicy,
};
pub use settings::{LocalTraffic, NodePortAddresses};

/// An address range, host bits masked off.
pub use ipnet::IpNet as Cidr;
