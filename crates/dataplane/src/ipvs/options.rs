//! What decides the layout beside the plan.

use model::Cidr;

/// The part of the configuration that this mode's layout depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `ipvs.scheduler`: the kernel's name of it (`rr`, `wrr`, `lc`, `wlc`, `lblc`, `lblcr`, `sh`,
    /// `dh`, `sed`, `nq`, `mh`, …). The kernel loads its module.
    pub scheduler: Box<str>,
    /// The bit of the packet mark that asks for masquerading, 0 to 31.
    pub masquerade_bit: u8,
    /// Whether `MASQUERADE --random-fully` is understood (iptables 1.6.2 and newer).
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
    /// The packet mark that asks for masquerading.
    pub fn masquerade_mark(&self) -> u32 {
        1u32.checked_shl(self.masquerade_bit.into()).unwrap_or(0)
    }

    /// The scheduler's flags: Maglev hashing also looks at the port, as kube-proxy has it.
    pub(super) fn scheduler_flags(&self) -> Option<Box<str>> {
        (&*self.scheduler == "mh").then(|| "mh-port".into())
    }

    pub(super) fn excludes(&self, ip: std::net::IpAddr) -> bool {
        self.exclude.iter().any(|range| range.contains(&ip))
    }
}
