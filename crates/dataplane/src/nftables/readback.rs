//! What was read back against what shall be there: the difference, in pieces that each leave every
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

/// Whose a frontend is.
#[derive(Clone, Copy)]
enum Owner {
    /// The port's with the piece of this number.
    Piece(usize),
    /// One's that the kernel refuses to change.
    Refused,
}

type Owners = HashMap<Value, Owner>;

/// What makes a table of ours into `target`. What ports in `refused` have in the table is left as it
/// is, and what that needs is in the target afterwards: whose it is, the elements' comments tell.
pub(super) fn compare(mut found: Contents, target: &mut State, refused: &[&PortPlan]) -> Repair {
    let mut repair = Repair::default();
    let (come, gone) = remake(&found.chains, &target.chains());
    repair.first = come;
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
    add_elements(common.come, &mut repair.first);
    let mut last = common.gone;
    for id in SetId::ALL.into_iter().filter(|id| is_common(*id)) {
        last.extend(take_elements(&mut found, id).map(|e| (id, e)));
    }
    repair.ports.retain(|piece| piece.len() > 0);
    delete_elements(last, &mut repair.last);
    repair.last.extend(gone);
    let sets = found.sets.keys();
    let strangers = sets.filter(|name| SetId::from_name(name).is_none());
    repair.last.extend(strangers.cloned().map(Op::DeleteSet));
    repair
}

/// Matches what ports shall have against what is there: a piece for each, and whose each frontend is.
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

/// Whose the frontends are that are in the table and nowhere else: those that a port gives up go with
/// its other changes or not at all.
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

/// Sorts what was not asked for into the pieces of those whose it is, and new ones for what is
/// nobody's. Returns what the elements need that are left as they are.
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
                        piece.gone.push((id, e));
                    }
                }
                Some(Owner::Refused) => kept.extend(rests_on(id, &e)),
                None => orphans.entry(frontend).or_default().gone.push((id, e)),
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

/// Whether the comments of its elements name the port whose they are: every frontend has one.
fn names_owner(id: SetId) -> bool {
    matches!(
        id,
        SetId::NoEndpointServices
            | SetId::NoEndpointNodePorts
            | SetId::ClusterIpPorts
            | SetId::ServiceIps
            | SetId::ServiceNodePorts
    )
}

/// Whether its elements are not one port's alone.
fn is_common(id: SetId) -> bool {
    matches!(
        id,
        SetId::ClusterIps | SetId::ServiceCidrs | SetId::NodePortIps | SetId::Hairpin
    )
}

/// The frontend that an element is about: protocol and port, and the address where it has one.
/// `None` where elements are not one frontend's.
fn frontend(id: SetId, key: &Value) -> Option<Value> {
    let bytes = key.as_bytes();
    let first = |len: usize| bytes.get(..len).and_then(Value::new);
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
        | SetId::ServiceCidrs
        | SetId::NodePortIps
        | SetId::Hairpin
        | SetId::Affinity
        | SetId::NodePortAffinity => None,
    }
}

/// What an element of a port needs of what ports have in common.
fn rests_on(id: SetId, e: &Element) -> Option<Shared> {
    let key = e.key.as_bytes();
    match (id, &e.data) {
        (SetId::ClusterIpPorts | SetId::ServiceIps | SetId::NoEndpointServices, _) => {
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
