//! Matches from their options.

mod conntrack;

use std::net::IpAddr;

use super::super::{
    AddrType, AddrTypes, Family, IcmpType, IpvsDirection, LimitUnit, Match, MatchAddrType,
    MatchIpRange, MatchIpvs, MatchLimit, MatchMultiport, MatchOwner, MatchPhysdev, MatchRecent,
    MatchRpfilter, MatchSet, MatchTcp, Negatable, Net, PortMatch, PortRange, PortSide, Probability,
    RecentAction, Statistic, TcpFlags,
};
use super::segment::{Item, Segment, needed, plain, value, verbatim, with};
use super::words::Word;
use super::{Fault, Parsed, values};

use conntrack::{conntrack, ct_states};

/// Whether this match has a type of its own.
pub(super) fn is_modelled(name: &str) -> bool {
    matches!(
        name,
        "comment"
            | "tcp"
            | "udp"
            | "sctp"
            | "multiport"
            | "mark"
            | "connmark"
            | "conntrack"
            | "state"
            | "addrtype"
            | "statistic"
            | "recent"
            | "nfacct"
            | "set"
            | "physdev"
            | "limit"
            | "icmp"
            | "icmp6"
            | "icmpv6"
            | "rpfilter"
            | "owner"
            | "ipvs"
            | "iprange"
    )
}

/// The match that a segment says. One with options or values beyond the model is kept word for
/// word.
pub(super) fn build(family: Family, segment: &Segment<'_>) -> Parsed<Match> {
    let modelled = if segment.foreign {
        None
    } else {
        build_modelled(family, segment)?
    };
    Ok(modelled.unwrap_or_else(|| Match::Unknown(Box::new(verbatim(segment)))))
}

fn build_modelled(family: Family, segment: &Segment<'_>) -> Parsed<Option<Match>> {
    Ok(Some(match segment.name {
        "comment" => Match::Comment(text(segment, "--comment")?),
        "tcp" => Match::Tcp(tcp(segment)?),
        "udp" => Match::Udp(ports(segment)?),
        "sctp" => {
            if segment.items.iter().any(|i| i.option == "--chunk-types") {
                return Ok(None);
            }
            Match::Sctp(ports(segment)?)
        }
        "multiport" => Match::Multiport(Box::new(multiport(segment)?)),
        "mark" => Match::Mark(mark(segment)?),
        "connmark" => Match::Connmark(mark(segment)?),
        "conntrack" => Match::Conntrack(Box::new(conntrack(family, segment)?)),
        "state" => {
            let mut found = None;
            for item in &segment.items {
                found = Some(with(item, ct_states(value(item)?)?));
            }
            Match::State(needed(found, segment, "--state")?)
        }
        "addrtype" => Match::Addrtype(addrtype(segment)?),
        "statistic" => Match::Statistic(statistic(segment)?),
        "recent" => Match::Recent(Box::new(recent(family, segment)?)),
        "nfacct" => Match::Nfacct(text(segment, "--nfacct-name")?),
        "set" => match set(segment)? {
            Some(set) => Match::Set(Box::new(set)),
            None => return Ok(None),
        },
        "physdev" => Match::Physdev(Box::new(physdev(segment)?)),
        "limit" => Match::Limit(limit(segment)?),
        "icmp" | "icmp6" | "icmpv6" => match icmp(segment)? {
            Some(icmp) => Match::Icmp(icmp),
            None => return Ok(None),
        },
        "rpfilter" => Match::Rpfilter(rpfilter(segment)?),
        "owner" => match owner(segment)? {
            Some(owner) => Match::Owner(Box::new(owner)),
            None => return Ok(None),
        },
        "ipvs" => Match::Ipvs(Box::new(ipvs(family, segment)?)),
        "iprange" => Match::IpRange(Box::new(ip_range(family, segment)?)),
        _ => return Ok(None),
    }))
}

fn text(segment: &Segment<'_>, option: &str) -> Parsed<Box<str>> {
    let mut found = None;
    for item in &segment.items {
        plain(item)?;
        found = Some(Box::from(&*value(item)?.text));
    }
    needed(found, segment, option)
}

/// Reads `--sport` and `--dport`; `false` for another option.
fn port(item: &Item<'_>, into: &mut PortMatch) -> Parsed<bool> {
    let side = match item.option {
        "--sport" | "--source-port" => &mut into.source,
        "--dport" | "--destination-port" => &mut into.destination,
        _ => return Ok(false),
    };
    let range = values::ports(value(item)?, ':')?;
    let everything = range
        == PortRange {
            first: 0,
            last: u16::MAX,
        };
    // iptables does not print a condition that always holds.
    *side = (!everything || item.negated).then(|| with(item, range));
    Ok(true)
}

fn ports(segment: &Segment<'_>) -> Parsed<PortMatch> {
    let mut found = PortMatch::default();
    for item in &segment.items {
        port(item, &mut found)?;
    }
    Ok(found)
}

fn tcp(segment: &Segment<'_>) -> Parsed<MatchTcp> {
    let mut found = MatchTcp::default();
    for item in &segment.items {
        if port(item, &mut found.ports)? {
            continue;
        }
        match item.option {
            "--syn" => found.flags = Some(with(item, TcpFlags::SYN)),
            "--tcp-flags" => {
                let mut flags = [0u8; 2];
                for (bits, word) in flags.iter_mut().zip(item.values.as_slice()) {
                    *bits = tcp_flags(word)?;
                }
                let [mask, set] = flags;
                found.flags = Some(with(item, TcpFlags { mask, set }));
            }
            "--tcp-option" => found.option = Some(with(item, values::number(value(item)?)?)),
            _ => {}
        }
    }
    Ok(found)
}

fn tcp_flags(word: &Word<'_>) -> Parsed<u8> {
    match &*word.text {
        "NONE" => Ok(0),
        "ALL" => Ok(0x3f),
        _ => {
            let mut bits = 0;
            values::names(word, &TcpFlags::NAMES, "a list of TCP flags", |b| bits |= b)?;
            Ok(bits)
        }
    }
}

fn multiport(segment: &Segment<'_>) -> Parsed<MatchMultiport> {
    let mut found = None;
    for item in &segment.items {
        let word = value(item)?;
        let side = match item.option {
            "--sports" | "--source-ports" => PortSide::Source,
            "--dports" | "--destination-ports" => PortSide::Destination,
            _ => PortSide::Either,
        };
        let ports: Option<Vec<_>> = word
            .text
            .split(',')
            .map(|p| values::ports_in(p, ':'))
            .collect();
        // XT_MULTI_PORTS; a range takes two.
        let room = |ports: &Vec<PortRange>| {
            let taken = ports.iter().map(|p| 1 + usize::from(p.first != p.last));
            taken.sum::<usize>() <= 15
        };
        let ports = ports.filter(room);
        let ports = ports.ok_or_else(|| Fault::not_a(word, "a list of up to 15 ports"))?;
        found = Some(MatchMultiport {
            side,
            ports: with(item, ports),
        });
    }
    needed(found, segment, "--sports, --dports or --ports")
}

fn mark(segment: &Segment<'_>) -> Parsed<Negatable<super::super::MarkMatch>> {
    let mut found = None;
    for item in &segment.items {
        found = Some(with(item, values::mark(value(item)?)?));
    }
    needed(found, segment, "--mark")
}

fn addrtype(segment: &Segment<'_>) -> Parsed<MatchAddrType> {
    let mut found = MatchAddrType::default();
    for item in &segment.items {
        let types = || -> Parsed<_> {
            let mut types = AddrTypes::default();
            values::names(
                value(item)?,
                &AddrType::NAMES,
                "a list of address types",
                |t| types = types.with(t),
            )?;
            Ok(Some(with(item, types)))
        };
        match item.option {
            "--src-type" => found.source = types()?,
            "--dst-type" => found.destination = types()?,
            "--limit-iface-in" => found.limit_in = true,
            _ => found.limit_out = true,
        }
    }
    Ok(found)
}

fn statistic(segment: &Segment<'_>) -> Parsed<Negatable<Statistic>> {
    let (mut random, mut every, mut packet, mut mode) = (None, None, None, None);
    let mut negated = false;
    for item in &segment.items {
        let word = value(item)?;
        match item.option {
            "--mode" => mode = Some(word),
            "--probability" => random = Some(probability(word)?),
            "--every" => every = Some(values::number(word)?),
            _ => packet = Some(values::number(word)?),
        }
        negated |= item.negated;
    }
    let mode = needed(mode, segment, "--mode")?;
    let value = match &*mode.text {
        "random" => Statistic::Random(needed(random, segment, "--probability")?),
        "nth" => {
            let every: u32 = needed(every, segment, "--every")?;
            let packet = packet.unwrap_or(0);
            if packet >= every {
                let message = "--packet must be less than --every";
                return Err(Fault::new(segment.column, message));
            }
            Statistic::Nth { every, packet }
        }
        _ => return Err(Fault::not_a(mode, "a mode: random or nth")),
    };
    Ok(Negatable { negated, value })
}

/// As iptables reads it: the nearest fraction of 2³¹.
fn probability(word: &Word<'_>) -> Parsed<Probability> {
    let parsed = word.text.parse().ok().filter(|p| (0.0..=1.0).contains(p));
    let fraction: f64 = parsed.ok_or_else(|| Fault::not_a(word, "a probability: 0 to 1"))?;
    Ok(Probability(
        (fraction * f64::from(Probability::ONE.0)).round() as u32,
    ))
}

fn recent(family: Family, segment: &Segment<'_>) -> Parsed<MatchRecent> {
    let mut action = None;
    let mut found = MatchRecent {
        action: Negatable::is(RecentAction::Set),
        seconds: None,
        reap: false,
        hit_count: None,
        ttl: false,
        name: "DEFAULT".into(),
        mask: family.host_mask(),
        destination: false,
    };
    for item in &segment.items {
        match item.option {
            "--set" => action = Some(with(item, RecentAction::Set)),
            "--rcheck" => action = Some(with(item, RecentAction::Check)),
            "--update" => action = Some(with(item, RecentAction::Update)),
            "--remove" => action = Some(with(item, RecentAction::Remove)),
            "--seconds" => found.seconds = Some(values::number(value(item)?)?),
            "--reap" => found.reap = true,
            "--hitcount" => found.hit_count = Some(values::number(value(item)?)?),
            "--rttl" => found.ttl = true,
            "--name" => found.name = Box::from(&*value(item)?.text),
            "--mask" => found.mask = recent_mask(family, value(item)?)?,
            "--rsource" => found.destination = false,
            _ => found.destination = true,
        }
    }
    found.action = needed(action, segment, "--set, --rcheck, --update or --remove")?;
    Ok(found)
}

fn recent_mask(family: Family, word: &Word<'_>) -> Parsed<IpAddr> {
    values::address(family, word)
}

/// `None` where the options go beyond the model.
fn set(segment: &Segment<'_>) -> Parsed<Option<MatchSet>> {
    let mut found = None;
    let mut return_nomatch = false;
    for item in &segment.items {
        match (item.option, item.values.as_slice()) {
            ("--match-set" | "--set", [name, directions]) => {
                found = Some((
                    with(item, Box::from(&*name.text)),
                    values::set_directions(directions)?,
                ));
            }
            ("--return-nomatch", []) if !item.negated => return_nomatch = true,
            _ => return Ok(None),
        }
    }
    let (name, directions) = needed(found, segment, "--match-set")?;
    Ok(Some(MatchSet {
        name,
        directions,
        return_nomatch,
    }))
}

fn physdev(segment: &Segment<'_>) -> Parsed<MatchPhysdev> {
    let mut found = MatchPhysdev::default();
    for item in &segment.items {
        let port = || -> Parsed<_> { Ok(Some(with(item, values::interface(value(item)?)?))) };
        match item.option {
            "--physdev-in" => found.in_port = port()?,
            "--physdev-out" => found.out_port = port()?,
            "--physdev-is-in" => found.is_in = Some(!item.negated),
            "--physdev-is-out" => found.is_out = Some(!item.negated),
            _ => found.is_bridged = Some(!item.negated),
        }
    }
    Ok(found)
}

fn limit(segment: &Segment<'_>) -> Parsed<MatchLimit> {
    // What iptables takes where nothing is given (XT_LIMIT_AVG, XT_LIMIT_BURST).
    let mut found = MatchLimit {
        rate: 3,
        per: LimitUnit::Hour,
        burst: 5,
    };
    for item in &segment.items {
        plain(item)?;
        let word = value(item)?;
        if item.option == "--limit-burst" {
            found.burst = values::number(word)?;
            continue;
        }
        let (rate, per) = word.text.split_once('/').unwrap_or((&word.text, "second"));
        let unit = [
            ("second", LimitUnit::Second),
            ("minute", LimitUnit::Minute),
            ("hour", LimitUnit::Hour),
            ("day", LimitUnit::Day),
        ]
        .into_iter()
        .find(|(name, _)| !per.is_empty() && name.starts_with(per));
        let rate = values::number_in(rate).filter(|rate| *rate != 0);
        let (rate, (_, unit)) = rate
            .zip(unit)
            .ok_or_else(|| Fault::not_a(word, "a rate: 5/second, 3/hour"))?;
        found.rate = rate;
        found.per = unit;
    }
    Ok(found)
}

/// Names of types that are in common use; the rest are written as numbers.
const ICMP_NAMES: &[(&str, u8, Option<u8>)] = &[
    ("any", 255, None),
    ("echo-reply", 0, None),
    ("pong", 0, None),
    ("destination-unreachable", 3, None),
    ("network-unreachable", 3, Some(0)),
    ("host-unreachable", 3, Some(1)),
    ("protocol-unreachable", 3, Some(2)),
    ("port-unreachable", 3, Some(3)),
    ("fragmentation-needed", 3, Some(4)),
    ("source-quench", 4, None),
    ("redirect", 5, None),
    ("echo-request", 8, None),
    ("ping", 8, None),
    ("router-advertisement", 9, None),
    ("router-solicitation", 10, None),
    ("time-exceeded", 11, None),
    ("ttl-exceeded", 11, None),
    ("parameter-problem", 12, None),
    ("timestamp-request", 13, None),
    ("timestamp-reply", 14, None),
];

const ICMPV6_NAMES: &[(&str, u8, Option<u8>)] = &[
    ("destination-unreachable", 1, None),
    ("no-route", 1, Some(0)),
    ("communication-prohibited", 1, Some(1)),
    ("address-unreachable", 1, Some(3)),
    ("port-unreachable", 1, Some(4)),
    ("packet-too-big", 2, None),
    ("time-exceeded", 3, None),
    ("ttl-exceeded", 3, None),
    ("parameter-problem", 4, None),
    ("echo-request", 128, None),
    ("ping", 128, None),
    ("echo-reply", 129, None),
    ("pong", 129, None),
    ("router-solicitation", 133, None),
    ("router-advertisement", 134, None),
    ("neighbour-solicitation", 135, None),
    ("neighbor-solicitation", 135, None),
    ("neighbour-advertisement", 136, None),
    ("neighbor-advertisement", 136, None),
    ("redirect", 137, None),
];

/// `None` where the type is a name that is not in the tables above.
fn icmp(segment: &Segment<'_>) -> Parsed<Option<Negatable<IcmpType>>> {
    let v6 = segment.name != "icmp";
    // Without the option every type is meant, which only IPv4 can say.
    let mut found = (!v6).then_some(Negatable::is(IcmpType {
        v6,
        kind: 255,
        code: None,
    }));
    for item in &segment.items {
        let word = value(item)?;
        let names = if v6 { ICMPV6_NAMES } else { ICMP_NAMES };
        let named = names.iter().find(|(name, ..)| *name == word.text);
        let (kind, code) = match (named, word.text.split_once('/')) {
            (Some((_, kind, code)), _) => (Some(*kind), *code),
            (None, None) => (values::number_in(&word.text), None),
            (None, Some((kind, code))) => match values::number_in(code) {
                Some(code) => (values::number_in(kind), Some(code)),
                None => (None, None),
            },
        };
        let Some(kind) = kind else {
            return Ok(None);
        };
        // As iptables prints it: `any` has no code.
        let code = code.filter(|_| v6 || kind != 255);
        found = Some(with(item, IcmpType { v6, kind, code }));
    }
    Ok(found)
}

fn rpfilter(segment: &Segment<'_>) -> Parsed<MatchRpfilter> {
    let mut found = MatchRpfilter::default();
    for item in &segment.items {
        plain(item)?;
        match item.option {
            "--loose" => found.loose = true,
            "--validmark" => found.validmark = true,
            "--accept-local" => found.accept_local = true,
            _ => found.invert = true,
        }
    }
    Ok(found)
}

/// `None` where a user or group is given by name, which only the host can resolve.
fn owner(segment: &Segment<'_>) -> Parsed<Option<MatchOwner>> {
    let mut found = MatchOwner::default();
    for item in &segment.items {
        if item.option == "--socket-exists" {
            found.socket_exists = Some(!item.negated);
            continue;
        }
        let Some(range) = values::u32_range(&value(item)?.text, '-') else {
            return Ok(None);
        };
        match item.option {
            "--uid-owner" => found.uid = Some(with(item, range)),
            _ => found.gid = Some(with(item, range)),
        }
    }
    Ok(Some(found))
}

fn ipvs(family: Family, segment: &Segment<'_>) -> Parsed<MatchIpvs> {
    let mut found = MatchIpvs::default();
    for item in &segment.items {
        match item.option {
            "--ipvs" => found.is_ipvs = Some(!item.negated),
            "--vproto" => {
                found.protocol = values::protocol(value(item)?)?.map(|p| with(item, p));
            }
            "--vaddr" => {
                let net: Net = values::net(family, value(item)?)?;
                found.address = Some(with(item, net));
            }
            "--vport" => found.port = Some(with(item, values::number(value(item)?)?)),
            "--vdir" => {
                let word = value(item)?;
                found.direction = Some(match &*word.text {
                    "ORIGINAL" => IpvsDirection::Original,
                    "REPLY" => IpvsDirection::Reply,
                    _ => return Err(Fault::not_a(word, "ORIGINAL or REPLY")),
                });
            }
            "--vmethod" => {
                found.method = Some(with(item, Box::from(&*value(item)?.text)));
            }
            _ => found.control_port = Some(with(item, values::number(value(item)?)?)),
        }
    }
    Ok(found)
}

fn ip_range(family: Family, segment: &Segment<'_>) -> Parsed<MatchIpRange> {
    let mut found = MatchIpRange::default();
    for item in &segment.items {
        let range = with(item, values::address_range(family, value(item)?)?);
        match item.option {
            "--src-range" => found.source = Some(range),
            _ => found.destination = Some(range),
        }
    }
    Ok(found)
}
