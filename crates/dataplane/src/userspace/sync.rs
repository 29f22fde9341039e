//! Sequencing of userspace mode: the relay's sockets and the table that leads connections to them.
//! No I/O, no clock.
//!
//! New frontends are opened in an order in which no connection reaches a half-open frontend:
//!
//! ```text
//! reserve sockets      they refuse connections
//! guard them           the table rejects connections that it did not lead to them
//! serve                the relay answers
//! lead                 the table leads frontends to them
//! ```
//!
//! Frontends are removed in the opposite order: the table stops leading to a socket, the relay closes
//! it, and only then the table stops guarding its port. A step that fails makes the table unknown: the next
//! sync reads it and compares everything.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use model::Protocol;
use netfilter::nft::Op;
use netfilter::nft::table::Contents;
use plan::{Endpoint, NodeFacts, Plan, PortKey, PortPlan, StaleFlows};

use super::elements::{ports_in, relay_port};
use super::listeners::{Listener, RelayPorts, Spread, listeners, unserved};
use super::names::SetId;
use super::state::{State, Target};
use super::{Options, Settings};
use crate::{Found, Origin, Refusal, Refusals};

/// A socket of the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Socket {
    /// The address and port; port 0 asks for any free port.
    pub address: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// The desired state of sockets: the Service port and endpoints that each serves; `None` closes it.
pub type Served = BTreeMap<Socket, Option<(PortKey, Listener)>>;

/// A table that was read.
#[derive(Debug)]
pub struct Table {
    /// Everything that could be decoded.
    pub contents: Contents,
    /// Whether anything could not be decoded.
    pub foreign: bool,
}

/// Access to the kernel and the relay. The binary implements it with the real ones, tests with
/// fakes.
pub trait Transport {
    /// Why an operation failed.
    type Error;

    /// Return the address of this host on which the relay listens.
    fn relay_ip(&mut self, node: &NodeFacts) -> IpAddr;

    /// Read the table; `None` if it does not exist.
    ///
    /// # Errors
    /// The table cannot be read.
    fn read(&mut self) -> Result<Option<Table>, Self::Error>;

    /// Commit operations as one transaction.
    ///
    /// # Errors
    /// It is unknown whether the kernel committed it.
    fn commit(&mut self, ops: &[Op]) -> Result<(), Self::Error>;

    /// Bind sockets that refuse connections until they are served. Return for each the bound
    /// socket, or the reason of the failure.
    ///
    /// # Errors
    /// The relay failed.
    fn reserve(&mut self, sockets: Vec<Socket>)
    -> Result<Vec<Result<Socket, String>>, Self::Error>;

    /// Serve and close sockets; all others stay as they are. Return those that could not be opened,
    /// each with the reason.
    ///
    /// # Errors
    /// The relay failed.
    fn serve(&mut self, changes: Served) -> Result<Vec<Self::Error>, Self::Error>;
}

/// The purpose of a socket.
type Place = (PortKey, Spread);

/// The Service ports that a sync is about; `None` for those to be removed.
type Wanted = Vec<(PortKey, Option<Arc<PortPlan>>)>;

/// The sockets that a sync reserved.
#[derive(Debug, Default)]
struct Reserved {
    /// The table's part of each Service port.
    targets: Vec<Target>,
    /// The new sockets.
    new: Vec<(Protocol, u16)>,
}

/// The state machine of one address family.
#[derive(Debug)]
pub struct Sync {
    settings: Settings,
    /// The sockets that are bound.
    sockets: BTreeMap<Place, Socket>,
    /// Bound sockets that serve no Service port any more.
    strays: BTreeSet<Socket>,
    /// The table, if known.
    state: Option<State>,
    refused: Refusals,
    found: Option<Found>,
}

impl Sync {
    /// Return a machine without knowledge of the table and without sockets.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            sockets: BTreeMap::new(),
            strays: BTreeSet::new(),
            state: None,
            refused: Refusals::default(),
            found: None,
        }
    }

    /// Return the Service ports that are not served.
    pub fn refused(&self) -> &Refusals {
        &self.refused
    }

    /// Return what the first resync since the last call found.
    pub fn take_found(&mut self) -> Option<Found> {
        self.found.take()
    }

    /// Return the table, if known.
    pub fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    /// Return whether a table that was read is the known one. `true` if none is known.
    pub fn matches(&self, found: Option<&Table>) -> bool {
        self.state.as_ref().is_none_or(|state| is(found, state))
    }

    /// Bring the table and the sockets of these Service ports up to the plan.
    ///
    /// # Errors
    /// The transport's.
    pub fn change<T: Transport>(
        &mut self,
        plan: &Plan,
        changed: &BTreeSet<PortKey>,
        transport: &mut T,
    ) -> Result<(), T::Error> {
        let state = self.state.take();
        let same_options = |state: &State| {
            *state.node() == plan.node || self.options(plan, transport) == state.options()
        };
        let Some(mut state) = state.filter(same_options) else {
            return self.resync(plan, transport);
        };
        let wanted = changed.iter();
        let wanted = wanted.map(|key| (key.clone(), plan.ports.get(key).cloned()));
        let wanted: Wanted = wanted.collect();
        let reserved = self.reserve(state.options().relay_ip, &wanted, None, transport)?;
        commit(&State::guard(reserved.new), transport)?;
        self.open(&wanted, transport)?;
        let node = (*state.node() != plan.node).then(|| plan.node.clone());
        let change = state.change(reserved.targets, node);
        let (release, lead): (Vec<Op>, _) = change.ops.iter().cloned().partition(unguards);
        commit(&lead, transport)?;
        self.close(&wanted, transport)?;
        commit(&release, transport)?;
        state.commit(change);
        self.state = Some(state);
        Ok(())
    }

    /// Read the table and bring it and the sockets up to the plan, whatever they are.
    ///
    /// # Errors
    /// The transport's.
    pub fn resync<T: Transport>(&mut self, plan: &Plan, transport: &mut T) -> Result<(), T::Error> {
        self.state = None;
        let found = transport.read()?;
        let options = self.options(plan, transport);
        let mut state = State::new(plan.family, options, plan.node.clone());
        self.refused.retain(|key| plan.ports.contains_key(key));
        self.leave_other_addresses(options.relay_ip);
        let ports = plan.ports.iter();
        let mut wanted: Wanted = ports.map(|(k, p)| (k.clone(), Some(p.clone()))).collect();
        let before = found.as_ref().map(|found| &found.contents);
        self.note_found(before, plan);
        let reserved = self.reserve(options.relay_ip, &wanted, before, transport)?;
        if self.bound().any(|port| !is_guarded(before, port)) {
            let guard = State::guard(self.bound());
            // Meanwhile an intact table of an earlier process keeps rejecting.
            let guarded = found.is_some() && transport.commit(&guard).is_ok();
            if !guarded {
                transport.commit(&[state.replace(), guard].concat())?;
            }
        }
        self.open(&wanted, transport)?;
        let change = state.change(reserved.targets, None);
        state.commit(change);
        let right = is(found.as_ref(), &state);
        let guard = State::guard(self.bound());
        if !right {
            transport.commit(&[state.replace(), guard].concat())?;
        }
        let removed = self.sockets.keys().map(|(key, _)| key);
        let removed = removed.filter(|key| !plan.ports.contains_key(key));
        let removed: BTreeSet<PortKey> = removed.cloned().collect();
        wanted.extend(removed.into_iter().map(|key| (key, None)));
        let bound: BTreeSet<_> = self.bound().collect();
        self.close(&wanted, transport)?;
        let still: BTreeSet<_> = self.bound().collect();
        if !right {
            commit(
                &State::unguard(bound.difference(&still).copied()),
                transport,
            )?;
        }
        self.state = Some(state);
        Ok(())
    }

    /// Return the protocols and ports of all sockets.
    fn bound(&self) -> impl Iterator<Item = (Protocol, u16)> {
        let all = self.sockets.values().chain(&self.strays);
        all.map(|socket| (socket.protocol, socket.address.port()))
    }

    /// Return flows in terms of the table, which leads them to the relay. When an endpoint is removed,
    /// the relay itself sends their datagrams elsewhere, so flows that lead to the relay stay.
    pub fn stale_flows(&self, flows: Vec<StaleFlows>) -> Vec<StaleFlows> {
        let Some(state) = &self.state else {
            return flows;
        };
        let relay = |port| Endpoint {
            ip: state.options().relay_ip,
            port,
            is_local: true,
        };
        let led_here = |flows: StaleFlows| {
            let ports = state
                .ports()
                .get(&flows.port.key())
                .map(|(_, ports)| *ports);
            let keep = ports.unwrap_or_default().iter().map(relay).collect();
            StaleFlows { keep, ..flows }
        };
        // The relay's sockets answer every SYN.
        let datagrams = flows.into_iter().filter(|f| f.protocol() != Protocol::Tcp);
        datagrams.map(led_here).collect()
    }

    /// Keep the ports for which the table leads to the relay.
    fn note_found(&mut self, before: Option<&Contents>, plan: &Plan) {
        let led = |table: &&Contents| {
            let ports = plan.ports.values();
            ports
                .filter(|port| ports_in(table, port) != RelayPorts::default())
                .count()
        };
        let kept = before.as_ref().map_or(0, led);
        let found = Found {
            origin: match before {
                None => Origin::Nothing,
                Some(_) => Origin::SameLayout,
            },
            kept,
            written: plan.ports.len() - kept,
        };
        self.found.get_or_insert(found);
    }

    fn options<T: Transport>(&self, plan: &Plan, transport: &mut T) -> Options {
        Options {
            relay_ip: transport.relay_ip(&plan.node),
            relay_mark: self.settings.mark,
            localhost_node_ports: self.settings.localhost_node_ports,
        }
    }

    /// Abandon sockets on another address than the relay's.
    fn leave_other_addresses(&mut self, relay_ip: IpAddr) {
        let sockets = mem::take(&mut self.sockets).into_iter();
        let (here, elsewhere): (BTreeMap<_, _>, BTreeMap<_, _>) =
            sockets.partition(|(_, socket)| socket.address.ip() == relay_ip);
        self.sockets = here;
        self.strays.extend(elsewhere.into_values());
    }

    /// Reserve sockets for new listeners: where free, those to which the table `before` leads, so
    /// that its flows continue.
    fn reserve<T: Transport>(
        &mut self,
        ip: IpAddr,
        wanted: &Wanted,
        before: Option<&Contents>,
        transport: &mut T,
    ) -> Result<Reserved, T::Error> {
        let mut missing = Vec::new();
        for (key, port) in wanted {
            self.refused.remove(key);
            let Some(port) = port else { continue };
            if let Some(reason) = unserved(port) {
                let refusal = Refusal::Unsupported(reason.to_owned());
                self.refused.insert(key.clone(), refusal);
            }
            let had = before.map(|table| ports_in(table, port));
            let had = had.unwrap_or_default();
            for listener in listeners(port) {
                let place = (key.clone(), listener.spread);
                if !self.sockets.contains_key(&place) {
                    missing.push((place, had.get(listener.spread).unwrap_or(0)));
                }
            }
        }
        // Specific ports first, before the system assigns them to requests for port 0.
        missing.sort_by_key(|(_, port)| *port == 0);
        let mut reserved = Reserved::default();
        let failed = self.bind(ip, missing, &mut reserved, transport)?;
        let again = failed.into_iter().map(|(place, _)| (place, 0)).collect();
        for (place, reason) in self.bind(ip, again, &mut reserved, transport)? {
            self.refused.reject(place.0, reason);
        }
        reserved.targets = wanted.iter().map(|(k, p)| self.target(k, p)).collect();
        Ok(reserved)
    }

    /// Bind sockets. Return the places whose socket could not be bound.
    fn bind<T: Transport>(
        &mut self,
        ip: IpAddr,
        places: Vec<(Place, u16)>,
        reserved: &mut Reserved,
        transport: &mut T,
    ) -> Result<Vec<(Place, String)>, T::Error> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let sockets = places.iter().map(|(((_, protocol), _), port)| Socket {
            address: SocketAddr::new(ip, *port),
            protocol: *protocol,
        });
        let answers = transport.reserve(sockets.collect())?;
        let mut failed = Vec::new();
        for ((place, _), answer) in places.into_iter().zip(answers) {
            match answer {
                Ok(socket) => {
                    reserved.new.push((socket.protocol, socket.address.port()));
                    self.sockets.insert(place, socket);
                }
                Err(reason) => failed.push((place, reason)),
            }
        }
        Ok(failed)
    }

    fn target(&self, key: &PortKey, port: &Option<Arc<PortPlan>>) -> Target {
        let target = port.as_ref().map(|port| {
            let mut ports = RelayPorts::default();
            for listener in listeners(port) {
                if let Some(socket) = self.sockets.get(&(key.clone(), listener.spread)) {
                    ports.set(listener.spread, socket.address.port());
                }
            }
            (port.clone(), ports)
        });
        (key.clone(), target)
    }

    /// Serve the listeners of these Service ports; sockets that are not needed any more still
    /// serve.
    fn open<T: Transport>(&mut self, wanted: &Wanted, transport: &mut T) -> Result<(), T::Error> {
        let mut changes = Served::new();
        for (key, port) in wanted {
            for listener in port.iter().flat_map(|port| listeners(port)) {
                let place = (key.clone(), listener.spread);
                if let Some(socket) = self.sockets.get(&place) {
                    changes.insert(*socket, Some((key.clone(), listener)));
                }
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        match transport.serve(changes)?.into_iter().next() {
            None => Ok(()),
            // Another process took the port between two steps: start over with other ports.
            Some(error) => {
                let all = mem::take(&mut self.sockets);
                self.strays.extend(all.into_values());
                Err(error)
            }
        }
    }

    /// Close the sockets that these Service ports do not need. Open connections stay.
    fn close<T: Transport>(&mut self, wanted: &Wanted, transport: &mut T) -> Result<(), T::Error> {
        for (key, port) in wanted {
            let needed: Vec<Spread> = port
                .iter()
                .flat_map(|port| listeners(port))
                .map(|l| l.spread)
                .collect();
            for spread in Spread::ALL.into_iter().filter(|s| !needed.contains(s)) {
                let place = (key.clone(), spread);
                self.strays.extend(self.sockets.remove(&place));
            }
        }
        if !self.strays.is_empty() {
            let changes = self.strays.iter().map(|socket| (*socket, None));
            transport.serve(changes.collect())?;
            self.strays.clear();
        }
        Ok(())
    }
}

fn commit<T: Transport>(ops: &[Op], transport: &mut T) -> Result<(), T::Error> {
    if ops.is_empty() {
        return Ok(());
    }
    transport.commit(ops)
}

/// Return whether a table rejects connections to a port of the relay that were not led to it.
fn is_guarded(table: Option<&Contents>, (protocol, port): (Protocol, u16)) -> bool {
    let (set, element) = relay_port(protocol.number(), port);
    let set = table.and_then(|table| table.sets.get(set.name()));
    set.is_some_and(|set| set.elements.contains_key(&(element.key, false)))
}

/// Return whether an operation removes guards of the relay's ports.
fn unguards(op: &Op) -> bool {
    matches!(op, Op::DeleteElements { set, .. } if set == SetId::RelayPorts.name())
}

/// Return whether a table that was read is the desired one.
fn is(found: Option<&Table>, state: &State) -> bool {
    found.is_some_and(|found| !found.foreign && found.contents == state.contents())
}
