//! `struct xt_conntrack_mtinfo3` (`linux/netfilter/xt_conntrack.h`).

use super::{flag, unsupported};
use crate::iptables::{
    CtDirection, CtState, CtStates, CtStatus, CtStatuses, Family, Match, MatchConntrack, Negatable,
    Net, PortRange, Protocol,
};
use crate::iptables_nft::Unsupported;
use crate::iptables_nft::info::{Reader, Writer};

const CT_EXPIRES_MIN: usize = 128;
const CT_EXPIRES_MAX: usize = 132;
const CT_L4PROTO: usize = 136;
const CT_MATCH_FLAGS: usize = 146;
const CT_INVERT_FLAGS: usize = 148;
const CT_STATE_MASK: usize = 150;
const CT_STATUS_MASK: usize = 152;
const XT_CONNTRACK_STATE: u16 = 1 << 0;
const XT_CONNTRACK_PROTO: u16 = 1 << 1;
const XT_CONNTRACK_STATUS: u16 = 1 << 6;
const XT_CONNTRACK_EXPIRES: u16 = 1 << 7;
const XT_CONNTRACK_DIRECTION: u16 = 1 << 12;
const XT_CONNTRACK_STATE_ALIAS: u16 = 1 << 13;
/// The flag and offset of each address, and of its mask 16 bytes later.
const CT_ADDRESSES: [(u16, usize); 4] = [(1 << 2, 0), (1 << 3, 32), (1 << 4, 64), (1 << 5, 96)];
/// The flag and offset of each port, and the offset of the last port of the range.
const CT_PORTS: [(u16, usize, usize); 4] = [
    (1 << 8, 138, 154),
    (1 << 9, 140, 156),
    (1 << 10, 142, 158),
    (1 << 11, 144, 160),
];

/// `XT_CONNTRACK_STATE_*`.
fn state_bit(state: CtState) -> u16 {
    match state {
        CtState::Invalid => 1 << 0,
        CtState::Established => 1 << 1,
        CtState::Related => 1 << 2,
        CtState::New => 1 << 3,
        CtState::Snat => 1 << 6,
        CtState::Dnat => 1 << 7,
        CtState::Untracked => 1 << 8,
    }
}

pub(super) fn put(ct: &MatchConntrack) -> Result<Writer, Unsupported> {
    let mut w = Writer::new(162);
    let (mut flags, mut invert) = (0, 0);
    let mut set = |bit: u16, negated: bool| {
        flags |= bit;
        invert |= flag(negated, bit);
    };
    if let Some(states) = &ct.state {
        set(XT_CONNTRACK_STATE, states.negated);
        let all = CtState::NAMES.iter().map(|(_, state)| *state);
        let mask = all.filter(|state| states.value.contains(*state));
        w.u16(
            CT_STATE_MASK,
            mask.fold(0, |mask, state| mask | state_bit(state)),
        );
    }
    if let Some(protocol) = &ct.protocol {
        set(XT_CONNTRACK_PROTO, protocol.negated);
        w.u16(CT_L4PROTO, protocol.value.0.into());
    }
    let addresses = [
        &ct.original_source,
        &ct.original_destination,
        &ct.reply_source,
        &ct.reply_destination,
    ];
    for ((bit, at), address) in CT_ADDRESSES.into_iter().zip(addresses) {
        if let Some(net) = address {
            set(bit, net.negated);
            w.ip(at, net.value.addr());
            w.ip(at + 16, net.value.mask());
        }
    }
    let ports = [
        &ct.original_source_port,
        &ct.original_destination_port,
        &ct.reply_source_port,
        &ct.reply_destination_port,
    ];
    for ((bit, low, high), port) in CT_PORTS.into_iter().zip(ports) {
        if let Some(port) = port {
            set(bit, port.negated);
            w.u16(low, port.value.first);
            w.u16(high, port.value.last);
        }
    }
    if let Some(statuses) = &ct.status {
        set(XT_CONNTRACK_STATUS, statuses.negated);
        let all = CtStatus::NAMES.iter().map(|(_, status)| *status);
        let mask = all.filter(|status| statuses.value.contains(*status));
        w.u16(
            CT_STATUS_MASK,
            mask.fold(0, |mask, status| mask | status as u16),
        );
    }
    if let Some(expires) = &ct.expires {
        set(XT_CONNTRACK_EXPIRES, expires.negated);
        w.u32(CT_EXPIRES_MIN, expires.value.0);
        w.u32(CT_EXPIRES_MAX, expires.value.1);
    }
    if let Some(direction) = ct.direction {
        set(XT_CONNTRACK_DIRECTION, direction == CtDirection::Reply);
    }
    w.u16(CT_MATCH_FLAGS, flags);
    w.u16(CT_INVERT_FLAGS, invert);
    Ok(w)
}

/// Write the older form of `conntrack --ctstate`.
pub(super) fn put_state(states: Negatable<CtStates>) -> Result<Writer, Unsupported> {
    let mut w = put(&MatchConntrack::state(states))?;
    w.u16(
        CT_MATCH_FLAGS,
        XT_CONNTRACK_STATE | XT_CONNTRACK_STATE_ALIAS,
    );
    Ok(w)
}

pub(super) fn get(r: Reader<'_>, family: Family) -> Result<Match, Unsupported> {
    let (flags, invert) = (r.u16(CT_MATCH_FLAGS), r.u16(CT_INVERT_FLAGS));
    let given = |bit: u16| (flags & bit != 0).then_some(invert & bit != 0);
    let mut ct = MatchConntrack::default();
    if let Some(negated) = given(XT_CONNTRACK_STATE) {
        let mask = r.u16(CT_STATE_MASK);
        let all = CtState::NAMES.iter().map(|(_, state)| *state);
        let set = all.filter(|state| mask & state_bit(*state) != 0);
        let value = set.fold(CtStates::default(), CtStates::with);
        ct.state = Some(Negatable { negated, value });
    }
    if flags & XT_CONNTRACK_STATE_ALIAS != 0 {
        let other = flags & !(XT_CONNTRACK_STATE | XT_CONNTRACK_STATE_ALIAS);
        return match ct.state {
            Some(states) if other == 0 => Ok(Match::State(states)),
            _ => unsupported("match state with other conditions"),
        };
    }
    ct.protocol = given(XT_CONNTRACK_PROTO).map(|negated| Negatable {
        negated,
        value: Protocol(r.u16(CT_L4PROTO) as u8),
    });
    let mut nets = CT_ADDRESSES.map(|(bit, at)| {
        let negated = given(bit)?;
        let value = Net::new(r.ip(at, family), r.ip(at + 16, family))?;
        Some(Negatable { negated, value })
    });
    [
        &mut ct.original_source,
        &mut ct.original_destination,
        &mut ct.reply_source,
        &mut ct.reply_destination,
    ]
    .into_iter()
    .zip(&mut nets)
    .for_each(|(field, net)| *field = net.take());
    [
        ct.original_source_port,
        ct.original_destination_port,
        ct.reply_source_port,
        ct.reply_destination_port,
    ] = CT_PORTS.map(|(bit, low, high)| {
        let first = r.u16(low);
        Some(Negatable {
            negated: given(bit)?,
            value: PortRange {
                first,
                last: r.u16(high),
            },
        })
    });
    ct.status = given(XT_CONNTRACK_STATUS).map(|negated| {
        let mask = r.u16(CT_STATUS_MASK);
        let all = CtStatus::NAMES.iter().map(|(_, status)| *status);
        let set = all.filter(|status| mask & *status as u16 != 0);
        Negatable {
            negated,
            value: set.fold(CtStatuses::default(), CtStatuses::with),
        }
    });
    ct.expires = given(XT_CONNTRACK_EXPIRES).map(|negated| Negatable {
        negated,
        value: (r.u32(CT_EXPIRES_MIN), r.u32(CT_EXPIRES_MAX)),
    });
    ct.direction = given(XT_CONNTRACK_DIRECTION).map(|reply| {
        if reply {
            CtDirection::Reply
        } else {
            CtDirection::Original
        }
    });
    Ok(Match::Conntrack(Box::new(ct)))
}
