//! Routing decisions.

use std::net::IpAddr;

use super::Walker;
use super::assume::Fact;
use super::hooks::Hook;
use super::state::{Iface, Stage, State};
use crate::facts::RouteKind;
use crate::fraction::Fraction;
use crate::host::{Lookup, Martian, RouteHop};
use crate::outcome::{Answer, Did, Verdict};

const AT: &str = "routing";

impl<'w> Walker<'w> {
    /// Deliver or forward an incoming packet (`ip_route_input_slow`).
    pub(crate) fn route_input(&mut self, state: &mut State<'w>) {
        let host = &self.world.host;
        if let Some(iif) = state.iif.name()
            && let Some(martian) = host.martian(state.src.ip, state.dst.ip, iif)
        {
            refuse_source(state, &martian);
            return;
        }
        let dst = state.dst.ip;
        if dst.is_multicast() {
            self.multicast(state);
            return;
        }
        if !host.is_known() {
            if self.settle_local(state, dst) {
                deliver(state, "an address of this node");
            } else {
                self.forward(state, None);
            }
            return;
        }
        let key = Lookup {
            dst,
            src: Some(state.src.ip),
            iif: state.iif.name(),
            mark: state.mark,
        };
        let hops = host.lookup(&key);
        let Some(first) = hops.first() else {
            self.no_route(state, "no route");
            return;
        };
        let oif = match first.kind {
            RouteKind::Unicast => first.dev.as_deref(),
            _ => Some("lo"),
        };
        let is_checked = matches!(
            first.kind,
            RouteKind::Unicast | RouteKind::Local | RouteKind::Broadcast
        );
        if let (Some(iif), Some(oif), true) = (state.iif.name(), oif, is_checked)
            && let Some(martian) = host.spoofed((state.src.ip, dst), iif, oif, state.mark)
        {
            refuse_source(state, &martian);
            return;
        }
        match first.kind {
            RouteKind::Local | RouteKind::Broadcast | RouteKind::Anycast => {
                let text = first.text.clone();
                deliver(state, &text);
            }
            RouteKind::Unicast => self.each_hop(state, &hops, |walker, state, hop| {
                walker.forward(state, Some(hop));
            }),
            _ => {
                let text = first.text.clone();
                self.refused(state, first.kind, &text);
            }
        }
    }

    /// Return whether an address belongs to this node, by what the path assumes; without an
    /// assumption it does not, from here on.
    fn settle_local(&self, state: &mut State<'w>, ip: IpAddr) -> bool {
        let known = self.known_local(state, ip);
        if known.is_none() {
            state.settled.push((ip, false));
        }
        known.unwrap_or(false)
    }

    /// Deliver to joined multicast groups only; routing tables do not contain other receivers
    /// (`ip_route_input_rcu`, `ip6_mc_input`).
    fn multicast(&mut self, state: &mut State<'w>) {
        let everybody = match state.dst.ip {
            IpAddr::V4(ip) => ip.octets() == [224, 0, 0, 1],
            IpAddr::V6(ip) => ip.segments() == [0xff02, 0, 0, 0, 0, 0, 0, 1],
        };
        if everybody {
            deliver(state, "the all-hosts group");
            return;
        }
        let what = format!(
            "whether a program here joined {} is not known",
            state.dst.ip
        );
        let (mut joined, mut other) = self.either(state.clone(), Fact::Other(what.into()));
        deliver(&mut joined, "a joined group");
        let effect = format!("no program joined {}: drop", state.dst.ip);
        other.note_as(AT, "multicast", effect, Did::Dropped);
        other.finish(Verdict::Drop);
        joined.forks.push(other);
        *state = joined;
    }

    fn forward(&mut self, state: &mut State<'w>, hop: Option<&RouteHop>) {
        let v6 = state.is_v6();
        let forwarding = self.world.host.forwarding(state.iif.name(), v6);
        let sysctl = self.world.host.forwarding_sysctl(state.iif.name(), v6);
        match forwarding {
            Some(false) => {
                state.note_as(
                    AT,
                    hop.map_or(String::new(), |w| w.text.clone()),
                    format!(
                        "{} is on another host and {sysctl} is off: drop",
                        state.dst.ip
                    ),
                    Did::NotForwarding,
                );
                state.finish(Verdict::Drop);
                return;
            }
            None if self.world.host.is_known() => {
                self.warn(format!("{sysctl} is not known; assumed to be on"));
            }
            _ => {}
        }
        let through = take_hop(state, hop);
        let rule = hop.map_or("elsewhere".to_owned(), |w| w.text.clone());
        state.note(AT, rule, format!("forward{through}"));
        state.stages.push(Stage::Send);
        state.stages.push(Stage::Hook(Hook::Postrouting));
        state.stages.push(Stage::Hook(Hook::Forward));
    }

    fn no_route(&mut self, state: &mut State<'w>, text: &str) {
        let v6 = state.is_v6();
        let forwards = self.world.host.forwarding(state.iif.name(), v6) != Some(false);
        if forwards || state.iif == Iface::Absent {
            let effect = format!(
                "no route to {}: reject with network unreachable",
                state.dst.ip
            );
            state.note_as(AT, text, effect, Did::NoRoute);
            state.finish(Verdict::Reject);
        } else {
            let effect = format!(
                "no route to {}, and this host does not forward: drop",
                state.dst.ip
            );
            state.note_as(AT, text, effect, Did::NoRoute);
            state.finish(Verdict::Drop);
        }
    }

    fn refused(&mut self, state: &mut State<'w>, kind: RouteKind, text: &str) {
        let v6 = state.is_v6();
        let (end, did) = match kind {
            RouteKind::Unreachable => (
                Verdict::Reject,
                Did::Rejected(Answer::unreachable(v6, 1, 0)),
            ),
            RouteKind::Prohibit => (
                Verdict::Reject,
                Did::Rejected(Answer::unreachable(v6, 13, 1)),
            ),
            _ => (Verdict::Drop, Did::Dropped),
        };
        state.note_as(AT, text, end.to_string(), did);
        state.finish(end);
    }

    /// Route a packet of this node, before OUTPUT.
    pub(crate) fn route_output(&mut self, state: &mut State<'w>) {
        self.choose_output(state, "");
    }

    /// Route again after OUTPUT changed address or mark (`ip_route_me_harder`).
    pub(crate) fn reroute(&mut self, state: &mut State<'w>) {
        self.choose_output(state, "rerouted: ");
    }

    pub(crate) fn choose_output(&mut self, state: &mut State<'w>, why: &'static str) {
        let host = &self.world.host;
        let (src, dst) = (state.src.ip, state.dst.ip);
        if !host.is_known() {
            if src == dst || self.settle_local(state, dst) {
                state.oif = Iface::Name("lo".into());
                state.note(AT, "local", format!("{why}stays on this node"));
            } else {
                state.oif = Iface::Unknown;
                state.note(AT, "elsewhere", format!("{why}leaves this node"));
            }
            return;
        }
        let key = Lookup {
            dst,
            src: Some(src),
            iif: Some("lo"),
            mark: state.mark,
        };
        let hops = host.lookup(&key);
        let Some(first) = hops.first() else {
            self.no_route(state, "no route");
            return;
        };
        match first.kind {
            RouteKind::Local | RouteKind::Broadcast | RouteKind::Anycast => {
                state.oif = Iface::Name("lo".into());
                state.next_hop = Some(dst);
                state.note(AT, first.text.clone(), format!("{why}stays on this node"));
            }
            RouteKind::Unicast => self.each_hop(state, &hops, |walker, state, hop| {
                let dev = hop.dev.as_deref();
                let loopback = matches!(src, IpAddr::V4(ip) if ip.is_loopback());
                if loopback && !walker.world.host.route_localnet(dev) {
                    let effect = format!(
                        "{why}source {src} may not leave through {}, where route_localnet is off: drop",
                        dev.unwrap_or("an interface")
                    );
                    state.note_as(AT, hop.text.clone(), effect, Did::Martian);
                    state.finish(Verdict::Drop);
                    return;
                }
                let through = take_hop(state, Some(hop));
                state.note(AT, hop.text.clone(), format!("{why}leaves{through}"));
            }),
            _ => {
                let text = first.text.clone();
                self.refused(state, first.kind, &text);
            }
        }
    }

    /// Follow every next hop of a multipath route; the kernel chooses by a hash over the flow.
    fn each_hop(
        &mut self,
        state: &mut State<'w>,
        hops: &[RouteHop],
        go: impl Fn(&mut Self, &mut State<'w>, &RouteHop),
    ) {
        let total: u64 = hops.iter().map(|w| u64::from(w.weight)).sum();
        if hops.len() > 1 {
            self.warn(format!(
                "several next hops to {}: the kernel chooses by a hash; shown by their weights",
                state.dst.ip
            ));
        }
        let start = state.clone();
        for (i, hop) in hops.iter().enumerate() {
            let odds = Fraction::new(hop.weight.into(), total).unwrap_or(Fraction::ONE);
            if i == 0 {
                state.probability = state.probability.times(odds);
                go(self, state, hop);
            } else {
                let mut fork = start.clone();
                fork.probability = fork.probability.times(odds);
                go(self, &mut fork, hop);
                state.forks.push(fork);
            }
        }
    }
}

fn take_hop(state: &mut State<'_>, hop: Option<&RouteHop>) -> String {
    let dev = hop.and_then(|w| w.dev.as_deref());
    state.oif = Iface::named(dev);
    state.next_hop = hop.and_then(|w| w.via).or(Some(state.dst.ip));
    dev.map_or(String::new(), |d| format!(" through {d}"))
}

fn refuse_source(state: &mut State<'_>, martian: &Martian) {
    let did = if martian.reverse_path {
        Did::ReversePath
    } else {
        Did::Martian
    };
    state.note_as(AT, "source check", format!("{}: drop", martian.why), did);
    state.finish(Verdict::Drop);
}

fn deliver(state: &mut State<'_>, text: &str) {
    state.note(AT, text, "for this node");
    state.oif = Iface::Absent;
    state.stages.push(Stage::Deliver);
    state.stages.push(Stage::Hook(Hook::Input));
}

/// Send the packet. Through `lo` it enters again at once with its connection: connection tracking, NAT
/// and routing do not process it a second time.
pub(crate) fn send(state: &mut State<'_>) {
    if state.oif.name() == Some("lo") {
        state.iif = Iface::Name("lo".into());
        state.oif = Iface::Absent;
        state.stages.push(Stage::Deliver);
        state.stages.push(Stage::Hook(Hook::Input));
        state.stages.push(Stage::Hook(Hook::Prerouting));
        return;
    }
    state.stages.push(Stage::Leave);
    state.stages.push(Stage::Hook(Hook::Egress));
}

/// The packet leaves this node.
pub(crate) fn leave(state: &mut State<'_>) {
    let through = state
        .oif
        .name()
        .map_or(String::new(), |n| format!(" through {n}"));
    let (src, dst) = state.shown_ends();
    let effect = format!("leaves this node{through}: {src} -> {dst}");
    state.note("wire", "send", effect);
    state.finish(Verdict::Accept);
}
