//! Nodes.

use super::address::{parse_cidr, parse_ip};
use super::{Checked, Checker, Invalid, Kind};
use crate::{Interner, Node, NodeAddress, NodeAddressType, TopologyLabels, object};

/// Labels that routing uses: hints name zones and nodes.
const TOPOLOGY_LABELS: [&str; 3] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

const AUTOSCALER_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

impl Node {
    /// Check a Node. Invalid: the name. Ignored with a warning: malformed addresses and ranges.
    pub fn check(object: object::Node, interner: &mut Interner) -> Result<Checked<Self>, Invalid> {
        let mut checker = Checker::new(Kind::Node, &object.metadata)?;
        let c = &mut checker;
        let object::Node {
            metadata,
            spec,
            status,
        } = object;
        let mut addresses = Vec::new();
        for (i, a) in status.addresses.iter().enumerate() {
            let kind = match a.address_type.as_str() {
                "InternalIP" => NodeAddressType::InternalIp,
                "ExternalIP" => NodeAddressType::ExternalIp,
                _ => continue, // A host name.
            };
            match parse_ip(&a.address) {
                Some(ip) => addresses.push(NodeAddress { kind, ip }),
                None => c.warn(
                    format!("status.addresses[{i}].address"),
                    format!("{:?} is not an IP address; ignored", a.address),
                ),
            }
        }
        let mut pod_cidrs = Vec::new();
        if spec.pod_cidrs.is_empty() && !spec.pod_cidr.is_empty() {
            match parse_cidr(&spec.pod_cidr) {
                Some(range) => pod_cidrs.push(range),
                None => {
                    let reason = format!("{:?} is not an address range; ignored", spec.pod_cidr);
                    c.warn("spec.podCIDR", reason);
                }
            }
        }
        for (i, s) in spec.pod_cidrs.iter().enumerate() {
            match parse_cidr(s) {
                Some(range) => pod_cidrs.push(range),
                None => c.warn(
                    format!("spec.podCIDRs[{i}]"),
                    format!("{s:?} is not an address range; ignored"),
                ),
            }
        }
        let topology: TopologyLabels = TOPOLOGY_LABELS
            .iter()
            .filter_map(|label| {
                let value = metadata.labels.get(*label)?;
                Some((interner.intern(label), interner.intern(value)))
            })
            .collect();
        let deleting = metadata.deletion_timestamp.is_some()
            || spec.taints.iter().any(|t| t.key == AUTOSCALER_TAINT);
        let value = Node {
            name: interner.intern(&metadata.name),
            uid: metadata.uid.into(),
            addresses,
            pod_cidrs,
            topology,
            deleting,
        };
        Ok(checker.done(value))
    }
}
