//! Membership in ipsets.

use std::net::IpAddr;

use netfilter::ipset::{Element, Method, Part, PartKind, Set};
use netfilter::iptables::{MatchSet, SetDirection};

use super::Walker;
use super::ipt::{Holds, set_key};
use super::state::{Iface, State};

/// Limit on nested lists, which the kernel refuses but a dump can contain.
const MAX_DEPTH: usize = 8;

impl<'w> Walker<'w> {
    pub(crate) fn in_ipset(&mut self, state: &State<'w>, want: &MatchSet) -> Holds {
        let name = &want.name.value;
        let key = set_key(state, &want.directions);
        if let Some(learnt) = state.learnt(&format!("ipset/{name}"), &key) {
            return Holds::of(learnt).negated_if(want.name.negated);
        }
        let Some(set) = self.world.ipsets.get(name) else {
            return Holds::Unknown(format!("the dumps do not contain ipset {name}"));
        };
        self.in_set(state, set, want, 0)
            .negated_if(want.name.negated)
    }

    fn in_set(&self, state: &State<'w>, set: &Set, want: &MatchSet, depth: usize) -> Holds {
        if set.method == Method::List {
            if depth >= MAX_DEPTH {
                return Holds::Unknown(format!("ipset {} is nested too deep", set.name));
            }
            let mut answer = Holds::No;
            for part in set.elements.iter().flat_map(|e| &e.parts) {
                let Part::Set(member) = part else { continue };
                let Some(member) = self.world.ipsets.get(member) else {
                    answer = Holds::Unknown(format!("the dumps do not contain ipset {member}"));
                    continue;
                };
                match self.in_set(state, member, want, depth + 1) {
                    Holds::Yes => return Holds::Yes,
                    Holds::No => {}
                    unknown => answer = unknown,
                }
            }
            return answer;
        }
        // A set of the other family does not contain this packet's addresses.
        let has_address = set
            .parts
            .iter()
            .any(|p| matches!(p, PartKind::Ip | PartKind::Net));
        if has_address && set.is_v6() != state.is_v6() {
            return Holds::No;
        }
        if want.directions.len() < set.parts.len() {
            return Holds::No;
        }
        let mut best: Option<(u32, bool)> = None;
        for element in &set.elements {
            match covers(state, set, element, &want.directions) {
                Holds::Yes => {
                    // The narrowest range decides; `nomatch` negates it.
                    let width = prefix_bits(element);
                    if best.is_none_or(|(w, _)| width >= w) {
                        best = Some((width, element.nomatch));
                    }
                }
                Holds::No => {}
                unknown => return unknown,
            }
        }
        Holds::of(best.is_some_and(|(_, nomatch)| nomatch == want.return_nomatch))
    }
}

fn prefix_bits(element: &Element) -> u32 {
    element
        .parts
        .iter()
        .map(|p| match p {
            Part::Net(net) => u32::from(net.prefix_len()),
            _ => 128,
        })
        .sum()
}

fn covers(state: &State<'_>, set: &Set, element: &Element, directions: &[SetDirection]) -> Holds {
    for ((part, kind), direction) in element.parts.iter().zip(&set.parts).zip(directions) {
        let (end, iface) = match direction {
            SetDirection::Source => (state.src, &state.iif),
            SetDirection::Destination => (state.dst, &state.oif),
        };
        let holds = match (part, kind) {
            (Part::Ip(ip), _) => *ip == end.ip,
            (Part::Net(net), _) => net.contains(&end.ip),
            (Part::IpRange(a, b), _) => in_range(*a, *b, end.ip),
            (
                Part::Port {
                    protocol,
                    first,
                    last,
                },
                _,
            ) => {
                if state.random_sport && *direction == SetDirection::Source {
                    let why = format!("ipset {}: the source port was chosen at random", set.name);
                    return Holds::Unknown(why);
                }
                let same = protocol.is_none_or(|p| p.0 == state.proto.0);
                // ICMP's is type and code in one.
                let port = if state.proto.is_icmp() {
                    (state.src.port << 8) | (state.dst.port & 0xff)
                } else {
                    end.port
                };
                let counts = state.proto.has_ports() || state.proto.is_icmp();
                same && ((counts && (*first..=*last).contains(&port)) || (!counts && *first == 0))
            }
            (Part::Mark(mark), _) => *mark == state.mark,
            (Part::Iface { name, physical }, _) => match iface {
                Iface::Name(n) if !physical => **n == **name,
                Iface::Absent => false,
                _ => {
                    return Holds::Unknown(format!(
                        "ipset {}: the interface is not known",
                        set.name
                    ));
                }
            },
            (Part::Mac(_), _) => {
                return Holds::Unknown(format!(
                    "ipset {}: the hardware address is not known",
                    set.name
                ));
            }
            (Part::Set(_), _) => false,
        };
        if !holds {
            return Holds::No;
        }
    }
    Holds::Yes
}

fn in_range(first: IpAddr, last: IpAddr, ip: IpAddr) -> bool {
    first.is_ipv4() == ip.is_ipv4() && first <= ip && ip <= last
}
