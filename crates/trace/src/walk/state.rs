//! A packet on its path: its header, its connection, its position and its history.

use std::net::IpAddr;
use std::rc::Rc;

use super::assume::Assumption;
use super::hooks::{ChainRef, Hook};
use crate::fraction::Fraction;
use crate::outcome::{Did, Step, Verdict};
use crate::packet::{CtState, Endpoint, Packet, Proto, Rewrite};

/// An interface name that may be absent or unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Iface {
    /// No interface: packets of the node do not enter, delivered packets do not leave.
    Absent,
    /// An interface that the facts do not contain.
    Unknown,
    Name(Rc<str>),
}

impl Iface {
    pub(crate) fn named(name: Option<&str>) -> Self {
        name.map_or(Iface::Unknown, |n| Iface::Name(n.into()))
    }

    /// Return the name; `None` where absent or unknown.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Iface::Name(n) => Some(n),
            _ => None,
        }
    }
}

/// The connection's state in connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    New,
    Established,
    Related,
    Invalid,
    Untracked,
}

/// A packet's addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub(crate) src: Endpoint,
    pub(crate) dst: Endpoint,
}

/// The connection that the packet belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Conn {
    pub(crate) status: Status,
    /// Whether connection tracking has seen the packet at this node yet.
    pub(crate) seen: bool,
    /// Whether the packet is in the reply direction.
    pub(crate) reply: bool,
    /// The packet's tuple before all translation.
    pub(crate) original: Tuple,
    pub(crate) dnat: Option<Rewrite>,
    pub(crate) snat: Option<Rewrite>,
    /// `snat` came from a masquerade rule.
    pub(crate) masquerade: bool,
    /// `masquerade`, to an unknown address.
    pub(crate) masquerade_unknown: bool,
    /// Whether the translation of destination or source is settled (even if to none).
    pub(crate) dst_done: bool,
    pub(crate) src_done: bool,
    pub(crate) mark: u32,
    pub(crate) zone: u16,
    /// The IPVS virtual server that rewrote this packet.
    pub(crate) ipvs: Option<Endpoint>,
}

/// A position in a chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'w> {
    pub(crate) chain: ChainRef<'w>,
    pub(crate) rule: usize,
}

/// A remaining step; the next one is last in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// All entries of a hook.
    Hook(Hook),
    /// The decision between delivery and forwarding, for an incoming packet.
    RouteInput,
    /// The choice of a route for a packet of this node.
    RouteOutput,
    /// The packet is sent through `oif`; through `lo` it enters again.
    Send,
    /// The packet has passed the device's chains.
    Leave,
    /// Delivery to a socket of this node.
    Deliver,
}

/// A position in a hook.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    pub(crate) hook: Hook,
    /// Index of the current entry.
    pub(crate) entry: usize,
    /// Index of the entry's current chain (NAT has several).
    pub(crate) chain: usize,
    /// Mark and addresses at the start of the entry: the kernel routes again if mangle OUTPUT changes
    /// them.
    pub(crate) before: (u32, IpAddr, IpAddr),
}

/// A change that this packet made to a dynamic set or `recent` list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Learnt {
    /// The set: `recent/NAME`, or the family, table and set of nf_tables, or `ipset/NAME`.
    pub(crate) set: Rc<str>,
    pub(crate) key: Vec<u8>,
    /// The mapped value, for maps.
    pub(crate) value: Vec<netfilter::nft_lang::Literal>,
    /// Removed, not added.
    pub(crate) gone: bool,
}

/// A list whose beginning is shared by forks.
pub(crate) struct Shared<T>(Option<Rc<Node<T>>>);

struct Node<T> {
    value: T,
    before: Shared<T>,
}

impl<T> Shared<T> {
    pub(crate) const EMPTY: Self = Self(None);

    pub(crate) fn push(&mut self, value: T) {
        let before = Self(self.0.take());
        self.0 = Some(Rc::new(Node { value, before }));
    }

    /// Latest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let mut at = self.0.as_deref();
        std::iter::from_fn(move || {
            let node = at?;
            at = node.before.0.as_deref();
            Some(&node.value)
        })
    }
}

impl<T: Clone> Shared<T> {
    /// Earliest first.
    pub(crate) fn to_vec(&self) -> Vec<T> {
        let mut all: Vec<T> = self.iter().cloned().collect();
        all.reverse();
        all
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Drop for Shared<T> {
    // Prevents recursion when a long list is freed.
    fn drop(&mut self) {
        let mut at = self.0.take();
        while let Some(node) = at {
            match Rc::try_unwrap(node) {
                Ok(mut last) => at = last.before.0.take(),
                Err(_) => break,
            }
        }
    }
}

/// One path of the packet.
#[derive(Clone)]
pub(crate) struct State<'w> {
    pub(crate) probability: Fraction,
    pub(crate) src: Endpoint,
    pub(crate) dst: Endpoint,
    pub(crate) proto: Proto,
    /// The source port was chosen at random: `src` contains the port before that.
    pub(crate) random_sport: bool,
    pub(crate) mark: u32,
    pub(crate) iif: Iface,
    pub(crate) oif: Iface,
    /// The next hop of the chosen route.
    pub(crate) next_hop: Option<IpAddr>,
    pub(crate) conn: Conn,
    /// The result of the coming connection tracking lookup.
    pub(crate) known: Rc<CtState>,
    pub(crate) learnt: Shared<Learnt>,
    pub(crate) stages: Vec<Stage>,
    pub(crate) cursor: Option<Cursor>,
    pub(crate) frames: Vec<Frame<'w>>,
    /// Number of jumps in the current entry.
    pub(crate) jumps: u32,
    pub(crate) path: Shared<Rc<Step>>,
    pub(crate) assuming: Shared<Rc<Assumption>>,
    /// Addresses that are local or not by the question or by an earlier routing decision.
    pub(crate) settled: Shared<(IpAddr, bool)>,
    /// Other paths that routing or IPVS could have chosen.
    pub(crate) forks: Vec<State<'w>>,
    /// The verdict, at the end of the path.
    pub(crate) end: Option<Verdict>,
}

impl<'w> State<'w> {
    pub(crate) fn new(packet: &Packet, iif: Iface, stages: Vec<Stage>) -> Self {
        let src = Endpoint {
            ip: packet.src,
            port: packet.sport,
        };
        let dst = Endpoint {
            ip: packet.dst,
            port: packet.dport,
        };
        Self {
            probability: Fraction::ONE,
            src,
            dst,
            proto: packet.proto,
            random_sport: false,
            mark: packet.mark,
            iif,
            oif: Iface::Absent,
            next_hop: None,
            conn: Conn {
                status: Status::Invalid,
                seen: false,
                reply: false,
                original: Tuple { src, dst },
                dnat: None,
                snat: None,
                masquerade: false,
                masquerade_unknown: false,
                dst_done: false,
                src_done: false,
                mark: 0,
                zone: 0,
                ipvs: None,
            },
            known: Rc::new(packet.ct.clone()),
            learnt: Shared::EMPTY,
            stages,
            cursor: None,
            frames: Vec::new(),
            jumps: 0,
            path: Shared::EMPTY,
            assuming: Shared::EMPTY,
            settled: Shared::EMPTY,
            forks: Vec::new(),
            end: None,
        }
    }

    /// Return the current hook; meaningless between hooks.
    pub(crate) fn hook(&self) -> Hook {
        self.cursor.map_or(Hook::Prerouting, |c| c.hook)
    }

    pub(crate) fn is_v6(&self) -> bool {
        self.dst.ip.is_ipv6()
    }

    /// End the path.
    pub(crate) fn finish(&mut self, end: Verdict) {
        self.end = Some(end);
        self.frames.clear();
        self.stages.clear();
        self.cursor = None;
    }

    /// Add a step that no rule caused.
    pub(crate) fn note(
        &mut self,
        at: &'static str,
        rule: impl Into<String>,
        effect: impl Into<String>,
    ) {
        self.note_as(at, rule, effect, Did::WentOn);
    }

    /// As [`Self::note`], with its effect.
    pub(crate) fn note_as(
        &mut self,
        at: &'static str,
        rule: impl Into<String>,
        effect: impl Into<String>,
        did: Did,
    ) {
        self.path.push(Rc::new(Step {
            hook: at,
            backend: None,
            family: if self.is_v6() { "ip6" } else { "ip" },
            table: String::new(),
            chain: String::new(),
            rule: rule.into(),
            effect: effect.into(),
            did,
        }));
    }

    /// Return source and destination for people: without unknown ports and numbers that are no ports.
    pub(crate) fn shown_ends(&self) -> (Endpoint, Endpoint) {
        let without = |end: Endpoint, port: bool| {
            if port {
                Endpoint { port: 0, ..end }
            } else {
                end
            }
        };
        let icmp = self.proto.is_icmp();
        let src = without(self.src, icmp || self.random_sport);
        (src, without(self.dst, icmp))
    }

    /// Return whether connection tracking has assigned the packet to a connection.
    pub(crate) fn is_tracked(&self) -> bool {
        self.conn.seen && !matches!(self.conn.status, Status::Invalid | Status::Untracked)
    }

    /// Return whether this packet added a key to a list (`Some(true)`), removed it (`Some(false)`), or
    /// neither.
    pub(crate) fn learnt(&self, set: &str, key: &[u8]) -> Option<bool> {
        self.learnt
            .iter()
            .find(|l| *l.set == *set && l.key == key)
            .map(|l| !l.gone)
    }
}
