//! What is about to be delivered.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use model::{Change, Event, Key, Kind};

use super::store::Changes;
use crate::{Batch, Problem, What};

/// Before everything has been listed once there is no hurry: then this many events make a batch.
const FIRST_BATCHES: usize = 4096;

type Deliver = Box<dyn FnMut(Batch) -> ControlFlow<()>>;

/// Gathers changes into batches, in which no object occurs twice.
pub(super) struct Outbox {
    deliver: Deliver,
    events: BTreeMap<Key, Event>,
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
        for event in changes.events {
            self.events.insert(event.key(), event);
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
        let due = if complete {
            let empty =
                self.events.is_empty() && self.problems.is_empty() && self.resolved.is_empty();
            !empty || !self.told
        } else {
            self.events.len() >= FIRST_BATCHES || !self.problems.is_empty()
        };
        if !due || self.closed {
            return;
        }
        self.told = complete;
        let all = std::mem::take(&mut self.events).into_values();
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
