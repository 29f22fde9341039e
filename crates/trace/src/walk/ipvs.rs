//! IPVS, which takes packets to its virtual servers at INPUT and OUTPUT, after filtering
//! (`net/netfilter/ipvs/ip_vs_core.c`).

use netfilter::ipvs::{Destination, Method, Service, ServiceId};

use super::Walker;
use super::hooks::Hook;
use super::state::{Iface, Stage, State};
use crate::fraction::Fraction;
use crate::outcome::{Answer, Did, Verdict};
use crate::packet::{CtState, Endpoint, Proto, Rewrite};

const AT: &str = "ipvs";

impl<'w> Walker<'w> {
    /// Look the packet up among the virtual servers.
    pub(crate) fn ipvs(&mut self, state: &mut State<'w>) {
        if state.conn.ipvs.is_some() || state.conn.reply {
            return;
        }
        // Except for UDP, only first packets are scheduled (`tcp_conn_schedule`, `sctp_conn_schedule`).
        let is_first = state.proto == Proto::UDP || *state.known != CtState::Invalid;
        let Some(service) = self.virtual_server(state).filter(|_| is_first) else {
            return;
        };
        let usable: Vec<&Destination> = service
            .destinations
            .iter()
            .filter(|d| d.weight > 0)
            .collect();
        if usable.is_empty() {
            state.note_as(
                AT,
                service.id.to_string(),
                "no destination: reject with port unreachable",
                Did::Rejected(Answer::port(state.is_v6())),
            );
            state.finish(Verdict::Reject);
            return;
        }
        let shares = self.shares(service, &usable);
        let start = state.clone();
        for (i, (destination, odds)) in usable.into_iter().zip(shares).enumerate() {
            if i == 0 {
                state.probability = state.probability.times(odds);
                self.send_to(state, service, destination);
            } else {
                let mut fork = start.clone();
                fork.probability = fork.probability.times(odds);
                self.send_to(&mut fork, service, destination);
                state.forks.push(fork);
            }
        }
    }

    fn virtual_server(&self, state: &State<'w>) -> Option<&'w Service> {
        let matches = |s: &&Service| match s.id {
            ServiceId::Mark { mark, v6 } => mark == state.mark && v6 == state.is_v6(),
            ServiceId::Address { protocol, address } => {
                protocol.number() == state.proto.0
                    && address.ip() == state.dst.ip
                    && (address.port() == state.dst.port
                        || (address.port() == 0 && s.persistent.is_some()))
            }
        };
        let services = &self.world.ipvs.services;
        // Marks come first (`ip_vs_service_find`).
        let by_mark = services
            .iter()
            .filter(|s| matches!(s.id, ServiceId::Mark { .. }))
            .find(matches);
        by_mark.or_else(|| services.iter().find(matches))
    }

    /// Return each destination's share of new connections. `rr` and similar schedulers take turns, which
    /// means equal odds for one packet.
    fn shares(&mut self, service: &Service, usable: &[&Destination]) -> Vec<Fraction> {
        let weighted = match &*service.scheduler {
            "rr" | "lc" | "nq" | "sed" | "lblc" | "lblcr" | "dh" | "ovf" | "fo" => false,
            "wrr" | "wlc" | "mh" | "sh" | "twos" => true,
            _ => true,
        };
        match &*service.scheduler {
            "rr" | "wrr" => {}
            "sh" | "dh" | "mh" => self.warn(format!(
                "IPVS {}: {} chooses by a hash of the address; shown by share",
                service.id, service.scheduler
            )),
            "fo" | "ovf" => self.warn(format!(
                "IPVS {}: {} prefers the heaviest destination; shown as equal",
                service.id, service.scheduler
            )),
            _ => self.warn(format!(
                "IPVS {}: {} chooses by load; shown as if all were equally loaded",
                service.id, service.scheduler
            )),
        }
        let weight = |d: &Destination| if weighted { u64::from(d.weight) } else { 1 };
        let total = usable.iter().map(|d| weight(d)).sum();
        usable
            .iter()
            .map(|d| Fraction::new(weight(d), total).unwrap_or(Fraction::ONE))
            .collect()
    }

    fn send_to(&mut self, state: &mut State<'w>, service: &Service, to: &Destination) {
        let virtual_server = state.dst;
        let after = Endpoint {
            ip: to.address.ip(),
            port: match to.address.port() {
                0 => state.dst.port,
                port => port,
            },
        };
        if to.method != Method::Masquerade {
            self.warn(format!(
                "IPVS {}: destination {} is not masqueraded; the packet is shown as sent to it unchanged",
                service.id, to.address
            ));
        }
        let rule = format!("{} -r {} -w {}", service.id, to.address, to.weight);
        let from_input = state.hook() == Hook::Input;
        let local = self.world.host.is_local(after.ip);
        let loopback = state.src.ip.is_loopback();
        state.conn.ipvs = Some(virtual_server);
        if to.method == Method::Masquerade {
            state.conn.dnat = Some(Rewrite {
                before: state.conn.original.dst,
                after,
            });
            state.dst = after;
        }
        state.note(AT, rule, format!("destination becomes {after}"));
        if local {
            // The packet stays in its hook.
            if !from_input {
                state.oif = Iface::Name("lo".into());
            }
            return;
        }
        if loopback {
            // `crosses_local_route_boundary` of ip_vs_xmit.c.
            let effect = format!(
                "a packet from {} may not leave this node: drop",
                state.src.ip
            );
            state.note_as(AT, "source check", effect, Did::Martian);
            state.finish(Verdict::Drop);
            return;
        }
        // IPVS sends it itself: through OUTPUT with the new destination, then POSTROUTING.
        state.cursor = None;
        state.frames.clear();
        state.stages.clear();
        state.iif = Iface::Absent;
        state.stages.push(Stage::Send);
        state.stages.push(Stage::Hook(Hook::Postrouting));
        state.stages.push(Stage::Hook(Hook::Output));
        self.choose_output(state, "sent by IPVS: ");
    }
}
