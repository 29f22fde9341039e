//! Everything that touches the system: netlink, iptables-restore, sysctls, namespaces.

pub mod link;
pub mod netns;
