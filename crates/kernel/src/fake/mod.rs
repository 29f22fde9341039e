//! A system in memory, for tests (feature `testing`): transactional like the real one, and
//! it fails when told to.

mod iptables;
mod nftables;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use netfilter::iptables::Family;

use crate::address::InterfaceAddress;
use crate::conntrack::{Filter, Flow, Swept};
use crate::netlink;
use crate::nfacct::{Counted, Counter};
use crate::seam::{Counters, FlowTable, IptablesRules, Kernel, NftablesRules, Sysctls};
use crate::sysctl::{self, Sysctl};

pub use iptables::{FakeIptables, RestoreFault};
pub use nftables::{CommitFault, FakeNftables};

/// The fake system. Its parts are public: a test sets them up and looks at them.
#[derive(Debug)]
pub struct FakeKernel {
    /// The IPv4 rules.
    pub v4: FakeIptables,
    /// The IPv6 rules; `None` for a kernel without IPv6.
    pub v6: Option<FakeIptables>,
    /// The tables of nf_tables.
    pub nftables: FakeNftables,
    /// The counters that there are; `None` for a kernel without nfacct.
    pub counters: Option<FakeCounters>,
    /// The settings.
    pub sysctls: FakeSysctls,
    /// What [`Kernel::addresses`] says.
    pub addresses: Vec<InterfaceAddress>,
    /// The flow table.
    pub flows: FakeFlows,
}

impl Default for FakeKernel {
    /// Empty tables, no settings, no addresses, no flows.
    fn default() -> Self {
        FakeKernel {
            v4: FakeIptables::new(Family::Ipv4),
            v6: Some(FakeIptables::new(Family::Ipv6)),
            nftables: FakeNftables::default(),
            counters: Some(FakeCounters::default()),
            sysctls: FakeSysctls::default(),
            addresses: Vec::new(),
            flows: FakeFlows::default(),
        }
    }
}

impl Kernel for FakeKernel {
    fn iptables(
        &mut self,
        family: Family,
    ) -> Result<&mut dyn IptablesRules, crate::iptables::Error> {
        match (family, &mut self.v6) {
            (Family::Ipv4, _) => Ok(&mut self.v4),
            (Family::Ipv6, Some(v6)) => Ok(v6),
            (Family::Ipv6, None) => Err(crate::iptables::Error::FamilyDisabled(family)),
        }
    }

    fn nftables(&mut self) -> Result<&mut dyn NftablesRules, netlink::Error> {
        Ok(&mut self.nftables)
    }

    fn counters(&mut self) -> Result<Option<&mut dyn Counters>, netlink::Error> {
        Ok(self
            .counters
            .as_mut()
            .map(|counters| counters as &mut dyn Counters))
    }

    fn sysctls(&mut self) -> &mut dyn Sysctls {
        &mut self.sysctls
    }

    fn addresses(&mut self) -> Result<Vec<InterfaceAddress>, netlink::Error> {
        Ok(self.addresses.clone())
    }

    fn flows(&mut self) -> Result<&mut dyn FlowTable, netlink::Error> {
        Ok(&mut self.flows)
    }
}

/// Counters in memory.
#[derive(Clone, Debug, Default)]
pub struct FakeCounters {
    /// What each has counted.
    pub counted: HashMap<Counter, Counted>,
}

impl Counters for FakeCounters {
    fn ensure(&mut self, counter: Counter) -> Result<(), netlink::Error> {
        self.counted.entry(counter).or_default();
        Ok(())
    }

    fn read(&mut self, counter: Counter) -> Result<Option<Counted>, netlink::Error> {
        Ok(self.counted.get(&counter).copied())
    }
}

/// Settings in memory: those that are in it exist.
#[derive(Clone, Debug, Default)]
pub struct FakeSysctls {
    /// The values.
    pub values: BTreeMap<Sysctl, String>,
    /// The ones that may not be written.
    pub read_only: BTreeSet<Sysctl>,
    /// What was written, in order.
    pub written: Vec<(Sysctl, String)>,
}

impl Sysctls for FakeSysctls {
    fn read(&self, name: &Sysctl) -> Result<String, sysctl::Error> {
        let value = self.values.get(name);
        value
            .cloned()
            .ok_or_else(|| sysctl::Error::Absent(name.clone()))
    }

    fn set(&mut self, name: &Sysctl, value: &str) -> Result<bool, sysctl::Error> {
        if self.read(name)? == value {
            return Ok(false);
        }
        if self.read_only.contains(name) {
            return Err(sysctl::Error::Denied {
                name: name.clone(),
                value: value.to_owned(),
                source: io::ErrorKind::PermissionDenied.into(),
            });
        }
        self.values.insert(name.clone(), value.to_owned());
        self.written.push((name.clone(), value.to_owned()));
        Ok(true)
    }
}

/// A flow table in memory.
#[derive(Clone, Debug, Default)]
pub struct FakeFlows {
    /// The flows.
    pub flows: Vec<Flow>,
    /// How many sweeps there were.
    pub sweeps: usize,
    /// How many of the next sweeps find the table being resized all the time.
    pub interrupted: usize,
}

impl FlowTable for FakeFlows {
    fn sweep(
        &mut self,
        filter: &Filter,
        stale: &mut dyn FnMut(&Flow) -> bool,
    ) -> Result<Swept, netlink::Error> {
        self.sweeps += 1;
        if let Some(left) = self.interrupted.checked_sub(1) {
            self.interrupted = left;
            let what = "listing flows";
            return Err(netlink::Error::Interrupted { what });
        }
        let mut swept = Swept::default();
        self.flows.retain(|flow| {
            let concerned = filter.matches(flow);
            let gone = concerned && stale(flow);
            swept.examined += u64::from(concerned);
            swept.deleted += u64::from(gone);
            !gone
        });
        Ok(swept)
    }
}
