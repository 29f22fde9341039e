//! The userspace mode at the kernel: a relay for the connections, and the table that leads to it.
//!
//! What is new is opened in an order in which nobody meets anything half-done: ports are taken but
//! refuse, the table keeps strangers away from them, the relay opens them, and only then the table
//! leads anybody there. What goes, goes in the opposite order.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use dataplane::nftables::table_family;
use dataplane::userspace::{
    Options, RelayPorts, Spread, State, TABLE, Target, listeners, unserved,
};
use kernel::netlink;
use kernel::nfnetlink::{Generation, NfTables, ReadTable, TableId, TransactionError};
use model::{IpFamily, Protocol};
use netfilter::nft::Op;
use plan::{NodeFacts, Plan, PortKey, PortPlan};
use relay::{Backends, Frontend, Limits, Relay};

use super::driver::{Driver, SyncError, Synced};
use super::pending::Pending;

/// One family of the userspace mode.
pub(crate) struct UserspaceDriver {
    family: IpFamily,
    settings: Settings,
    nft: NfTables,
    id: TableId,
    /// Started with the first sync, once the signals have found their thread.
    relay: Option<Relay>,
    /// Where the relay listens, or is about to.
    taken: BTreeMap<(PortKey, Spread), Frontend>,
    serving: BTreeMap<Frontend, Backends>,
    /// What the kernel has; `None` where that has to be found out.
    state: Option<State>,
    generation: Option<Generation>,
    /// Service ports that are not served, with the reason.
    problems: BTreeMap<PortKey, String>,
}

/// What the operator decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// The bit of the packet mark for the relay's own packets.
    pub(crate) mark: u32,
    /// Whether NodePorts answer on loopback.
    pub(crate) localhost_node_ports: bool,
}

/// A port that the relay has just taken.
type NewPort = (Protocol, u16);

/// What a sync has to bring about.
type Wanted = Vec<(PortKey, Option<Arc<PortPlan>>)>;

impl UserspaceDriver {
    /// A driver that knows nothing of the kernel yet.
    pub(crate) fn new(family: IpFamily, settings: Settings) -> Result<Self, netlink::Error> {
        Ok(Self {
            family,
            settings,
            nft: NfTables::open()?,
            id: TableId::new(table_family(family), TABLE),
            relay: None,
            taken: BTreeMap::new(),
            serving: BTreeMap::new(),
            state: None,
            generation: None,
            problems: BTreeMap::new(),
        })
    }

    fn error(&self, reason: impl std::fmt::Display) -> SyncError {
        SyncError {
            family: self.family,
            reason: reason.to_string(),
        }
    }

    fn relay(&mut self) -> Result<&Relay, SyncError> {
        let relay = match self.relay.take() {
            Some(relay) => relay,
            None => {
                let limits = Limits {
                    mark: self.settings.mark,
                    ..Limits::default()
                };
                Relay::start(limits).map_err(|e| self.error(e))?
            }
        };
        Ok(self.relay.insert(relay))
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

    /// Takes ports for listeners that are new. Returns what the table is to say, and the new ports.
    fn take_ports(
        &mut self,
        ip: IpAddr,
        wanted: &Wanted,
    ) -> Result<(Vec<Target>, Vec<NewPort>), SyncError> {
        let mut missing = Vec::new();
        for (key, port) in wanted {
            self.problems.remove(key);
            let Some(port) = port else { continue };
            if let Some(reason) = unserved(port) {
                self.problems.insert(key.clone(), reason.to_owned());
            }
            let spreads = listeners(port).into_iter().map(|l| (key.clone(), l.spread));
            missing.extend(spreads.filter(|place| !self.taken.contains_key(place)));
        }
        let asked = missing.iter().map(|((_, protocol), _)| Frontend {
            address: SocketAddr::new(ip, 0),
            protocol: *protocol,
        });
        let asked: Vec<Frontend> = asked.collect();
        let mut new = Vec::new();
        if !asked.is_empty() {
            let answers = self.relay()?.reserve(asked);
            let answers = answers.map_err(|e| self.error(e))?;
            for (place, answer) in missing.into_iter().zip(answers) {
                match answer {
                    Ok(frontend) => {
                        new.push((frontend.protocol, frontend.address.port()));
                        self.taken.insert(place, frontend);
                    }
                    Err(error) => {
                        self.problems.insert(place.0, error.to_string());
                    }
                }
            }
        }
        let targets = wanted.iter().map(|(key, port)| self.target(key, port));
        Ok((targets.collect(), new))
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
        for (key, port) in wanted {
            for listener in port.iter().flat_map(|port| listeners(port)) {
                let place = (key.clone(), listener.spread);
                if let Some(frontend) = self.taken.get(&place) {
                    let backends = Backends {
                        endpoints: listener.endpoints,
                        affinity: listener.affinity,
                    };
                    self.serving.insert(*frontend, backends);
                }
            }
        }
        self.serve()
    }

    /// Closes what is not wanted any more. Connections that are open stay.
    fn close(&mut self, wanted: &Wanted) -> Result<(), SyncError> {
        let mut gone = Vec::new();
        for (key, port) in wanted {
            let wanted: Vec<Spread> = port
                .iter()
                .flat_map(|port| listeners(port))
                .map(|l| l.spread)
                .collect();
            let unwanted = Spread::ALL.into_iter().filter(|s| !wanted.contains(s));
            gone.extend(unwanted.map(|spread| (key.clone(), spread)));
        }
        let mut any = false;
        for place in gone {
            if let Some(frontend) = self.taken.remove(&place) {
                self.serving.remove(&frontend);
                any = true;
            }
        }
        if any { self.serve() } else { Ok(()) }
    }

    fn serve(&mut self) -> Result<(), SyncError> {
        let serving = self.serving.clone();
        let served = self.relay()?.serve(serving);
        let (_, errors) = served.map_err(|e| self.error(e))?;
        match errors.first() {
            None => Ok(()),
            // Its port was taken from us between two steps; from the start, with other ports.
            Some(error) => {
                let error = self.error(error);
                self.forget();
                Err(error)
            }
        }
    }

    /// Everything is made anew by the next sync.
    fn forget(&mut self) {
        self.state = None;
        self.taken.clear();
        self.serving.clear();
    }

    /// Changes what is known to be in the kernel.
    fn change(
        &mut self,
        state: &State,
        wanted: &Wanted,
        node: Option<Arc<NodeFacts>>,
    ) -> Result<State, SyncError> {
        let (targets, new) = self.take_ports(state.options().relay_ip, wanted)?;
        self.commit(&State::guard(new)).map_err(|e| self.error(e))?;
        self.open(wanted)?;
        let change = state.change(targets, node);
        self.commit(&change.ops).map_err(|e| self.error(e))?;
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
        self.problems.retain(|key, _| plan.ports.contains_key(key));
        self.taken
            .retain(|_, frontend| frontend.address.ip() == options.relay_ip);
        let (targets, new) = self.take_ports(options.relay_ip, &wanted)?;
        if !new.is_empty() {
            let guard = State::guard(new);
            // A table of a process before us goes on refusing meanwhile, where it is whole.
            let guarded = read.is_some() && self.commit(&guard).is_ok();
            if !guarded {
                let ops = [state.replace(), guard].concat();
                self.commit(&ops).map_err(|e| self.error(e))?;
            }
        }
        self.open(&wanted)?;
        let change = state.change(targets, None);
        state.commit(change);
        if !is(read.as_ref(), &state) {
            self.commit(&state.replace()).map_err(|e| self.error(e))?;
        }
        let gone = self.taken.keys().map(|(key, _)| key);
        let gone = gone.filter(|key| !plan.ports.contains_key(key));
        let gone: Vec<PortKey> = gone.cloned().collect();
        wanted.extend(gone.into_iter().map(|key| (key, None)));
        self.close(&wanted)?;
        self.drop_strays()?;
        Ok(state)
    }

    /// Stops serving at an address that is the relay's no longer.
    fn drop_strays(&mut self) -> Result<(), SyncError> {
        let before = self.serving.len();
        let taken: std::collections::BTreeSet<Frontend> = self.taken.values().copied().collect();
        self.serving.retain(|frontend, _| taken.contains(frontend));
        if self.serving.len() == before {
            return Ok(());
        }
        self.serve()
    }

    fn read(&mut self) -> Result<Option<ReadTable>, SyncError> {
        let read = self.nft.read_table(&self.id);
        let (read, generation) = read.map_err(|e| self.error(e))?;
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
    fn sync(&mut self, plan: &Plan, pending: &Pending) -> Result<Synced, SyncError> {
        let state = self.state.take();
        let stays = |state: &State| {
            let node = pending.node.as_ref();
            node.is_none_or(|node| self.options(node) == state.options())
        };
        let Some(state) = state.filter(stays) else {
            return self.resync(plan);
        };
        let diff = pending.diff();
        let changes = diff.ports.into_iter();
        let wanted = changes.filter_map(|c| Some((c.key()?, c.after))).collect();
        self.state = Some(self.change(&state, &wanted, diff.node)?);
        Ok(self.synced())
    }

    fn resync(&mut self, plan: &Plan) -> Result<Synced, SyncError> {
        self.state = None;
        self.state = Some(self.replace(plan)?);
        Ok(self.synced())
    }

    fn disturbed(&mut self) -> bool {
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

impl Drop for UserspaceDriver {
    fn drop(&mut self) {
        if let Some(relay) = self.relay.take() {
            relay.stop();
        }
    }
}
