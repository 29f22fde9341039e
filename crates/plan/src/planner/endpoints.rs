//! Selection of the endpoints of a Service port.

use std::net::IpAddr;
use std::sync::Arc;

use model::{Endpoint as SliceEndpoint, EndpointSlice, IpFamily, Protocol};

use crate::Endpoint;
use crate::endpoint::{SortKey, v4_sort_key};

/// The facts about this node that endpoint selection needs.
#[derive(Debug)]
pub(super) struct Here {
    pub(super) node_name: Arc<str>,
    pub(super) zone: Option<Arc<str>>,
}

/// An endpoint of one port with the properties that selection needs. Small, because there may be
/// thousands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) endpoint: Endpoint,
    flags: u16,
}

impl Candidate {
    const READY: u16 = 1;
    const SERVING: u16 = 1 << 1;
    const TERMINATING: u16 = 1 << 2;
    const ZONE_HINTED: u16 = 1 << 3;
    const FOR_THIS_ZONE: u16 = 1 << 4;
    const NODE_HINTED: u16 = 1 << 5;
    const FOR_THIS_NODE: u16 = 1 << 6;
    const SERVING_TERMINATING: u16 = Self::SERVING | Self::TERMINATING;

    fn new(endpoint: &SliceEndpoint, port: u16, here: &Here) -> Self {
        let conditions = endpoint.conditions;
        let has = |hints: &[Arc<str>], name: Option<&Arc<str>>| {
            name.is_some_and(|name| hints.contains(name))
        };
        let mut flags = 0;
        let mut set = |flag, on| flags |= if on { flag } else { 0 };
        set(Self::READY, conditions.ready);
        set(Self::SERVING, conditions.serving);
        set(Self::TERMINATING, conditions.terminating);
        if !endpoint.zone_hints.is_empty() {
            set(Self::ZONE_HINTED, true);
            let zone = here.zone.as_ref();
            set(Self::FOR_THIS_ZONE, has(&endpoint.zone_hints, zone));
        }
        if !endpoint.node_hints.is_empty() {
            set(Self::NODE_HINTED, true);
            let node = Some(&here.node_name);
            set(Self::FOR_THIS_NODE, has(&endpoint.node_hints, node));
        }
        let is_local =
            !here.node_name.is_empty() && endpoint.node_name.as_deref() == Some(&*here.node_name);
        Self {
            endpoint: Endpoint {
                ip: endpoint.address,
                port,
                is_local,
            },
            flags,
        }
    }

    fn is(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }

    pub(super) fn is_ready(&self) -> bool {
        self.is(Self::READY)
    }
}

/// The endpoints of one slice for one of its ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    name: &'a str,
    protocol: Protocol,
    port: u16,
    endpoints: &'a [SliceEndpoint],
}

/// Endpoints of slices by port name and protocol, so that a Service with a thousand ports does not
/// search each slice a thousand times.
#[derive(Debug)]
pub(super) struct Targets<'a>(Vec<Target<'a>>);

impl<'a> Targets<'a> {
    pub(super) fn new(slices: impl Iterator<Item = &'a EndpointSlice>) -> Self {
        let targets = slices.flat_map(|slice| {
            let ports = slice.ports.iter();
            ports.filter_map(|port| {
                Some(Target {
                    name: &port.name,
                    protocol: port.protocol,
                    port: port.port?.get(),
                    endpoints: &slice.endpoints,
                })
            })
        });
        let mut targets: Vec<_> = targets.collect();
        // Stable: equal names stay in the order of the slices.
        targets.sort_by_key(Target::key);
        Self(targets)
    }

    /// Return the endpoints of one port.
    pub(super) fn of(&self, name: &str, protocol: Protocol) -> &[Target<'a>] {
        let start = self.0.partition_point(|t| t.key() < (name, protocol));
        let rest = self.0.get(start..).unwrap_or_default();
        let len = rest.partition_point(|t| t.key() == (name, protocol));
        rest.get(..len).unwrap_or_default()
    }

    /// Return the endpoints of each port in the slices.
    pub(super) fn by_port(&self) -> impl Iterator<Item = &[Target<'a>]> {
        self.0.chunk_by(|a, b| a.key() == b.key())
    }
}

impl<'a> Target<'a> {
    fn key(&self) -> (&'a str, Protocol) {
        (self.name, self.protocol)
    }
}

/// Fill `into` with the distinct endpoints of a port, sorted.
pub(super) fn gather(
    targets: &[Target<'_>],
    family: IpFamily,
    here: &Here,
    into: &mut Vec<Candidate>,
) {
    into.clear();
    for target in targets {
        let endpoints = target.endpoints.iter();
        let endpoints = endpoints.filter(|e| IpFamily::of(e.address) == family);
        into.extend(endpoints.map(|e| Candidate::new(e, target.port, here)));
    }
    match family {
        // For thousands of endpoints, sorting adjacent keys is several times faster; for ten it is
        // not.
        IpFamily::V4 if into.len() > 20 => into.sort_by_cached_key(|c| v4_sort_key(&c.endpoint)),
        IpFamily::V4 => into.sort_by_key(|c| v4_sort_key(&c.endpoint)),
        IpFamily::V6 => into.sort_by_cached_key(|c| SortKey::of(c.endpoint.ip, c.endpoint.port)),
    }
    // Of several endpoints with one address and port, keep the last as the probably newest one, but
    // never replace another with a terminating one: a pod network may reuse the address of a
    // terminating pod. The sort is stable, so they are still in the order of the slice names.
    into.dedup_by(|later, kept| {
        let same =
            (later.endpoint.ip, later.endpoint.port) == (kept.endpoint.ip, kept.endpoint.port);
        if same && !later.is(Candidate::TERMINATING) {
            *kept = *later;
        }
        same
    });
}

/// The selected endpoints of a port on this node.
#[derive(Debug)]
pub(super) struct Usable {
    pub(super) cluster: Arc<[Endpoint]>,
    pub(super) local: Arc<[Endpoint]>,
    pub(super) has_any: bool,
}

/// Select the endpoints for each policy in use (KEP-1669 for terminating endpoints, KEP-2433,
/// KEP-3015 and KEP-4444 for hints).
pub(super) fn usable(all: &[Candidate], cluster_policy: bool, local_policy: bool) -> Usable {
    let terminating = |c: &Candidate| c.is(Candidate::SERVING_TERMINATING);
    let mut cluster = Arc::default();
    if cluster_policy {
        let hint = hint_to_follow(all);
        cluster = select(all, |c| c.is(Candidate::READY | hint));
        if cluster.is_empty() {
            cluster = select(all, terminating);
        }
    }
    let mut local = Arc::default();
    if local_policy {
        local = select(all, |c| c.endpoint.is_local && c.is_ready());
        if local.is_empty() {
            local = select(all, |c| c.endpoint.is_local && terminating(c));
        }
        if local == cluster {
            local = cluster.clone();
        }
    }
    let has_any = all.iter().any(|c| c.is_ready() || terminating(c));
    Usable {
        cluster,
        local,
        has_any,
    }
}

/// Return the flag that selects ready endpoints under Cluster policy; 0 selects all.
///
/// Hints apply to all endpoints or to none: only if every ready endpoint has hints, and one of them
/// names this node or zone. Node hints precede zone hints.
fn hint_to_follow(all: &[Candidate]) -> u16 {
    let (mut every, mut any) = (u16::MAX, 0);
    for candidate in all.iter().filter(|c| c.is_ready()) {
        every &= candidate.flags;
        any |= candidate.flags;
    }
    let usable = |hinted, here| every & hinted != 0 && any & here != 0;
    if usable(Candidate::NODE_HINTED, Candidate::FOR_THIS_NODE) {
        Candidate::FOR_THIS_NODE
    } else if usable(Candidate::ZONE_HINTED, Candidate::FOR_THIS_ZONE) {
        Candidate::FOR_THIS_ZONE
    } else {
        0
    }
}

/// Return the serving endpoints, to which existing flows may keep going. Shared with `cluster`, the
/// usable endpoints, if they are the same.
pub(super) fn serving(all: &[Candidate], cluster: &Arc<[Endpoint]>) -> Arc<[Endpoint]> {
    let serving = |c: &Candidate| c.is(Candidate::SERVING);
    // Usable endpoints are ready, or serve while they terminate.
    let all_usable_serve = all.iter().all(|c| serving(c) || !c.is_ready());
    if all_usable_serve && all.iter().filter(|c| serving(c)).count() == cluster.len() {
        cluster.clone()
    } else {
        select(all, serving)
    }
}

/// Return the endpoints of this node in any condition.
pub(super) fn on_node(all: &[Candidate]) -> Arc<[Endpoint]> {
    select(all, |c| c.endpoint.is_local)
}

fn select(all: &[Candidate], wanted: impl Fn(&Candidate) -> bool) -> Arc<[Endpoint]> {
    let count = all.iter().filter(|c| wanted(c)).count();
    if count == 0 {
        return Arc::default();
    }
    let mut endpoints = Vec::with_capacity(count);
    endpoints.extend(all.iter().filter(|c| wanted(c)).map(|c| c.endpoint));
    endpoints.into()
}

/// Return the number of distinct addresses.
pub(super) fn distinct(mut ips: Vec<IpAddr>) -> usize {
    ips.sort_unstable();
    ips.dedup();
    ips.len()
}
