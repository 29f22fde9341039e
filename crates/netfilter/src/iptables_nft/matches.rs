//! Matches as nft_compat expressions (`match`).

use super::info::{Reader, Writer};
use super::{SetIndex, Unsupported, ipvs, limit, sets};
use crate::iptables::{
    AddrType, AddrTypes, CtDirection, CtState, CtStates, CtStatus, CtStatuses, Family, IcmpType,
    Interface, MarkMatch, Match, MatchAddrType, MatchConntrack, MatchIpRange, MatchMultiport,
    MatchOwner, MatchPhysdev, MatchRecent, MatchRpfilter, MatchTcp, Negatable, Net, PortMatch,
    PortRange, PortSide, Probability, Protocol, RecentAction, Statistic, TcpFlags,
};
use crate::nft::Expr;

fn found(name: &str, revision: u32, info: Writer) -> Expr {
    Expr::Match {
        name: name.into(),
        revision,
        info: info.finish(),
    }
}

fn unsupported<T>(what: &str) -> Result<T, Unsupported> {
    Err(Unsupported::new(what))
}

/// Encode a match as the iptables tools do.
pub(crate) fn encode(m: &Match, index: &SetIndex) -> Result<Expr, Unsupported> {
    Ok(match m {
        Match::Comment(text) => {
            let mut w = Writer::new(256);
            w.text(0, 256, text)?;
            found("comment", 0, w)
        }
        Match::Tcp(tcp) => found("tcp", 0, put_tcp(tcp)),
        Match::Udp(ports) => found("udp", 0, put_udp(ports)),
        Match::Sctp(ports) => found("sctp", 0, put_sctp(ports)),
        Match::Multiport(multiport) => found("multiport", 1, put_multiport(multiport)),
        Match::Mark(mark) => found("mark", 1, put_mark(mark)),
        Match::Connmark(mark) => found("connmark", 1, put_mark(mark)),
        Match::Conntrack(ct) => found("conntrack", 3, put_conntrack(ct)?),
        Match::State(states) => {
            let mut w = put_conntrack(&MatchConntrack::state(*states))?;
            w.u16(
                CT_MATCH_FLAGS,
                XT_CONNTRACK_STATE | XT_CONNTRACK_STATE_ALIAS,
            );
            found("conntrack", 3, w)
        }
        Match::Addrtype(addrtype) => found("addrtype", 1, put_addrtype(*addrtype)),
        Match::Statistic(statistic) => found("statistic", 0, put_statistic(*statistic)),
        Match::Recent(recent) => found("recent", 1, put_recent(recent)?),
        Match::Nfacct(name) => {
            let mut w = Writer::new(40);
            w.text(0, 32, name)?;
            found("nfacct", 0, w)
        }
        Match::Icmp(icmp) => found(
            if icmp.value.v6 { "icmp6" } else { "icmp" },
            0,
            put_icmp(icmp),
        ),
        Match::Rpfilter(rpfilter) => {
            let mut w = Writer::new(1);
            w.u8(0, rpfilter_flags(*rpfilter));
            found("rpfilter", 0, w)
        }
        Match::Owner(owner) => found("owner", 1, put_owner(owner)),
        Match::IpRange(range) => found("iprange", 1, put_iprange(range)),
        Match::Physdev(physdev) => found("physdev", 0, put_physdev(physdev)?),
        Match::Limit(m) => found("limit", 0, limit::put(*m)?),
        Match::Set(set) => found("set", 4, sets::put_match(set, index)?),
        Match::Ipvs(m) => found("ipvs", 0, ipvs::put(m)?),
        Match::Unknown(extension) => return unsupported(&format!("match {}", extension.name)),
    })
}

/// Reads a structure of a sufficient size.
type Decode = fn(Reader<'_>, Family) -> Result<Match, Unsupported>;

/// Decode a match.
pub(crate) fn decode(
    family: Family,
    name: &str,
    revision: u32,
    info: &[u8],
    index: &SetIndex,
) -> Result<Match, Unsupported> {
    let r = Reader(info);
    if name == "set" && info.len() >= sets::match_size(revision) {
        let set = sets::get_match(r, revision, index)?;
        return Ok(Match::Set(Box::new(set)));
    }
    let (size, decoded): (usize, Decode) = match (name, revision) {
        ("comment", 0) => (256, |r, _| Ok(Match::Comment(r.text(0, 256)?.into()))),
        ("tcp", 0) => (12, |r, _| Ok(Match::Tcp(get_tcp(r)))),
        ("udp", 0) => (10, |r, _| Ok(Match::Udp(get_ports(r, 0, 4, r.u8(8))))),
        ("sctp", 0) => (292, |r, _| get_sctp(r).map(Match::Sctp)),
        ("multiport", 1) => (48, |r, _| get_multiport(r)),
        ("mark", 1) => (12, |r, _| Ok(Match::Mark(get_mark(r)))),
        ("connmark", 1) => (12, |r, _| Ok(Match::Connmark(get_mark(r)))),
        ("conntrack", 3) => (162, get_conntrack),
        ("addrtype", 1) => (8, |r, _| Ok(Match::Addrtype(get_addrtype(r)))),
        ("statistic", 0) => (24, |r, _| get_statistic(r)),
        ("recent", 1) => (228, get_recent),
        ("nfacct", 0 | 1) => (40, |r, _| Ok(Match::Nfacct(r.text(0, 32)?.into()))),
        ("icmp", 0) => (4, |r, _| Ok(get_icmp(r, false))),
        ("icmp6", 0) => (4, |r, _| Ok(get_icmp(r, true))),
        ("rpfilter", 0) => (1, |r, _| get_rpfilter(r)),
        ("owner", 1) => (20, |r, _| Ok(get_owner(r))),
        ("iprange", 1) => (68, |r, family| Ok(get_iprange(r, family))),
        ("physdev", 0) => (68, |r, _| get_physdev(r)),
        ("limit", 0) => (8, |r, _| limit::get(r).map(Match::Limit)),
        ("ipvs", 0) => (ipvs::SIZE, |r, family| {
            let found = ipvs::get(r, family)?;
            Ok(Match::Ipvs(Box::new(found)))
        }),
        _ => return unsupported(&format!("match {name} revision {revision}")),
    };
    if info.len() < size {
        return unsupported(&format!("match {name} of {} bytes", info.len()));
    }
    decoded(r, family)
}

fn inverted<T>(negatable: Option<&Negatable<T>>) -> bool {
    negatable.is_some_and(|n| n.negated)
}

fn flag<N: Default>(on: bool, flag: N) -> N {
    if on { flag } else { N::default() }
}

const EVERY_PORT: PortRange = PortRange {
    first: 0,
    last: u16::MAX,
};

/// Write the ports of `struct xt_tcp` and `struct xt_udp`; return the inversion flags.
fn put_ports(w: &mut Writer, ports: &PortMatch) -> u8 {
    for (at, side) in [(0, &ports.source), (4, &ports.destination)] {
        let range = side.as_ref().map_or(EVERY_PORT, |side| side.value);
        w.u16(at, range.first);
        w.u16(at + 2, range.last);
    }
    flag(inverted(ports.source.as_ref()), 1) | flag(inverted(ports.destination.as_ref()), 2)
}

fn get_ports(r: Reader<'_>, source: usize, destination: usize, flags: u8) -> PortMatch {
    let side = |at: usize, negated: bool| {
        let value = PortRange {
            first: r.u16(at),
            last: r.u16(at + 2),
        };
        (value != EVERY_PORT || negated).then_some(Negatable { negated, value })
    };
    PortMatch {
        source: side(source, flags & 1 != 0),
        destination: side(destination, flags & 2 != 0),
    }
}

fn put_tcp(tcp: &MatchTcp) -> Writer {
    let mut w = Writer::new(12);
    let mut invert = put_ports(&mut w, &tcp.ports);
    if let Some(option) = &tcp.option {
        w.u8(8, option.value);
    }
    if let Some(flags) = &tcp.flags {
        w.u8(9, flags.value.mask);
        w.u8(10, flags.value.set);
    }
    invert |= flag(inverted(tcp.flags.as_ref()), 4) | flag(inverted(tcp.option.as_ref()), 8);
    w.u8(11, invert);
    w
}

fn get_tcp(r: Reader<'_>) -> MatchTcp {
    let invert = r.u8(11);
    let (option, mask, set) = (r.u8(8), r.u8(9), r.u8(10));
    MatchTcp {
        ports: get_ports(r, 0, 4, invert),
        flags: (mask != 0 || invert & 4 != 0).then_some(Negatable {
            negated: invert & 4 != 0,
            value: TcpFlags { mask, set },
        }),
        option: (option != 0).then_some(Negatable {
            negated: invert & 8 != 0,
            value: option,
        }),
    }
}

fn put_udp(ports: &PortMatch) -> Writer {
    let mut w = Writer::new(10);
    let invert = put_ports(&mut w, ports);
    w.u8(8, invert);
    w
}

/// `XT_SCTP_SRC_PORTS`, `XT_SCTP_DEST_PORTS`.
const SCTP_FLAGS: [u32; 2] = [1, 2];

fn put_sctp(ports: &PortMatch) -> Writer {
    let mut w = Writer::new(292);
    let (mut flags, mut invert) = (0, 0);
    let sides = [(4, &ports.source), (0, &ports.destination)];
    for ((at, side), bit) in sides.into_iter().zip(SCTP_FLAGS) {
        if let Some(side) = side {
            w.u16(at, side.value.first);
            w.u16(at + 2, side.value.last);
            flags |= bit;
            invert |= flag(side.negated, bit);
        }
    }
    // `flag_info`: four entries without a chunk type.
    for at in [268, 271, 274, 277] {
        w.u8(at, u8::MAX);
    }
    w.u32(284, flags);
    w.u32(288, invert);
    w
}

fn get_sctp(r: Reader<'_>) -> Result<PortMatch, Unsupported> {
    let (flags, invert) = (r.u32(284), r.u32(288));
    if flags & !3 != 0 {
        return unsupported("match sctp with chunk types");
    }
    let side = |at, bit| {
        let range = PortRange {
            first: r.u16(at),
            last: r.u16(at + 2),
        };
        (flags & bit != 0).then_some(Negatable {
            negated: invert & bit != 0,
            value: range,
        })
    };
    let [source, destination] = SCTP_FLAGS;
    Ok(PortMatch {
        source: side(4, source),
        destination: side(0, destination),
    })
}

/// `XT_MULTI_PORTS`.
const MULTI_PORTS: usize = 15;

fn put_multiport(multiport: &MatchMultiport) -> Writer {
    let mut w = Writer::new(48);
    w.u8(
        0,
        match multiport.side {
            PortSide::Source => 0,
            PortSide::Destination => 1,
            PortSide::Either => 2,
        },
    );
    let mut count = 0;
    for range in &multiport.ports.value {
        w.u16(2 + 2 * count, range.first);
        if range.first != range.last {
            w.u8(32 + count, 1);
            count += 1;
            w.u16(2 + 2 * count, range.last);
        }
        count += 1;
    }
    w.u8(1, count as u8);
    w.u8(47, multiport.ports.negated.into());
    w
}

fn get_multiport(r: Reader<'_>) -> Result<Match, Unsupported> {
    let side = match r.u8(0) {
        0 => PortSide::Source,
        1 => PortSide::Destination,
        2 => PortSide::Either,
        _ => return unsupported("match multiport of this kind"),
    };
    let mut value = Vec::new();
    let count = usize::from(r.u8(1)).min(MULTI_PORTS);
    let mut at = 0;
    while at < count {
        let first = r.u16(2 + 2 * at);
        let range = r.u8(32 + at) != 0 && at + 1 < count;
        at += usize::from(range);
        let last = r.u16(2 + 2 * at);
        value.push(PortRange { first, last });
        at += 1;
    }
    let negated = r.u8(47) != 0;
    let ports = Negatable { negated, value };
    Ok(Match::Multiport(Box::new(MatchMultiport { side, ports })))
}

fn put_mark(mark: &Negatable<MarkMatch>) -> Writer {
    let mut w = Writer::new(12);
    w.u32(0, mark.value.value);
    w.u32(4, mark.value.mask);
    w.u8(8, mark.negated.into());
    w
}

fn get_mark(r: Reader<'_>) -> Negatable<MarkMatch> {
    Negatable {
        negated: r.u8(8) != 0,
        value: MarkMatch {
            value: r.u32(0),
            mask: r.u32(4),
        },
    }
}

// `struct xt_conntrack_mtinfo3`.
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

fn put_conntrack(ct: &MatchConntrack) -> Result<Writer, Unsupported> {
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

fn get_conntrack(r: Reader<'_>, family: Family) -> Result<Match, Unsupported> {
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

/// `XT_ADDRTYPE_*`.
const ADDRTYPE_INVERT_SOURCE: u32 = 1;
const ADDRTYPE_INVERT_DEST: u32 = 2;
const ADDRTYPE_LIMIT_IFACE_IN: u32 = 4;
const ADDRTYPE_LIMIT_IFACE_OUT: u32 = 8;

fn put_addrtype(m: MatchAddrType) -> Writer {
    let mut w = Writer::new(8);
    for (at, types) in [(0, m.source), (2, m.destination)] {
        if let Some(types) = types {
            let all = AddrType::NAMES.iter().map(|(_, kind)| *kind);
            let set = all.filter(|kind| types.value.contains(*kind));
            w.u16(at, set.fold(0, |mask, kind| mask | kind as u16));
        }
    }
    let flags = flag(inverted(m.source.as_ref()), ADDRTYPE_INVERT_SOURCE)
        | flag(inverted(m.destination.as_ref()), ADDRTYPE_INVERT_DEST)
        | flag(m.limit_in, ADDRTYPE_LIMIT_IFACE_IN)
        | flag(m.limit_out, ADDRTYPE_LIMIT_IFACE_OUT);
    w.u32(4, flags);
    w
}

fn get_addrtype(r: Reader<'_>) -> MatchAddrType {
    let flags = r.u32(4);
    let types = |at: usize, negated: bool| {
        let mask = r.u16(at);
        let all = AddrType::NAMES.iter().map(|(_, kind)| *kind);
        let set = all.filter(|kind| mask & *kind as u16 != 0);
        let value = set.fold(AddrTypes::default(), AddrTypes::with);
        (mask != 0).then_some(Negatable { negated, value })
    };
    MatchAddrType {
        source: types(0, flags & ADDRTYPE_INVERT_SOURCE != 0),
        destination: types(2, flags & ADDRTYPE_INVERT_DEST != 0),
        limit_in: flags & ADDRTYPE_LIMIT_IFACE_IN != 0,
        limit_out: flags & ADDRTYPE_LIMIT_IFACE_OUT != 0,
    }
}

fn put_statistic(m: Negatable<Statistic>) -> Writer {
    let mut w = Writer::new(24);
    w.u16(2, m.negated.into());
    match m.value {
        Statistic::Random(Probability(probability)) => w.u32(4, probability),
        Statistic::Nth { every, packet } => {
            // The kernel counts from 0 to `every - 1`.
            let last = every.saturating_sub(1);
            w.u16(0, 1);
            w.u32(4, last);
            w.u32(8, packet);
            w.u32(12, last.saturating_sub(packet));
        }
    }
    w
}

fn get_statistic(r: Reader<'_>) -> Result<Match, Unsupported> {
    let value = match r.u16(0) {
        0 => Statistic::Random(Probability(r.u32(4))),
        1 => Statistic::Nth {
            every: r.u32(4).saturating_add(1),
            packet: r.u32(8),
        },
        _ => return unsupported("match statistic of this mode"),
    };
    let negated = r.u16(2) & 1 != 0;
    Ok(Match::Statistic(Negatable { negated, value }))
}

// `struct xt_recent_mtinfo_v1` and `XT_RECENT_*`.
const RECENT_NAME: usize = 10;
const RECENT_NAME_LEN: usize = 200;
const RECENT_SIDE: usize = 210;
const RECENT_MASK: usize = 212;
const RECENT_TTL: u8 = 1 << 4;
const RECENT_REAP: u8 = 1 << 5;
const RECENT_ACTIONS: [(u8, RecentAction); 4] = [
    (1 << 0, RecentAction::Check),
    (1 << 1, RecentAction::Set),
    (1 << 2, RecentAction::Update),
    (1 << 3, RecentAction::Remove),
];

fn put_recent(m: &MatchRecent) -> Result<Writer, Unsupported> {
    let mut w = Writer::new(228);
    w.u32(0, m.seconds.unwrap_or_default());
    w.u32(4, m.hit_count.unwrap_or_default());
    let action = RECENT_ACTIONS.iter().find(|(_, a)| *a == m.action.value);
    let action = action.map_or(0, |(bit, _)| *bit);
    w.u8(
        8,
        action | flag(m.ttl, RECENT_TTL) | flag(m.reap, RECENT_REAP),
    );
    w.u8(9, m.action.negated.into());
    w.text(RECENT_NAME, RECENT_NAME_LEN, &m.name)?;
    w.u8(RECENT_SIDE, m.destination.into());
    w.ip(RECENT_MASK, m.mask);
    Ok(w)
}

fn get_recent(r: Reader<'_>, family: Family) -> Result<Match, Unsupported> {
    let checks = r.u8(8);
    let action = RECENT_ACTIONS.iter().find(|(bit, _)| checks & bit != 0);
    let Some((_, value)) = action.copied() else {
        return unsupported("match recent without an action");
    };
    let positive = |number: u32| (number != 0).then_some(number);
    Ok(Match::Recent(Box::new(MatchRecent {
        action: Negatable {
            negated: r.u8(9) != 0,
            value,
        },
        seconds: positive(r.u32(0)),
        reap: checks & RECENT_REAP != 0,
        hit_count: positive(r.u32(4)),
        ttl: checks & RECENT_TTL != 0,
        name: r.text(RECENT_NAME, RECENT_NAME_LEN)?.into(),
        mask: r.ip(RECENT_MASK, family),
        destination: r.u8(RECENT_SIDE) != 0,
    })))
}

fn put_icmp(m: &Negatable<IcmpType>) -> Writer {
    let mut w = Writer::new(4);
    let code = m.value.code;
    w.bytes(
        0,
        &[
            m.value.kind,
            code.unwrap_or(0),
            code.unwrap_or(u8::MAX),
            m.negated.into(),
        ],
    );
    w
}

fn get_icmp(r: Reader<'_>, v6: bool) -> Match {
    let (low, high) = (r.u8(1), r.u8(2));
    Match::Icmp(Negatable {
        negated: r.u8(3) & 1 != 0,
        value: IcmpType {
            v6,
            kind: r.u8(0),
            code: (low == high).then_some(low),
        },
    })
}

fn rpfilter_flags(m: MatchRpfilter) -> u8 {
    flag(m.loose, 1) | flag(m.validmark, 2) | flag(m.accept_local, 4) | flag(m.invert, 8)
}

fn get_rpfilter(r: Reader<'_>) -> Result<Match, Unsupported> {
    let flags = r.u8(0);
    if flags & !15 != 0 {
        return unsupported("match rpfilter with these flags");
    }
    Ok(Match::Rpfilter(MatchRpfilter {
        loose: flags & 1 != 0,
        validmark: flags & 2 != 0,
        accept_local: flags & 4 != 0,
        invert: flags & 8 != 0,
    }))
}

/// `XT_OWNER_UID`, `XT_OWNER_GID`, `XT_OWNER_SOCKET`.
const OWNER: [u8; 3] = [1, 2, 4];

fn put_owner(m: &MatchOwner) -> Writer {
    let mut w = Writer::new(20);
    let (mut given, mut invert) = (0, 0);
    for ((at, range), bit) in [(0, &m.uid), (8, &m.gid)].into_iter().zip(OWNER) {
        if let Some(range) = range {
            w.u32(at, range.value.0);
            w.u32(at + 4, range.value.1);
            given |= bit;
            invert |= flag(range.negated, bit);
        }
    }
    if let Some(exists) = m.socket_exists {
        given |= OWNER[2];
        invert |= flag(!exists, OWNER[2]);
    }
    w.u8(16, given);
    w.u8(17, invert);
    w
}

fn get_owner(r: Reader<'_>) -> Match {
    let (given, invert) = (r.u8(16), r.u8(17));
    let range = |at: usize, bit: u8| {
        (given & bit != 0).then_some(Negatable {
            negated: invert & bit != 0,
            value: (r.u32(at), r.u32(at + 4)),
        })
    };
    let [uid, gid, socket] = OWNER;
    Match::Owner(Box::new(MatchOwner {
        uid: range(0, uid),
        gid: range(8, gid),
        socket_exists: (given & socket != 0).then_some(invert & socket == 0),
    }))
}

fn put_iprange(m: &MatchIpRange) -> Writer {
    let mut w = Writer::new(68);
    let mut flags = 0;
    for (at, side, bit) in [(0, &m.source, 1), (32, &m.destination, 2)] {
        if let Some(side) = side {
            w.ip(at, side.value.0);
            w.ip(at + 16, side.value.1);
            flags |= bit | flag(side.negated, bit << 4);
        }
    }
    w.u8(64, flags);
    w
}

fn get_iprange(r: Reader<'_>, family: Family) -> Match {
    let flags = r.u8(64);
    let side = |at: usize, bit: u8| {
        (flags & bit != 0).then(|| Negatable {
            negated: flags & bit << 4 != 0,
            value: (r.ip(at, family), r.ip(at + 16, family)),
        })
    };
    Match::IpRange(Box::new(MatchIpRange {
        source: side(0, 1),
        destination: side(32, 2),
    }))
}

/// `IFNAMSIZ`.
const IFNAMSIZ: usize = 16;
// `XT_PHYSDEV_OP_*`.
const PHYSDEV_IN: u8 = 1;
const PHYSDEV_OUT: u8 = 2;
const PHYSDEV_BRIDGED: u8 = 4;
const PHYSDEV_ISIN: u8 = 8;
const PHYSDEV_ISOUT: u8 = 16;

fn put_physdev(m: &MatchPhysdev) -> Result<Writer, Unsupported> {
    let mut w = Writer::new(68);
    let (mut given, mut invert) = (0, 0);
    let ports = [(0, &m.in_port, PHYSDEV_IN), (32, &m.out_port, PHYSDEV_OUT)];
    for (at, port, bit) in ports {
        if let Some(port) = port {
            let (name, len) = match &port.value {
                Interface::Name(name) => (name, name.len() + 1),
                Interface::Prefix(name) => (name, name.len()),
            };
            w.text(at, IFNAMSIZ, name)?;
            w.bytes(at + IFNAMSIZ, &[u8::MAX; IFNAMSIZ][..len.min(IFNAMSIZ)]);
            given |= bit;
            invert |= flag(port.negated, bit);
        }
    }
    let switches = [
        (m.is_bridged, PHYSDEV_BRIDGED),
        (m.is_in, PHYSDEV_ISIN),
        (m.is_out, PHYSDEV_ISOUT),
    ];
    for (switch, bit) in switches {
        if let Some(on) = switch {
            given |= bit;
            invert |= flag(!on, bit);
        }
    }
    w.u8(64, invert);
    w.u8(65, given);
    Ok(w)
}

fn get_physdev(r: Reader<'_>) -> Result<Match, Unsupported> {
    let (invert, given) = (r.u8(64), r.u8(65));
    let port = |at: usize, bit: u8| -> Result<_, Unsupported> {
        if given & bit == 0 {
            return Ok(None);
        }
        let name: Box<str> = r.text(at, IFNAMSIZ)?.into();
        let whole = r.u8(at + IFNAMSIZ + name.len()) != 0;
        Ok(Some(Negatable {
            negated: invert & bit != 0,
            value: if whole {
                Interface::Name(name)
            } else {
                Interface::Prefix(name)
            },
        }))
    };
    let switch = |bit: u8| (given & bit != 0).then_some(invert & bit == 0);
    Ok(Match::Physdev(Box::new(MatchPhysdev {
        in_port: port(0, PHYSDEV_IN)?,
        out_port: port(32, PHYSDEV_OUT)?,
        is_in: switch(PHYSDEV_ISIN),
        is_out: switch(PHYSDEV_ISOUT),
        is_bridged: switch(PHYSDEV_BRIDGED),
    })))
}
