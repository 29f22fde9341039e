//! Inputs of the layout except the plan.

use model::Cidr;

/// The part of the configuration on which the layout depends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `ipvs.scheduler`: its name in the kernel (`rr`, `wrr`, `lc`, `wlc`, `lblc`, `lblcr`, `sh`,
    /// `dh`, `sed`, `nq`, `mh`, …). The kernel loads its module.
    pub scheduler: Box<str>,
    /// The bit of the packet mark that requests masquerading, 0 to 31.
    pub masquerade_bit: u8,
    /// Whether iptables supports `MASQUERADE --random-fully` (1.6.2 and later).
    pub random_fully: bool,
    /// `ipvs.excludeCIDRs`: virtual servers on these addresses are never deleted.
    pub exclude: Vec<Cidr>,
}

impl Default for Options {
    /// kube-proxy's defaults on a current host.
    fn default() -> Self {
        Self {
            scheduler: "rr".into(),
            masquerade_bit: 14,
            random_fully: true,
            exclude: Vec::new(),
        }
    }
}

impl Options {
    /// Return the packet mark that requests masquerading.
    pub fn masquerade_mark(&self) -> u32 {
        1u32.checked_shl(self.masquerade_bit.into()).unwrap_or(0)
    }

    /// Return the scheduler's flags: Maglev hashing includes the port, as in kube-proxy.
    pub(super) fn scheduler_flags(&self) -> Option<Box<str>> {
        (&*self.scheduler == "mh").then(|| "mh-port".into())
    }

    pub(super) fn excludes(&self, ip: std::net::IpAddr) -> bool {
        self.exclude.iter().any(|range| range.contains(&ip))
    }
}
