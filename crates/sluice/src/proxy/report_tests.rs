//! What is reported of a sync is the change alone: one after the other they have to make the plan.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use model::IpFamily;
use plan::{Plan, Planner, PortPlan};
use proptest::prelude::*;

use super::driver::{Driver, SyncError, Synced};
use super::engine::{Engine, Observer, SyncReport};
use super::pending::Pending;
use super::report::{drops_external, drops_internal, more};
use super::schedule::{Intervals, Work};

/// A mode that fails every third time.
struct Fickle(u32);

impl Driver for Fickle {
    fn sync(&mut self, plan: &Plan, _: &Pending) -> Result<Synced, SyncError> {
        self.resync(plan)
    }

    fn resync(&mut self, plan: &Plan) -> Result<Synced, SyncError> {
        self.0 += 1;
        if self.0.is_multiple_of(3) {
            return Err(SyncError {
                family: plan.family,
                reason: "fickle".to_owned(),
            });
        }
        Ok(Synced::default())
    }

    fn disturbed(&mut self) -> bool {
        false
    }
}

/// The plan of a family as the reports have it, and how many ports drop internal, and external,
/// traffic.
struct Told {
    plan: Plan,
    internal: i64,
    external: i64,
}

#[derive(Clone)]
struct Listener(Rc<RefCell<Vec<Told>>>);

impl Observer for Listener {
    fn received(&mut self, _: usize, _: usize) {}
    fn queued(&mut self, _: IpFamily, _: Instant) {}
    fn failed(&mut self, _: IpFamily, _: Work, _: &SyncError) {}

    fn synced(&mut self, report: &mut SyncReport<'_>) {
        let told = &mut self.0.borrow_mut()[report.family as usize];
        told.plan.apply(&report.changes);
        told.internal += more(&report.changes.ports, drops_internal);
        told.external += more(&report.changes.ports, drops_external);
    }
}

proptest! {
    #[test]
    fn reports_make_the_plan((settings, events) in plan::testing::history()) {
        let told = IpFamily::ALL.map(|family| Told {
            plan: Plan::empty(family),
            internal: 0,
            external: 0,
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
            let plan = whole.plan(told.plan.family);
            prop_assert_eq!(&told.plan, plan);
            let count = |drops: fn(&PortPlan) -> bool| {
                plan.ports.values().filter(|port| drops(port)).count() as i64
            };
            prop_assert_eq!(told.internal, count(drops_internal));
            prop_assert_eq!(told.external, count(drops_external));
        }
    }
}
