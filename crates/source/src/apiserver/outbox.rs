//! Changes that wait for delivery.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::ControlFlow;

use model::{Change, Event, Key, Kind};

use super::store::{Changed, Changes};
use crate::{Batch, Problem, What};

/// Events per batch until the initial list is complete.
const FIRST_BATCHES: usize = 4096;

type Deliver = Box<dyn FnMut(Batch) -> ControlFlow<()>>;

/// Gathers changes into batches that contain each object at most once.
pub(super) struct Outbox {
    deliver: Deliver,
    /// For each changed object, the version delivered last and the new one.
    events: BTreeMap<Key, Changed>,
    problems: Vec<Problem>,
    resolved: Vec<Problem>,
    /// The kinds whose initial list is incomplete.
    missing: Vec<Kind>,
    /// Completeness has been delivered.
    complete_delivered: bool,
    /// The receiver accepts no more batches.
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
            complete_delivered: false,
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

    /// Note that the initial list of a kind is complete.
    pub(super) fn complete(&mut self, kind: Kind) {
        self.missing.retain(|k| *k != kind);
    }

    /// Return whether the receiver accepts no more batches.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Deliver the pending changes; during the initial list only a full batch or problems.
    pub(super) fn flush(&mut self) {
        let complete = self.missing.is_empty();
        let urgent = complete || !self.problems.is_empty();
        if self.closed || !urgent && self.events.len() < FIRST_BATCHES {
            return;
        }
        // An object that changed and changed back is unchanged.
        self.events.retain(|key, changed| match &changed.before {
            Some(before) => changed.event != *before,
            None => changed.event != key.deleted(),
        });
        let empty = self.events.is_empty() && self.problems.is_empty() && self.resolved.is_empty();
        if empty && self.complete_delivered == complete {
            return;
        }
        self.complete_delivered = complete;
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
    fn unchanged_objects_are_not_delivered() {
        let delivered = Rc::new(RefCell::new(Vec::new()));
        let batches = delivered.clone();
        let mut outbox = Outbox::new(Box::new(move |batch| {
            batches.borrow_mut().push(batch);
            ControlFlow::Continue(())
        }));
        let (a, b) = (applied("10.0.0.0/24"), applied("10.1.0.0/24"));
        let deleted = a.key().deleted();
        // Added and deleted before the first delivery.
        outbox.add(changes(None, a.clone()));
        outbox.add(changes(Some(a.clone()), deleted.clone()));
        outbox.flush();
        assert_eq!(
            delivered.borrow().len(),
            0,
            "the initial list is incomplete"
        );
        for kind in Kind::ALL {
            outbox.complete(kind);
        }
        outbox.flush();
        let complete = Batch {
            initial_list_complete: true,
            ..Batch::default()
        };
        assert_eq!(*delivered.borrow(), [complete]);
        // Changed and changed back.
        outbox.add(changes(Some(a.clone()), b.clone()));
        outbox.add(changes(Some(b.clone()), a.clone()));
        outbox.flush();
        assert_eq!(delivered.borrow().len(), 1);
        // Deleted and created with other content.
        outbox.add(changes(Some(a), deleted));
        outbox.add(changes(None, b.clone()));
        outbox.flush();
        assert_eq!(delivered.borrow()[1].events, [b]);
    }
}
