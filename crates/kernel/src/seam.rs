//! The seam between what decides and what does: everything that the sync machine asks of the
//! system, as small traits. [`System`] is the real one; `fake::FakeKernel` (feature `testing`)
//! keeps it all in memory and can be told to fail.

use netfilter::iptables::{Family, Table};
use netfilter::nft::Op;

use crate::address::{self, InterfaceAddress};
use crate::conntrack::{Conntrack, Filter, Flow, Swept};
use crate::iptables::{self, Backend, Choice, Iptables, RestoreError};
use crate::netlink;
use crate::nfacct::{Counted, Counter, NfAcct};
use crate::nfnetlink::{Generation, NfTables, ReadTable, TableId, TransactionError};
use crate::sysctl::{self, Sysctl, SysctlTree};

/// The iptables rules of one family.
pub trait IptablesRules {
    /// The family.
    fn family(&self) -> Family;

    /// Whether `MASQUERADE --random-fully` is there.
    fn random_fully(&self) -> bool;

    /// A number that is another after every change to the back end's rules, whoever made it; `None`
    /// where there is none.
    fn generation(&self) -> Option<Generation> {
        None
    }

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

/// The tables of nf_tables.
pub trait NftablesRules {
    /// The current generation.
    ///
    /// # Errors
    /// As [`NfTables::generation`].
    fn generation(&mut self) -> Result<Generation, netlink::Error>;

    /// Commits operations on a table: all of them or none, and with a `generation` only if that
    /// is the current one.
    ///
    /// # Errors
    /// As [`NfTables::commit`].
    fn commit(
        &mut self,
        table: &TableId,
        ops: &[Op],
        generation: Option<Generation>,
    ) -> Result<(), TransactionError>;

    /// A table with all that is in it, and the generation at which it was so.
    ///
    /// # Errors
    /// As [`NfTables::read_table`].
    fn read_table(
        &mut self,
        table: &TableId,
    ) -> Result<(Option<ReadTable>, Generation), netlink::Error>;
}

/// The counters that iptables rules count into.
pub trait Counters {
    /// Makes a counter unless it is there.
    ///
    /// # Errors
    /// As [`NfAcct::ensure`].
    fn ensure(&mut self, counter: Counter) -> Result<(), netlink::Error>;

    /// What a counter has counted; `None` when it is not there.
    ///
    /// # Errors
    /// As [`NfAcct::read`].
    fn read(&mut self, counter: Counter) -> Result<Option<Counted>, netlink::Error>;
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

    /// The tables of nf_tables.
    ///
    /// # Errors
    /// As [`NfTables::open`].
    fn nftables(&mut self) -> Result<&mut dyn NftablesRules, netlink::Error>;

    /// The counters for iptables rules; `None` where the kernel has none, and rules must do
    /// without.
    ///
    /// # Errors
    /// As [`NfAcct::open`].
    fn counters(&mut self) -> Result<Option<&mut dyn Counters>, netlink::Error>;

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
    nftables: Option<NfTables>,
    counters: Option<NfAcct>,
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

    fn nftables(&mut self) -> Result<&mut dyn NftablesRules, netlink::Error> {
        let nftables = match self.nftables.take() {
            Some(nftables) => nftables,
            None => NfTables::open()?,
        };
        Ok(self.nftables.insert(nftables))
    }

    fn counters(&mut self) -> Result<Option<&mut dyn Counters>, netlink::Error> {
        if self.counters.is_none() {
            self.counters = NfAcct::open()?;
        }
        Ok(self
            .counters
            .as_mut()
            .map(|counters| counters as &mut dyn Counters))
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

    fn generation(&self) -> Option<Generation> {
        match self.backend() {
            Backend::Nft => Some(NfTables::open().ok()?.generation().ok()?.generation),
            Backend::Legacy => None,
        }
    }

    fn save(&mut self, table: Table) -> Result<Vec<u8>, iptables::Error> {
        Iptables::save(self, table)
    }

    fn restore(&mut self, input: &[u8]) -> Result<(), RestoreError> {
        Iptables::restore(self, input)
    }
}

impl NftablesRules for NfTables {
    fn generation(&mut self) -> Result<Generation, netlink::Error> {
        NfTables::generation(self).map(|info| info.generation)
    }

    fn commit(
        &mut self,
        table: &TableId,
        ops: &[Op],
        generation: Option<Generation>,
    ) -> Result<(), TransactionError> {
        NfTables::commit(self, table, ops, generation)
    }

    fn read_table(
        &mut self,
        table: &TableId,
    ) -> Result<(Option<ReadTable>, Generation), netlink::Error> {
        NfTables::read_table(self, table)
    }
}

impl Counters for NfAcct {
    fn ensure(&mut self, counter: Counter) -> Result<(), netlink::Error> {
        NfAcct::ensure(self, counter)
    }

    fn read(&mut self, counter: Counter) -> Result<Option<Counted>, netlink::Error> {
        NfAcct::read(self, counter)
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
