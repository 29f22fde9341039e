//! `-m conntrack`, and the sets of states that `state` shares.

use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, plain, value, with};
use crate::iptables::syntax::text::{
    names, negation, net_short, option, option_number, port_range, u32_range,
};
use crate::iptables::syntax::words::Word;
use crate::iptables::syntax::{Fault, Options, Parsed, values};
use crate::iptables::value::{Negatable, Net, PortRange, Protocol};

pub(crate) const NAMES: &[&str] = &["conntrack"];

pub(crate) const OPTIONS: Options = &[
    ("--ctstate", 1),
    ("--ctproto", 1),
    ("--ctorigsrc", 1),
    ("--ctorigdst", 1),
    ("--ctreplsrc", 1),
    ("--ctrepldst", 1),
    ("--ctorigsrcport", 1),
    ("--ctorigdstport", 1),
    ("--ctreplsrcport", 1),
    ("--ctrepldstport", 1),
    ("--ctstatus", 1),
    ("--ctexpire", 1),
    ("--ctdir", 1),
];

/// `conntrack`: all conditions must hold.
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
    /// `--ctreplsrc`: the source of replies.
    pub reply_source: Option<Negatable<Net>>,
    /// `--ctrepldst`: the destination of replies.
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
    /// `--ctexpire`: remaining seconds (first and last).
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

/// A state of a packet's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
#[repr(u8)]
pub enum CtState {
    Invalid = 1,
    New = 2,
    Related = 4,
    Established = 8,
    Untracked = 16,
    /// The source is translated; in addition to another state.
    Snat = 32,
    /// The destination is translated; in addition to another state.
    Dnat = 64,
}

impl CtState {
    /// Names in the order of iptables-save.
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

/// A set of states; true if the connection is in any of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CtStates(u8);

impl CtStates {
    /// Return the set of these.
    pub const fn of(states: &[CtState]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < states.len() {
            bits |= states[i] as u8;
            i += 1;
        }
        Self(bits)
    }

    /// Return whether the state is in the set.
    pub fn contains(self, state: CtState) -> bool {
        self.0 & state as u8 != 0
    }

    /// Return the set with this one added.
    #[must_use]
    pub fn with(self, state: CtState) -> Self {
        Self(self.0 | state as u8)
    }

    /// Return whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A status bit of `--ctstatus`.
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
    /// Names in the order of iptables-save. The empty set is `NONE`.
    pub const NAMES: [(&'static str, CtStatus); 4] = [
        ("EXPECTED", CtStatus::Expected),
        ("SEEN_REPLY", CtStatus::SeenReply),
        ("ASSURED", CtStatus::Assured),
        ("CONFIRMED", CtStatus::Confirmed),
    ];
}

/// A set of status bits; true if the connection has any of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CtStatuses(u8);

impl CtStatuses {
    /// Return whether the bit is in the set.
    pub fn contains(self, status: CtStatus) -> bool {
        self.0 & status as u8 != 0
    }

    /// Return the set with this one added.
    #[must_use]
    pub fn with(self, status: CtStatus) -> Self {
        Self(self.0 | status as u8)
    }

    /// Return whether the set is empty.
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

pub(crate) fn parse(family: Family, segment: &Segment<'_>) -> Parsed<Option<MatchConntrack>> {
    let mut ct = MatchConntrack::default();
    for item in &segment.items {
        let word = value(item)?;
        let net = || values::net(family, word).map(|n| Some(with(item, n)));
        let ports = || values::ports(word, ':').map(|p| Some(with(item, p)));
        match item.option {
            "--ctstate" => ct.state = Some(with(item, parse_states(word)?)),
            "--ctproto" => ct.protocol = values::protocol(word)?.map(|p| with(item, p)),
            "--ctorigsrc" => ct.original_source = net()?,
            "--ctorigdst" => ct.original_destination = net()?,
            "--ctreplsrc" => ct.reply_source = net()?,
            "--ctrepldst" => ct.reply_destination = net()?,
            "--ctorigsrcport" => ct.original_source_port = ports()?,
            "--ctorigdstport" => ct.original_destination_port = ports()?,
            "--ctreplsrcport" => ct.reply_source_port = ports()?,
            "--ctrepldstport" => ct.reply_destination_port = ports()?,
            "--ctstatus" => ct.status = Some(with(item, parse_statuses(word)?)),
            "--ctexpire" => {
                let range = values::u32_range(&word.text, ':');
                let range = range.ok_or_else(|| Fault::not_a(word, "a range of seconds"))?;
                ct.expires = Some(with(item, range));
            }
            _ => {
                plain(item)?;
                ct.direction = Some(match &*word.text {
                    "ORIGINAL" => CtDirection::Original,
                    "REPLY" => CtDirection::Reply,
                    _ => return Err(Fault::not_a(word, "ORIGINAL or REPLY")),
                });
            }
        }
    }
    Ok(Some(ct))
}

pub(crate) fn parse_states(word: &Word<'_>) -> Parsed<CtStates> {
    let mut states = CtStates::default();
    values::names(word, &CtState::NAMES, "a list of connection states", |s| {
        states = states.with(s);
    })?;
    Ok(states)
}

fn parse_statuses(word: &Word<'_>) -> Parsed<CtStatuses> {
    let mut statuses = CtStatuses::default();
    if &*word.text != "NONE" {
        values::names(
            word,
            &CtStatus::NAMES,
            "a list of connection status bits",
            |s| {
                statuses = statuses.with(s);
            },
        )?;
    }
    Ok(statuses)
}

pub(crate) fn write(out: &mut String, ct: &MatchConntrack) {
    out.push_str(" -m conntrack");
    if let Some(states) = &ct.state {
        negation(out, states);
        out.push_str(" --ctstate ");
        write_states(out, states.value);
    }
    if let Some(protocol) = &ct.protocol {
        negation(out, protocol);
        option_number(out, "--ctproto", protocol.value.0.into());
    }
    for (name, net) in [
        (" --ctorigsrc ", &ct.original_source),
        (" --ctorigdst ", &ct.original_destination),
        (" --ctreplsrc ", &ct.reply_source),
        (" --ctrepldst ", &ct.reply_destination),
    ] {
        if let Some(net) = net {
            negation(out, net);
            out.push_str(name);
            net_short(out, &net.value);
        }
    }
    for (name, ports) in [
        (" --ctorigsrcport ", &ct.original_source_port),
        (" --ctorigdstport ", &ct.original_destination_port),
        (" --ctreplsrcport ", &ct.reply_source_port),
        (" --ctrepldstport ", &ct.reply_destination_port),
    ] {
        if let Some(ports) = ports {
            negation(out, ports);
            out.push_str(name);
            port_range(out, ports.value, ':');
        }
    }
    if let Some(status) = &ct.status {
        negation(out, status);
        out.push_str(" --ctstatus ");
        write_statuses(out, status.value);
    }
    if let Some(expires) = &ct.expires {
        negation(out, expires);
        option(out, "--ctexpire ");
        u32_range(out, expires.value, ':');
    }
    match ct.direction {
        Some(CtDirection::Original) => out.push_str(" --ctdir ORIGINAL"),
        Some(CtDirection::Reply) => out.push_str(" --ctdir REPLY"),
        None => {}
    }
}

pub(crate) fn write_states(out: &mut String, states: CtStates) {
    names(out, &CtState::NAMES, "", |s| states.contains(s));
}

fn write_statuses(out: &mut String, statuses: CtStatuses) {
    names(out, &CtStatus::NAMES, "NONE", |s| statuses.contains(s));
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &[
    "-m conntrack --ctstate NEW,DNAT --ctproto 6 --ctorigsrc 10.0.0.0/8 --ctorigdst 10.0.0.1 ! --ctreplsrc 10.0.0.2 --ctrepldst 10.0.0.3",
    "-m conntrack --ctorigsrcport 1 --ctorigdstport 2:3 --ctreplsrcport 4 --ctrepldstport 5 --ctstatus ASSURED --ctexpire 1:9 --ctdir REPLY",
];
