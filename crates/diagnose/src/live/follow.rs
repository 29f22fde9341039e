//! Sorts the kernel's events by packet, and follows each packet to its end.

use netfilter::nft::{Family, Policy, TraceEvent, TraceKind, TracedPacket, Verdict};

use super::table;

/// An event with the family of its table.
pub(super) type Event = (Family, TraceEvent);

/// How the path of a packet ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It left this node.
    Left,
    /// It was delivered on this node.
    Delivered,
    /// A rule or a policy of nf_tables dropped it.
    Kept,
    /// It was not seen again, although nf_tables did not drop it.
    Lost,
}

/// Sorts events by packet.
#[derive(Debug)]
pub(super) struct Follower {
    /// The name of the table that marks packets.
    table: String,
    /// The index of the loopback interface.
    loopback: Option<u32>,
    /// Packets, in the order of their first events.
    packets: Vec<Tracked>,
    /// Number of packets of known connections.
    pub(super) known: usize,
}

/// The events of one packet so far.
#[derive(Debug)]
struct Tracked {
    /// The id of its events; it changes when the packet enters again through loopback.
    id: u32,
    events: Vec<Event>,
    /// The packet in its last event.
    last: TracedPacket,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Still in the rules.
    Going,
    /// It left through loopback, and enters again with another id.
    Looping,
    Ended(End),
    /// It belongs to a known connection.
    OfNoInterest,
}

impl Follower {
    pub(super) fn new(table: &str, loopback: Option<u32>) -> Self {
        Self {
            table: table.to_owned(),
            loopback,
            packets: Vec::new(),
            known: 0,
        }
    }

    /// Record an event.
    pub(super) fn take(&mut self, event: Event) {
        let id = event.1.id;
        let place = match starts(&event.1) {
            true => self.looping(&event.1),
            false => self.packets.iter().rposition(|w| w.id == id),
        };
        let Some(place) = place.or_else(|| self.place(&event.1)) else {
            return;
        };
        let is_known = self.is_known(&event.1);
        let Some(packet) = self.packets.get_mut(place) else {
            return;
        };
        packet.id = id;
        packet.last = event.1.packet.unwrap_or(packet.last);
        if is_known {
            self.known += 1;
            packet.events.clear();
            packet.state = State::OfNoInterest;
        }
        if packet.state == State::OfNoInterest {
            return;
        }
        packet.state = match &event.1.kind {
            _ if event.1.table == self.table => match event.1.chain.as_str() {
                table::DELIVERED => State::Ended(End::Delivered),
                table::LEAVES => left(&event.1, packet.state, self.loopback),
                _ => State::Going,
            },
            TraceKind::Policy(Policy::Drop)
            | TraceKind::Rule {
                verdict: Some(Verdict::Drop),
                ..
            } => State::Ended(End::Kept),
            _ => State::Going,
        };
        packet.events.push(event);
    }

    /// Return the packet that left through loopback and enters again with this event.
    fn looping(&self, event: &TraceEvent) -> Option<usize> {
        let now = event.packet.filter(|p| p.iif == self.loopback)?;
        self.packets.iter().position(|w| {
            w.state == State::Looping
                && (now.addresses, now.ports) == (w.last.addresses, w.last.ports)
        })
    }

    /// Add a new packet, or find the one that has another id now, as after a bridge: only its
    /// destination can have changed.
    fn place(&mut self, event: &TraceEvent) -> Option<usize> {
        let now = event.packet?;
        if starts(event) {
            self.packets.push(Tracked {
                id: event.id,
                events: Vec::new(),
                last: now,
                state: State::Going,
            });
            return self.packets.len().checked_sub(1);
        }
        let source = |p: TracedPacket| Some((p.addresses?.0, p.ports?.0));
        self.packets
            .iter()
            .rposition(|w| w.state == State::Going && source(w.last) == source(now))
    }

    /// Return whether the chain that tests for new connections ended without a match: the connection is
    /// known.
    fn is_known(&self, event: &TraceEvent) -> bool {
        let tracked = [table::TRACKED_INCOMING, table::TRACKED_MADE_HERE];
        event.table == self.table
            && tracked.contains(&event.chain.as_str())
            // The first event is not the rule's.
            && event.packet.is_some()
            && !matches!(event.kind, TraceKind::Rule { .. })
    }

    /// Return the first packet whose path has ended. If it is `quiet`, no more events are expected.
    pub(super) fn done(&mut self, quiet: bool) -> Option<(Vec<Event>, End)> {
        let end = |packet: &Tracked| match packet.state {
            State::Ended(end) => Some(end),
            State::Going | State::Looping => quiet.then_some(End::Lost),
            State::OfNoInterest => None,
        };
        let (place, end) = self
            .packets
            .iter()
            .enumerate()
            .find_map(|(i, w)| Some((i, end(w)?)))?;
        Some((self.packets.swap_remove(place).events, end))
    }

    /// Return whether a packet is still in the rules.
    pub(super) fn has_any(&self) -> bool {
        self.packets.iter().any(|w| w.state != State::OfNoInterest)
    }
}

/// Return whether this is the first event of a packet.
fn starts(event: &TraceEvent) -> bool {
    let first = [table::INCOMING, table::MADE_HERE];
    event.packet.is_some() && first.contains(&event.chain.as_str())
}

/// Return whether this is the end of the last chain in POSTROUTING, which is reported twice, with the packet
/// and without.
fn left(event: &TraceEvent, before: State, loopback: Option<u32>) -> State {
    match event.packet {
        Some(packet) if loopback.is_some() && packet.oif == loopback => State::Looping,
        Some(_) => State::Ended(End::Left),
        None => before,
    }
}
