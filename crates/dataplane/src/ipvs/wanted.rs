//! The desired state as counted pieces.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use model::IpFamily;
use netfilter::ipvs::{Service, ServiceId};
use plan::{Endpoint, Plan, PortKey, PortPlan};

use super::Options;
use super::lower::{Context, Item, Piece, Role, pieces};
use super::rules::Inputs;
use super::sets::{COUNT, SetKind};

/// One Service port's claim on a virtual server. Two ports claim the same one if an external address
/// and port equal a node address and NodePort; the port whose name sorts first gets it.
#[derive(Clone, Debug)]
struct Claim {
    port: Arc<PortPlan>,
    role: Role,
}

/// The desired virtual server.
#[derive(Clone, Debug)]
pub(super) struct WantedServer<'a> {
    pub(super) id: ServiceId,
    pub(super) persistent: Option<u32>,
    pub(super) endpoints: &'a Arc<[Endpoint]>,
}

impl WantedServer<'_> {
    /// Return the virtual server without destinations.
    pub(super) fn service(&self, options: &Options) -> Service {
        Service {
            persistent: self.persistent,
            flags: options.scheduler_flags(),
            ..Service::new(self.id, &options.scheduler)
        }
    }
}

#[derive(Debug)]
pub(super) struct Wanted {
    family: IpFamily,
    /// The ports whose pieces are counted.
    counted: BTreeMap<PortKey, Arc<PortPlan>>,
    /// The addresses of the node's interfaces.
    addresses: Vec<IpAddr>,
    context: Context,
    items: HashMap<Item, u32>,
    sizes: [usize; COUNT],
    servers: HashMap<ServiceId, Vec<Claim>>,
    /// The pieces that may differ from the kernel's.
    pub(super) touched: Touched,
}

#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) items: HashSet<Item>,
    pub(super) servers: HashSet<ServiceId>,
}

impl Wanted {
    pub(super) fn new(family: IpFamily) -> Self {
        Self {
            context: Context::default(),
            family,
            counted: BTreeMap::new(),
            addresses: Vec::new(),
            items: HashMap::new(),
            sizes: [0; COUNT],
            servers: HashMap::new(),
            touched: Touched::default(),
        }
    }

    pub(super) fn family(&self) -> IpFamily {
        self.family
    }

    /// Update the pieces of these ports to the plan.
    pub(super) fn update<'k>(&mut self, plan: &Plan, changed: impl Iterator<Item = &'k PortKey>) {
        self.update_context(plan);
        for key in changed {
            let after = plan.ports.get(key);
            let before = match after {
                Some(after) => self.counted.insert(key.clone(), after.clone()),
                None => self.counted.remove(key),
            };
            // Before the old ones are removed, so that pieces of both are not touched.
            if let Some(after) = after {
                self.add(after);
            }
            if let Some(before) = before {
                self.remove(&before);
            }
        }
    }

    /// Update the pieces of every port that differs from the plan.
    pub(super) fn update_all(&mut self, plan: &Plan) {
        let keys = plan.ports.keys().chain(self.counted.keys());
        let same = |key: &&PortKey| match (plan.ports.get(*key), self.counted.get(*key)) {
            (Some(after), Some(before)) => Arc::ptr_eq(after, before),
            _ => false,
        };
        let changed: BTreeSet<PortKey> = keys.filter(|key| !same(key)).cloned().collect();
        self.update(plan, changed.iter());
    }

    /// Set the addresses of the node's interfaces without those of the Services.
    pub(super) fn set_addresses(&mut self, plan: &Plan, addresses: Vec<IpAddr>) {
        self.addresses = addresses;
        self.update_context(plan);
    }

    fn update_context(&mut self, plan: &Plan) {
        let context = Context::new(self.family, &plan.node, &self.addresses);
        if context == self.context {
            return;
        }
        let ports: Vec<Arc<PortPlan>> = self.counted.values().cloned().collect();
        for port in &ports {
            self.remove(port);
        }
        self.context = context;
        for port in &ports {
            self.add(port);
        }
    }

    fn add(&mut self, port: &Arc<PortPlan>) {
        let context = std::mem::take(&mut self.context);
        pieces(port, &context, &mut |piece| match piece {
            Piece::Item(item) => self.count(item, true),
            Piece::Server(id, role) => {
                let claims = self.servers.entry(id).or_default();
                let claim = Claim {
                    port: port.clone(),
                    role,
                };
                claims.push(claim);
                if claims.len() > 1 {
                    claims.sort_by(|a, b| a.port.name.cmp(&b.port.name));
                }
                self.touched.servers.insert(id);
            }
        });
        self.context = context;
    }

    fn remove(&mut self, port: &Arc<PortPlan>) {
        let context = std::mem::take(&mut self.context);
        pieces(port, &context, &mut |piece| match piece {
            Piece::Item(item) => self.count(item, false),
            Piece::Server(id, role) => {
                let Some(claims) = self.servers.get_mut(&id) else {
                    return;
                };
                let ours = |c: &Claim| Arc::ptr_eq(&c.port, port) && c.role == role;
                if let Some(at) = claims.iter().position(ours) {
                    claims.remove(at);
                }
                if claims.is_empty() {
                    self.servers.remove(&id);
                }
                self.touched.servers.insert(id);
            }
        });
        self.context = context;
    }

    fn count(&mut self, item: Item, more: bool) {
        let count = self.items.entry(item).or_default();
        let was = *count > 0;
        *count = if more {
            *count + 1
        } else {
            count.saturating_sub(1)
        };
        let is = *count > 0;
        if !is {
            self.items.remove(&item);
        }
        if was != is {
            self.touched.items.insert(item);
            if let Item::Member(kind, _) = item {
                let size = &mut self.sizes[kind.index()];
                *size = if is {
                    *size + 1
                } else {
                    size.saturating_sub(1)
                };
            }
        }
    }

    pub(super) fn has(&self, item: &Item) -> bool {
        self.items.contains_key(item)
    }

    pub(super) fn items(&self) -> impl Iterator<Item = &Item> {
        self.items.keys()
    }

    /// Return the number of desired elements of a set.
    pub(super) fn size(&self, kind: SetKind) -> usize {
        self.sizes[kind.index()]
    }

    pub(super) fn server_ids(&self) -> impl Iterator<Item = &ServiceId> {
        self.servers.keys()
    }

    pub(super) fn server(&self, id: &ServiceId) -> Option<WantedServer<'_>> {
        let claim = self.servers.get(id)?.first()?;
        Some(WantedServer {
            id: *id,
            persistent: claim.port.affinity.map(|a| a.timeout_seconds),
            endpoints: claim.role.endpoints(&claim.port),
        })
    }

    /// Return the Service port that owns a virtual server.
    pub(super) fn owner(&self, id: &ServiceId) -> Option<&Arc<PortPlan>> {
        Some(&self.servers.get(id)?.first()?.port)
    }

    /// Return the Service ports that own these items. Goes through every port.
    pub(super) fn owners(&self, items: &HashSet<Item>) -> HashMap<Item, Vec<PortKey>> {
        let mut owners: HashMap<Item, Vec<PortKey>> = HashMap::new();
        if items.is_empty() {
            return owners;
        }
        for port in self.counted.values() {
            pieces(port, &self.context, &mut |piece| {
                if let Piece::Item(item) = piece
                    && items.contains(&item)
                {
                    owners.entry(item).or_default().push(port.key());
                }
            });
        }
        owners
    }

    /// Return the number of Service ports.
    pub(super) fn ports(&self) -> usize {
        self.counted.len()
    }

    /// Return the number of Service ports that own any of these pieces. Goes through every port.
    pub(super) fn count_owners(
        &self,
        servers: &HashSet<ServiceId>,
        items: &HashSet<Item>,
    ) -> usize {
        let ports = self.counted.values();
        let owners = ports.filter(|port| {
            let mut owns = false;
            pieces(port, &self.context, &mut |piece| {
                owns |= match piece {
                    Piece::Item(item) => items.contains(&item),
                    Piece::Server(id, _) => servers.contains(&id),
                };
            });
            owns
        });
        owners.count()
    }

    pub(super) fn rules(&self, plan: &Plan, options: &Options) -> Inputs {
        let node = &plan.node;
        Inputs {
            family: self.family,
            local: node.local.clone(),
            masquerade_all: node.masquerade_all,
            mark: options.masquerade_mark(),
            random_fully: options.random_fully,
            filled: self.sizes.map(|size| size > 0),
        }
    }
}
