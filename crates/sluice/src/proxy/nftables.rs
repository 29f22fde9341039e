//! The driver of nftables mode: transactions over netlink, and a watch for other programs' changes.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::mpsc::Sender;

use dataplane::Refusals;
use dataplane::nftables::{
    ANCHOR, ANCHOR_COMMENT, Expected, Options, Outcome, Sync, TABLE, Transport, anchor,
    table_family,
};
use kernel::netlink;
use kernel::nfnetlink::{Generation, NfTables, TableId, TransactionError, Witness, is_about};
use model::IpFamily;
use netfilter::nft::Op;
use netfilter::nft::table::Contents;
use plan::{Plan, PortKey};

use super::driver::{Driver, SyncError, Synced};
use super::input::Input;
use super::loopback::LoopbackNodePorts;
use super::probe::Needs;
use super::watch;

/// Upper bound on the steps of a sync, so that concurrent writers cannot keep it busy forever.
const STEPS: usize = 10_000;

/// One family of the nftables mode.
pub(crate) struct NftablesDriver {
    family: IpFamily,
    sync: Sync,
    table: Table,
    /// Where to report foreign changes; taken when the watch begins.
    inputs: Option<Sender<Input>>,
    /// Keeps translated connections working while the table is missing.
    anchor: Option<NfTables>,
    /// NodePorts on loopback, which rules cannot serve.
    loopback: Option<LoopbackNodePorts>,
}

/// The generation after the last read or own commit. nf_tables has one for all its tables, so the
/// families share it; they run on one thread, one after the other.
pub(crate) type SharedGeneration = Rc<Cell<Option<Generation>>>;

/// The table in this thread's network namespace.
struct Table {
    nft: NfTables,
    id: TableId,
    generation: SharedGeneration,
    /// The witness of the last read, while operations depend on it.
    witness: Option<Witness>,
}

impl NftablesDriver {
    /// Return a driver without knowledge of the kernel.
    pub(crate) fn new(
        family: IpFamily,
        options: Options,
        inputs: Sender<Input>,
        generation: SharedGeneration,
    ) -> Result<Self, netlink::Error> {
        Ok(Self {
            family,
            sync: Sync::new(options),
            table: Table {
                nft: NfTables::open()?,
                id: TableId::new(table_family(family), TABLE),
                generation,
                witness: None,
            },
            inputs: Some(inputs),
            anchor: None,
            loopback: None,
        })
    }

    /// Serve NodePorts on loopback too.
    pub(crate) fn serve_loopback(&mut self, loopback: LoopbackNodePorts) {
        self.loopback = Some(loopback);
    }

    /// Sync the parts that the table cannot serve, once the table is committed.
    fn sync_loopback(
        &mut self,
        synced: &mut Synced,
        sync: impl FnOnce(&mut LoopbackNodePorts) -> Result<Refusals, relay::Error>,
    ) -> Result<(), SyncError> {
        if let Some(loopback) = &mut self.loopback {
            let failed =
                sync(loopback).map_err(SyncError::failed("cannot serve loopback NodePorts"))?;
            synced.quarantined.extend(failed);
        }
        Ok(())
    }

    /// Run all steps, and begin to watch after the first time.
    fn run(&mut self, plan: &Plan) -> Result<Synced, SyncError> {
        let ran = self.run_and_watch(plan);
        self.table.witness = None;
        ran?;
        Ok(Synced {
            quarantined: self.sync.refused().clone(),
            rules: Vec::new(),
            cleanup_failures: self.sync.take_sweep_failures(),
            found: self.sync.take_found(),
        })
    }

    fn run_and_watch(&mut self, plan: &Plan) -> Result<(), SyncError> {
        self.run_steps(plan)?;
        if let Some(inputs) = self.inputs.take()
            && self.watch(inputs)
        {
            // Another program committed between our last commit and the beginning of the watch.
            self.sync.mark_unverified();
            self.run_steps(plan)?;
        }
        Ok(())
    }

    fn run_steps(&mut self, plan: &Plan) -> Result<(), SyncError> {
        let steps = self
            .sync
            .run(plan, &mut self.table, STEPS)
            .map_err(SyncError::failed("cannot program nf_tables"))?;
        if steps == STEPS {
            return Err(SyncError::Contended);
        }
        match self.sync.refused_common() {
            None => Ok(()),
            Some(message) => Err(SyncError::Rejected {
                what: "the table kube-proxy",
                message: message.to_owned(),
            }),
        }
    }

    /// Begin to watch. Not before the first sync: while a socket listens, the kernel reports every
    /// element of a big load. Return whether another program committed since our last transaction.
    fn watch(&mut self, inputs: Sender<Input>) -> bool {
        let table = self.table.id.clone();
        let own = self.table.nft.port();
        let watching = watch::start(self.family, own, inputs, move |m| is_about(m, &table));
        if let Err(error) = watching {
            tracing::warn!(
                family = %self.family,
                error = format!("{error:#}"),
                "Foreign changes are found only by the next resync"
            );
            return false;
        }
        if let Some(witness) = &mut self.table.witness {
            return !witness.is_untouched().unwrap_or(false);
        }
        let now = self.table.nft.generation().map(|info| info.generation);
        now.ok() != self.table.generation.get()
    }
}

impl Driver for NftablesDriver {
    fn sync(&mut self, plan: &Plan, changed: &BTreeSet<PortKey>) -> Result<Synced, SyncError> {
        self.sync.change(changed);
        let mut synced = self.run(plan)?;
        self.sync_loopback(&mut synced, |loopback| loopback.sync(plan, changed))?;
        Ok(synced)
    }

    fn resync(&mut self, plan: &Plan) -> Result<Synced, SyncError> {
        if self.anchor.is_none() {
            // Old kernels lack owned tables; another sluice that is about to end may have this one.
            self.anchor = make_anchor(self.family)
                .inspect_err(|error| {
                    tracing::debug!(family = %self.family, table = ANCHOR, %error, "Table not created");
                })
                .ok();
        }
        self.sync.retry();
        self.sync.mark_unverified();
        let mut synced = self.run(plan)?;
        self.sync_loopback(&mut synced, |loopback| loopback.resync(plan))?;
        Ok(synced)
    }

    fn needs(&self) -> Vec<Needs> {
        let features = dataplane::nftables::features(self.family);
        vec![Needs::NfTables(self.family, features)]
    }

    fn disturbed(&mut self, _: &Plan) -> bool {
        // The watch reports changes at once.
        false
    }
}

impl Transport for Table {
    type Error = netlink::Error;

    fn read(&mut self, expected: &Expected<'_>) -> Result<Option<(Contents, bool)>, Self::Error> {
        let (read, witness) = self.nft.read_expected(&self.id, expected)?;
        self.generation.set(Some(witness.generation()));
        self.witness = Some(witness);
        Ok(read.map(|read| (read.contents, !read.foreign.is_empty())))
    }

    fn commit(&mut self, ops: &[Op], guarded: bool) -> Result<Outcome, Self::Error> {
        self.witness = self.witness.take().filter(|_| guarded);
        let committed = match &mut self.witness {
            Some(witness) => {
                let committed = self.nft.commit_unless_touched(&self.id, ops, witness);
                self.generation.set(Some(witness.generation()));
                committed
            }
            None => self.nft.commit(&self.id, ops, None),
        };
        match committed {
            Ok(()) => {
                let next = self.generation.get().map(Generation::next);
                self.generation.set(next);
                Ok(Outcome::Committed)
            }
            Err(error @ (TransactionError::Refused(_) | TransactionError::RefusedWhole(_))) => {
                Ok(Outcome::Refused(error.to_string()))
            }
            Err(TransactionError::Netlink(error)) => Err(error),
            Err(error) => {
                tracing::debug!(table = %self.id, %error, "Transaction lost; reading the table");
                Ok(Outcome::Unknown)
            }
        }
    }
}

/// Create the table that lives as long as the returned socket.
fn make_anchor(family: IpFamily) -> Result<NfTables, TransactionError> {
    let mut nft = NfTables::open()?;
    let table = TableId::new(table_family(family), ANCHOR);
    nft.commit_owned(&table, ANCHOR_COMMENT, &anchor(family), None)?;
    Ok(nft)
}
