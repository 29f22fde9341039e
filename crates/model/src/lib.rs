//! What sluice keeps of Services, EndpointSlices, Nodes and ServiceCIDRs.
//!
//! Two layers. [`object`] holds the objects as a server or a manifest states them, unchecked, with
//! only the fields that routing needs. The types re-exported here are the checked form that the
//! rest of sluice works with: addresses are addresses, ports are in range, enumerations are
//! enumerations. Going from the first to the second ([`Service::check`] and its siblings) is the
//! only place where input is validated, and an error names the object and the field.

mod change;
mod check;
mod endpoint_slice;
mod family;
mod intern;
mod mode;
mod name;
mod node;
pub mod object;
mod service;
mod settings;

pub use change::{Change, Event, Key};
pub use check::{Checked, Invalid, Kind, Subject, Warning, parse_cidr, parse_ip, parse_rfc3339};
pub use endpoint_slice::{AddressType, Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
pub use family::{IpFamily, Protocol, family_of_net};
pub use intern::Interner;
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
