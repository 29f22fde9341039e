//! The seam between what decides and what does: everything that the sync machine asks of the
//! system, as small traits. [`System`] is the real one; `fake::FakeKernel` (feature `testing`)
//! keeps it all in memory and can be told to fail.

use netfilter::iptables::{Family, Table};

use crate::address::{self, InterfaceAddress};
use crate::conntrack::{Conntrack, Filter, Flow, Swept};
use crate::iptables::{self, Choice, Iptables, RestoreError};
use crate::netlink;
use crate::sysctl::{self, Sysctl, SysctlTree};

/// The iptables rules of one family.
pub trait IptablesRules {
    /// The family.
    fn family(&self) -> Family;

    /// Whether `MASQUERADE --random-fully` is there.
    fn random_fully(&self) -> bool;

    /// The rules of a table in `iptables-save` form.
    ///
    /// # Errors
    /// As [`Iptables::save`].
    fn save(&mut self, table: Table) -> Result<Vec<u8>, iptables::Error>;

    /// Applies `input` as `iptables-restore --noflush` does.
    ///
    /// # Errors
    /// As [`Iptables::restore`].
    fn restore(&mut self, input: &[u8]) -> Result<(), RestoreError>;
}

/// Kernel settings.
pub trait Sysctls {
    /// The value of a setting.
    ///
    /// # Errors
    /// As [`SysctlTree::read`].
    fn read(&self, name: &Sysctl) -> Result<String, sysctl::Error>;

    /// Sets it unless it is that already; whether it was changed.
    ///
    /// # Errors
    /// As [`SysctlTree::set`].
    fn set(&mut self, name: &Sysctl, value: &str) -> Result<bool, sysctl::Error>;
}

/// The flow table.
pub trait FlowTable {
    /// Removes the flows that the filter matches and that are stale.
    ///
    /// # Errors
    /// As [`Conntrack::sweep`].
    fn sweep(
        &mut self,
        filter: &Filter,
        stale: &mut dyn FnMut(&Flow) -> bool,
    ) -> Result<Swept, netlink::Error>;
}

/// A system to program. Each part is opened when it is first asked for, in the network namespace
/// of the thread that asks, and one that cannot be opened is tried again the next time.
pub trait Kernel: Send {
    /// The iptables rules of a family.
    ///
    /// # Errors
    /// As [`Iptables::find`].
    fn iptables(&mut self, family: Family) -> Result<&mut dyn IptablesRules, iptables::Error>;

    /// The settings.
    fn sysctls(&mut self) -> &mut dyn Sysctls;

    /// The addresses of all interfaces.
    ///
    /// # Errors
    /// As [`address::addresses`].
    fn addresses(&mut self) -> Result<Vec<InterfaceAddress>, netlink::Error>;

    /// The flow table.
    ///
    /// # Errors
    /// As [`Conntrack::open`].
    fn flows(&mut self) -> Result<&mut dyn FlowTable, netlink::Error>;
}

/// The system that this process runs on.
#[derive(Debug, Default)]
pub struct System {
    v4: Option<(Iptables, Choice)>,
    v6: Option<(Iptables, Choice)>,
    sysctls: SysctlTree,
    flows: Option<Conntrack>,
}

impl System {
    /// With nothing opened yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which iptables back end was chosen for a family, and why; `None` before it was first
    /// asked for.
    pub fn iptables_choice(&self, family: Family) -> Option<Choice> {
        let found = match family {
            Family::Ipv4 => &self.v4,
            Family::Ipv6 => &self.v6,
        };
        found.as_ref().map(|(_, choice)| *choice)
    }
}

impl Kernel for System {
    fn iptables(&mut self, family: Family) -> Result<&mut dyn IptablesRules, iptables::Error> {
        let place = match family {
            Family::Ipv4 => &mut self.v4,
            Family::Ipv6 => &mut self.v6,
        };
        let found = match place.take() {
            Some(found) => found,
            None => {
                let (iptables, choice) = Iptables::find(family)?;
                tracing::info!(%family, version = %iptables.version(), "iptables back end: {choice}");
                (iptables, choice)
            }
        };
        Ok(&mut place.insert(found).0)
    }

    fn sysctls(&mut self) -> &mut dyn Sysctls {
        &mut self.sysctls
    }

    fn addresses(&mut self) -> Result<Vec<InterfaceAddress>, netlink::Error> {
        address::addresses()
    }

    fn flows(&mut self) -> Result<&mut dyn FlowTable, netlink::Error> {
        let flows = match self.flows.take() {
            Some(flows) => flows,
            None => Conntrack::open()?,
        };
        Ok(self.flows.insert(flows))
    }
}

impl IptablesRules for Iptables {
    fn family(&self) -> Family {
        Iptables::family(self)
    }

    fn random_fully(&self) -> bool {
        Iptables::random_fully(self)
    }

    fn save(&mut self, table: Table) -> Result<Vec<u8>, iptables::Error> {
        Iptables::save(self, table)
    }

    fn restore(&mut self, input: &[u8]) -> Result<(), RestoreError> {
        Iptables::restore(self, input)
    }
}

impl Sysctls for SysctlTree {
    fn read(&self, name: &Sysctl) -> Result<String, sysctl::Error> {
        SysctlTree::read(self, name)
    }

    fn set(&mut self, name: &Sysctl, value: &str) -> Result<bool, sysctl::Error> {
        SysctlTree::set(self, name, value)
    }
}

impl FlowTable for Conntrack {
    fn sweep(
        &mut self,
        filter: &Filter,
        stale: &mut dyn FnMut(&Flow) -> bool,
    ) -> Result<Swept, netlink::Error> {
        Conntrack::sweep(self, filter, stale)
    }
}
