//! What was read back against what shall be there: the difference, in pieces that each leave every
//! Service whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use model::IpFamily;
use netfilter::nft::table::Contents;
use netfilter::nft::{Element, Op, SetData, Value};
use plan::PortKey;

use super::elements::port_elements;
use super::names::SetId;
use super::skeleton;
use super::state::{State, add_elements, delete_elements, remake};

type Elements = Vec<(SetId, Element)>;

/// The difference between a table and what it shall be.
#[derive(Debug, Default)]
pub(super) struct Repair {
    /// What must come first: chains and their rules, and elements that only make more possible.
    pub(super) first: Vec<Op>,
    /// For each Service port that is not right: what makes it right.
    pub(super) ports: Vec<Piece>,
    /// What must come last: what nothing asks for.
    pub(super) last: Vec<Op>,
}

/// Elements that go and come together.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// The port that they are for; `None` for frontends that no port has any more.
    pub(super) key: Option<PortKey>,
    /// To be deleted.
    pub(super) gone: Elements,
    /// To be added.
    pub(super) come: Elements,
}

impl Piece {
    pub(super) fn len(&self) -> usize {
        self.gone.len() + self.come.len()
    }
}

/// The operations of several pieces.
pub(super) fn ops(pieces: &[Piece]) -> Vec<Op> {
    let mut ops = Vec::new();
    let all = |of: fn(&Piece) -> &Elements| pieces.iter().flat_map(of).cloned().collect();
    delete_elements(all(|p| &p.gone), &mut ops);
    add_elements(all(|p| &p.come), &mut ops);
    ops
}

/// What kube-proxy has in its table, whatever the Services, and sluice has not.
const KUBE_PROXYS: &str = "firewall-ips";

/// Whether the table is one of ours: its sets and base chains are declared as ours are. Of anything
/// else nothing can be kept.
///
/// A kube-proxy that comes after us leaves our sets where they are, and base chains are the same: by
/// what it adds to them it is known.
pub(super) fn is_ours(contents: &Contents, family: IpFamily) -> bool {
    let sets = SetId::ALL.iter().all(|id| {
        let ours = id.declare(family);
        contents.sets.get(id.name()).is_some_and(|there| {
            let there = &there.set;
            let same_data = match (&there.data, &ours.data) {
                (SetData::Fields(a), SetData::Fields(b)) => a.number() == b.number(),
                (a, b) => a == b,
            };
            there.key.number() == ours.key.number() && there.flags == ours.flags && same_data
        })
    });
    let ours: Vec<_> = skeleton::chains();
    let chains = ours.iter().all(|chain| {
        let there = contents.chains.get(&chain.name);
        there.is_some_and(|there| there.chain.base == chain.base)
    });
    let foreign_base = contents.chains.values().any(|there| {
        there.chain.base.is_some() && ours.iter().all(|chain| chain.name != there.chain.name)
    });
    let taken_over = contents.sets.contains_key(KUBE_PROXYS);
    sets && chains && !foreign_base && !taken_over
}

/// What makes a table of ours into `target`. What belongs to ports in `skip` is left as it is.
pub(super) fn compare(mut found: Contents, target: &State, skip: &Skip) -> Repair {
    let mut repair = Repair::default();
    let (come, gone) = remake(&found.chains, &target.chains());
    repair.first = come;
    let mut shared = Piece::default();
    let mut owners = HashMap::new();
    for (key, port) in target.ports() {
        let mut piece = Piece {
            key: Some(key.clone()),
            ..Piece::default()
        };
        for (id, e) in port_elements(port, target.node()).own {
            if let Some(frontend) = frontend(id, &e.key) {
                owners.insert(frontend, repair.ports.len());
            }
            match_element(&mut found, id, e, &mut piece);
        }
        repair.ports.push(piece);
    }
    for (id, e) in target.common_elements() {
        match_element(&mut found, id, e, &mut shared);
    }
    add_elements(std::mem::take(&mut shared.come), &mut repair.first);
    // What is left was not asked for.
    let mut orphans: BTreeMap<Value, Piece> = BTreeMap::new();
    let mut last = shared.gone;
    for id in SetId::ALL.into_iter().filter(|id| !id.is_learned()) {
        let Some(set) = found.sets.get_mut(id.name()) else {
            continue;
        };
        for e in std::mem::take(&mut set.elements).into_values() {
            let Some(frontend) = frontend(id, &e.key) else {
                if !skip.shared.contains(&(id, e.key)) {
                    last.push((id, e));
                }
                continue;
            };
            if skip.frontends.contains(&frontend) {
                continue;
            }
            match owners
                .get(&frontend)
                .and_then(|at| repair.ports.get_mut(*at))
            {
                Some(piece) => piece.gone.push((id, e)),
                None => orphans.entry(frontend).or_default().gone.push((id, e)),
            }
        }
    }
    repair.ports.retain(|piece| piece.len() > 0);
    // Frontends that are gone go before others come: one may have passed from one to the other.
    let ports = std::mem::take(&mut repair.ports);
    repair.ports = orphans.into_values().chain(ports).collect();
    delete_elements(last, &mut repair.last);
    repair.last.extend(gone);
    let sets = found.sets.keys();
    let strangers = sets.filter(|name| SetId::from_name(name).is_none());
    repair.last.extend(strangers.cloned().map(Op::DeleteSet));
    repair
}

/// What a repair does not touch: what ports have in the table that the kernel refuses to change.
#[derive(Debug, Default)]
pub(super) struct Skip {
    frontends: BTreeSet<Value>,
    shared: BTreeSet<(SetId, Value)>,
}

impl Skip {
    /// Adds what a port has.
    pub(super) fn add(&mut self, port: &plan::PortPlan, node: &plan::NodeFacts) {
        let elements = port_elements(port, node);
        for (id, e) in elements.own {
            match frontend(id, &e.key) {
                Some(frontend) => self.frontends.insert(frontend),
                None => self.shared.insert((id, e.key)),
            };
        }
        for shared in elements.shared {
            let (id, e) = shared.element();
            self.shared.insert((id, e.key));
        }
    }
}

/// Matches an element that shall be there against what is; what matches is taken out of `found`.
fn match_element(found: &mut Contents, id: SetId, e: Element, piece: &mut Piece) {
    let there = found
        .sets
        .get_mut(id.name())
        .and_then(|set| set.elements.remove(&(e.key, e.interval_end)));
    match there {
        Some(there) if there == e => {}
        Some(there) => {
            piece.gone.push((id, there));
            piece.come.push((id, e));
        }
        None => piece.come.push((id, e)),
    }
}

/// The frontend that an element is about: protocol and port, and the address where it has one.
/// `None` where elements are not one frontend's.
fn frontend(id: SetId, key: &Value) -> Option<Value> {
    let bytes = key.as_bytes();
    let address = |len: usize| bytes.get(..len).and_then(Value::new);
    // An address, padded protocol and port.
    let whole = bytes.len();
    match id {
        SetId::NoEndpointServices
        | SetId::NoEndpointNodePorts
        | SetId::ClusterIpPorts
        | SetId::ServiceIps
        | SetId::ServiceNodePorts
        | SetId::SourceRanged => Some(*key),
        SetId::EndpointCounts
        | SetId::NodePortEndpointCounts
        | SetId::Endpoints
        | SetId::NodePortEndpoints
        | SetId::StickyEndpoints
        | SetId::NodePortStickyEndpoints => address(whole.checked_sub(4)?),
        // Address, protocol, port, address: (whole - 8) / 2 each for the addresses.
        SetId::SourceRanges => address(whole.checked_sub(8)? / 2 + 8),
        SetId::ClusterIps
        | SetId::ServiceCidrs
        | SetId::NodePortIps
        | SetId::Hairpin
        | SetId::Affinity
        | SetId::NodePortAffinity
        | SetId::LiveEndpoints
        | SetId::NodePortLiveEndpoints => None,
    }
}
