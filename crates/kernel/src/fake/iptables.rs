//! iptables in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use netfilter::iptables::{Chain, Command, Family, Flush, Restore, Rule, Table, TableSet};

use crate::exec;
use crate::iptables::{BadLine, Error, RestoreError};
use crate::seam::IptablesRules;

const PROGRAM: &str = "fake-iptables-restore";

/// What goes wrong with one restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreFault {
    /// Somebody else holds the lock: nothing is applied.
    LockHeld,
    /// It fails without a word about the input, nothing applied.
    Failed,
    /// It is killed at its deadline before it applied anything.
    Hung,
    /// It is killed at its deadline, having applied everything: the reply is lost.
    HungAfterCommit,
}

type Predicate = Box<dyn Fn(Table, Chain, &Rule) -> bool + Send>;

/// The rules of a family in memory, under the semantics of `netfilter::iptables`.
pub struct FakeIptables {
    /// The rules in force.
    pub tables: TableSet,
    /// Every input of a restore, in order, also those that failed.
    pub restores: Vec<String>,
    faults: BTreeMap<usize, RestoreFault>,
    refused: Option<Predicate>,
}

impl fmt::Debug for FakeIptables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeIptables")
            .field("tables", &self.tables)
            .field("restores", &self.restores.len())
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

impl FakeIptables {
    /// No rules.
    pub fn new(family: Family) -> Self {
        FakeIptables {
            tables: TableSet::new(family),
            restores: Vec::new(),
            faults: BTreeMap::new(),
            refused: None,
        }
    }

    /// Makes the `nth` restore from now on (0 is the next) go wrong.
    pub fn fail(&mut self, nth: usize, fault: RestoreFault) {
        self.faults.insert(self.restores.len() + nth, fault);
    }

    /// From now on the kernel refuses rules for which this holds, and the section that they are
    /// in.
    pub fn refuse(&mut self, rules: impl Fn(Table, Chain, &Rule) -> bool + Send + 'static) {
        self.refused = Some(Box::new(rules));
    }

    /// From now on all rules are taken again.
    pub fn refuse_nothing(&mut self) {
        self.refused = None;
    }

    fn apply(&mut self, input: &str) -> Result<(), RestoreError> {
        let family = self.tables.family;
        let restore = Restore::parse(family, input).map_err(|error| RestoreError::BadInput {
            program: Path::new(PROGRAM).to_owned(),
            lines: bad_line(input, error.line),
            // What is in the sections before was committed by then, but only the real tools
            // parse as they go; a fake that parses first has committed nothing.
            tables_committed: 0,
            message: error.to_string(),
        })?;
        for (committed, section) in restore.tables.into_iter().enumerate() {
            let refused = |line: u32, message: String| RestoreError::Refused {
                program: Path::new(PROGRAM).to_owned(),
                lines: bad_line(input, line),
                tables_committed: committed,
                message,
            };
            if let Some(predicate) = &self.refused {
                for (line, command) in &section.commands {
                    let (chain, rule) = match command {
                        Command::Append { chain, rule }
                        | Command::Insert { chain, rule, .. }
                        | Command::Replace { chain, rule, .. } => (*chain, rule),
                        _ => continue,
                    };
                    if predicate(section.table, chain, rule) {
                        return Err(refused(*line, "refused as told".to_owned()));
                    }
                }
            }
            let tables = vec![section];
            let one = Restore { family, tables };
            self.tables
                .apply(one, Flush::Nothing)
                .map_err(|error| refused(error.line, error.to_string()))?;
        }
        Ok(())
    }
}

impl IptablesRules for FakeIptables {
    fn family(&self) -> Family {
        self.tables.family
    }

    fn random_fully(&self) -> bool {
        true
    }

    fn save(&mut self, table: Table) -> Result<Vec<u8>, Error> {
        let mut text = String::new();
        if let Some(state) = self.tables.tables.get(&table) {
            state.write(&mut text, table);
        }
        Ok(text.into_bytes())
    }

    fn restore(&mut self, input: &[u8]) -> Result<(), RestoreError> {
        let text = String::from_utf8_lossy(input).into_owned();
        let fault = self.faults.remove(&self.restores.len());
        self.restores.push(text.clone());
        let program = Path::new(PROGRAM).to_owned();
        let hung = || {
            RestoreError::Exec(exec::Error::TimedOut {
                program: PROGRAM.to_owned(),
                after: Duration::from_secs(60),
                stderr: String::new(),
            })
        };
        match fault {
            None => self.apply(&text),
            Some(RestoreFault::LockHeld) => Err(RestoreError::LockHeld {
                program,
                waited: Duration::from_secs(5),
                message: "held as told".to_owned(),
            }),
            Some(RestoreFault::Failed) => Err(RestoreError::Failed {
                program,
                status: std::os::unix::process::ExitStatusExt::from_raw(1 << 8),
                message: "failed as told".to_owned(),
            }),
            Some(RestoreFault::Hung) => Err(hung()),
            Some(RestoreFault::HungAfterCommit) => {
                self.apply(&text)?;
                Err(hung())
            }
        }
    }
}

fn bad_line(input: &str, number: u32) -> Vec<BadLine> {
    let number = number as usize;
    let line = number.checked_sub(1).and_then(|at| input.lines().nth(at));
    line.map(|text| BadLine {
        number,
        text: text.to_owned(),
        named: true,
    })
    .into_iter()
    .collect()
}
