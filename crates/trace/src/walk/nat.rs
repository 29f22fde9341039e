//! Address translation, by rules and by connection tracking.

use std::net::IpAddr;

use super::hooks::{Hook, Side};
use super::state::{State, Status};
use super::{Branch, Then, Walker};
use crate::fraction::Fraction;
use crate::packet::{Endpoint, Rewrite};

/// A translation that a rule requests.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    /// From and to; equal for one address. `None` keeps the address.
    pub(crate) addresses: Option<(IpAddr, IpAddr)>,
    /// From and to; `None` keeps the port.
    pub(crate) ports: Option<(u16, u16)>,
    /// A source's port is chosen at random.
    pub(crate) random: bool,
}

/// Return whether NAT chains are skipped: they only see the first packet of a connection, until the side's
/// translation is settled (`nf_nat_initialized`). ICMP errors are no first packets although their state
/// is `related` (`nf_nat_inet_fn`).
pub(crate) fn is_settled(state: &State<'_>, side: Side) -> bool {
    let c = &state.conn;
    let first = match c.status {
        Status::New => true,
        Status::Related => !state.proto.is_icmp(),
        _ => false,
    };
    !first || side.of(c.src_done, c.dst_done)
}

/// End NAT at a hook. The translation is settled now; the packet of a known connection gets the
/// connection's translation.
pub(crate) fn settle(state: &mut State<'_>, side: Side) {
    if !state.is_tracked() {
        return;
    }
    let c = &mut state.conn;
    *side.of(&mut c.src_done, &mut c.dst_done) = true;
    let known = matches!(c.status, Status::Established | Status::Related);
    // Replies are translated in reverse: their destination by the translation of the source.
    let target = match (side, c.reply) {
        (Side::Destination, false) => c.dnat.map(|r| r.after),
        (Side::Destination, true) => c.snat.map(|r| r.before),
        (Side::Source, false) => c.snat.map(|r| r.after),
        (Side::Source, true) => c.dnat.map(|r| r.before),
    };
    let Some(mut target) = target.filter(|_| known) else {
        return;
    };
    let hook = state.hook();
    let is_icmp = state.proto.is_icmp();
    let now = side.of(&mut state.src, &mut state.dst);
    if is_icmp {
        // Type and code stay.
        target.port = now.port;
    }
    if *now != target {
        let mut before = *now;
        *now = target;
        if is_icmp {
            (before.port, target.port) = (0, 0);
        }
        let of = side.of("source", "destination");
        state.note(
            hook.name(),
            "conntrack",
            format!("{of} {before} becomes {target}, by the connection's first packet"),
        );
    }
}

impl<'w> Walker<'w> {
    /// Apply a rule that rewrites one side to given addresses. The kernel chooses by a hash of the
    /// source with a secret, so that all are equally likely.
    pub(crate) fn rewrite(
        &mut self,
        state: &State<'w>,
        wanted: Wanted,
        side: Side,
    ) -> Vec<Branch<'w>> {
        let targets = self.targets(state, wanted, side);
        let share = share(targets.len());
        let mut branches = Vec::with_capacity(targets.len());
        for target in targets {
            let mut branch = state.clone();
            branch.probability = branch.probability.times(share);
            let (c, now) = (&mut branch.conn, side.of(&mut branch.src, &mut branch.dst));
            let original = side.of(&mut c.original.src, &mut c.original.dst);
            let random = side == Side::Source && wanted.random && branch.proto.has_ports();
            let (before, changed) = (*original, random || target != *now);
            *now = target;
            *side.of(&mut c.src_done, &mut c.dst_done) = true;
            branch.random_sport |= random;
            if changed {
                let after = target;
                *side.of(&mut c.snat, &mut c.dnat) = Some(Rewrite { before, after });
            }
            branches.push((branch, Then::Translated));
        }
        branches
    }

    /// Apply a rule that rewrites the source to the outgoing interface's address.
    pub(crate) fn masquerade(&mut self, mut state: State<'w>, wanted: Wanted) -> Branch<'w> {
        // IPv4 chooses the address by the next hop, IPv6 by the destination.
        let towards = match state.next_hop {
            Some(hop) if !state.is_v6() => hop,
            _ => state.dst.ip,
        };
        state.conn.src_done = true;
        state.conn.masquerade = true;
        state.random_sport |= wanted.random && state.proto.has_ports();
        let host = &self.world.host;
        let found = state
            .oif
            .name()
            .and_then(|out| host.masquerade_addr(out, towards));
        match found {
            Some(ip) => {
                let port = wanted.ports.map_or(state.src.port, |(first, _)| first);
                let after = Endpoint { ip, port };
                // An unchanged address still counts as masqueraded.
                state.conn.snat = Some(Rewrite {
                    before: state.conn.original.src,
                    after,
                });
                state.src = after;
                (state, Then::Translated)
            }
            None if !host.is_known() || state.oif.name().is_none() => {
                state.conn.masquerade_unknown = true;
                (state, Then::Translated)
            }
            None => {
                // "ate my IP address" of nf_nat_masquerade.c.
                let out = state.oif.name().unwrap_or("?").to_owned();
                state.note(
                    state.hook().name(),
                    "masquerade",
                    format!("no interface has an address to masquerade to on {out}: drop"),
                );
                (state, Then::Drop)
            }
        }
    }

    /// Apply a rule that redirects the packet to this host: to loopback at OUTPUT, else to the incoming
    /// interface's first address (`nf_nat_redirect.c`).
    pub(crate) fn redirect(
        &mut self,
        state: &State<'w>,
        ports: Option<(u16, u16)>,
    ) -> Vec<Branch<'w>> {
        let ip = if state.hook() == Hook::Output {
            Some(if state.is_v6() {
                IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)
            } else {
                IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)
            })
        } else {
            let iface = state.iif.name().and_then(|n| self.world.host.interface(n));
            let v6 = state.is_v6();
            // IPv6 wants one of the destination's scope.
            let local = crate::host::is_link_local(state.dst.ip);
            iface.and_then(|i| {
                let mut own = i.addresses.iter().map(ipnet::IpNet::addr);
                own.find(|a| a.is_ipv6() == v6 && (!v6 || crate::host::is_link_local(*a) == local))
            })
        };
        let Some(ip) = ip else {
            self.warn("REDIRECT: the incoming interface's address is not known; the packet is shown as dropped".to_owned());
            return vec![(state.clone(), Then::Drop)];
        };
        let wanted = Wanted {
            addresses: Some((ip, ip)),
            ports,
            random: false,
        };
        self.rewrite(state, wanted, Side::Destination)
    }

    /// Return every endpoint that a translation can lead to.
    fn targets(&mut self, state: &State<'w>, wanted: Wanted, side: Side) -> Vec<Endpoint> {
        let now = side.of(state.src, state.dst);
        let what = side.of("SNAT", "DNAT");
        let ips = match wanted.addresses {
            None => vec![now.ip],
            // A source in the range is kept (`get_unique_tuple` of nf_nat_core.c).
            Some((first, last)) if side == Side::Source && (first..=last).contains(&now.ip) => {
                vec![now.ip]
            }
            Some((first, last)) => {
                let all = range(first, last);
                if all.len() > 1 {
                    self.warn(format!(
                        "{what} to a range of addresses: the kernel chooses by a secret hash of the source; each is shown with equal odds"
                    ));
                }
                if all.is_empty() {
                    self.warn(format!(
                        "{what} to more than 256 addresses: shown as the first"
                    ));
                    vec![first]
                } else {
                    all
                }
            }
        };
        let port = match wanted.ports {
            Some((first, last)) if state.proto.has_ports() => {
                // nf_nat_l4proto_unique_tuple keeps a port that is in the range already.
                if (first..=last).contains(&now.port) {
                    now.port
                } else {
                    if first != last {
                        self.warn(format!(
                            "{what} to a range of ports: the kernel uses a free port; shown as the first"
                        ));
                    }
                    first
                }
            }
            _ => now.port,
        };
        ips.into_iter().map(|ip| Endpoint { ip, port }).collect()
    }
}

/// Return one of equal shares.
pub(crate) fn share(of: usize) -> Fraction {
    u64::try_from(of)
        .ok()
        .and_then(|n| Fraction::new(1, n))
        .unwrap_or(Fraction::ONE)
}

/// Return all addresses of a range of at most 256; none for a larger one.
fn range(first: IpAddr, last: IpAddr) -> Vec<IpAddr> {
    const MOST: u128 = 256;
    match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let (a, b) = (a.to_bits(), b.to_bits());
            if b < a || u128::from(b - a) >= MOST {
                return Vec::new();
            }
            (a..=b).map(|x| IpAddr::V4(x.into())).collect()
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let (a, b) = (a.to_bits(), b.to_bits());
            if b < a || b - a >= MOST {
                return Vec::new();
            }
            (a..=b).map(|x| IpAddr::V6(x.into())).collect()
        }
        _ => Vec::new(),
    }
}
