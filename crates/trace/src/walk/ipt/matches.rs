//! iptables matches.

use std::net::IpAddr;
use std::rc::Rc;

use netfilter::iptables::{
    AddrType, AddrTypes, CtDirection, CtState, CtStatus, Extension, Header, IcmpType, Interface,
    Match, MatchAddrType, MatchConntrack, MatchMultiport, MatchPhysdev, MatchRecent, MatchRpfilter,
    Negatable, PortMatch, PortRange, PortSide, RecentAction, Statistic,
};

use super::super::Walker;
use super::super::hooks::Hook;
use super::super::state::{Iface, Learnt, State, Status};
use super::Holds;
use crate::facts::RouteKind;
use crate::fraction::Fraction;
use crate::host::Lookup;
use crate::packet::{self, Endpoint, Proto};

/// Evaluate the conditions of a rule's header.
pub(super) fn header(state: &State<'_>, h: &Header) -> [Holds; 6] {
    let addr = |of: &Option<Negatable<netfilter::iptables::Net>>, ip| {
        Holds::of(of.as_ref().is_none_or(|n| n.holds(|net| net.contains(ip))))
    };
    let fragment = h.fragment.as_ref().is_none_or(|f| f.negated);
    [
        addr(&h.source, state.src.ip),
        addr(&h.destination, state.dst.ip),
        Holds::of(
            h.protocol
                .as_ref()
                .is_none_or(|p| p.holds(|p| p.0 == 0 || p.0 == state.proto.0)),
        ),
        Holds::of(fragment),
        iface(state, false, h.in_interface.as_ref()),
        iface(state, true, h.out_interface.as_ref()),
    ]
}

/// Compare the name of an interface; an absent one has the empty name.
fn iface(state: &State<'_>, leaves: bool, want: Option<&Negatable<Interface>>) -> Holds {
    let Some(want) = want else { return Holds::Yes };
    let at = if leaves { &state.oif } else { &state.iif };
    match at {
        Iface::Absent => Holds::of(want.holds(|i| i.matches(""))),
        Iface::Name(name) => Holds::of(want.holds(|i| i.matches(name))),
        // The walker forks on unknown interfaces and evaluates the rule again.
        Iface::Unknown => {
            let assumed = state.assumed(&super::interface(leaves, &want.value));
            Holds::of(assumed.is_none_or(|is_it| is_it != want.negated))
        }
    }
}

fn random_port() -> Holds {
    Holds::Unknown("the source port was chosen at random".into())
}

fn ports(state: &State<'_>, proto: Proto, m: &PortMatch) -> Holds {
    if state.proto == proto && state.random_sport && m.source.is_some() {
        return random_port();
    }
    let side = |want: &Option<Negatable<PortRange>>, end: Endpoint| {
        want.as_ref()
            .is_none_or(|w| w.holds(|r| r.contains(end.port)))
    };
    Holds::of(state.proto == proto && side(&m.source, state.src) && side(&m.destination, state.dst))
}

fn multiport(state: &State<'_>, multi: &MatchMultiport) -> Holds {
    if state.random_sport && multi.side != PortSide::Destination {
        return random_port();
    }
    let ends: &[Endpoint] = match multi.side {
        PortSide::Source => &[state.src],
        PortSide::Destination => &[state.dst],
        PortSide::Either => &[state.src, state.dst],
    };
    let within = |all: &Vec<PortRange>| {
        ends.iter()
            .any(|end| all.iter().any(|r| r.contains(end.port)))
    };
    Holds::of(state.proto.has_ports() && multi.ports.holds(within))
}

fn icmp(state: &State<'_>, want: &Negatable<IcmpType>) -> Holds {
    let proto = if want.value.v6 {
        Proto::ICMPV6
    } else {
        Proto::ICMP
    };
    // Type and code take the place of ports; 255 is any IPv4 type.
    Holds::of(
        state.proto == proto
            && want.holds(|i| {
                (!i.v6 && i.kind == 255)
                    || (u16::from(i.kind) == state.src.port
                        && i.code.is_none_or(|c| u16::from(c) == state.dst.port))
            }),
    )
}

impl<'w> Walker<'w> {
    pub(super) fn ipt_match(
        &mut self,
        state: &State<'w>,
        m: &Match,
        learnt: &mut Vec<Learnt>,
    ) -> Holds {
        match m {
            Match::Comment(_) | Match::Nfacct(_) => Holds::Yes,
            Match::Tcp(tcp) => tcp_match(state, tcp),
            Match::Udp(p) => ports(state, Proto::UDP, p),
            Match::Sctp(p) => ports(state, Proto::SCTP, p),
            Match::Multiport(multi) => multiport(state, multi),
            Match::Mark(want) => Holds::of(want.holds(|m| state.mark & m.mask == m.value)),
            Match::Connmark(want) => {
                Holds::of(state.is_tracked() && want.holds(|m| state.conn.mark & m.mask == m.value))
            }
            Match::Conntrack(ct) => conntrack(state, ct),
            Match::State(want) => Holds::of(want.holds(|s| in_states(state, *s, false))),
            Match::Addrtype(want) => self.addrtype(state, want),
            Match::Statistic(want) => {
                let odds = match want.value {
                    Statistic::Random(p) => Fraction::from_statistic(p.0),
                    // One packet in n; which one depends on earlier packets.
                    Statistic::Nth { every, .. } => {
                        Fraction::new(1, every.max(1).into()).unwrap_or(Fraction::ONE)
                    }
                };
                Holds::Chance(odds).negated_if(want.negated)
            }
            Match::Recent(recent) => {
                if recent.action.value != RecentAction::Set {
                    self.warn("recent: the dumps do not contain its lists; only addresses that this packet added are assumed to be on them".to_owned());
                }
                recent_match(state, recent, learnt)
            }
            Match::Set(set) => self.in_ipset(state, set),
            Match::Physdev(p) => self.physdev(state, p),
            Match::Limit(_) => {
                self.warn("limit: assumed not to be reached yet".to_owned());
                Holds::Yes
            }
            Match::Icmp(want) => icmp(state, want),
            Match::Rpfilter(want) => self.rpfilter(state, want),
            Match::Owner(owner) => owner_match(state, owner),
            Match::Ipvs(want) => ipvs_match(state, want),
            Match::IpRange(range) => {
                let within = |want: &Option<Negatable<(IpAddr, IpAddr)>>, ip: IpAddr| {
                    want.as_ref()
                        .is_none_or(|w| w.holds(|(a, b)| *a <= ip && ip <= *b))
                };
                Holds::of(
                    within(&range.source, state.src.ip) && within(&range.destination, state.dst.ip),
                )
            }
            Match::Unknown(extension) => self.extension(state, extension),
        }
    }

    /// Return the type of an address; `None` if the path has to fork first.
    pub(crate) fn addr_type(&mut self, state: &State<'w>, ip: IpAddr) -> Option<RouteKind> {
        Some(if self.is_local(state, ip)? {
            RouteKind::Local
        } else {
            self.world.host.addr_type(ip)
        })
    }

    fn addrtype(&mut self, state: &State<'w>, want: &MatchAddrType) -> Holds {
        for (types, ip) in [
            (&want.source, state.src.ip),
            (&want.destination, state.dst.ip),
        ] {
            let Some(types) = types else { continue };
            let Some(kind) = self.addr_type(state, ip) else {
                // Evaluated again after the fork.
                return Holds::Yes;
            };
            let mut holds = match ip {
                IpAddr::V4(_) => in_types(types.value, kind),
                IpAddr::V6(v6) => in_types6(types.value, kind, v6),
            };
            // Only local addresses of that interface match (`inet_dev_addr_type`).
            if kind == RouteKind::Local && (want.limit_in || want.limit_out) {
                let iface = if want.limit_in {
                    &state.iif
                } else {
                    &state.oif
                };
                holds &= iface
                    .name()
                    .and_then(|n| self.world.host.interface(n))
                    .is_some_and(|i| i.addresses.iter().any(|a| a.addr() == ip));
            }
            if holds == types.negated {
                return Holds::No;
            }
        }
        Holds::Yes
    }

    fn physdev(&mut self, state: &State<'w>, want: &MatchPhysdev) -> Holds {
        // Only packets that entered through a bridge have bridge ports, and only if the bridge calls
        // iptables.
        let host = &self.world.host;
        let through_bridge = match &state.iif {
            Iface::Name(name) => host.is_bridge(name),
            Iface::Absent => false,
            Iface::Unknown => {
                return Holds::Unknown(
                    "whether the packet entered through a bridge is not known".into(),
                );
            }
        };
        let (_, calls) = host.bridge_calls(state.is_v6());
        let is_in = through_bridge && calls;
        if want.is_in.is_some_and(|w| w != is_in) {
            return Holds::No;
        }
        let neighbours = state
            .iif
            .name()
            .is_some_and(|iif| host.are_bridged(iif, state.src.ip, state.dst.ip));
        let asks_where =
            want.is_out.is_some() || want.is_bridged.is_some() || want.out_port.is_some();
        if is_in && neighbours && asks_where {
            let why = "whether the packet is bridged or routed is not known";
            return Holds::Unknown(why.into());
        }
        // For routed packets, netfilter does not know the outgoing bridge port.
        if want.is_out == Some(true) || want.is_bridged == Some(true) {
            return Holds::No;
        }
        if let Some(port) = &want.in_port {
            if !is_in {
                return Holds::of(port.negated);
            }
            return Holds::Unknown(
                "the bridge port through which the packet entered is not known".into(),
            );
        }
        match &want.out_port {
            Some(port) => Holds::of(port.negated),
            None => Holds::Yes,
        }
    }

    fn rpfilter(&mut self, state: &State<'w>, want: &MatchRpfilter) -> Holds {
        let Some(iif) = state.iif.name() else {
            return Holds::Unknown(
                "the interface through which the packet entered is not known".into(),
            );
        };
        if iif == "lo" {
            return Holds::of(!want.invert);
        }
        let host = &self.world.host;
        let key = Lookup {
            dst: state.src.ip,
            src: None,
            iif: Some("lo"),
            mark: if want.validmark { state.mark } else { 0 },
        };
        let back = host.lookup(&key);
        let good = back.iter().any(|w| {
            let kind =
                w.kind == RouteKind::Unicast || (w.kind == RouteKind::Local && want.accept_local);
            kind && (want.loose || w.dev.as_deref() == Some(iif))
        });
        Holds::of(good != want.invert)
    }

    /// Evaluate an extension that is stored as text. Some match every packet of a walk, or none.
    fn extension(&mut self, state: &State<'w>, e: &Extension) -> Holds {
        let words: Vec<&str> = e.words.iter().map(|w| &**w).collect();
        match (&*e.name, words.as_slice()) {
            // Read from the kernel, without a known text.
            (name, ["--revision", _, "--info", _]) => {
                Holds::Unknown(format!("match {name} is unknown"))
            }
            ("pkttype", ["--pkt-type", kind]) => Holds::of(*kind == "unicast"),
            ("pkttype", ["!", "--pkt-type", kind]) => Holds::of(*kind != "unicast"),
            ("hashlimit", words) => {
                self.warn("hashlimit: assumed not to be reached yet".to_owned());
                Holds::of(!words.contains(&"--hashlimit-above"))
            }
            ("connlimit", words) => {
                self.warn("connlimit: assumed not to be reached yet".to_owned());
                let above = words.contains(&"--connlimit-above");
                Holds::of(above == words.contains(&"!"))
            }
            ("socket", words)
                if words.contains(&"--transparent")
                    || self.known_local(state, state.dst.ip) == Some(false) =>
            {
                self.warn("socket: assumed that no program has a socket for the packet".to_owned());
                Holds::No
            }
            // Connections of a walk have no helper and no tunnel.
            ("helper", words) => Holds::of(words.contains(&"!")),
            ("policy", words) => {
                let none = words.windows(2).any(|w| w == ["--pol", "none"]);
                Holds::of(none)
            }
            ("cgroup", _) if state.iif != Iface::Absent => Holds::No,
            ("u32" | "bpf" | "string" | "ttl" | "hl" | "length", _) => {
                Holds::Unknown(format!("match {} inspects the packet's content", e.name))
            }
            _ => Holds::Unknown(format!("match {} is unknown", e.name)),
        }
    }
}

fn tcp_match(state: &State<'_>, tcp: &netfilter::iptables::MatchTcp) -> Holds {
    let holds = ports(state, Proto::TCP, &tcp.ports);
    if holds != Holds::Yes {
        return holds;
    }
    if let Some(option) = &tcp.option
        // Every SYN has the maximum segment size (2); other options are not certain.
        && option.value != 2
    {
        return Holds::Unknown("the options of the TCP header are not known".into());
    }
    let Some(flags) = &tcp.flags else {
        return Holds::Yes;
    };
    Holds::of(flags.holds(|f| tcp_flags(state) & f.mask == f.set))
}

/// Return the flags of a packet: SYN for the first of a connection, SYN and ACK for the first answer, ACK for
/// all others.
pub(crate) fn tcp_flags(state: &State<'_>) -> u8 {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    match (&*state.known, state.conn.reply) {
        (packet::CtState::New, _) => SYN,
        (packet::CtState::Established(_), true) => SYN | ACK,
        _ => ACK,
    }
}

fn in_types(types: AddrTypes, kind: RouteKind) -> bool {
    types.contains(match kind {
        RouteKind::Unicast => AddrType::Unicast,
        RouteKind::Local => AddrType::Local,
        RouteKind::Broadcast => AddrType::Broadcast,
        RouteKind::Anycast => AddrType::Anycast,
        RouteKind::Multicast => AddrType::Multicast,
        RouteKind::Blackhole => AddrType::Blackhole,
        RouteKind::Unreachable => AddrType::Unreachable,
        RouteKind::Prohibit => AddrType::Prohibit,
        RouteKind::Throw => AddrType::Throw,
    })
}

/// Evaluate IPv6 address types: by the address alone if possible, and all of them must match
/// (`match_type6` of `xt_addrtype.c`).
fn in_types6(types: AddrTypes, kind: RouteKind, ip: std::net::Ipv6Addr) -> bool {
    let asked = |t| types.contains(t);
    let looked_up = [
        (AddrType::Local, RouteKind::Local),
        (AddrType::Prohibit, RouteKind::Prohibit),
        (AddrType::Unreachable, RouteKind::Unreachable),
    ];
    let unicast = !ip.is_multicast() && !ip.is_unspecified();
    (!asked(AddrType::Multicast) || ip.is_multicast())
        && (!asked(AddrType::Unicast) || unicast)
        && (!asked(AddrType::Unspec) || ip.is_unspecified())
        && (!looked_up.iter().any(|(t, _)| asked(*t))
            || looked_up.iter().any(|(t, k)| asked(*t) && kind == *k))
}

/// Return whether the connection is in one of the states. The match `state` has no states for translations.
fn in_states(state: &State<'_>, states: netfilter::iptables::CtStates, nat: bool) -> bool {
    let c = &state.conn;
    let now = match c.status {
        // Without connection tracking the state is invalid.
        _ if !c.seen => CtState::Invalid,
        Status::New => CtState::New,
        Status::Established => CtState::Established,
        Status::Related => CtState::Related,
        Status::Invalid => CtState::Invalid,
        Status::Untracked => CtState::Untracked,
    };
    let tracked = c.seen && !matches!(c.status, Status::Untracked | Status::Invalid);
    states.contains(now)
        || (nat && tracked && c.dnat.is_some() && states.contains(CtState::Dnat))
        || (nat && tracked && has_snat(state) && states.contains(CtState::Snat))
}

/// Return whether the source was changed; masquerading to the same address and port is no change.
pub(crate) fn has_snat(state: &State<'_>) -> bool {
    let c = &state.conn;
    c.masquerade_unknown || state.random_sport || c.snat.is_some_and(|r| r.before != r.after)
}

/// Return the tuple of answers.
pub(crate) fn reply_tuple(state: &State<'_>) -> (Endpoint, Endpoint) {
    let c = &state.conn;
    if c.reply {
        return (c.original.src, c.original.dst);
    }
    (
        c.dnat.map_or(c.original.dst, |r| r.after),
        c.snat.map_or(c.original.src, |r| r.after),
    )
}

/// Return the first packet's tuple before translation.
pub(crate) fn original_tuple(state: &State<'_>) -> (Endpoint, Endpoint) {
    let c = &state.conn;
    if c.reply {
        let (src, dst) = (c.snat.map(|r| r.before), c.dnat.map(|r| r.before));
        return (src.unwrap_or(c.original.dst), dst.unwrap_or(c.original.src));
    }
    (
        c.snat.map_or(c.original.src, |r| r.before),
        c.dnat.map_or(c.original.dst, |r| r.before),
    )
}

fn conntrack(state: &State<'_>, want: &MatchConntrack) -> Holds {
    if let Some(states) = &want.state
        && !states.holds(|s| in_states(state, *s, true))
    {
        return Holds::No;
    }
    let only_state = *want
        == MatchConntrack {
            state: want.state,
            ..MatchConntrack::default()
        };
    if only_state {
        return Holds::Yes;
    }
    let c = &state.conn;
    if !state.is_tracked() {
        // Without a connection only the state is compared (`conntrack_mt`).
        return Holds::of(want.state.is_some());
    }
    if let Some(direction) = want.direction
        && (direction == CtDirection::Reply) != c.reply
    {
        return Holds::No;
    }
    if want
        .protocol
        .as_ref()
        .is_some_and(|p| !p.holds(|p| p.0 == state.proto.0))
    {
        return Holds::No;
    }
    let (original, reply) = (original_tuple(state), reply_tuple(state));
    for (net, end) in [
        (&want.original_source, original.0),
        (&want.original_destination, original.1),
        (&want.reply_source, reply.0),
        (&want.reply_destination, reply.1),
    ] {
        if net
            .as_ref()
            .is_some_and(|n| !n.holds(|n| n.contains(end.ip)))
        {
            return Holds::No;
        }
    }
    if state.random_sport && want.reply_destination_port.is_some() {
        return random_port();
    }
    for (range, end) in [
        (&want.original_source_port, original.0),
        (&want.original_destination_port, original.1),
        (&want.reply_source_port, reply.0),
        (&want.reply_destination_port, reply.1),
    ] {
        if range
            .as_ref()
            .is_some_and(|r| !r.holds(|r| r.contains(end.port)))
        {
            return Holds::No;
        }
    }
    if let Some(status) = &want.status {
        let holds = has_status(state, status.value).negated_if(status.negated);
        if holds != Holds::Yes {
            return holds;
        }
    }
    if want.expires.is_some() {
        return Holds::Unknown("the expiry of the connection is not known".into());
    }
    Holds::Yes
}

/// Return whether the connection has one of these states. States beyond an answer depend on more than one
/// packet.
fn has_status(state: &State<'_>, any: netfilter::iptables::CtStatuses) -> Holds {
    use CtStatus::{Assured, Confirmed, Expected, SeenReply};
    let (has, may): (&[CtStatus], &[CtStatus]) = match state.conn.status {
        Status::Established => (&[SeenReply, Confirmed], &[Assured]),
        Status::Related if state.proto.is_icmp() => (&[Confirmed], &[SeenReply, Assured]),
        Status::Related => (&[Expected], &[]),
        _ => (&[], &[]),
    };
    if has.iter().any(|s| any.contains(*s)) {
        Holds::Yes
    } else if may.iter().any(|s| any.contains(*s)) {
        Holds::Unknown("the other packets of the connection are not known".into())
    } else {
        Holds::No
    }
}

fn recent_match(state: &State<'_>, want: &MatchRecent, learnt: &mut Vec<Learnt>) -> Holds {
    let ip = if want.destination {
        state.dst.ip
    } else {
        state.src.ip
    };
    let masked = match (ip, want.mask) {
        (IpAddr::V4(a), IpAddr::V4(m)) => IpAddr::V4(a & m),
        (IpAddr::V6(a), IpAddr::V6(m)) => IpAddr::V6(a & m),
        (other, _) => other,
    };
    let set: Rc<str> = format!("recent/{}", want.name).into();
    let key = masked.to_string().into_bytes();
    let listed = state.learnt(&set, &key) == Some(true);
    let note = |gone| Learnt {
        set: set.clone(),
        key: key.clone(),
        value: Vec::new(),
        gone,
    };
    let holds = match want.action.value {
        RecentAction::Set => {
            learnt.push(note(false));
            true
        }
        RecentAction::Check | RecentAction::Update => {
            // One packet is in the list at most once.
            listed && want.hit_count.is_none_or(|n| n <= 1)
        }
        RecentAction::Remove => {
            if listed {
                learnt.push(note(true));
            }
            listed
        }
    };
    Holds::of(holds).negated_if(want.action.negated)
}

fn owner_match(state: &State<'_>, want: &netfilter::iptables::MatchOwner) -> Holds {
    if state.iif == Iface::Absent && matches!(state.hook(), Hook::Output | Hook::Postrouting) {
        if want.uid.is_none() && want.gid.is_none() {
            return Holds::of(want.socket_exists != Some(false));
        }
        return Holds::Unknown("the owner of the socket is not known".into());
    }
    // Without a socket, no owner matches.
    let negated = |n: Option<bool>| n.unwrap_or(true);
    Holds::of(
        negated(want.uid.as_ref().map(|u| u.negated))
            && negated(want.gid.as_ref().map(|g| g.negated))
            && want.socket_exists != Some(true),
    )
}

fn ipvs_match(state: &State<'_>, want: &netfilter::iptables::MatchIpvs) -> Holds {
    let Some(virtual_server) = state.conn.ipvs else {
        return Holds::of(want.is_ipvs == Some(false));
    };
    let holds = want.is_ipvs != Some(false)
        && want
            .protocol
            .as_ref()
            .is_none_or(|p| p.holds(|p| p.0 == state.proto.0))
        && want
            .address
            .as_ref()
            .is_none_or(|a| a.holds(|a| a.contains(virtual_server.ip)))
        && want
            .port
            .as_ref()
            .is_none_or(|p| p.holds(|p| *p == virtual_server.port))
        && want
            .method
            .as_ref()
            .is_none_or(|m| m.holds(|m| &**m == "MASQ"))
        && want.control_port.is_none()
        && want
            .direction
            .is_none_or(|d| (d == netfilter::iptables::IpvsDirection::Reply) == state.conn.reply);
    Holds::of(holds)
}
