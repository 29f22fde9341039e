//! nf_tables in memory.

use std::collections::BTreeMap;
use std::fmt;

use netfilter::nft::Op;
use netfilter::nft::table::{Contents, Refusal as NftRefusal};
use nix::errno::Errno;

use crate::netlink::{Error, Refusal};
use crate::nfnetlink::{Fault, Generation, ReadTable, TableId, TransactionError};
use crate::seam::NftablesRules;

/// What goes wrong with one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitFault {
    /// Somebody else committed just before.
    GenerationChanged,
    /// The verdict is lost; nothing was committed.
    LostBeforeCommit,
    /// The verdict is lost; everything was committed.
    LostAfterCommit,
    /// The operation with this number is refused.
    RefusedOp(usize, Errno),
    /// All of it is refused.
    RefusedWhole(Errno),
}

type Predicate = Box<dyn Fn(&Op) -> bool + Send>;

/// Tables in memory, under the semantics of `netfilter::nft::table`.
pub struct FakeNftables {
    /// The tables.
    pub tables: BTreeMap<TableId, Contents>,
    /// The generation.
    pub generation: Generation,
    /// What was to be committed each time, in order, also where that failed.
    pub commits: Vec<(TableId, Vec<Op>)>,
    faults: BTreeMap<usize, CommitFault>,
    refused: Option<Predicate>,
}

impl Default for FakeNftables {
    fn default() -> Self {
        FakeNftables {
            tables: BTreeMap::new(),
            generation: Generation(1),
            commits: Vec::new(),
            faults: BTreeMap::new(),
            refused: None,
        }
    }
}

impl fmt::Debug for FakeNftables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeNftables")
            .field("tables", &self.tables)
            .field("generation", &self.generation)
            .field("commits", &self.commits.len())
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

impl FakeNftables {
    /// Makes the `nth` commit from now on (0 is the next) go wrong.
    pub fn fail(&mut self, nth: usize, fault: CommitFault) {
        self.faults.insert(self.commits.len() + nth, fault);
    }

    /// From now on operations for which this holds are refused, and what they are part of.
    pub fn refuse(&mut self, ops: impl Fn(&Op) -> bool + Send + 'static) {
        self.refused = Some(Box::new(ops));
    }

    /// From now on all operations are taken again.
    pub fn refuse_nothing(&mut self) {
        self.refused = None;
    }

    /// What somebody else does to a table between two of our commits.
    pub fn meddle(&mut self, table: &TableId, change: impl FnOnce(&mut Option<Contents>)) {
        let mut contents = self.tables.remove(table);
        change(&mut contents);
        self.tables
            .extend(contents.map(|contents| (table.clone(), contents)));
        self.generation = self.generation.next();
    }

    fn apply(&mut self, table: &TableId, ops: &[Op]) -> Result<(), TransactionError> {
        if let Some(predicate) = &self.refused
            && let Some(at) = ops.iter().position(predicate)
        {
            return Err(refused(at, Errno::EINVAL, "refused as told"));
        }
        let mut contents = self.tables.remove(table);
        let result = Contents::apply(&mut contents, ops);
        self.tables
            .extend(contents.map(|contents| (table.clone(), contents)));
        match result {
            Ok(()) => {
                self.generation = self.generation.next();
                Ok(())
            }
            Err((at, refusal)) => {
                let errno = match &refusal {
                    NftRefusal::Missing(_) => Errno::ENOENT,
                    NftRefusal::Exists(_) => Errno::EEXIST,
                    NftRefusal::Busy(_) => Errno::EBUSY,
                    NftRefusal::Invalid(_) => Errno::EINVAL,
                };
                Err(refused(at, errno, &refusal.to_string()))
            }
        }
    }
}

impl NftablesRules for FakeNftables {
    fn generation(&mut self) -> Result<Generation, Error> {
        Ok(self.generation)
    }

    fn commit(
        &mut self,
        table: &TableId,
        ops: &[Op],
        generation: Option<Generation>,
    ) -> Result<(), TransactionError> {
        let fault = self.faults.remove(&self.commits.len());
        self.commits.push((table.clone(), ops.to_vec()));
        if fault == Some(CommitFault::GenerationChanged) {
            self.generation = self.generation.next();
        }
        if generation.is_some_and(|generation| generation != self.generation) {
            return Err(TransactionError::GenerationChanged);
        }
        match fault {
            None | Some(CommitFault::GenerationChanged) => self.apply(table, ops),
            Some(CommitFault::LostBeforeCommit) => Err(TransactionError::LostReply),
            Some(CommitFault::LostAfterCommit) => {
                self.apply(table, ops)?;
                Err(TransactionError::LostReply)
            }
            Some(CommitFault::RefusedOp(at, errno)) => Err(refused(at, errno, "refused as told")),
            Some(CommitFault::RefusedWhole(errno)) => Err(TransactionError::RefusedWhole(refusal(
                errno,
                "refused as told",
            ))),
        }
    }

    fn read_table(&mut self, table: &TableId) -> Result<(Option<ReadTable>, Generation), Error> {
        let contents = self.tables.get(table).cloned();
        let read = contents.map(|contents| ReadTable {
            contents,
            foreign: Vec::new(),
        });
        Ok((read, self.generation))
    }
}

fn refusal(errno: Errno, text: &str) -> Refusal {
    Refusal {
        errno,
        code: errno as i32,
        text: Some(text.to_owned()),
        offset: None,
    }
}

fn refused(at: usize, errno: Errno, text: &str) -> TransactionError {
    let refusal = refusal(errno, text);
    TransactionError::Refused(vec![Fault { at, refusal }])
}
