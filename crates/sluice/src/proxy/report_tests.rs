//! Reports contain only changes; their sum must agree with the plan.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use model::IpFamily;
use plan::{Plan, Planner, PortKey};
use proptest::prelude::*;

use super::driver::{Driver, SyncError, Synced};
use super::engine::{Engine, Observer, SyncReport};
use super::pending::Dropping;
use super::schedule::{Intervals, Work};

/// A mode that fails every third time.
struct Fickle(u32);

impl Driver for Fickle {
    fn sync(&mut self, plan: &Plan, _: &BTreeSet<PortKey>) -> Result<Synced, SyncError> {
        self.resync(plan)
    }

    fn resync(&mut self, _: &Plan) -> Result<Synced, SyncError> {
        self.0 += 1;
        if self.0.is_multiple_of(3) {
            return Err(SyncError::Contended);
        }
        Ok(Synced::default())
    }

    fn disturbed(&mut self, _: &Plan) -> bool {
        false
    }
}

/// The sum of all reports of a family.
struct Told {
    family: IpFamily,
    ports: BTreeSet<PortKey>,
    dropping: Dropping,
}

#[derive(Clone)]
struct Listener(Rc<RefCell<Vec<Told>>>);

impl Observer for Listener {
    fn received(&mut self, _: usize, _: usize) {}
    fn queued(&mut self, _: IpFamily, _: Instant) {}
    fn failed(&mut self, _: IpFamily, _: Work, _: &SyncError) {}

    fn synced(&mut self, report: &mut SyncReport<'_>) {
        let told = &mut self.0.borrow_mut()[report.family as usize];
        told.ports.extend(report.changes.ports.iter().cloned());
        told.dropping.internal += report.changes.dropping.internal;
        told.dropping.external += report.changes.dropping.external;
    }
}

proptest! {
    #[test]
    fn reports_sum_up_to_the_plan((settings, events) in plan::testing::history()) {
        let told = IpFamily::ALL.map(|family| Told {
            family,
            ports: BTreeSet::new(),
            dropping: Dropping::default(),
        });
        let listener = Listener(Rc::new(RefCell::new(told.into())));
        let drivers = IpFamily::ALL.map(|family| -> (_, Box<dyn Driver>) {
            (family, Box::new(Fickle(0)))
        });
        let intervals = Intervals {
            min: Duration::ZERO,
            check: Duration::from_millis(1),
        };
        let observer = Box::new(listener.clone());
        let planner = Planner::new(settings.clone());
        let mut engine = Engine::new(planner, drivers.into(), intervals, observer, Instant::now());
        engine.complete(Instant::now());
        for some in events.chunks(3) {
            engine.events(some.to_vec(), Instant::now());
            engine.run();
        }
        while engine.settled() != Ok(true) {
            engine.run();
        }
        let mut whole = Planner::new(settings);
        whole.apply_all(events);
        whole.take_diff();
        for told in listener.0.borrow().iter() {
            let plan = whole.plan(told.family);
            prop_assert!(plan.ports.keys().all(|key| told.ports.contains(key)));
            let mut dropping = Dropping::default();
            for port in plan.ports.values() {
                dropping.count(Some(port), 1);
            }
            prop_assert_eq!(told.dropping, dropping);
        }
    }
}
