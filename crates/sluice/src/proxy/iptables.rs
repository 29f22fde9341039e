//! The driver of iptables mode: `dataplane::iptables::Sync` with iptables' save and restore tools.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use dataplane::iptables::{Failure, Options, Sync, Transport, Verified};
use kernel::iptables::{Backend, Error, Iptables, RestoreError};
use kernel::nfnetlink::Generation;
use model::IpFamily;
use netfilter::iptables::Table;
use plan::{Plan, PortKey};

use super::driver::{Driver, RuleCount, SyncError, Synced};

/// The tables with rules of this mode.
const TABLES: [Table; 3] = [Table::Mangle, Table::Filter, Table::Nat];

/// Shared by the families; their drivers run on one thread, never in the middle of each other.
pub(crate) type SharedVerified = Rc<RefCell<Verified<Generation>>>;

/// One family of iptables mode.
pub(crate) struct IptablesDriver {
    sync: Sync,
    tools: Tools,
    verified: SharedVerified,
}

impl IptablesDriver {
    /// Return a driver without knowledge of the kernel.
    pub(crate) fn new(
        family: IpFamily,
        tools: Iptables,
        options: Options,
        verified: SharedVerified,
    ) -> Self {
        Self {
            sync: Sync::new(family, options),
            tools: Tools(tools),
            verified,
        }
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

impl Driver for IptablesDriver {
    fn sync(&mut self, plan: &Plan, changed: &BTreeSet<PortKey>) -> Result<Synced, SyncError> {
        self.sync
            .sync(
                plan,
                changed,
                &mut self.verified.borrow_mut(),
                &mut self.tools,
            )
            .map_err(SyncError::failed("cannot program iptables"))?;
        Ok(self.synced())
    }

    fn resync(&mut self, plan: &Plan) -> Result<Synced, SyncError> {
        self.sync
            .resync(plan, &mut self.verified.borrow_mut(), &mut self.tools)
            .map_err(SyncError::failed("cannot program iptables"))?;
        Ok(self.synced())
    }

    fn disturbed(&mut self, plan: &Plan) -> bool {
        let mut verified = self.verified.borrow_mut();
        self.sync.is_disturbed(plan, &mut verified, &mut self.tools)
    }

    fn iptables_backend(&self) -> Option<Backend> {
        Some(self.tools.0.backend())
    }
}

/// Iptables' tools as a transport.
struct Tools(Iptables);

/// A failed tool.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum ToolError {
    Save(#[from] Error),
    Restore(#[from] RestoreError),
}

impl Transport for Tools {
    type Error = ToolError;
    type Generation = Generation;

    fn generation(&mut self) -> Option<Generation> {
        self.0.generation()
    }

    fn next(generation: Generation) -> Generation {
        generation.next()
    }

    fn read(&mut self) -> Result<String, ToolError> {
        Ok(save(&self.0, &TABLES)?)
    }

    fn restore(&mut self, input: &str) -> Result<(), Failure<ToolError>> {
        self.0.restore(input.as_bytes()).map_err(|error| Failure {
            rejected: is_rejection(&error),
            unchanged: error.tables_committed() == Some(0),
            error: error.into(),
        })
    }
}

/// Return the output of `iptables-save` for these tables.
pub(super) fn save(tools: &Iptables, tables: &[Table]) -> Result<String, Error> {
    let mut text = String::new();
    for table in tables {
        text.push_str(&String::from_utf8_lossy(&tools.save(*table)?));
    }
    Ok(text)
}

/// Return whether the content was rejected, rather than the tool unable to run.
pub(super) fn is_rejection(error: &RestoreError) -> bool {
    matches!(
        error,
        RestoreError::BadInput { .. } | RestoreError::Refused { .. }
    )
}
