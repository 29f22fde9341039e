//! The userspace mode at the kernel: a relay for the connections, and the table that leads to it.
//!
//! What is new is opened in an order in which nobody meets anything half-done: ports are taken but
//! refuse, the table keeps strangers away from them, the relay opens them, and only then the table
//! leads anybody there. What goes, goes in the opposite order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;

use dataplane::nftables::table_family;
use dataplane::userspace::{
    Options, RelayPorts, Spread, State, TABLE, Target, listeners, ports_in, unserved,
};
use dataplane::{Refusal, Refusals};
use kernel::netlink;
use kernel::nfnetlink::{Generation, NfTables, ReadTable, TableId, TransactionError};
use model::{IpFamily, Protocol};
use netfilter::nft::Op;
use netfilter::nft::table::Contents;
use plan::{Endpoint, NodeFacts, Plan, PortKey, PortPlan, StaleFlows};
use relay::{Backends, Frontend, Relay};

use super::driver::{Chain, Driver, SyncError, Synced};
use super::local_relay::{SharedRelay, affinity};

/// One family of the userspace mode.
pub(crate) struct UserspaceDriver {
    family: IpFamily,
    settings: Settings,
    nft: NfTables,
    id: TableId,
    relay: Rc<SharedRelay>,
    /// Where the relay listens, or is about to.
    taken: BTreeMap<Place, Frontend>,
    /// Where it listens for nobody any more.
    strays: BTreeSet<Frontend>,
    /// What the kernel has; `None` where that has to be found out.
    state: Option<State>,
    generation: Option<Generation>,
    /// Service ports that are not served, with the reason.
    problems: Refusals,
}

/// What the operator decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// The bit of the packet mark for the relay's own packets.
    pub(crate) mark: u32,
    /// Whether NodePorts answer on loopback.
    pub(crate) localhost_node_ports: bool,
}

const RELAY: &str = "the relay failed";
const COMMIT: &str = "cannot write the userspace table";

/// What a port of the relay is for.
type Place = (PortKey, Spread);

/// A port that the relay has just taken.
type NewPort = (Protocol, u16);

/// What a sync has to bring about.
type Wanted = Vec<(PortKey, Option<Arc<PortPlan>>)>;

impl UserspaceDriver {
    /// A driver that knows nothing of the kernel yet.
    pub(crate) fn new(
        family: IpFamily,
        settings: Settings,
        relay: Rc<SharedRelay>,
    ) -> Result<Self, netlink::Error> {
        Ok(Self {
            family,
            settings,
            nft: NfTables::open()?,
            id: TableId::new(table_family(family), TABLE),
            relay,
            taken: BTreeMap::new(),
            strays: BTreeSet::new(),
            state: None,
            generation: None,
            problems: Refusals::default(),
        })
    }

    fn relay(&self) -> Result<&Relay, SyncError> {
        self.relay.get().map_err(SyncError::failed(RELAY))
    }

    fn commit(&mut self, ops: &[Op]) -> Result<(), TransactionError> {
        if ops.is_empty() {
            return Ok(());
        }
        self.nft.commit(&self.id, ops, None)?;
        let now = self.nft.generation();
        self.generation = now.ok().map(|info| info.generation);
        Ok(())
    }

    /// Takes ports for listeners that are new: those that a process before us had, by the table
    /// that it left, where they are free, so that flows that are led there go on. Returns what the
    /// table is to say, and the new ports.
    fn take_ports(
        &mut self,
        ip: IpAddr,
        wanted: &Wanted,
        before: Option<&Contents>,
    ) -> Result<(Vec<Target>, Vec<NewPort>), SyncError> {
        let mut missing = Vec::new();
        for (key, port) in wanted {
            self.problems.remove(key);
            let Some(port) = port else { continue };
            if let Some(reason) = unserved(port) {
                let refusal = Refusal::Unsupported(reason.to_owned());
                self.problems.insert(key.clone(), refusal);
            }
            let had = before.map(|table| ports_in(table, port));
            let had = had.unwrap_or_default();
            for listener in listeners(port) {
                let place = (key.clone(), listener.spread);
                if !self.taken.contains_key(&place) {
                    missing.push((place, had.get(listener.spread).unwrap_or(0)));
                }
            }
        }
        // Before the system hands them out as any others.
        missing.sort_by_key(|(_, port)| *port == 0);
        let mut new = Vec::new();
        let failed = self.reserve(ip, missing, &mut new)?;
        let again = failed.into_iter().map(|(place, _)| (place, 0)).collect();
        for (place, error) in self.reserve(ip, again, &mut new)? {
            self.problems.reject(place.0, Chain(&error).to_string());
        }
        let targets = wanted.iter().map(|(key, port)| self.target(key, port));
        Ok((targets.collect(), new))
    }

    /// Has the relay take these ports, 0 for any. Returns what it could not take.
    fn reserve(
        &mut self,
        ip: IpAddr,
        places: Vec<(Place, u16)>,
        new: &mut Vec<NewPort>,
    ) -> Result<Vec<(Place, relay::Error)>, SyncError> {
        let mut failed = Vec::new();
        if places.is_empty() {
            return Ok(failed);
        }
        let asked = places.iter().map(|(((_, protocol), _), port)| Frontend {
            address: SocketAddr::new(ip, *port),
            protocol: *protocol,
        });
        let answers = self.relay()?.reserve(asked.collect());
        let answers = answers.map_err(SyncError::failed(RELAY))?;
        for ((place, _), answer) in places.into_iter().zip(answers) {
            match answer {
                Ok(frontend) => {
                    new.push((frontend.protocol, frontend.address.port()));
                    self.taken.insert(place, frontend);
                }
                Err(error) => failed.push((place, error)),
            }
        }
        Ok(failed)
    }

    fn target(&self, key: &PortKey, port: &Option<Arc<PortPlan>>) -> Target {
        let target = port.as_ref().map(|port| {
            let mut ports = RelayPorts::default();
            for listener in listeners(port) {
                let place = (key.clone(), listener.spread);
                if let Some(frontend) = self.taken.get(&place) {
                    ports.set(listener.spread, frontend.address.port());
                }
            }
            (port.clone(), ports)
        });
        (key.clone(), target)
    }

    /// Lets the relay serve what is wanted; what it served before it still does.
    fn open(&mut self, wanted: &Wanted) -> Result<(), SyncError> {
        let mut changes = BTreeMap::new();
        for (key, port) in wanted {
            for listener in port.iter().flat_map(|port| listeners(port)) {
                let place = (key.clone(), listener.spread);
                if let Some(frontend) = self.taken.get(&place) {
                    let backends = Backends {
                        endpoints: listener.endpoints,
                        affinity: listener.affinity.map(|timeout| affinity(key, timeout)),
                    };
                    changes.insert(*frontend, Some(backends));
                }
            }
        }
        let errors = self.relay()?.change(changes);
        match errors.map_err(SyncError::failed(RELAY))?.into_iter().next() {
            None => Ok(()),
            // Its port was taken from us between two steps; from the start, with other ports.
            Some(error) => {
                let error = SyncError::failed(RELAY)(error);
                self.strays
                    .extend(std::mem::take(&mut self.taken).into_values());
                Err(error)
            }
        }
    }

    /// Closes what is not wanted any more. Connections that are open stay.
    fn close(&mut self, wanted: &Wanted) -> Result<(), SyncError> {
        for (key, port) in wanted {
            let wanted: Vec<Spread> = port
                .iter()
                .flat_map(|port| listeners(port))
                .map(|l| l.spread)
                .collect();
            for spread in Spread::ALL.into_iter().filter(|s| !wanted.contains(s)) {
                self.strays
                    .extend(self.taken.remove(&(key.clone(), spread)));
            }
        }
        if self.strays.is_empty() {
            return Ok(());
        }
        let changes = self.strays.iter().map(|frontend| (*frontend, None));
        let closed = self.relay()?.change(changes.collect());
        closed.map_err(SyncError::failed(RELAY))?;
        self.strays.clear();
        Ok(())
    }

    /// Changes what is known to be in the kernel.
    fn change(
        &mut self,
        state: &State,
        wanted: &Wanted,
        node: Option<Arc<NodeFacts>>,
    ) -> Result<State, SyncError> {
        let (targets, new) = self.take_ports(state.options().relay_ip, wanted, None)?;
        self.commit(&State::guard(new))
            .map_err(SyncError::failed(COMMIT))?;
        self.open(wanted)?;
        let change = state.change(targets, node);
        self.commit(&change.ops)
            .map_err(SyncError::failed(COMMIT))?;
        let mut state = state.clone();
        state.commit(change);
        self.close(wanted)?;
        Ok(state)
    }

    /// Brings the kernel from whatever it has to what the plan says.
    fn replace(&mut self, plan: &Plan) -> Result<State, SyncError> {
        let read = self.read()?;
        let options = self.options(&plan.node);
        let mut state = State::new(self.family, options, plan.node.clone());
        let ports = plan.ports.iter();
        let mut wanted: Wanted = ports.map(|(k, p)| (k.clone(), Some(p.clone()))).collect();
        self.problems.retain(|key| plan.ports.contains_key(key));
        let (here, elsewhere) = std::mem::take(&mut self.taken)
            .into_iter()
            .partition(|(_, frontend)| frontend.address.ip() == options.relay_ip);
        self.taken = here;
        let elsewhere: BTreeMap<Place, Frontend> = elsewhere;
        self.strays.extend(elsewhere.into_values());
        let before = read.as_ref().map(|read| &read.contents);
        let (targets, new) = self.take_ports(options.relay_ip, &wanted, before)?;
        if !new.is_empty() {
            let guard = State::guard(new);
            // A table of a process before us goes on refusing meanwhile, where it is whole.
            let guarded = read.is_some() && self.commit(&guard).is_ok();
            if !guarded {
                let ops = [state.replace(), guard].concat();
                self.commit(&ops).map_err(SyncError::failed(COMMIT))?;
            }
        }
        self.open(&wanted)?;
        let change = state.change(targets, None);
        state.commit(change);
        if !is(read.as_ref(), &state) {
            self.commit(&state.replace())
                .map_err(SyncError::failed(COMMIT))?;
        }
        let gone = self.taken.keys().map(|(key, _)| key);
        let gone = gone.filter(|key| !plan.ports.contains_key(key));
        let gone: Vec<PortKey> = gone.cloned().collect();
        wanted.extend(gone.into_iter().map(|key| (key, None)));
        self.close(&wanted)?;
        Ok(state)
    }

    fn read(&mut self) -> Result<Option<ReadTable>, SyncError> {
        let read = self.nft.read_table(&self.id);
        let (read, generation) =
            read.map_err(SyncError::failed("cannot read the userspace table"))?;
        self.generation = Some(generation);
        Ok(read)
    }

    fn options(&self, node: &NodeFacts) -> Options {
        Options {
            relay_ip: relay_ip(self.family, node),
            relay_mark: self.settings.mark,
            localhost_node_ports: self.settings.localhost_node_ports,
        }
    }

    fn synced(&self) -> Synced {
        Synced {
            quarantined: self.problems.clone(),
            rules: Vec::new(),
        }
    }
}

/// Whether what was read is what should be there.
fn is(read: Option<&ReadTable>, state: &State) -> bool {
    read.is_some_and(|read| read.foreign.is_empty() && read.contents == state.contents())
}

/// The address that the relay listens on: the node's, where this host has it; any other that it
/// has; and on a host that is not connected to anything, loopback.
fn relay_ip(family: IpFamily, node: &NodeFacts) -> IpAddr {
    let here = |ip: &IpAddr| UdpSocket::bind((*ip, 0)).is_ok();
    if let Some(ip) = node.node_ip.filter(here) {
        return ip;
    }
    let addresses = kernel::address::addresses().unwrap_or_default();
    let mut others = addresses.into_iter().map(|a| a.address.addr());
    let fallback = match family {
        IpFamily::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpFamily::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    others
        .find(|ip| {
            let link_local = match ip {
                IpAddr::V4(ip) => ip.is_link_local(),
                IpAddr::V6(ip) => ip.is_unicast_link_local(),
            };
            IpFamily::of(*ip) == family && !ip.is_loopback() && !link_local && here(ip)
        })
        .unwrap_or(fallback)
}

impl Driver for UserspaceDriver {
    fn sync(&mut self, plan: &Plan, changed: &BTreeSet<PortKey>) -> Result<Synced, SyncError> {
        let state = self.state.take();
        let stays = |state: &State| {
            *state.node() == plan.node || self.options(&plan.node) == state.options()
        };
        let Some(state) = state.filter(stays) else {
            return self.resync(plan);
        };
        let wanted = changed.iter();
        let wanted = wanted.map(|key| (key.clone(), plan.ports.get(key).cloned()));
        let node = (*state.node() != plan.node).then(|| plan.node.clone());
        self.state = Some(self.change(&state, &wanted.collect(), node)?);
        Ok(self.synced())
    }

    fn resync(&mut self, plan: &Plan) -> Result<Synced, SyncError> {
        self.state = None;
        self.state = Some(self.replace(plan)?);
        Ok(self.synced())
    }

    /// The kernel's flows lead to the relay. Where they still do they stay: it sends their datagrams
    /// elsewhere itself when an endpoint goes.
    fn stale_flows(&self, flows: Vec<StaleFlows>) -> Vec<StaleFlows> {
        let Some(state) = &self.state else {
            return flows;
        };
        let relay = |port| Endpoint {
            ip: state.options().relay_ip,
            port,
            is_local: true,
        };
        let led_here = |flows: StaleFlows| {
            let ports = state.ports().get(&flows.port).map(|(_, ports)| *ports);
            let keep = ports.unwrap_or_default().iter().map(relay).collect();
            StaleFlows { keep, ..flows }
        };
        flows.into_iter().map(led_here).collect()
    }

    fn disturbed(&mut self, _: &Plan) -> bool {
        let now = self.nft.generation().ok().map(|info| info.generation);
        let Some(state) = self.state.clone() else {
            return false;
        };
        if now == self.generation {
            return false;
        }
        // Not being able to look is no sign of anything; the next sync will tell.
        self.read().is_ok_and(|read| !is(read.as_ref(), &state))
    }
}
