//! Userspace mode: the table over netlink, the sockets in the relay.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::rc::Rc;

use dataplane::nftables::table_family;
use dataplane::userspace::{Served, Settings, Socket, Sync, TABLE, Table, Transport};
use kernel::netlink;
use kernel::nfnetlink::{Generation, NfTables, TableId};
use model::IpFamily;
use netfilter::nft::Op;
use plan::{NodeFacts, Plan, PortKey, StaleFlows};
use relay::{Backends, Frontend};

use super::driver::{Chain, Driver, SyncError, Synced};
use super::local_relay::{SharedRelay, affinity};
use super::probe::Needs;

/// One family of userspace mode.
pub(crate) struct UserspaceDriver {
    sync: Sync,
    host: Host,
}

/// The kernel and the relay.
struct Host {
    family: IpFamily,
    nft: NfTables,
    table: TableId,
    relay: Rc<SharedRelay>,
    /// The generation after the last read or commit.
    generation: Option<Generation>,
}

impl UserspaceDriver {
    /// Return a driver without knowledge of the kernel.
    pub(crate) fn new(
        family: IpFamily,
        settings: Settings,
        relay: Rc<SharedRelay>,
    ) -> Result<Self, netlink::Error> {
        Ok(Self {
            sync: Sync::new(settings),
            host: Host {
                family,
                nft: NfTables::open()?,
                table: TableId::new(table_family(family), TABLE),
                relay,
                generation: None,
            },
        })
    }

    fn synced(&mut self) -> Synced {
        Synced {
            quarantined: self.sync.refused().clone(),
            found: self.sync.take_found(),
            ..Synced::default()
        }
    }
}

impl Driver for UserspaceDriver {
    fn sync(&mut self, plan: &Plan, changed: &BTreeSet<PortKey>) -> Result<Synced, SyncError> {
        self.sync.change(plan, changed, &mut self.host)?;
        Ok(self.synced())
    }

    fn resync(&mut self, plan: &Plan) -> Result<Synced, SyncError> {
        self.sync.resync(plan, &mut self.host)?;
        Ok(self.synced())
    }

    fn stale_flows(&self, flows: Vec<StaleFlows>) -> Vec<StaleFlows> {
        self.sync.stale_flows(flows)
    }

    fn needs(&self) -> Vec<Needs> {
        let family = self.host.family;
        let features = dataplane::userspace::features(family);
        vec![Needs::NfTables(family, features)]
    }

    fn disturbed(&mut self, _: &Plan) -> bool {
        let now = self.host.nft.generation().ok().map(|info| info.generation);
        if self.sync.state().is_none() || now == self.host.generation {
            return false;
        }
        // A failed read is not a foreign change; the next sync reports the failure.
        let found = self.host.read();
        found.is_ok_and(|found| !self.sync.matches(found.as_ref()))
    }
}

const RELAY: &str = "the relay failed";

impl Transport for Host {
    type Error = SyncError;

    /// Return the node's address if this host has it, else any other; loopback on a host without network.
    fn relay_ip(&mut self, node: &NodeFacts) -> IpAddr {
        let here = |ip: &IpAddr| UdpSocket::bind((*ip, 0)).is_ok();
        if let Some(ip) = node.node_ip.filter(here) {
            return ip;
        }
        let addresses = kernel::address::addresses().unwrap_or_default();
        let mut others = addresses.into_iter().map(|a| a.address.addr());
        let fallback = match self.family {
            IpFamily::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpFamily::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let usable = |ip: &IpAddr| {
            let link_local = match ip {
                IpAddr::V4(ip) => ip.is_link_local(),
                IpAddr::V6(ip) => ip.is_unicast_link_local(),
            };
            IpFamily::of(*ip) == self.family && !ip.is_loopback() && !link_local && here(ip)
        };
        others.find(usable).unwrap_or(fallback)
    }

    fn read(&mut self) -> Result<Option<Table>, SyncError> {
        let read = self.nft.read_table(&self.table);
        let (read, generation) =
            read.map_err(SyncError::failed("cannot read the table sluice-userspace"))?;
        self.generation = Some(generation);
        Ok(read.map(|read| Table {
            foreign: !read.foreign.is_empty(),
            contents: read.contents,
        }))
    }

    fn commit(&mut self, ops: &[Op]) -> Result<(), SyncError> {
        let committed = self.nft.commit(&self.table, ops, None);
        committed.map_err(SyncError::failed("cannot write the table sluice-userspace"))?;
        let now = self.nft.generation();
        self.generation = now.ok().map(|info| info.generation);
        Ok(())
    }

    fn reserve(&mut self, sockets: Vec<Socket>) -> Result<Vec<Result<Socket, String>>, SyncError> {
        let relay = self.relay.get().map_err(SyncError::failed(RELAY))?;
        let answers = relay.reserve(sockets.into_iter().map(frontend).collect());
        let answers = answers.map_err(SyncError::failed(RELAY))?.into_iter();
        let socket = |f: Frontend| Socket {
            address: f.address,
            protocol: f.protocol,
        };
        Ok(answers
            .map(|answer| answer.map(socket).map_err(|e| Chain(&e).to_string()))
            .collect())
    }

    fn serve(&mut self, changes: Served) -> Result<Vec<SyncError>, SyncError> {
        let relay = self.relay.get().map_err(SyncError::failed(RELAY))?;
        let changes = changes.into_iter().map(|(socket, served)| {
            let backends = served.map(|(key, listener)| Backends {
                endpoints: listener.endpoints,
                affinity: listener.affinity.map(|timeout| affinity(&key, timeout)),
            });
            (frontend(socket), backends)
        });
        let changes: BTreeMap<Frontend, Option<Backends>> = changes.collect();
        let errors = relay.change(changes).map_err(SyncError::failed(RELAY))?;
        let errors = errors.into_iter();
        Ok(errors.map(|e| SyncError::failed(RELAY)(e)).collect())
    }
}

fn frontend(socket: Socket) -> Frontend {
    Frontend {
        address: socket.address,
        protocol: socket.protocol,
    }
}
