//! The last warnings and errors, for `sluice status`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::format::Parts;
use crate::socket::status::{Time, Warning};

/// Number of different messages that are kept.
const MOST: usize = 10;
/// Upper bound on the length of a message in bytes.
const LENGTH: usize = 600;

/// The last different warnings and errors. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recent(Arc<Mutex<VecDeque<Warning>>>);

impl Recent {
    /// Return the messages, the newest last.
    pub(crate) fn get(&self) -> Vec<Warning> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().cloned().collect()
    }

    fn add(&self, level: Level, mut text: String) {
        if text.len() > LENGTH {
            text.truncate(text.floor_char_boundary(LENGTH));
            text.push('…');
        }
        let level = level.to_string();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.iter().position(|w| w.text == text && w.level == level);
        let before = known.and_then(|at| all.remove(at));
        let count = before.map_or(0, |warning| warning.count) + 1;
        if all.len() == MOST {
            all.pop_front();
        }
        all.push_back(Warning {
            at: Time::now(),
            level,
            text,
            count,
        });
    }
}

fn is_kept(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::WARN
}

impl<S: Subscriber> Layer<S> for Recent {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if is_kept(event.metadata()) {
            self.add(*event.metadata().level(), Parts::of(event).line());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_messages_are_counted_and_the_oldest_are_dropped() {
        let recent = Recent::default();
        for number in 0..MOST + 5 {
            recent.add(Level::WARN, format!("message {number}"));
        }
        recent.add(Level::WARN, "message 7".to_owned());
        let kept = recent.get();
        assert_eq!(kept.len(), MOST);
        assert_eq!(kept[0].text, "message 5");
        let last = &kept[MOST - 1];
        assert_eq!((&*last.text, last.count), ("message 7", 2));
        recent.add(Level::ERROR, "é".repeat(LENGTH));
        let kept = recent.get();
        assert!(kept[MOST - 1].text.len() <= LENGTH + '…'.len_utf8());
    }
}
