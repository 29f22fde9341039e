//! Matches as nft_compat expressions (`match`).

mod conntrack;
mod ipvs;
mod limit;
mod ports;

use super::info::{Reader, Writer};
use super::{SetIndex, Unsupported, foreign, sets};
use crate::iptables::{
    AddrType, AddrTypes, Family, IcmpType, Interface, MarkMatch, Match, MatchAddrType,
    MatchIpRange, MatchOwner, MatchPhysdev, MatchRecent, MatchRpfilter, Negatable, Probability,
    RecentAction, Statistic,
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
        Match::Tcp(tcp) => found("tcp", 0, ports::put_tcp(tcp)),
        Match::Udp(ports) => found("udp", 0, ports::put_udp(ports)),
        Match::Sctp(ports) => found("sctp", 0, ports::put_sctp(ports)),
        Match::Multiport(multiport) => found("multiport", 1, ports::put_multiport(multiport)),
        Match::Mark(mark) => found("mark", 1, put_mark(mark)),
        Match::Connmark(mark) => found("connmark", 1, put_mark(mark)),
        Match::Conntrack(ct) => found("conntrack", 3, conntrack::put(ct)?),
        Match::State(states) => found("conntrack", 3, conntrack::put_state(*states)?),
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
        ("tcp", 0) => (12, |r, _| Ok(Match::Tcp(ports::get_tcp(r)))),
        ("udp", 0) => (10, |r, _| {
            Ok(Match::Udp(ports::get_ports(r, 0, 4, r.u8(8))))
        }),
        ("sctp", 0) => (292, |r, _| ports::get_sctp(r).map(Match::Sctp)),
        ("multiport", 1) => (48, |r, _| ports::get_multiport(r)),
        ("mark", 1) => (12, |r, _| Ok(Match::Mark(get_mark(r)))),
        ("connmark", 1) => (12, |r, _| Ok(Match::Connmark(get_mark(r)))),
        ("conntrack", 3) => (162, conntrack::get),
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
        _ => {
            let found = foreign::read_match(family, name, revision, info);
            let found = found.map(|extension| Match::Unknown(Box::new(extension)));
            let what = || Unsupported::new(format!("match {name} revision {revision}"));
            return found.ok_or_else(what);
        }
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
