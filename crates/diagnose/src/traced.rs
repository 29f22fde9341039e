//! A traced packet, with the answers to it.

use serde_json::Value;
use trace::{Packet, Trace, Verdict, WalkError, World};

/// A packet's walk through the rules.
#[derive(Clone, Debug)]
pub struct Traced {
    /// The packet.
    pub packet: Packet,
    /// What happens to it.
    pub trace: Trace,
    /// The answers to each outcome that was delivered, walked back; `None` if they were not asked for.
    pub replies: Option<Vec<(Packet, Trace)>>,
}

impl Traced {
    /// Walk a packet, and with `reply` also the answers to it.
    ///
    /// # Errors
    /// The rules contain an endless loop.
    pub fn walk(world: &World, packet: Packet, reply: bool) -> Result<Self, WalkError> {
        let trace = trace::walk(world, &packet)?;
        let answers = |outcome| trace::reply_to(&world.host, &packet, outcome);
        let walk_back = || {
            let answers = trace.outcomes.iter().filter_map(answers);
            let walked = answers.map(|answer| {
                let back = trace::walk(world, &answer)?;
                Ok((answer, back))
            });
            walked.collect::<Result<Vec<_>, WalkError>>()
        };
        let replies = reply.then(walk_back).transpose()?;
        Ok(Self {
            packet,
            trace,
            replies,
        })
    }

    /// Return whether every outcome is accepted, the answers' too.
    pub fn is_accepted(&self) -> bool {
        let replies = self.replies.iter().flatten().map(|(_, back)| back);
        let mut all = std::iter::once(&self.trace).chain(replies);
        all.all(|trace| trace.outcomes.iter().all(|o| o.verdict == Verdict::Accept))
    }

    /// Return the trace as [`trace::to_json`] does, with the answers as `replies`.
    pub fn to_json(&self) -> Value {
        let mut value = trace::to_json(&self.trace);
        if let Some(replies) = &self.replies {
            value["replies"] = replies.iter().map(|(_, t)| trace::to_json(t)).collect();
        }
        value
    }
}
