//! The sync of ipvs mode: decides when to read, what to write in which order, and what to leave out
//! after a refusal. The I/O is behind [`Transport`].

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

use model::IpFamily;
use netfilter::ipset::{self, Element, Sets};
use netfilter::iptables::ParseError;
use netfilter::ipvs::{Destination, Op, Service, ServiceId, Services};
use plan::{Plan, PortKey};

use super::{Mode, NeedsObservation, Observation, Options, Seen, Transaction, Unprogrammed};
use crate::{Found, Origin, Refusals};

/// The number of virtual servers whose destinations [`Sync::is_disturbed`] reads: each takes a dump
/// of its own. The next call continues with the others.
const CHECKED_SERVERS: usize = 1000;

/// Reads and writes the kernel's state of one family through four interfaces.
pub trait Transport {
    /// Why the state could not be read or written.
    type Error: Error + Send + std::marker::Sync + 'static;

    /// Return the addresses of all interfaces, from one dump.
    ///
    /// # Errors
    /// The addresses cannot be read.
    fn addresses(&mut self) -> Result<Addresses, Self::Error>;

    /// This mode's ipsets.
    ///
    /// # Errors
    /// The sets cannot be read.
    fn sets(&mut self) -> Result<Sets, Self::Error>;

    /// Return all virtual servers without their destinations.
    ///
    /// # Errors
    /// The virtual servers cannot be read.
    fn servers(&mut self) -> Result<Vec<Service>, Self::Error>;

    /// Return one virtual server with its destinations; `None` if it does not exist.
    ///
    /// # Errors
    /// The virtual server cannot be read.
    fn server(&mut self, id: &ServiceId) -> Result<Option<Service>, Self::Error>;

    /// Return the destinations of a virtual server, each with the number of its connections.
    ///
    /// # Errors
    /// The destinations cannot be read.
    fn destinations(&mut self, id: &ServiceId) -> Result<Vec<(Destination, u64)>, Self::Error>;

    /// Return the output of `iptables-save` for the tables filter and nat.
    ///
    /// # Errors
    /// The rules cannot be read.
    fn rules(&mut self) -> Result<String, Self::Error>;

    /// Create [`DEVICE`](super::DEVICE) if it does not exist.
    ///
    /// # Errors
    /// The device cannot be created.
    fn ensure_device(&mut self) -> Result<(), Self::Error>;

    /// Change ipsets; return the refused operations.
    ///
    /// # Errors
    /// The operations could not be sent.
    fn change_sets(&mut self, ops: &[ipset::Op]) -> Result<Vec<RefusedElement>, Self::Error>;

    /// Run `iptables-restore --noflush`.
    ///
    /// # Errors
    /// The input did not take effect, or only its first tables did.
    fn restore(&mut self, input: &str) -> Result<(), RestoreFailure<Self::Error>>;

    /// Change virtual servers; return the refused operations.
    ///
    /// # Errors
    /// The operations could not be sent.
    fn change_servers(&mut self, ops: &[Op]) -> Result<Vec<RefusedServer>, Self::Error>;

    /// Add and remove addresses of [`DEVICE`](super::DEVICE); return the refused ones.
    ///
    /// # Errors
    /// The changes could not be sent.
    fn change_addresses(
        &mut self,
        add: &[IpAddr],
        remove: &[IpAddr],
    ) -> Result<Vec<RefusedAddress>, Self::Error>;
}

/// The addresses of a node.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// Those of the node's interfaces without those of [`DEVICE`](super::DEVICE).
    pub interfaces: Vec<IpAddr>,
    /// Those of [`DEVICE`](super::DEVICE); `None` if it does not exist.
    pub device: Option<Vec<IpAddr>>,
}

/// A refused change of an ipset.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct RefusedElement {
    pub set: Box<str>,
    /// `None` if the whole set was refused.
    pub element: Option<Element>,
    pub message: String,
}

/// A refused change of a virtual server.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct RefusedServer {
    pub id: ServiceId,
    pub message: String,
}

/// A refused change of an address.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct RefusedAddress {
    pub address: IpAddr,
    pub message: String,
}

/// A failed restore.
#[derive(Debug)]
pub struct RestoreFailure<E> {
    /// The cause.
    pub error: E,
    /// If the content of a table was rejected: the number of tables committed before it.
    pub rejected_after: Option<usize>,
}

/// Why a sync failed.
#[derive(Debug, thiserror::Error)]
pub enum SyncError<E: Error + 'static> {
    /// A part of the state cannot be read.
    #[error("cannot read {what}")]
    Read {
        /// The part.
        what: &'static str,
        /// The cause.
        source: E,
    },
    /// The output of `iptables-save` is malformed.
    #[error("cannot parse the output of iptables-save")]
    Parse(#[source] ParseError),
    /// A part of the state cannot be written.
    #[error("cannot write {what}")]
    Write {
        /// The part.
        what: &'static str,
        /// The cause.
        source: E,
    },
    /// The kernel refused content that belongs to no Service port.
    #[error(
        "the kernel refused {count} changes that belong to no Service port; the first: {message}"
    )]
    Refused {
        /// The first refusal.
        message: String,
        /// The number of refusals.
        count: usize,
    },
}

fn reading<E: Error>(what: &'static str) -> impl FnOnce(E) -> SyncError<E> {
    move |source| SyncError::Read { what, source }
}

fn writing<E: Error>(what: &'static str) -> impl FnOnce(E) -> SyncError<E> {
    move |source| SyncError::Write { what, source }
}

/// The parts of a transaction that the kernel refused. It committed all others.
#[derive(Default)]
struct Refused {
    servers: Vec<RefusedServer>,
    elements: Vec<RefusedElement>,
    addresses: Vec<RefusedAddress>,
    rules: Option<String>,
}

/// One family of ipvs mode. Times are durations since any fixed moment.
#[derive(Debug)]
pub struct Sync {
    mode: Mode,
    refusals: Refusals,
    /// The last virtual server whose destinations were read.
    last_checked: Option<ServiceId>,
    found: Option<Found>,
}

impl Sync {
    /// Return a machine without knowledge of the kernel.
    pub fn new(family: IpFamily, options: Options) -> Self {
        Self {
            mode: Mode::new(family, options),
            refusals: Refusals::default(),
            last_checked: None,
            found: None,
        }
    }

    /// Return the Service ports of which the last sync left something out.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Return the state that the first read since the last call found.
    pub fn take_found(&mut self) -> Option<Found> {
        self.found.take()
    }

    /// Write the Service ports that changed.
    ///
    /// # Errors
    /// See [`SyncError`]. The next sync includes the same changes.
    pub fn sync<T: Transport>(
        &mut self,
        plan: &Plan,
        changed: &BTreeSet<PortKey>,
        now: Duration,
        transport: &mut T,
    ) -> Result<(), SyncError<T::Error>> {
        self.mode.update(plan, changed);
        self.write(plan, now, transport)
    }

    /// Read the kernel's state, compare it with the plan and write the difference.
    ///
    /// # Errors
    /// See [`SyncError`].
    pub fn resync<T: Transport>(
        &mut self,
        plan: &Plan,
        now: Duration,
        transport: &mut T,
    ) -> Result<(), SyncError<T::Error>> {
        self.mode.update_all(plan);
        self.mode.forget();
        self.write(plan, now, transport)
    }

    /// Return whether another program changed our state. What the kernel refused is missing too, but is
    /// not a disturbance.
    ///
    /// # Errors
    /// The state cannot be read, which is not a disturbance.
    pub fn is_disturbed<T: Transport>(
        &mut self,
        plan: &Plan,
        now: Duration,
        transport: &mut T,
    ) -> Result<bool, SyncError<T::Error>> {
        if self.mode.needs_observation() {
            return Ok(false);
        }
        let observation = self.read(plan, CHECKED_SERVERS, transport)?;
        self.mode.observe(observation);
        Ok(match self.mode.transaction(plan) {
            Ok(difference) if difference.is_empty() => {
                self.mode.committed(difference, now);
                false
            }
            Ok(difference) => !self.mode.is_only_refused(&difference),
            Err(NeedsObservation) => true,
        })
    }

    /// Read the addresses of the node's interfaces. Return whether they require a sync although the
    /// plan is unchanged.
    ///
    /// # Errors
    /// The addresses cannot be read.
    pub fn host_addresses_changed<T: Transport>(
        &mut self,
        plan: &Plan,
        transport: &mut T,
    ) -> Result<bool, SyncError<T::Error>> {
        let addresses = transport.addresses().map_err(reading("addresses"))?;
        self.mode.set_addresses(plan, addresses.interfaces);
        // Without knowledge of the kernel a resync is pending anyway.
        let difference = self.mode.transaction(plan);
        Ok(difference.is_ok_and(|difference| !difference.is_empty()))
    }

    /// Return the time of the next [`attend`](Self::attend); `None` if no destination is terminating.
    pub fn next_due(&self) -> Option<Duration> {
        self.mode.next_due()
    }

    /// Remove terminating destinations whose last connection has ended. Return the messages of
    /// refused removals.
    ///
    /// # Errors
    /// Destinations cannot be read or removed.
    pub fn attend<T: Transport>(
        &mut self,
        now: Duration,
        transport: &mut T,
    ) -> Result<Vec<String>, SyncError<T::Error>> {
        let mut ops: Vec<Op> = Vec::new();
        for id in self.mode.due(now) {
            let found = transport.destinations(&id);
            let found = found.map_err(reading("destinations"))?.into_iter();
            let connections: HashMap<_, _> = found.map(|(d, count)| (d.address, count)).collect();
            ops.extend(self.mode.checked(&id, &connections, now));
        }
        if ops.is_empty() {
            return Ok(Vec::new());
        }
        let refused = transport.change_servers(&ops);
        let refused = refused.map_err(writing("virtual servers"))?.into_iter();
        Ok(refused.map(|refusal| refusal.message).collect())
    }

    /// Read the addresses of the node's interfaces, and the kernel's state with the destinations of
    /// at most `servers` virtual servers. The others are assumed to be as known.
    fn read<T: Transport>(
        &mut self,
        plan: &Plan,
        servers: usize,
        transport: &mut T,
    ) -> Result<Observation, SyncError<T::Error>> {
        let services = self.read_servers(servers, transport)?;
        let addresses = transport.addresses().map_err(reading("addresses"))?;
        self.mode.set_addresses(plan, addresses.interfaces);
        let seen = Seen {
            services,
            rules: transport.rules().map_err(reading("iptables rules"))?,
            device: addresses.device,
            sets: transport.sets().map_err(reading("ipsets"))?,
        };
        Observation::new(self.mode.family(), seen).map_err(SyncError::Parse)
    }

    fn read_servers<T: Transport>(
        &mut self,
        limit: usize,
        transport: &mut T,
    ) -> Result<Services, SyncError<T::Error>> {
        let mut services = transport.servers().map_err(reading("virtual servers"))?;
        services.retain(|s| s.id.ip().map(IpFamily::of) == Some(self.mode.family()));
        services.sort_unstable_by_key(|s| s.id);
        let done = services.partition_point(|s| Some(s.id) <= self.last_checked);
        services.rotate_left(done);
        for (number, service) in services.iter_mut().enumerate() {
            let known = if number < limit {
                self.last_checked = Some(service.id);
                None
            } else {
                self.mode.destinations(&service.id)
            };
            service.destinations = match known {
                Some(known) => known,
                None => {
                    let found = transport.destinations(&service.id);
                    let found = found.map_err(reading("destinations"))?.into_iter();
                    found.map(|(destination, _)| destination).collect()
                }
            };
        }
        Ok(Services { services })
    }

    fn write<T: Transport>(
        &mut self,
        plan: &Plan,
        now: Duration,
        transport: &mut T,
    ) -> Result<(), SyncError<T::Error>> {
        let mut origin = None;
        let transaction = loop {
            match self.mode.transaction(plan) {
                Ok(transaction) => break transaction,
                Err(NeedsObservation) => {
                    let observation = self.read(plan, usize::MAX, transport)?;
                    origin = Some(if observation.is_nothing() {
                        Origin::Nothing
                    } else {
                        Origin::SameLayout
                    });
                    self.mode.observe(observation);
                }
            }
        };
        if let Some(origin) = origin.filter(|_| self.found.is_none()) {
            let (kept, written) = self.mode.count_kept(&transaction);
            self.found = Some(Found {
                origin,
                kept,
                written,
            });
        }
        let refused = match self.execute(&transaction, transport) {
            Ok(refused) => refused,
            Err(error) => {
                self.mode.forget();
                return Err(error);
            }
        };
        self.mode.committed(transaction, now);
        match self.quarantine(refused, transport) {
            Ok(refusals) => {
                self.refusals = refusals;
                Ok(())
            }
            Err(error) => {
                self.mode.forget();
                Err(error)
            }
        }
    }

    /// Record the refused pieces as missing. Return the Service ports that own them.
    ///
    /// # Errors
    /// A piece has no owner, or a virtual server cannot be read.
    fn quarantine<T: Transport>(
        &mut self,
        refused: Refused,
        transport: &mut T,
    ) -> Result<Refusals, SyncError<T::Error>> {
        // The first refusal of each server is the cause of its others.
        let mut servers = BTreeMap::new();
        for refusal in refused.servers {
            servers.entry(refusal.id).or_insert(refusal.message);
        }
        let mut all: Vec<(Vec<PortKey>, String)> = Vec::new();
        for (id, message) in servers {
            let found = transport.server(&id).map_err(reading("a virtual server"))?;
            let owner = self.mode.on_read(id, found);
            all.push((owner.into_iter().collect(), message));
        }
        let elements = refused.elements.iter().filter_map(|r| {
            let element = r.element.as_ref()?;
            Some((Unprogrammed::Element(&r.set, element), r.message.clone()))
        });
        let addresses = refused.addresses.iter();
        let addresses = addresses.map(|r| (Unprogrammed::Address(r.address), r.message.clone()));
        let (items, messages): (Vec<_>, Vec<_>) = elements.chain(addresses).unzip();
        all.extend(self.mode.missing(&items).into_iter().zip(messages));
        // Whole sets, which rules require.
        let sets = refused.elements.iter().filter(|r| r.element.is_none());
        let whole = sets.map(|r| r.message.clone()).chain(refused.rules);
        let mut unowned: Vec<String> = whole.collect();
        let mut refusals = Refusals::default();
        for (owners, message) in all {
            if owners.is_empty() {
                unowned.push(message);
                continue;
            }
            for owner in owners {
                refusals.reject(owner, message.clone());
            }
        }
        match unowned.first() {
            None => Ok(refusals),
            Some(message) => Err(SyncError::Refused {
                message: message.clone(),
                count: unowned.len(),
            }),
        }
    }

    /// Write a transaction, in an order in which no connection reaches a half-written Service. A refusal
    /// does not end it.
    fn execute<T: Transport>(
        &self,
        t: &Transaction,
        transport: &mut T,
    ) -> Result<Refused, SyncError<T::Error>> {
        let mut refused = Refused::default();
        if t.device {
            transport.ensure_device().map_err(writing("kube-ipvs0"))?;
        }
        if !t.sets.is_empty() {
            refused.elements = transport.change_sets(&t.sets).map_err(writing("ipsets"))?;
        }
        refused.rules = restore(&t.rules, transport);
        let servers = if refused.rules.is_some() {
            Cow::Owned(self.without_guarded(&t.servers))
        } else {
            Cow::Borrowed(&t.servers)
        };
        for (number, ops) in [&*servers, &t.old_servers].into_iter().enumerate() {
            if number == 1 && !(t.new_addresses.is_empty() && t.old_addresses.is_empty()) {
                let changed = transport.change_addresses(&t.new_addresses, &t.old_addresses);
                refused.addresses = changed.map_err(writing("addresses of kube-ipvs0"))?;
            }
            if !ops.is_empty() {
                let result = transport.change_servers(ops);
                refused
                    .servers
                    .extend(result.map_err(writing("virtual servers"))?);
            }
        }
        if !t.old_members.is_empty() {
            let result = transport.change_sets(&t.old_members);
            refused.elements.extend(result.map_err(writing("ipsets"))?);
        }
        Ok(refused)
    }

    /// Return the operations without those on new virtual servers that rules must protect: while the
    /// rules are refused, such a server would be open to every client.
    fn without_guarded(&self, ops: &[Op]) -> Vec<Op> {
        let new = ops.iter().filter_map(|op| match op {
            Op::AddService(service) => Some(service.id),
            _ => None,
        });
        let guarded: HashSet<ServiceId> = new.filter(|id| self.mode.is_guarded(id)).collect();
        let open = ops.iter().filter(|op| !guarded.contains(&op.service()));
        open.cloned().collect()
    }
}

/// Write rules; return the first refusal. A refused table does not prevent the others.
fn restore<T: Transport>(text: &str, transport: &mut T) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let failure = transport.restore(text).err()?;
    if let Some(committed) = failure.rejected_after {
        for table in text.split_inclusive("COMMIT\n").skip(committed + 1) {
            // The next sync tries everything again; the first error is the one reported.
            let _ = transport.restore(table);
        }
    }
    Some(failure.error.to_string())
}
