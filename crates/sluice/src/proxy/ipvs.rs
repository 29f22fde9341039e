//! The ipvs mode at the kernel: four interfaces, in an order in which no connection meets half of
//! a Service.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use dataplane::ipvs::{DEVICE, Mode, Observation, Options, Seen, Transaction};
use kernel::ipset::IpSets;
use kernel::iptables::Iptables;
use kernel::ipvs::{Ipvs, Refused};
use kernel::service_device::ServiceDevice;
use model::IpFamily;
use netfilter::iptables::Table;
use netfilter::ipvs::Op;
use plan::{Plan, PortKey};

use super::driver::{Driver, SyncError, Synced};
use super::pending::Pending;

/// The tables that this mode writes to.
const TABLES: [Table; 2] = [Table::Filter, Table::Nat];

/// Above this many virtual servers nothing is read back between full syncs but the rules: each
/// server's destinations are a dump of their own.
const VERIFY_UP_TO: usize = 1000;

/// What speaks to the kernel, for one family.
pub(crate) struct Tools {
    pub(crate) rules: Iptables,
    pub(crate) ipvs: Ipvs,
    pub(crate) sets: IpSets,
    pub(crate) device: ServiceDevice,
}

/// One family of the ipvs mode.
pub(crate) struct IpvsDriver {
    family: IpFamily,
    tools: Tools,
    mode: Mode,
    started: Instant,
    /// Service ports of which the kernel refused something, with its words. While there are any,
    /// every sync reads the kernel and tries them again.
    refused: BTreeMap<PortKey, String>,
}

impl IpvsDriver {
    /// A driver that knows nothing of the kernel yet.
    pub(crate) fn new(family: IpFamily, tools: Tools, options: Options) -> Self {
        Self {
            family,
            tools,
            mode: Mode::new(family, options),
            started: Instant::now(),
            refused: BTreeMap::new(),
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn error(&self, reason: String) -> SyncError {
        SyncError {
            family: self.family,
            reason,
        }
    }

    /// What is in the kernel now.
    fn read(&mut self) -> Result<Observation, String> {
        let mut rules = String::new();
        for table in TABLES {
            let saved = self.tools.rules.save(table).map_err(|e| e.to_string())?;
            rules.push_str(&String::from_utf8_lossy(&saved));
        }
        let tools = &mut self.tools;
        let wanted = |name: &str| dataplane::ipvs::is_set_of_ours(name);
        let seen = Seen {
            device: tools.device.addresses().map_err(|e| e.to_string())?,
            sets: tools.sets.list(&wanted).map_err(|e| e.to_string())?,
            services: tools.ipvs.list().map_err(|e| e.to_string())?,
            rules,
        };
        Observation::new(self.family, seen)
            .map_err(|e| format!("cannot understand what iptables-save says: {e}"))
    }

    /// Tells the mode the addresses of the node's interfaces.
    fn look_at_addresses(&mut self) -> Result<(), String> {
        let addresses = interface_addresses().map_err(|e| e.to_string())?;
        self.mode.set_addresses(addresses);
        Ok(())
    }

    fn write(&mut self) -> Result<Synced, SyncError> {
        if self.mode.needs_observation() {
            let observation = self.read().map_err(|e| self.error(e))?;
            self.mode.observe(observation);
        }
        let transaction = self
            .mode
            .transaction()
            .map_err(|e| self.error(e.to_string()))?;
        let refused = match self.execute(&transaction) {
            Ok(refused) => refused,
            Err(reason) => {
                self.mode.failed(transaction);
                return Err(self.error(reason));
            }
        };
        let now = self.now();
        self.mode.committed(transaction, now);
        self.refused.clear();
        for refusal in &refused {
            let Some(owner) = self.mode.owner(&refusal.op.service()) else {
                return Err(self.error(refusal.to_string()));
            };
            self.refused.insert(owner, refusal.to_string());
        }
        // Many endpoints that go have no connections: no need to wait for the next look.
        self.attend();
        if !refused.is_empty() {
            self.mode.forget();
        }
        Ok(Synced {
            quarantined: self.refused.clone(),
            rules: Vec::new(),
        })
    }

    /// Carries a transaction out. What the kernel refuses of single virtual servers comes back;
    /// anything else that it refuses is an error, after everything has been tried.
    fn execute(&mut self, t: &Transaction) -> Result<Vec<Refused>, String> {
        let tools = &mut self.tools;
        let mut problems: Vec<String> = Vec::new();
        if t.device {
            tools.device.ensure().map_err(|e| e.to_string())?;
        }
        let refused = tools.sets.run(&t.sets).map_err(|e| e.to_string())?;
        problems.extend(refused.iter().map(ToString::to_string));
        if !t.rules.is_empty() {
            let restored = tools.rules.restore(t.rules.as_bytes());
            restored.map_err(|e| e.to_string())?;
        }
        let mut servers = tools.ipvs.run(&t.servers).map_err(|e| e.to_string())?;
        if !t.new_addresses.is_empty() || !t.old_addresses.is_empty() {
            let refused = tools.device.change(&t.new_addresses, &t.old_addresses);
            let refused = refused.map_err(|e| e.to_string())?;
            problems.extend(refused.iter().map(ToString::to_string));
        }
        servers.extend(tools.ipvs.run(&t.old_servers).map_err(|e| e.to_string())?);
        let refused = tools.sets.run(&t.old_members).map_err(|e| e.to_string())?;
        problems.extend(refused.iter().map(ToString::to_string));
        match problems.as_slice() {
            [] => Ok(servers),
            [one] => Err(one.clone()),
            [first, rest @ ..] => Err(format!("{first} (and {} more)", rest.len())),
        }
    }

    /// Looks at the destinations that are going, and removes those without connections.
    fn look_at_leaving(&mut self) -> Result<(), kernel::ipvs::Error> {
        let now = self.now();
        let mut ops: Vec<Op> = Vec::new();
        for id in self.mode.due(now) {
            let found = self.tools.ipvs.destinations(&id)?;
            let counts: HashMap<_, _> = found
                .into_iter()
                .map(|(d, connections)| (d.address, connections.total()))
                .collect();
            ops.extend(self.mode.looked(&id, &counts, now));
        }
        for refusal in self.tools.ipvs.run(&ops)? {
            tracing::warn!("{}: {refusal}", self.family);
        }
        Ok(())
    }
}

impl Driver for IpvsDriver {
    fn sync(&mut self, _: &Plan, pending: &Pending) -> Result<Synced, SyncError> {
        self.mode.apply(&pending.diff());
        self.write()
    }

    fn resync(&mut self, plan: &Plan) -> Result<Synced, SyncError> {
        self.mode.replace_plan(plan);
        self.look_at_addresses().map_err(|e| self.error(e))?;
        self.mode.forget();
        self.write()
    }

    fn disturbed(&mut self) -> bool {
        if self.mode.counts().0 > VERIFY_UP_TO || self.mode.needs_observation() {
            return false;
        }
        // Not being able to look is no sign of anything; the next sync will tell.
        let Ok(observation) = self.read() else {
            return false;
        };
        self.mode.observe(observation);
        let now = self.now();
        match self.mode.transaction() {
            Ok(difference) if difference.is_empty() => {
                self.mode.committed(difference, now);
                false
            }
            _ => true,
        }
    }

    fn host_addresses_changed(&mut self) -> bool {
        if let Err(error) = self.look_at_addresses() {
            tracing::warn!("{}: {error}", self.family);
            return false;
        }
        // Without knowing the kernel's state, a full sync is due anyhow.
        let difference = self.mode.transaction();
        difference.is_ok_and(|difference| !difference.is_empty())
    }

    fn due(&self) -> Option<Instant> {
        Some(self.started + self.mode.next_due()?)
    }

    fn attend(&mut self) {
        if let Err(error) = self.look_at_leaving() {
            tracing::warn!("{}: endpoints on their way out: {error}", self.family);
        }
    }
}

/// The addresses of the node's interfaces, those of the Services' own left out.
fn interface_addresses() -> Result<Vec<IpAddr>, kernel::netlink::Error> {
    let all = kernel::address::addresses()?.into_iter();
    let own = all.filter(|a| a.interface != DEVICE);
    Ok(own.map(|a| a.address.addr()).collect())
}
