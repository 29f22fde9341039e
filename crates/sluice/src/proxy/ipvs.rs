//! The ipvs mode at the kernel: four interfaces, in an order in which no connection meets half of
//! a Service.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use dataplane::Refusals as Quarantine;
use dataplane::ipvs::{DEVICE, Lost, Mode, Observation, Options, Seen, Transaction};
use kernel::ipset::IpSets;
use kernel::iptables::{Iptables, RestoreError};
use kernel::ipvs::Ipvs;
use kernel::service_device::ServiceDevice;
use model::IpFamily;
use netfilter::iptables::Table;
use netfilter::ipvs::{Op, ServiceId, Services};
use plan::{Plan, PortKey};

use super::driver::{Driver, SyncError, Synced};
use super::pending::diff_of;

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

/// What the kernel has not taken of a transaction. All else it has.
#[derive(Default)]
struct Refusals {
    servers: Vec<kernel::ipvs::Refused>,
    elements: Vec<kernel::ipset::Refused>,
    addresses: Vec<kernel::service_device::Refused>,
    rules: Option<String>,
}

/// One family of the ipvs mode.
pub(crate) struct IpvsDriver {
    family: IpFamily,
    tools: Tools,
    mode: Mode,
    started: Instant,
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
            looked_at: None,
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn error(reason: String) -> SyncError {
        SyncError::failed("cannot program ipvs mode")(reason)
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
            let observation = self.read(usize::MAX).map_err(Self::error)?;
            self.mode.observe(observation);
        }
        let transaction = self
            .mode
            .transaction()
            .map_err(|e| Self::error(e.to_string()))?;
        let refused = match self.execute(&transaction) {
            Ok(refused) => refused,
            Err(reason) => {
                self.mode.failed(transaction);
                return Err(Self::error(reason));
            }
        };
        let now = self.now();
        self.mode.committed(transaction, now);
        let quarantined = match self.note(refused) {
            Ok(quarantined) => quarantined,
            Err(reason) => {
                self.mode.forget();
                return Err(Self::error(reason));
            }
        };
        // Many endpoints that go have no connections: no need to wait for the next look.
        self.check_leaving();
        Ok(Synced {
            quarantined,
            rules: Vec::new(),
        })
    }

    /// Takes note of what was refused: of these pieces alone it is not known what the kernel has.
    /// Returns the Service ports that they are there for. What is there for none is an error.
    fn note(&mut self, refused: Refusals) -> Result<Quarantine, String> {
        // The first of each is what the others follow from.
        let mut servers = BTreeMap::new();
        for refusal in &refused.servers {
            servers.entry(refusal.op.service()).or_insert(refusal);
        }
        let mut all: Vec<(Vec<PortKey>, String)> = Vec::new();
        for (id, refusal) in servers {
            let found = self.tools.ipvs.get(&id).map_err(|e| e.to_string())?;
            let owner = self.mode.found(id, found);
            all.push((owner.into_iter().collect(), refusal.to_string()));
        }
        let elements = refused.elements.iter().filter_map(|r| {
            let element = r.element.as_ref()?;
            Some((Lost::Element(&r.set, element), r.to_string()))
        });
        let addresses = refused.addresses.iter();
        let addresses = addresses.map(|r| (Lost::Address(r.address), r.to_string()));
        let (lost, refusals): (Vec<_>, Vec<_>) = elements.chain(addresses).unzip();
        all.extend(self.mode.lacks(&lost).into_iter().zip(refusals));
        // Whole sets, which rules need.
        let sets = refused.elements.iter().filter(|r| r.element.is_none());
        let whole = sets.map(ToString::to_string).chain(refused.rules);
        let mut problems: Vec<String> = whole.collect();
        let mut quarantined = Quarantine::default();
        for (owners, refusal) in all {
            if owners.is_empty() {
                problems.push(refusal);
                continue;
            }
            for owner in owners {
                quarantined.reject(owner, refusal.clone());
            }
        }
        match problems.as_slice() {
            [] => Ok(quarantined),
            [one] => Err(one.clone()),
            [first, rest @ ..] => Err(format!("{first} (and {} more)", rest.len())),
        }
    }

    /// Carries a transaction out, whatever is refused of it.
    fn execute(&mut self, t: &Transaction) -> Result<Refusals, String> {
        let tools = &mut self.tools;
        let mut refused = Refusals::default();
        if t.device {
            tools.device.ensure().map_err(|e| e.to_string())?;
        }
        refused.elements = tools.sets.run(&t.sets).map_err(|e| e.to_string())?;
        refused.rules = restore(&tools.rules, &t.rules).err();
        let servers = if refused.rules.is_some() {
            Cow::Owned(self.without_guarded(&t.servers))
        } else {
            Cow::Borrowed(&t.servers)
        };
        let tools = &mut self.tools;
        refused.servers = tools.ipvs.run(&servers).map_err(|e| e.to_string())?;
        if !t.new_addresses.is_empty() || !t.old_addresses.is_empty() {
            let changed = tools.device.change(&t.new_addresses, &t.old_addresses);
            refused.addresses = changed.map_err(|e| e.to_string())?;
        }
        let old = tools.ipvs.run(&t.old_servers).map_err(|e| e.to_string())?;
        refused.servers.extend(old);
        let old = tools.sets.run(&t.old_members).map_err(|e| e.to_string())?;
        refused.elements.extend(old);
        Ok(refused)
    }

    /// Without new virtual servers that are not for everybody: while rules are refused, nothing
    /// would keep others away.
    fn without_guarded(&self, ops: &[Op]) -> Vec<Op> {
        let guarded = ops.iter().filter_map(|op| match op {
            Op::AddService(service) => Some(service.id),
            _ => None,
        });
        let guarded: HashSet<ServiceId> = guarded.filter(|id| self.mode.is_guarded(id)).collect();
        let open = ops.iter().filter(|op| !guarded.contains(&op.service()));
        open.cloned().collect()
    }

    fn check_leaving(&mut self) {
        if let Err(error) = self.look_at_leaving() {
            tracing::warn!("{}: endpoints on their way out: {error}", self.family);
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
    fn sync(&mut self, plan: &Plan, changed: &BTreeSet<PortKey>) -> Result<Synced, SyncError> {
        self.mode.apply(&diff_of(plan, self.mode.plan(), changed));
        self.write()
    }

    fn resync(&mut self, plan: &Plan) -> Result<Synced, SyncError> {
        self.mode.replace_plan(plan);
        self.look_at_addresses().map_err(Self::error)?;
        self.mode.forget();
        self.write()
    }

    fn disturbed(&mut self, _: &Plan) -> bool {
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
            Ok(difference) => !self.mode.is_only_refused(&difference),
            Err(_) => true,
        }
    }

    fn host_addresses_changed(&mut self, _: &Plan) -> bool {
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

    fn attend(&mut self, _: &Plan) {
        self.check_leaving();
    }
}

/// Writes rules. A table that is refused does not keep the others from being written.
fn restore(rules: &Iptables, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    let Err(error) = rules.restore(text.as_bytes()) else {
        return Ok(());
    };
    if let RestoreError::BadInput {
        tables_committed, ..
    }
    | RestoreError::Refused {
        tables_committed, ..
    } = error
    {
        let tables = text.split_inclusive("COMMIT\n");
        for table in tables.skip(tables_committed + 1) {
            // The first error is what is told; all is tried again.
            let _ = rules.restore(table.as_bytes());
        }
    }
    Err(error.to_string())
}

/// The addresses of the node's interfaces, those of the Services' own left out.
fn interface_addresses() -> Result<Vec<IpAddr>, kernel::netlink::Error> {
    let all = kernel::address::addresses()?.into_iter();
    let own = all.filter(|a| a.interface != DEVICE);
    Ok(own.map(|a| a.address.addr()).collect())
}
