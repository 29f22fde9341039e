//! The `conntrack` match.

use super::super::{Negatable, Net, PortRange, Protocol};

/// `conntrack`: every given condition must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MatchConntrack {
    /// `--ctstate`.
    pub state: Option<Negatable<CtStates>>,
    /// `--ctproto`.
    pub protocol: Option<Negatable<Protocol>>,
    /// `--ctorigsrc`: the first packet's source, before any translation.
    pub original_source: Option<Negatable<Net>>,
    /// `--ctorigdst`: the first packet's destination, before any translation.
    pub original_destination: Option<Negatable<Net>>,
    /// `--ctreplsrc`: where replies come from.
    pub reply_source: Option<Negatable<Net>>,
    /// `--ctrepldst`: where replies go.
    pub reply_destination: Option<Negatable<Net>>,
    /// `--ctorigsrcport`.
    pub original_source_port: Option<Negatable<PortRange>>,
    /// `--ctorigdstport`.
    pub original_destination_port: Option<Negatable<PortRange>>,
    /// `--ctreplsrcport`.
    pub reply_source_port: Option<Negatable<PortRange>>,
    /// `--ctrepldstport`.
    pub reply_destination_port: Option<Negatable<PortRange>>,
    /// `--ctstatus`.
    pub status: Option<Negatable<CtStatuses>>,
    /// `--ctexpire`: seconds left, from and to.
    pub expires: Option<Negatable<(u32, u32)>>,
    /// `--ctdir`.
    pub direction: Option<CtDirection>,
}

impl MatchConntrack {
    /// `--ctstate` alone.
    pub fn state(states: Negatable<CtStates>) -> Self {
        Self {
            state: Some(states),
            ..Self::default()
        }
    }
}

/// A state that a packet's connection can be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
#[repr(u8)]
pub enum CtState {
    Invalid = 1,
    New = 2,
    Related = 4,
    Established = 8,
    Untracked = 16,
    /// The source was translated; beside one of the others.
    Snat = 32,
    /// The destination was translated; beside one of the others.
    Dnat = 64,
}

impl CtState {
    /// Names, in the order in which iptables prints them.
    pub const NAMES: [(&'static str, CtState); 7] = [
        ("INVALID", CtState::Invalid),
        ("NEW", CtState::New),
        ("RELATED", CtState::Related),
        ("ESTABLISHED", CtState::Established),
        ("UNTRACKED", CtState::Untracked),
        ("SNAT", CtState::Snat),
        ("DNAT", CtState::Dnat),
    ];
}

/// A set of states; holds where the connection is in any of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CtStates(u8);

impl CtStates {
    /// A set of these.
    pub const fn of(states: &[CtState]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < states.len() {
            bits |= states[i] as u8;
            i += 1;
        }
        Self(bits)
    }

    /// Whether the state is in the set.
    pub fn contains(self, state: CtState) -> bool {
        self.0 & state as u8 != 0
    }

    /// The set with this one added.
    #[must_use]
    pub fn with(self, state: CtState) -> Self {
        Self(self.0 | state as u8)
    }

    /// Whether no state is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// One of the marks of `--ctstatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
#[repr(u8)]
pub enum CtStatus {
    Expected = 1,
    SeenReply = 2,
    Assured = 4,
    Confirmed = 8,
}

impl CtStatus {
    /// Names, in the order in which iptables prints them. The empty set is `NONE`.
    pub const NAMES: [(&'static str, CtStatus); 4] = [
        ("EXPECTED", CtStatus::Expected),
        ("SEEN_REPLY", CtStatus::SeenReply),
        ("ASSURED", CtStatus::Assured),
        ("CONFIRMED", CtStatus::Confirmed),
    ];
}

/// A set of status marks; holds where the connection has any of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CtStatuses(u8);

impl CtStatuses {
    /// Whether the mark is in the set.
    pub fn contains(self, status: CtStatus) -> bool {
        self.0 & status as u8 != 0
    }

    /// The set with this one added.
    #[must_use]
    pub fn with(self, status: CtStatus) -> Self {
        Self(self.0 | status as u8)
    }

    /// Whether no mark is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// `--ctdir`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum CtDirection {
    Original,
    Reply,
}
