//! Diffs the table read from the kernel against the desired state, in pieces that each leave every
//! Service whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use model::IpFamily;
use netfilter::nft::table::Contents;
use netfilter::nft::{Data, Element, Op, SetData, Value};
use plan::{PortKey, PortPlan};

use super::elements::{Shared, comment, port_elements};
use super::names::SetId;
use super::skeleton;
use super::state::State;
use crate::nft_table::{add_elements, delete_elements, remake};

type Elements = Vec<(SetId, Element)>;

/// The difference between a table and the desired state.
#[derive(Debug, Default)]
pub(super) struct Repair {
    /// Operations that must come first: chains, rules, and shared elements.
    pub(super) first: Vec<Op>,
    /// One piece for each Service port that differs.
    pub(super) ports: Vec<Piece>,
    /// Operations that must come last: deletions of unused objects.
    pub(super) last: Vec<Op>,
}

/// Elements that are deleted and added together.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// The port; `None` for frontends that belong to no port.
    pub(super) key: Option<PortKey>,
    /// To be deleted.
    pub(super) removed: Elements,
    /// To be added.
    pub(super) added: Elements,
}

impl Piece {
    pub(super) fn len(&self) -> usize {
        self.removed.len() + self.added.len()
    }
}

/// Return the operations of several pieces.
pub(super) fn ops(pieces: &[Piece]) -> Vec<Op> {
    let mut ops = Vec::new();
    let all = |of: fn(&Piece) -> &Elements| pieces.iter().flat_map(of).cloned().collect();
    delete_elements(all(|p| &p.removed), &mut ops);
    add_elements(all(|p| &p.added), &mut ops);
    ops
}

/// A set of kube-proxy's layout that sluice's lacks.
const KUBE_PROXY_SET: &str = "firewall-ips";

/// Return whether the table has this layout, or sluice's before version 0.2: its sets and base chains are
/// declared in the same way. A table of another layout is replaced.
///
/// The former layout has other sets and base chains. A repair deletes them last, so that source ranges and
/// the verdicts of frontends without endpoints are in force all the time.
///
/// A kube-proxy that starts after sluice leaves sluice's sets in the table; it is recognised by the
/// sets that it adds.
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
        let is_added = chain.base.is_none() || skeleton::ADDED_BASE.contains(&&*chain.name);
        there.map_or(is_added, |there| there.chain.base == chain.base)
    });
    let known = |name: &str| {
        ours.iter().any(|chain| chain.name == name) || skeleton::FORMER_BASE.contains(&name)
    };
    let foreign_base = contents
        .chains
        .values()
        .any(|there| there.chain.base.is_some() && !known(&there.chain.name));
    let taken_over = contents.sets.contains_key(KUBE_PROXY_SET);
    sets && chains && !foreign_base && !taken_over
}

/// The owner of a frontend.
#[derive(Clone, Copy)]
enum Owner {
    /// The port with the piece of this number.
    Piece(usize),
    /// A refused port.
    Refused,
}

type Owners = HashMap<Value, Owner>;

/// Return the difference between a table of this layout and `target`. Elements of ports in `refused`
/// stay, and the target afterwards has the shared elements that they need. The comments of elements
/// name their port.
pub(super) fn compare(mut found: Contents, target: &mut State, refused: &[&PortPlan]) -> Repair {
    let mut repair = Repair::default();
    let (added, removed) = remake(&found.chains, &target.chains());
    repair.first = added;
    let mut owners = match_ports(&mut found, target, &mut repair.ports);
    owners_by_name(&found, target, refused, &mut owners);
    for shared in sort_out(&mut found, &owners, &mut repair.ports) {
        let (id, e) = shared.element();
        if has(&found, id, &e) {
            target.keep(shared);
        }
    }
    let mut common = Piece::default();
    for (id, e) in target.common_elements() {
        match_element(&mut found, id, e, &mut common);
    }
    add_elements(common.added, &mut repair.first);
    let mut last = common.removed;
    for id in SetId::ALL.into_iter().filter(|id| is_common(*id)) {
        last.extend(take_elements(&mut found, id).map(|e| (id, e)));
    }
    repair.ports.retain(|piece| piece.len() > 0);
    delete_elements(last, &mut repair.last);
    repair.last.extend(removed);
    let sets = found.sets.keys();
    let strangers = sets.filter(|name| SetId::from_name(name).is_none());
    repair.last.extend(strangers.cloned().map(Op::DeleteSet));
    repair
}

/// Match the desired elements of ports with those found. Return a piece for each port, and the owner
/// of each frontend.
fn match_ports(found: &mut Contents, target: &State, pieces: &mut Vec<Piece>) -> Owners {
    let mut owners = Owners::new();
    for (key, port) in target.ports() {
        let mut piece = Piece {
            key: Some(key.clone()),
            ..Piece::default()
        };
        for (id, e) in port_elements(port, target.node()).own {
            if let Some(frontend) = frontend(id, &e.key) {
                owners.insert(frontend, Owner::Piece(pieces.len()));
            }
            match_element(found, id, e, &mut piece);
        }
        pieces.push(piece);
    }
    owners
}

/// Add the owners of frontends that are only in the table: a frontend that a port gives up is removed
/// together with the port's other changes or not at all.
fn owners_by_name(found: &Contents, target: &State, refused: &[&PortPlan], owners: &mut Owners) {
    let named = SetId::ALL.into_iter().filter(|id| names_owner(*id));
    let elements = named
        .filter_map(|id| found.sets.get(id.name()))
        .flat_map(|set| set.elements.values());
    let left: Vec<_> = elements
        .filter(|e| !owners.contains_key(&e.key))
        .filter_map(|e| Some((e.key, e.comment.as_deref()?)))
        .collect();
    if left.is_empty() {
        return;
    }
    let ports = target.ports().values().enumerate();
    let mut names: HashMap<String, Owner> = ports
        .map(|(number, port)| (comment(port), Owner::Piece(number)))
        .collect();
    names.extend(refused.iter().map(|port| (comment(port), Owner::Refused)));
    let known = left.into_iter();
    owners.extend(known.filter_map(|(key, name)| Some((key, *names.get(name)?))));
}

/// Sort undesired elements into the pieces of their owners, and into new pieces if they have none.
/// Return the shared elements that those of refused ports need.
fn sort_out(found: &mut Contents, owners: &Owners, pieces: &mut Vec<Piece>) -> BTreeSet<Shared> {
    let mut orphans: BTreeMap<Value, Piece> = BTreeMap::new();
    let mut kept = BTreeSet::new();
    for id in SetId::ALL {
        if id.is_learned() || is_common(id) {
            continue;
        }
        for e in take_elements(found, id) {
            let frontend = frontend(id, &e.key).unwrap_or(e.key);
            match owners.get(&frontend) {
                Some(Owner::Piece(number)) => {
                    if let Some(piece) = pieces.get_mut(*number) {
                        piece.removed.push((id, e));
                    }
                }
                Some(Owner::Refused) => kept.extend(rests_on(id, &e)),
                None => orphans.entry(frontend).or_default().removed.push((id, e)),
            }
        }
    }
    pieces.extend(orphans.into_values());
    kept
}

fn take_elements(found: &mut Contents, id: SetId) -> impl Iterator<Item = Element> + use<> {
    let set = found.sets.get_mut(id.name());
    let elements = set.map(|set| std::mem::take(&mut set.elements));
    elements.unwrap_or_default().into_values()
}

fn has(found: &Contents, id: SetId, e: &Element) -> bool {
    let set = found.sets.get(id.name());
    set.is_some_and(|set| set.elements.contains_key(&(e.key, e.interval_end)))
}

/// Match a desired element with those found; remove a matching one from `found`.
fn match_element(found: &mut Contents, id: SetId, e: Element, piece: &mut Piece) {
    let there = found
        .sets
        .get_mut(id.name())
        .and_then(|set| set.elements.remove(&(e.key, e.interval_end)));
    match there {
        Some(there) if there == e => {}
        Some(there) => {
            piece.removed.push((id, there));
            piece.added.push((id, e));
        }
        None => piece.added.push((id, e)),
    }
}

/// Return whether the comments of a set's elements name their port.
fn names_owner(id: SetId) -> bool {
    matches!(
        id,
        SetId::ClusterIpPorts
            | SetId::ServiceIps
            | SetId::ServiceNodePorts
            | SetId::NoEndpointNodePorts
    )
}

/// Return whether a set's elements belong to the node or to several ports.
fn is_common(id: SetId) -> bool {
    matches!(id, SetId::ClusterIps | SetId::NodePortIps | SetId::Hairpin)
}

/// Return the frontend of an element: protocol and port, and the address if it has one. `None` if the
/// set's elements do not belong to one frontend.
fn frontend(id: SetId, key: &Value) -> Option<Value> {
    let bytes = key.as_bytes();
    let first = |len: usize| bytes.get(..len).and_then(Value::new);
    // An address, padded protocol and port.
    let whole = bytes.len();
    match id {
        SetId::ClusterIpPorts
        | SetId::ServiceIps
        | SetId::ServiceNodePorts
        | SetId::NoEndpointNodePorts => Some(*key),
        SetId::EndpointCounts
        | SetId::NodePortEndpointCounts
        | SetId::Endpoints
        | SetId::NodePortEndpoints
        | SetId::StickyEndpoints
        | SetId::NodePortStickyEndpoints => first(whole.checked_sub(4)?),
        // Address, protocol, port, address: (whole - 8) / 2 each for the addresses.
        SetId::SourceRanges => first(whole.checked_sub(8)? / 2 + 8),
        SetId::NodePortLiveEndpoints => first(8),
        // Protocol, address, port, address, port: (whole - 12) / 2 each for the addresses.
        SetId::LiveEndpoints => {
            let (protocol, rest) = bytes.split_at_checked(4)?;
            let (address, rest) = rest.split_at_checked(whole.checked_sub(12)? / 2)?;
            Value::new(&[address, protocol, rest.get(..4)?].concat())
        }
        SetId::ClusterIps
        | SetId::NodePortIps
        | SetId::Hairpin
        | SetId::Affinity
        | SetId::NodePortAffinity => None,
    }
}

/// Return the shared element that an element of a port needs.
fn rests_on(id: SetId, e: &Element) -> Option<Shared> {
    let key = e.key.as_bytes();
    match (id, &e.data) {
        (SetId::ClusterIpPorts | SetId::ServiceIps, _) => {
            let address = key.get(..key.len().checked_sub(8)?)?;
            Some(Shared::ClusterIp(ip(address)?))
        }
        (SetId::Endpoints | SetId::NodePortEndpoints, Data::Value(endpoint)) => {
            let protocol = *key.get(key.len().checked_sub(12)?)?;
            let endpoint = endpoint.as_bytes();
            let (address, port) = endpoint.split_at_checked(endpoint.len().checked_sub(4)?)?;
            let port = u16::from_be_bytes(*port.first_chunk()?);
            Some(Shared::Hairpin(ip(address)?, port, protocol))
        }
        _ => None,
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}
