//! The driver of ipvs mode: `dataplane::ipvs::Sync` with the four kernel interfaces.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use dataplane::ipvs::{
    Addresses, DEVICE, Options, RefusedAddress, RefusedElement, RefusedServer, RestoreFailure,
    Sync, Transport, is_own_set,
};
use kernel::address::InterfaceAddress;
use kernel::ipset::IpSets;
use kernel::iptables::{Backend, Rules, RulesError};
use kernel::ipvs::Ipvs;
use kernel::service_device::{DeviceError, ServiceDevice};
use kernel::{ipvs, netlink};
use model::IpFamily;
use netfilter::ipset::{Op as SetOp, Sets};
use netfilter::iptables::Table;
use netfilter::ipvs::{Destination, Op, Service, ServiceId};
use plan::{Plan, PortKey};

use super::driver::{Chain, Driver, SyncError, Synced};
use super::probe::Needs;

/// The tables with rules of this mode.
const TABLES: [Table; 2] = [Table::Filter, Table::Nat];

/// The kernel interfaces of one family.
pub(crate) struct Tools {
    pub(crate) rules: Rules,
    pub(crate) ipvs: Ipvs,
    pub(crate) sets: IpSets,
    pub(crate) device: ServiceDevice,
}

/// One family of ipvs mode.
pub(crate) struct IpvsDriver {
    family: IpFamily,
    sync: Sync,
    tools: Tools,
    started: Instant,
}

impl IpvsDriver {
    /// Return a driver without knowledge of the kernel.
    pub(crate) fn new(family: IpFamily, tools: Tools, options: Options) -> Self {
        Self {
            family,
            sync: Sync::new(family, options),
            tools,
            started: Instant::now(),
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn synced(&mut self) -> Synced {
        // Many removed endpoints have no connections and can be removed at once.
        self.check_terminating();
        Synced {
            quarantined: self.sync.refusals().clone(),
            found: self.sync.take_found(),
            ..Synced::default()
        }
    }

    fn check_terminating(&mut self) {
        let family = self.family;
        match self.sync.attend(self.now(), &mut self.tools) {
            Ok(refusals) => {
                for error in refusals {
                    tracing::warn!(%family, error, "Cannot remove a terminating endpoint");
                }
            }
            Err(error) => {
                let error = Chain(&error);
                tracing::warn!(%family, %error, "Cannot check terminating endpoints");
            }
        }
    }
}

impl Driver for IpvsDriver {
    fn sync(&mut self, plan: &Plan, changed: &BTreeSet<PortKey>) -> Result<Synced, SyncError> {
        self.sync
            .sync(plan, changed, self.started.elapsed(), &mut self.tools)
            .map_err(SyncError::failed("cannot program ipvs mode"))?;
        Ok(self.synced())
    }

    fn resync(&mut self, plan: &Plan) -> Result<Synced, SyncError> {
        self.sync
            .resync(plan, self.started.elapsed(), &mut self.tools)
            .map_err(SyncError::failed("cannot program ipvs mode"))?;
        Ok(self.synced())
    }

    fn disturbed(&mut self, plan: &Plan) -> bool {
        let family = self.family;
        let now = self.now();
        self.sync
            .is_disturbed(plan, now, &mut self.tools)
            .unwrap_or_else(|error| {
                let error = Chain(&error);
                tracing::warn!(%family, %error, "Cannot check for foreign changes");
                false
            })
    }

    fn host_addresses_changed(&mut self, plan: &Plan) -> bool {
        let family = self.family;
        self.sync
            .host_addresses_changed(plan, &mut self.tools)
            .unwrap_or_else(|error| {
                let error = Chain(&error);
                tracing::warn!(%family, %error, "Cannot apply changed node addresses");
                false
            })
    }

    fn iptables_backend(&self) -> Option<Backend> {
        Some(self.tools.rules.backend())
    }

    fn needs(&self) -> Vec<Needs> {
        let family = self.family;
        vec![
            Needs::Iptables {
                family,
                backend: self.tools.rules.backend(),
                tables: TABLES.to_vec(),
                extensions: dataplane::ipvs::extensions(family),
            },
            Needs::Sets(family, dataplane::ipvs::set_types(family)),
        ]
    }

    fn due(&self) -> Option<Instant> {
        Some(self.started + self.sync.next_due()?)
    }

    fn attend(&mut self, _: &Plan) {
        self.check_terminating();
    }
}

/// A failed kernel interface.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) enum ToolError {
    Netlink(#[from] netlink::Error),
    Device(#[from] DeviceError),
    Servers(#[from] ipvs::Error),
    Rules(#[from] RulesError),
}

impl Transport for Tools {
    type Error = ToolError;

    fn addresses(&mut self) -> Result<Addresses, ToolError> {
        let all = kernel::address::addresses()?.into_iter();
        let (own, other): (Vec<_>, Vec<_>) = all.partition(|a| a.interface == DEVICE);
        let ips = |all: Vec<InterfaceAddress>| all.iter().map(|a| a.address.addr()).collect();
        let exists = !own.is_empty() || self.device.exists()?;
        Ok(Addresses {
            interfaces: ips(other),
            device: exists.then(|| ips(own)),
        })
    }

    fn sets(&mut self) -> Result<Sets, ToolError> {
        Ok(self.sets.list(&is_own_set)?)
    }

    fn servers(&mut self) -> Result<Vec<Service>, ToolError> {
        Ok(self.ipvs.services()?)
    }

    fn server(&mut self, id: &ServiceId) -> Result<Option<Service>, ToolError> {
        Ok(self.ipvs.get(id)?)
    }

    fn destinations(&mut self, id: &ServiceId) -> Result<Vec<(Destination, u64)>, ToolError> {
        let all = self.ipvs.destinations(id)?.into_iter();
        Ok(all
            .map(|(d, connections)| (d, connections.total()))
            .collect())
    }

    fn rules(&mut self) -> Result<String, ToolError> {
        Ok(self.rules.save(&TABLES)?)
    }

    fn ensure_device(&mut self) -> Result<(), ToolError> {
        Ok(self.device.ensure()?)
    }

    fn change_sets(&mut self, ops: &[SetOp]) -> Result<Vec<RefusedElement>, ToolError> {
        let refused = self.sets.run(ops)?.into_iter();
        Ok(refused
            .map(|refused| RefusedElement {
                message: refused.to_string(),
                set: refused.set,
                element: refused.element,
            })
            .collect())
    }

    fn restore(&mut self, input: &str) -> Result<(), RestoreFailure<ToolError>> {
        let restored = self.rules.restore(input);
        restored.map_err(|error| RestoreFailure {
            rejected_after: error.tables_committed().filter(|_| error.is_rejection()),
            error: error.into(),
        })
    }

    fn change_servers(&mut self, ops: &[Op]) -> Result<Vec<RefusedServer>, ToolError> {
        let refused = self.ipvs.run(ops)?.into_iter();
        Ok(refused
            .map(|refused| RefusedServer {
                id: refused.op.service(),
                message: refused.to_string(),
            })
            .collect())
    }

    fn change_addresses(
        &mut self,
        add: &[IpAddr],
        remove: &[IpAddr],
    ) -> Result<Vec<RefusedAddress>, ToolError> {
        let refused = self.device.change(add, remove)?.into_iter();
        Ok(refused
            .map(|refused| RefusedAddress {
                address: refused.address,
                message: refused.to_string(),
            })
            .collect())
    }
}
