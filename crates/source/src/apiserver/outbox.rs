//! What is about to be delivered.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::ControlFlow;

use model::{Change, Event, Key, Kind};

use super::store::{Changed, Changes};
use crate::{Batch, Problem, What};

/// Before everything has been listed once there is no hurry: then this many events make a batch.
const FIRST_BATCHES: usize = 4096;

type Deliver = Box<dyn FnMut(Batch) -> ControlFlow<()>>;

/// Gathers changes into batches, in which no object occurs twice.
pub(super) struct Outbox {
    deliver: Deliver,
    /// For each object what was told of it last, and what is to be told now.
    events: BTreeMap<Key, Changed>,
    problems: Vec<Problem>,
    resolved: Vec<Problem>,
    /// The kinds that have not been listed to the end.
    missing: Vec<Kind>,
    /// Completeness has been told.
    told: bool,
    /// The receiver wants no more.
    closed: bool,
}

impl Outbox {
    pub(super) fn new(deliver: Deliver) -> Self {
        Self {
            deliver,
            events: BTreeMap::new(),
            problems: Vec::new(),
            resolved: Vec::new(),
            missing: Kind::ALL.to_vec(),
            told: false,
            closed: false,
        }
    }

    pub(super) fn add(&mut self, changes: Changes) {
        let problem = |what: What| Problem { place: None, what };
        for changed in changes.events {
            match self.events.entry(changed.event.key()) {
                Entry::Vacant(entry) => drop(entry.insert(changed)),
                Entry::Occupied(mut entry) => entry.get_mut().event = changed.event,
            }
        }
        self.problems
            .extend(changes.problems.into_iter().map(problem));
        self.resolved
            .extend(changes.resolved.into_iter().map(problem));
    }

    /// A kind has been listed to the end.
    pub(super) fn complete(&mut self, kind: Kind) {
        self.missing.retain(|k| *k != kind);
    }

    /// Whether the receiver wants no more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Delivers what there is, if it is time for that.
    pub(super) fn flush(&mut self) {
        let complete = self.missing.is_empty();
        // Before everything has been listed there is no hurry.
        let hurry = complete || !self.problems.is_empty();
        if self.closed || !hurry && self.events.len() < FIRST_BATCHES {
            return;
        }
        // What is as it was told last, there and back again, is no change.
        self.events.retain(|key, changed| match &changed.before {
            Some(before) => changed.event != *before,
            None => changed.event != key.deleted(),
        });
        let empty = self.events.is_empty() && self.problems.is_empty() && self.resolved.is_empty();
        if empty && self.told == complete {
            return;
        }
        self.told = complete;
        let all = std::mem::take(&mut self.events).into_values();
        let all = all.map(|changed| changed.event);
        let (mut events, applied): (Vec<_>, Vec<_>) = all.partition(is_deletion);
        events.extend(applied);
        let batch = Batch {
            events,
            problems: std::mem::take(&mut self.problems),
            resolved: std::mem::take(&mut self.resolved),
            initial_list_complete: complete,
        };
        self.closed = (self.deliver)(batch).is_break();
    }
}

fn is_deletion(event: &Event) -> bool {
    matches!(
        event,
        Event::Service(Change::Deleted(_))
            | Event::EndpointSlice(Change::Deleted(_))
            | Event::Node(Change::Deleted(_))
            | Event::ServiceCidr(Change::Deleted(_))
    )
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::sync::Arc;

    use model::ServiceCidr;

    use super::*;

    fn applied(cidr: &str) -> Event {
        Event::ServiceCidr(Change::Applied(Arc::new(ServiceCidr {
            name: "c".into(),
            cidrs: vec![cidr.parse().expect("a range")],
        })))
    }

    fn changes(before: Option<Event>, event: Event) -> Changes {
        Changes {
            events: vec![Changed { before, event }],
            ..Changes::default()
        }
    }

    #[test]
    fn what_is_as_it_was_is_not_told() {
        let told = Rc::new(RefCell::new(Vec::new()));
        let hear = told.clone();
        let mut outbox = Outbox::new(Box::new(move |batch| {
            hear.borrow_mut().push(batch);
            ControlFlow::Continue(())
        }));
        let (a, b) = (applied("10.0.0.0/24"), applied("10.1.0.0/24"));
        let gone = a.key().deleted();
        // Came and went before anything was told.
        outbox.add(changes(None, a.clone()));
        outbox.add(changes(Some(a.clone()), gone.clone()));
        outbox.flush();
        assert_eq!(told.borrow().len(), 0, "not everything is listed");
        for kind in Kind::ALL {
            outbox.complete(kind);
        }
        outbox.flush();
        let complete = Batch {
            initial_list_complete: true,
            ..Batch::default()
        };
        assert_eq!(*told.borrow(), [complete]);
        // Changed, and changed back.
        outbox.add(changes(Some(a.clone()), b.clone()));
        outbox.add(changes(Some(b.clone()), a.clone()));
        outbox.flush();
        assert_eq!(told.borrow().len(), 1);
        // Gone, and back in another shape.
        outbox.add(changes(Some(a), gone));
        outbox.add(changes(None, b.clone()));
        outbox.flush();
        assert_eq!(told.borrow()[1].events, [b]);
    }
}
