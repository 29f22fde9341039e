//! A packet on its way: its header, its connection, where it is and what happened so far.

use std::net::IpAddr;
use std::rc::Rc;

use super::assume::Assumption;
use super::hooks::{ChainRef, Hook};
use crate::fraction::Fraction;
use crate::outcome::{Did, Step, Verdict};
use crate::packet::{CtState, Endpoint, Packet, Proto, Rewrite};

/// An interface name that may be absent, or not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Iface {
    /// There is none here: a packet made by the node did not come in, one that stays does not
    /// leave.
    Absent,
    /// There is one, but the facts do not tell which.
    Unknown,
    Name(Rc<str>),
}

impl Iface {
    pub(crate) fn named(name: Option<&str>) -> Self {
        name.map_or(Iface::Unknown, |n| Iface::Name(n.into()))
    }

    /// The name; `None` where absent or unknown.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Iface::Name(n) => Some(n),
            _ => None,
        }
    }
}

/// What the packet's connection is in the eyes of connection tracking.
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
    /// Whether the packet goes against the first one's direction.
    pub(crate) reply: bool,
    /// This packet's tuple as it came, before any translation.
    pub(crate) original: Tuple,
    pub(crate) dnat: Option<Rewrite>,
    pub(crate) snat: Option<Rewrite>,
    /// `snat` came from a masquerade rule.
    pub(crate) masquerade: bool,
    /// `masquerade`, and the facts do not tell to which address.
    pub(crate) masquerade_unknown: bool,
    /// Whether the destination's, or the source's, translation is settled (perhaps to none).
    pub(crate) dst_done: bool,
    pub(crate) src_done: bool,
    pub(crate) mark: u32,
    pub(crate) zone: u16,
    /// The IPVS virtual server that has rewritten this packet, if one has.
    pub(crate) ipvs: Option<Endpoint>,
}

/// A place in a chain to come back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'w> {
    pub(crate) chain: ChainRef<'w>,
    pub(crate) rule: usize,
}

/// What remains to be done, the next last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// All that hangs on a hook.
    Hook(Hook),
    /// The decision between delivering and sending on, for a packet that came in.
    RouteInput,
    /// The choice of a way for a packet made here.
    RouteOutput,
    /// The packet leaves through `oif`; through `lo` it comes back in.
    Send,
    /// To a socket of this node.
    Deliver,
}

/// Where within a hook.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    pub(crate) hook: Hook,
    /// Which of the hook's entries is being worked on.
    pub(crate) entry: usize,
    /// Which of the entry's chains, where it has several (NAT).
    pub(crate) chain: usize,
    /// The mark and addresses with which the packet came to the present entry: a change makes the
    /// kernel route anew after mangle OUTPUT.
    pub(crate) before: (u32, IpAddr, IpAddr),
}

/// Something a dynamic set or `recent` list was told on this packet's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Learnt {
    /// The set: `recent/NAME`, or the family, table and set of nf_tables, or `ipset/NAME`.
    pub(crate) set: Rc<str>,
    pub(crate) key: Vec<u8>,
    /// The mapped value, for maps.
    pub(crate) value: Vec<netfilter::nft_lang::Literal>,
    /// Taken out rather than put in.
    pub(crate) gone: bool,
}

/// A list that forks share their beginnings of.
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
    // Without this a long list would be freed by recursion.
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

/// One way the packet may go.
#[derive(Clone)]
pub(crate) struct State<'w> {
    pub(crate) probability: Fraction,
    pub(crate) src: Endpoint,
    pub(crate) dst: Endpoint,
    pub(crate) proto: Proto,
    /// The source port was chosen at random: what `src` says is what it was before.
    pub(crate) random_sport: bool,
    pub(crate) mark: u32,
    pub(crate) iif: Iface,
    pub(crate) oif: Iface,
    /// The next hop of the way chosen.
    pub(crate) next_hop: Option<IpAddr>,
    pub(crate) conn: Conn,
    /// What connection tracking will say once it looks.
    pub(crate) known: Rc<CtState>,
    pub(crate) learnt: Shared<Learnt>,
    pub(crate) stages: Vec<Stage>,
    pub(crate) cursor: Option<Cursor>,
    pub(crate) frames: Vec<Frame<'w>>,
    /// How often the walk jumped since the present entry of the hook began.
    pub(crate) jumps: u32,
    pub(crate) path: Shared<Rc<Step>>,
    pub(crate) assuming: Shared<Rc<Assumption>>,
    /// Addresses of which the question itself, or routing, settles whether they are local.
    pub(crate) settled: Shared<(IpAddr, bool)>,
    /// Other ways that routing or IPVS could have chosen, to be walked too.
    pub(crate) forks: Vec<State<'w>>,
    /// Set once the walk along this way is over.
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

    /// The hook that the packet is at; meaningless between hooks.
    pub(crate) fn hook(&self) -> Hook {
        self.cursor.map_or(Hook::Prerouting, |c| c.hook)
    }

    pub(crate) fn is_v6(&self) -> bool {
        self.dst.ip.is_ipv6()
    }

    /// Ends the walk.
    pub(crate) fn finish(&mut self, end: Verdict) {
        self.end = Some(end);
        self.frames.clear();
        self.stages.clear();
        self.cursor = None;
    }

    /// Notes something that is not a rule's doing.
    pub(crate) fn note(
        &mut self,
        at: &'static str,
        rule: impl Into<String>,
        effect: impl Into<String>,
    ) {
        self.note_as(at, rule, effect, Did::WentOn);
    }

    /// As [`Self::note`], for what does more than let the packet go on.
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

    /// Source and destination as people are told them: without the numbers that are no ports, or
    /// not known.
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

    /// Whether the packet has a connection: tracking has seen it and could make sense of it.
    pub(crate) fn is_tracked(&self) -> bool {
        self.conn.seen && !matches!(self.conn.status, Status::Invalid | Status::Untracked)
    }

    /// Whether a key was put on a list on this packet's way (`Some(true)`), taken off it
    /// (`Some(false)`), or neither.
    pub(crate) fn learnt(&self, set: &str, key: &[u8]) -> Option<bool> {
        self.learnt
            .iter()
            .find(|l| *l.set == *set && l.key == key)
            .map(|l| !l.gone)
    }
}
