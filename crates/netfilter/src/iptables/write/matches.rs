//! The text of matches. The order of options is that of each extension's `save` function.

use super::super::{
    AddrType, AddrTypes, CtDirection, CtState, CtStates, CtStatus, CtStatuses, IpvsDirection,
    LimitUnit, MarkMatch, Match, MatchAddrType, MatchConntrack, MatchIpRange, MatchIpvs,
    MatchLimit, MatchMultiport, MatchOwner, MatchPhysdev, MatchRecent, MatchRpfilter, MatchSet,
    MatchTcp, Negatable, PortMatch, PortSide, Probability, RecentAction, SetDirection, Statistic,
    TcpFlags,
};
use super::{
    address, hex, interface_name, negation, net_short, number, option, option_number, port_range,
    quoted, raw_word, words,
};

pub(super) fn write(out: &mut String, m: &Match) {
    match m {
        Match::Comment(text) => {
            out.push_str(" -m comment --comment");
            quoted(out, text);
        }
        Match::Tcp(tcp) => write_tcp(out, tcp),
        Match::Udp(ports) => {
            out.push_str(" -m udp");
            write_ports(out, ports);
        }
        Match::Sctp(ports) => {
            out.push_str(" -m sctp");
            write_ports(out, ports);
        }
        Match::Multiport(multiport) => write_multiport(out, multiport),
        Match::Mark(mark) => write_mark(out, " -m mark", mark),
        Match::Connmark(mark) => write_mark(out, " -m connmark", mark),
        Match::Conntrack(conntrack) => write_conntrack(out, conntrack),
        Match::State(states) => {
            out.push_str(" -m state");
            negation(out, states);
            out.push_str(" --state ");
            write_states(out, states.value);
        }
        Match::Addrtype(addrtype) => write_addrtype(out, addrtype),
        Match::Statistic(statistic) => write_statistic(out, statistic),
        Match::Recent(recent) => write_recent(out, recent),
        Match::Nfacct(name) => {
            // iptables prints two spaces here, and so do we.
            out.push_str(" -m nfacct --nfacct-name ");
            quoted(out, name);
        }
        Match::Set(set) => write_set(out, set),
        Match::Physdev(physdev) => write_physdev(out, physdev),
        Match::Limit(limit) => write_limit(out, limit),
        Match::Icmp(icmp) => write_icmp(out, icmp),
        Match::Rpfilter(rpfilter) => write_rpfilter(out, rpfilter),
        Match::Owner(owner) => write_owner(out, owner),
        Match::Ipvs(ipvs) => write_ipvs(out, ipvs),
        Match::IpRange(range) => write_ip_range(out, range),
        Match::Unknown(extension) => {
            out.push_str(" -m ");
            raw_word(out, &extension.name);
            words(out, &extension.words);
        }
    }
}

fn write_ports(out: &mut String, ports: &PortMatch) {
    for (name, side) in [
        (" --sport ", ports.source),
        (" --dport ", ports.destination),
    ] {
        if let Some(range) = side {
            negation(out, &range);
            out.push_str(name);
            port_range(out, range.value, ':');
        }
    }
}

fn write_tcp(out: &mut String, tcp: &MatchTcp) {
    out.push_str(" -m tcp");
    write_ports(out, &tcp.ports);
    if let Some(kind) = &tcp.option {
        negation(out, kind);
        option_number(out, "--tcp-option", kind.value.into());
    }
    if let Some(flags) = &tcp.flags {
        negation(out, flags);
        out.push_str(" --tcp-flags ");
        names(out, &TcpFlags::NAMES, "NONE", |bit| {
            flags.value.mask & bit != 0
        });
        out.push(' ');
        names(out, &TcpFlags::NAMES, "NONE", |bit| {
            flags.value.set & bit != 0
        });
    }
}

/// The names for which `chosen` holds, with commas; `none` where there is none.
fn names<T: Copy>(
    out: &mut String,
    all: &[(&'static str, T)],
    none: &str,
    chosen: impl Fn(T) -> bool,
) {
    let mut first = true;
    for (name, value) in all {
        if chosen(*value) {
            if !first {
                out.push(',');
            }
            first = false;
            out.push_str(name);
        }
    }
    if first {
        out.push_str(none);
    }
}

fn write_multiport(out: &mut String, multiport: &MatchMultiport) {
    out.push_str(" -m multiport");
    negation(out, &multiport.ports);
    out.push_str(match multiport.side {
        PortSide::Source => " --sports ",
        PortSide::Destination => " --dports ",
        PortSide::Either => " --ports ",
    });
    for (i, range) in multiport.ports.value.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        port_range(out, *range, ':');
    }
}

fn write_mark(out: &mut String, name: &str, mark: &Negatable<MarkMatch>) {
    out.push_str(name);
    negation(out, mark);
    out.push_str(" --mark ");
    hex(out, mark.value.value);
    if mark.value.mask != u32::MAX {
        out.push('/');
        hex(out, mark.value.mask);
    }
}

fn write_states(out: &mut String, states: CtStates) {
    names(out, &CtState::NAMES, "", |s| states.contains(s));
}

fn write_statuses(out: &mut String, statuses: CtStatuses) {
    names(out, &CtStatus::NAMES, "NONE", |s| statuses.contains(s));
}

fn write_conntrack(out: &mut String, ct: &MatchConntrack) {
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

fn u32_range(out: &mut String, (first, last): (u32, u32), separator: char) {
    number(out, first.into());
    if last != first {
        out.push(separator);
        number(out, last.into());
    }
}

fn write_addrtype(out: &mut String, addrtype: &MatchAddrType) {
    out.push_str(" -m addrtype");
    let mut side = |name, types: Option<Negatable<AddrTypes>>| {
        if let Some(types) = types {
            negation(out, &types);
            out.push_str(name);
            names(out, &AddrType::NAMES, "", |t| types.value.contains(t));
        }
    };
    side(" --src-type ", addrtype.source);
    side(" --dst-type ", addrtype.destination);
    if addrtype.limit_in {
        option(out, "--limit-iface-in");
    }
    if addrtype.limit_out {
        option(out, "--limit-iface-out");
    }
}

fn write_statistic(out: &mut String, statistic: &Negatable<Statistic>) {
    match statistic.value {
        Statistic::Random(probability) => {
            out.push_str(" -m statistic --mode random");
            negation(out, statistic);
            out.push_str(" --probability ");
            write_probability(out, probability);
        }
        Statistic::Nth { every, packet } => {
            out.push_str(" -m statistic --mode nth");
            negation(out, statistic);
            option_number(out, "--every", every.into());
            option_number(out, "--packet", packet.into());
        }
    }
}

/// What `printf("%.11f")` makes of the fraction: rounded to nearest, a tie to even.
fn write_probability(out: &mut String, probability: Probability) {
    const DIGITS: u64 = 100_000_000_000;
    // value * 10^11 / 2^31, shortened by 2^11 so that it fits.
    let scaled = u64::from(probability.0) * 5u64.pow(11);
    let (mut n, rest, half) = (scaled >> 20, scaled & ((1 << 20) - 1), 1 << 19);
    if rest > half || (rest == half && n % 2 == 1) {
        n += 1;
    }
    number(out, n / DIGITS);
    out.push('.');
    // A digit in front keeps the zeros.
    let at = out.len();
    number(out, DIGITS + n % DIGITS);
    out.remove(at);
}

fn write_recent(out: &mut String, recent: &MatchRecent) {
    out.push_str(" -m recent");
    negation(out, &recent.action);
    out.push_str(match recent.action.value {
        RecentAction::Set => " --set",
        RecentAction::Check => " --rcheck",
        RecentAction::Update => " --update",
        RecentAction::Remove => " --remove",
    });
    if let Some(seconds) = recent.seconds {
        option_number(out, "--seconds", seconds.into());
    }
    if recent.reap {
        option(out, "--reap");
    }
    if let Some(hits) = recent.hit_count {
        option_number(out, "--hitcount", hits.into());
    }
    if recent.ttl {
        option(out, "--rttl");
    }
    out.push_str(" --name ");
    raw_word(out, &recent.name);
    out.push_str(" --mask ");
    address(out, recent.mask);
    out.push_str(if recent.destination {
        " --rdest"
    } else {
        " --rsource"
    });
}

pub(super) fn set_directions(out: &mut String, directions: &[SetDirection]) {
    for (i, direction) in directions.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(match direction {
            SetDirection::Source => "src",
            SetDirection::Destination => "dst",
        });
    }
}

fn write_set(out: &mut String, set: &MatchSet) {
    out.push_str(" -m set");
    negation(out, &set.name);
    out.push_str(" --match-set ");
    raw_word(out, &set.name.value);
    out.push(' ');
    set_directions(out, &set.directions);
    if set.return_nomatch {
        option(out, "--return-nomatch");
    }
}

/// An option without a value that can be turned round.
fn switch(out: &mut String, name: &str, value: Option<bool>) {
    if let Some(on) = value {
        if !on {
            out.push_str(" !");
        }
        option(out, name);
    }
}

fn write_physdev(out: &mut String, physdev: &MatchPhysdev) {
    out.push_str(" -m physdev");
    switch(out, "--physdev-is-in", physdev.is_in);
    if let Some(port) = &physdev.in_port {
        negation(out, port);
        out.push_str(" --physdev-in ");
        interface_name(out, &port.value);
    }
    switch(out, "--physdev-is-out", physdev.is_out);
    if let Some(port) = &physdev.out_port {
        negation(out, port);
        out.push_str(" --physdev-out ");
        interface_name(out, &port.value);
    }
    switch(out, "--physdev-is-bridged", physdev.is_bridged);
}

fn write_limit(out: &mut String, limit: &MatchLimit) {
    out.push_str(" -m limit");
    option_number(out, "--limit", limit.rate.into());
    out.push_str(match limit.per {
        LimitUnit::Second => "/sec",
        LimitUnit::Minute => "/min",
        LimitUnit::Hour => "/hour",
        LimitUnit::Day => "/day",
    });
    // XT_LIMIT_BURST; iptables does not print it.
    if limit.burst != 5 {
        option_number(out, "--limit-burst", limit.burst.into());
    }
}

fn write_icmp(out: &mut String, icmp: &Negatable<super::super::IcmpType>) {
    out.push_str(if icmp.value.v6 {
        " -m icmp6"
    } else {
        " -m icmp"
    });
    negation(out, icmp);
    out.push_str(if icmp.value.v6 {
        " --icmpv6-type "
    } else {
        " --icmp-type "
    });
    if icmp.value.kind == 255 && !icmp.value.v6 {
        out.push_str("any");
        return;
    }
    number(out, icmp.value.kind.into());
    if let Some(code) = icmp.value.code {
        out.push('/');
        number(out, code.into());
    }
}

fn write_rpfilter(out: &mut String, rpfilter: &MatchRpfilter) {
    out.push_str(" -m rpfilter");
    for (on, name) in [
        (rpfilter.loose, "--loose"),
        (rpfilter.validmark, "--validmark"),
        (rpfilter.accept_local, "--accept-local"),
        (rpfilter.invert, "--invert"),
    ] {
        if on {
            option(out, name);
        }
    }
}

fn write_owner(out: &mut String, owner: &MatchOwner) {
    out.push_str(" -m owner");
    switch(out, "--socket-exists", owner.socket_exists);
    for (name, range) in [(" --uid-owner ", &owner.uid), (" --gid-owner ", &owner.gid)] {
        if let Some(range) = range {
            negation(out, range);
            out.push_str(name);
            u32_range(out, range.value, '-');
        }
    }
}

fn write_ipvs(out: &mut String, ipvs: &MatchIpvs) {
    out.push_str(" -m ipvs");
    switch(out, "--ipvs", ipvs.is_ipvs);
    if let Some(protocol) = &ipvs.protocol {
        negation(out, protocol);
        option_number(out, "--vproto", protocol.value.0.into());
    }
    if let Some(net) = &ipvs.address {
        negation(out, net);
        out.push_str(" --vaddr ");
        net_short(out, &net.value);
    }
    if let Some(port) = &ipvs.port {
        negation(out, port);
        option_number(out, "--vport", port.value.into());
    }
    match ipvs.direction {
        Some(IpvsDirection::Original) => out.push_str(" --vdir ORIGINAL"),
        Some(IpvsDirection::Reply) => out.push_str(" --vdir REPLY"),
        None => {}
    }
    if let Some(method) = &ipvs.method {
        negation(out, method);
        out.push_str(" --vmethod ");
        raw_word(out, &method.value);
    }
    if let Some(port) = &ipvs.control_port {
        negation(out, port);
        option_number(out, "--vportctl", port.value.into());
    }
}

fn write_ip_range(out: &mut String, range: &MatchIpRange) {
    out.push_str(" -m iprange");
    for (name, side) in [
        (" --src-range ", &range.source),
        (" --dst-range ", &range.destination),
    ] {
        if let Some(side) = side {
            negation(out, side);
            out.push_str(name);
            address(out, side.value.0);
            out.push('-');
            address(out, side.value.1);
        }
    }
}
