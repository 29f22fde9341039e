//! Faults of nftables mode's table, and checks of the state after them.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::time::Duration;

use dataplane::nftables::{Expected, Options, Outcome, State, Sync, Transport};
use kernel::netlink;
use kernel::nfnetlink::ReadTable;
use netfilter::nft::table::Contents;
use netfilter::nft::{Op, Value};
use plan::Plan;

use crate::support::run;
use crate::support_nft::Live;

/// Check that the listed table is the plan's. The listing is repeated: while the kernel grows a hash
/// table after a load, a walk through it can miss elements (`rhashtable_walk_next`).
pub(crate) fn settled(sync: &Sync, live: &mut Live, plan: &Plan) {
    const ATTEMPTS: usize = 20;
    assert!(sync.refused().is_empty(), "{:?}", sync.refused());
    assert_eq!(sync.refused_common(), None);
    let lowered = State::lower(plan, Options::default()).contents();
    let sweep = sync.state().expect("known").sweep().ops;
    let is_the_plans = (0..ATTEMPTS).any(|attempt| {
        if attempt > 0 {
            std::thread::sleep(Duration::from_millis(100));
        }
        let (read, _) = live.nft.read_table(&live.table).expect("read");
        let ReadTable { contents, foreign } = read.expect("a table");
        assert!(foreign.is_empty(), "{foreign:?}");
        let mut table = Some(contents);
        Contents::apply(&mut table, &sweep).expect("idle chains can go");
        table.expect("the table stays") == lowered
    });
    assert!(is_the_plans, "the listed table differs from the plan's");
}

/// What happens at one commit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The kernel refuses the operation with this number.
    Refuse(usize),
    /// No fault.
    None,
    Lost,
    TableDeleted,
    AnotherWriter,
}

/// The kernel, with a fault at one commit.
pub(crate) struct Faulty {
    pub(crate) live: Live,
    at: usize,
    fault: Fault,
    commits: usize,
    /// Whether the operation to be refused came after all others.
    pub(crate) refused_last: bool,
    /// Elements of this key are refused, at every commit.
    pub(crate) poison: Option<Value>,
}

impl Faulty {
    /// Return a kernel with a fault at the commit with this number.
    pub(crate) fn new(live: Live, at: usize, fault: Fault) -> Self {
        Faulty {
            live,
            at,
            fault,
            commits: 0,
            refused_last: false,
            poison: None,
        }
    }
}

impl Faulty {
    /// Have the kernel refuse the operations by inserting an invalid one at this place.
    fn refuse(&mut self, ops: &[Op], at: usize, guarded: bool) -> Result<Outcome, netlink::Error> {
        let mut ops = ops.to_vec();
        let no_such = Op::DeleteChain("no-such-chain".to_owned());
        ops.insert(at.min(ops.len()), no_such);
        let outcome = self.live.commit(&ops, guarded)?;
        assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
        Ok(outcome)
    }
}

fn adds(ops: &[Op], key: Value) -> bool {
    ops.iter().any(|op| match op {
        Op::AddElements { elements, .. } => elements.iter().any(|e| e.key == key),
        _ => false,
    })
}

impl Transport for Faulty {
    type Error = netlink::Error;

    fn read(&mut self, expected: &Expected<'_>) -> Result<Option<(Contents, bool)>, Self::Error> {
        self.live.read(expected)
    }

    fn commit(&mut self, ops: &[Op], guarded: bool) -> Result<Outcome, Self::Error> {
        let now = self.commits == self.at;
        self.commits += 1;
        if self.poison.is_some_and(|key| adds(ops, key)) {
            return self.refuse(ops, 0, guarded);
        }
        match self.fault {
            Fault::Refuse(number) if now => {
                self.refused_last = number >= ops.len();
                return self.refuse(ops, number, guarded);
            }
            Fault::Lost if now => {
                self.live.commit(ops, guarded)?;
                return Ok(Outcome::Unknown);
            }
            Fault::TableDeleted if now => {
                // Nothing to delete before the first commit.
                run(&format!("nft delete table {} || true", self.live.table));
            }
            Fault::AnotherWriter if now => {
                let table = &self.live.table;
                run(&format!(
                    "nft 'add table {table}; add chain {table} theirs'"
                ));
                run(&format!("nft add rule {table} theirs counter accept"));
            }
            _ => {}
        }
        self.live.commit(ops, guarded)
    }
}
