//! One module a proxy mode: lays a plan out as rules and works out the change to them.

pub mod iptables;
pub mod ipvs;
pub mod nftables;
mod terms;
pub mod userspace;
