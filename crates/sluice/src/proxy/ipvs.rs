//! The ipvs mode at the kernel: four interfaces, in an order in which no connection meets half of
//! a Service.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use dataplane::ipvs::{DEVICE, Mode, Observation, Options, Seen, Transaction};
use kernel::ipset::IpSets;
use kernel::iptables::Iptables;
use kernel::ipvs::{Ipvs, Refused};
use kernel::service_device::ServiceDevice;
use model::IpFamily;
use netfilter::iptables::Table;
use netfilter::ipvs::{Op, ServiceId, Services};
use plan::{Plan, PortKey};

use super::driver::{Driver, SyncError, Synced};
use super::pending::Pending;

/// The tables that this mode writes to.
const TABLES: [Table; 2] = [Table::Filter, Table::Nat];

/// Of how many virtual servers the destinations are read back when somebody may have changed them:
/// each takes a dump of its own. The others' turn comes with the next look.
const LOOK_AT: usize = 1000;

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
    /// Virtual servers of which the kernel refused something. Every sync tries them again.
    refused: BTreeSet<ServiceId>,
    /// The last virtual server whose destinations were looked at.
    looked_at: Option<ServiceId>,
}

impl IpvsDriver {
    /// A driver that knows nothing of the kernel yet.
    pub(crate) fn new(family: IpFamily, tools: Tools, options: Options) -> Self {
        Self {
            family,
            tools,
            mode: Mode::new(family, options),
            started: Instant::now(),
            refused: BTreeSet::new(),
            looked_at: None,
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

    /// What is in the kernel now; but the destinations of so many virtual servers only, those whose
    /// turn it is. The others are believed to have what they should.
    fn read(&mut self, look_at: usize) -> Result<Observation, String> {
        let services = self.services(look_at).map_err(|e| e.to_string())?;
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
            services,
            rules,
        };
        Observation::new(self.family, seen)
            .map_err(|e| format!("cannot understand what iptables-save says: {e}"))
    }

    fn services(&mut self, look_at: usize) -> Result<Services, kernel::ipvs::Error> {
        let ipvs = &mut self.tools.ipvs;
        let mut services = ipvs.services()?;
        services.retain(|s| s.id.ip().map(IpFamily::of) == Some(self.family));
        services.sort_unstable_by_key(|s| s.id);
        let done = services.partition_point(|s| Some(s.id) <= self.looked_at);
        services.rotate_left(done);
        for (number, service) in services.iter_mut().enumerate() {
            let known = if number < look_at {
                self.looked_at = Some(service.id);
                None
            } else {
                self.mode.destinations(&service.id)
            };
            service.destinations = match known {
                Some(known) => known,
                None => {
                    let found = ipvs.destinations(&service.id)?.into_iter();
                    found.map(|(destination, _)| destination).collect()
                }
            };
        }
        Ok(Services { services })
    }

    /// Tells the mode the addresses of the node's interfaces.
    fn look_at_addresses(&mut self) -> Result<(), String> {
        let addresses = interface_addresses().map_err(|e| e.to_string())?;
        self.mode.set_addresses(addresses);
        Ok(())
    }

    fn write(&mut self) -> Result<Synced, SyncError> {
        if self.mode.needs_observation() {
            let observation = self.read(usize::MAX).map_err(|e| self.error(e))?;
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
        let quarantined = self.note(&refused).map_err(|e| self.error(e))?;
        // Many endpoints that go have no connections: no need to wait for the next look.
        self.attend();
        Ok(Synced {
            quarantined,
            rules: Vec::new(),
        })
    }

    /// Takes note of what was refused: of these virtual servers alone it is not known what the
    /// kernel has. Returns the Service ports that they are there for.
    fn note(&mut self, refused: &[Refused]) -> Result<BTreeMap<PortKey, String>, String> {
        self.refused.clear();
        let mut quarantined = BTreeMap::new();
        for refusal in refused {
            let id = refusal.op.service();
            let found = self.tools.ipvs.get(&id).map_err(|e| e.to_string())?;
            self.mode.found(id, found);
            self.refused.insert(id);
            // One that was to go has no owner; it is tried again all the same.
            match self.mode.owner(&id) {
                Some(owner) => {
                    quarantined.entry(owner).or_insert(refusal.to_string());
                }
                None => return Err(refusal.to_string()),
            }
        }
        Ok(quarantined)
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
        if self.mode.needs_observation() {
            return false;
        }
        match self.read(LOOK_AT) {
            Ok(observation) => self.mode.observe(observation),
            Err(error) => {
                // No sign of anything; the next sync will tell.
                tracing::warn!("{}: looking for changes of others: {error}", self.family);
                return false;
            }
        }
        let now = self.now();
        match self.mode.transaction() {
            Ok(difference) if difference.is_empty() => {
                self.mode.committed(difference, now);
                false
            }
            // What was refused is missing through nobody's doing.
            Ok(difference) => !difference.is_only_about(&|id| self.refused.contains(id)),
            Err(_) => true,
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
