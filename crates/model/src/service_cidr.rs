//! ServiceCIDRs (KEP-1880).

use std::sync::Arc;

use ipnet::IpNet;

/// A range from which cluster IPs are handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `spec.cidrs`, at most one a family.
    pub cidrs: Vec<IpNet>,
}
