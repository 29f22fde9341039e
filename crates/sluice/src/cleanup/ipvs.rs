//! Removal of ipvs mode from a node.

use anyhow::{Context as _, bail};
use dataplane::iptables::is_fixed_chain;
use dataplane::ipvs::{Cleanup, DEVICE, Observation, Seen, leftovers};
use kernel::ipset::IpSets;
use kernel::iptables::Backend;
use kernel::ipvs::Ipvs;
use kernel::service_device::ServiceDevice;
use model::{IpFamily, Mode};
use netfilter::ipset::Sets;
use netfilter::iptables::Table;
use netfilter::ipvs::Services;

use super::scope::Scope;
use super::tools;

/// Remove everything of ipvs mode, if its device or sets exist. Continue after a failure and report
/// all failures.
pub(crate) fn run(scope: Scope<'_>, failures: &mut Vec<String>) {
    let mut note = |result: anyhow::Result<()>| {
        if let Err(error) = result {
            failures.push(format!("ipvs: {error:#}"));
        }
    };
    let dry_run = scope.dry_run;
    let mut found = match Found::read() {
        Ok(Some(found)) => found,
        Ok(None) => return,
        Err(error) => return note(Err(error)),
    };
    // Rules first: a set that a rule names cannot be destroyed.
    for family in IpFamily::ALL {
        for backend in [Backend::Nft, Backend::Legacy] {
            if scope.removes_rules(Mode::Ipvs, family, backend) {
                note(rules(family, backend, &found, scope));
            }
        }
    }
    if scope.mode() == Some(Mode::Ipvs) {
        return;
    }
    for family in IpFamily::ALL {
        let result = found.cleanup(family, String::new(), false);
        note(result.and_then(|cleanup| found.execute(&cleanup, dry_run)));
    }
    if found.device.is_some() {
        if dry_run {
            println!("# input for ip:\nlink delete {DEVICE}");
        } else {
            note(remove_device());
        }
    }
}

/// The traces of this mode.
struct Found {
    device: Option<Vec<std::net::IpAddr>>,
    sets: Sets,
    services: Services,
}

impl Found {
    /// `None` if neither exists. Virtual servers are not read then, since that would load IPVS.
    fn read() -> anyhow::Result<Option<Self>> {
        let device = ServiceDevice::open(DEVICE)?.addresses()?;
        let sets = IpSets::open()?.list(&dataplane::ipvs::is_own_set)?;
        if device.is_none() && sets.sets.is_empty() {
            return Ok(None);
        }
        let services = match Ipvs::open() {
            Ok(mut ipvs) => ipvs.list()?,
            Err(kernel::ipvs::Error::NotInKernel) => Services::default(),
            Err(error) => return Err(error.into()),
        };
        Ok(Some(Self {
            device,
            sets,
            services,
        }))
    }

    /// With `shared`, chains that iptables mode has too stay.
    fn cleanup(&self, family: IpFamily, rules: String, shared: bool) -> anyhow::Result<Cleanup> {
        let seen = Seen {
            device: self.device.clone(),
            sets: self.sets.clone(),
            services: self.services.clone(),
            rules,
        };
        let observation =
            Observation::new(family, seen).context("cannot parse the output of iptables-save")?;
        Ok(leftovers(family, &observation, |table, chain| {
            shared && is_fixed_chain(table, chain)
        }))
    }

    /// Remove virtual servers and sets.
    fn execute(&mut self, cleanup: &Cleanup, dry_run: bool) -> anyhow::Result<()> {
        if dry_run {
            println!("# input for ipvsadm:");
            cleanup.servers.iter().for_each(|op| println!("{op}"));
            println!("# input for ipset:");
            cleanup
                .sets
                .iter()
                .for_each(|op| println!("destroy {}", op.set()));
            return Ok(());
        }
        let mut refused = Vec::new();
        if !cleanup.servers.is_empty() {
            let servers = Ipvs::open()?.run(&cleanup.servers)?;
            refused.extend(servers.iter().map(ToString::to_string));
        }
        let sets = IpSets::open()?.run(&cleanup.sets)?;
        refused.extend(sets.iter().map(ToString::to_string));
        if refused.is_empty() {
            return Ok(());
        }
        bail!("{}", refused.join("; "))
    }
}

fn remove_device() -> anyhow::Result<()> {
    ServiceDevice::open(DEVICE)?.remove()?;
    tracing::info!(
        interface = DEVICE,
        "Removed an interface with its addresses"
    );
    Ok(())
}

fn rules(
    family: IpFamily,
    backend: Backend,
    found: &Found,
    scope: Scope<'_>,
) -> anyhow::Result<()> {
    let tables = [Table::Filter, Table::Nat];
    let Some(mut tools) = tools::Found::read(family, backend, &tables, scope)? else {
        return Ok(());
    };
    let shared = scope.mode_in(family, backend) == Some(Mode::Iptables);
    let input = found.cleanup(family, tools.rules.clone(), shared)?.rules;
    tools.restore(&input, Mode::Ipvs)
}
