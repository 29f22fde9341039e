//! The driver of iptables mode: `dataplane::iptables::Sync` over netlink, or in legacy tables.

use std::collections::BTreeSet;
use std::sync::mpsc::Sender;

use dataplane::iptables::{
    BatchFailure, Failure, FailureKind, Guard, Kernel, Netlink, Observation, Observer, Options,
    Output, ReadError, RestoreText, Sync, Transport, is_chain,
};
use kernel::iptables::legacy::{Legacy, LegacyError, LegacyRestoreError};
use kernel::iptables::{Backend, NftRules, Rules, is_about_chains};
use kernel::nfnetlink::TransactionError;
use model::IpFamily;
use netfilter::iptables::Table;
use plan::{Plan, PortKey};

use super::driver::{Driver, RuleCount, SyncError, Synced};
use super::input::Input;
use super::probe::Needs;
use super::watch;
use crate::system::kernel_family;

/// The tables with rules of this mode.
const TABLES: [Table; 3] = [Table::Mangle, Table::Filter, Table::Nat];

/// Create the driver of one family.
pub(crate) fn driver(
    family: IpFamily,
    rules: Rules,
    options: Options,
    inputs: Sender<Input>,
) -> Box<dyn Driver> {
    match rules {
        Rules::Nft(rules) => Box::new(IptablesDriver {
            family,
            sync: Sync::new(family, options),
            host: Netlink::new(family, NfTables(rules.concerning(is_chain))),
            inputs: Some(inputs),
        }),
        Rules::Legacy(legacy) => Box::new(IptablesDriver {
            family,
            sync: Sync::new(family, options),
            host: LegacyTables {
                family,
                legacy,
                text: RestoreText::default(),
            },
            inputs: None,
        }),
    }
}

/// One family of iptables mode in one back end.
struct IptablesDriver<H> {
    family: IpFamily,
    sync: Sync,
    host: H,
    /// Where to report foreign changes; taken when the watch begins.
    inputs: Option<Sender<Input>>,
}

/// A back end.
trait Host: Transport {
    const BACKEND: Backend;

    /// Report changes by other programs from now on. Return whether the rules are certainly as they
    /// were after the last sync.
    fn watch(&mut self, family: IpFamily, inputs: Sender<Input>) -> bool;

    /// End what a read began.
    fn end_sync(&mut self);

    /// Whether [`watch`](Self::watch) reports nothing, so that the rules must be checked.
    const MUST_CHECK: bool;
}

impl<H: Host> IptablesDriver<H> {
    fn run(
        &mut self,
        plan: &Plan,
        sync: impl Fn(&mut Sync, &mut H) -> Result<(), dataplane::iptables::SyncError<H::Error>>,
    ) -> Result<Synced, SyncError> {
        let failed = SyncError::failed::<dataplane::iptables::SyncError<H::Error>>;
        let synced = sync(&mut self.sync, &mut self.host);
        if synced.is_ok()
            && let Some(inputs) = self.inputs.take()
            // Not before the first sync: while a socket listens, the kernel reports every rule of a
            // large load.
            && !self.host.watch(self.family, inputs)
        {
            let again = self.sync.resync(plan, &mut self.host);
            again.map_err(failed("cannot program iptables"))?;
        }
        self.host.end_sync();
        synced.map_err(failed("cannot program iptables"))?;
        Ok(self.synced())
    }

    fn synced(&mut self) -> Synced {
        let counts = self.sync.counts().into_iter().flat_map(|counts| {
            let count = |table, total, written| RuleCount {
                table,
                total,
                written,
            };
            [
                count("filter", counts.total.filter, counts.written.filter),
                count("nat", counts.total.nat, counts.written.nat),
            ]
        });
        Synced {
            quarantined: self.sync.refusals(),
            rules: counts.collect(),
            found: self.sync.take_found(),
            ..Synced::default()
        }
    }
}

impl<H: Host> Driver for IptablesDriver<H> {
    fn sync(&mut self, plan: &Plan, changed: &BTreeSet<PortKey>) -> Result<Synced, SyncError> {
        self.run(plan, |sync, host| sync.sync(plan, changed, host))
    }

    fn resync(&mut self, plan: &Plan) -> Result<Synced, SyncError> {
        self.run(plan, |sync, host| sync.resync(plan, host))
    }

    fn disturbed(&mut self, plan: &Plan) -> bool {
        H::MUST_CHECK && self.sync.is_disturbed(plan, &mut self.host)
    }

    fn iptables_backend(&self) -> Option<Backend> {
        Some(H::BACKEND)
    }

    fn needs(&self) -> Vec<Needs> {
        vec![Needs::Iptables {
            family: self.family,
            backend: H::BACKEND,
            tables: TABLES.to_vec(),
            extensions: dataplane::iptables::extensions(self.family),
        }]
    }
}

/// nf_tables.
struct NfTables(NftRules);

impl Kernel for NfTables {
    type Error = TransactionError;

    fn read(&mut self, family: IpFamily) -> Result<Observation, TransactionError> {
        let read = self
            .0
            .read(&TABLES, || Observer::new(family), Observer::add);
        Ok(read?.finish())
    }

    fn commit(
        &mut self,
        batch: &mut [u8],
        guard: Guard,
    ) -> Result<Vec<(usize, u64)>, BatchFailure<TransactionError>> {
        let committed = self.0.commit(batch, guard.guarded, guard.part);
        committed.map_err(|error| BatchFailure {
            kind: match &error {
                error if error.is_rejection() => FailureKind::Rejected,
                error if error.is_outdated() => FailureKind::Outdated,
                _ => FailureKind::Unavailable,
            },
            error,
        })
    }
}

impl Host for Netlink<NfTables> {
    const BACKEND: Backend = Backend::Nft;
    const MUST_CHECK: bool = false;

    fn watch(&mut self, family: IpFamily, inputs: Sender<Input>) -> bool {
        let rules = &mut self.kernel().0;
        let of = kernel_family(family);
        if let Err(error) = watch::start(family, rules.port(), inputs, move |message| {
            is_about_chains(message, of, is_chain)
        }) {
            tracing::warn!(
                %family,
                error = format!("{error:#}"),
                "Foreign changes are found only by the next resync"
            );
            return true;
        }
        rules.end_observation()
    }

    fn end_sync(&mut self) {
        self.kernel().0.end_observation();
    }
}

/// Legacy tables.
struct LegacyTables {
    family: IpFamily,
    legacy: Legacy,
    text: RestoreText,
}

/// Why the tables could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum TablesError {
    Read(#[from] LegacyError),
    Restore(#[from] LegacyRestoreError),
}

impl Transport for LegacyTables {
    type Error = TablesError;

    fn read(&mut self) -> Result<Observation, ReadError<TablesError>> {
        let text = self.legacy.save(&TABLES);
        let text = text.map_err(|error| ReadError::Transport(error.into()))?;
        Observation::read(self.family, &text).map_err(ReadError::Parse)
    }

    fn begin(&mut self, _: bool) -> &mut dyn Output {
        self.text = RestoreText::default();
        &mut self.text
    }

    fn commit(&mut self) -> Result<Vec<u64>, Failure<TablesError>> {
        let input = std::mem::take(&mut self.text).finish();
        match self.legacy.restore(&input) {
            Ok(()) => Ok(Vec::new()),
            Err(error) => Err(Failure {
                kind: match error.is_rejection() {
                    true => FailureKind::Rejected,
                    false => FailureKind::Unavailable,
                },
                unchanged: error.tables_committed == 0,
                error: error.into(),
            }),
        }
    }
}

impl Host for LegacyTables {
    const BACKEND: Backend = Backend::Legacy;
    const MUST_CHECK: bool = true;

    fn watch(&mut self, _: IpFamily, _: Sender<Input>) -> bool {
        true
    }

    fn end_sync(&mut self) {}
}
