//! The complete state of a plan, without a kernel.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use netfilter::ipset::{self, Sets};
use netfilter::iptables::{ApplyError, Flush, Refusal, Restore, Table, TableSet};
use netfilter::ipvs::{Op, Services};
use plan::Plan;

use super::{Mode, Observation, Options};
use crate::terms::rule_family;

/// The state of one family of a node that had none before. Displayed in three sections, each of which
/// its tool can load: `ipvsadm -R`, `ipset restore`, `iptables-restore`.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// Virtual servers and destinations.
    pub services: Services,
    /// The sets.
    pub sets: Sets,
    /// The tables, with the built-in chains.
    pub tables: TableSet,
    /// The addresses of `kube-ipvs0`.
    pub addresses: Vec<IpAddr>,
}

/// Derive the complete state of a plan's family on a node whose interfaces have these addresses.
///
/// # Errors
/// The kernel would reject the rules: a bug in sluice.
pub fn render(
    plan: &Plan,
    options: &Options,
    interface_addresses: &[IpAddr],
) -> Result<Rendered, ApplyError> {
    let family = rule_family(plan.family);
    let mut mode = Mode::new(plan.family, options.clone());
    mode.set_addresses(plan, interface_addresses.to_vec());
    mode.update_all(plan);
    mode.observe(Observation::nothing());
    let mut rendered = Rendered {
        services: Services::default(),
        sets: Sets::default(),
        tables: TableSet::new(family),
        addresses: Vec::new(),
    };
    let Ok(transaction) = mode.transaction(plan) else {
        return Ok(rendered);
    };
    let restore = Restore::parse(family, &transaction.rules).map_err(|error| ApplyError {
        line: error.line,
        table: Table::Filter,
        reason: Refusal::Unparsable(error.message),
    })?;
    rendered.tables.apply(restore, Flush::Nothing)?;
    for op in &transaction.servers {
        match op {
            Op::AddService(service) => rendered.services.services.push(service.clone()),
            // Destinations follow their virtual server.
            Op::AddDestination(_, destination) => {
                if let Some(service) = rendered.services.services.last_mut() {
                    service.destinations.push(destination.clone());
                }
            }
            _ => {}
        }
    }
    for op in &transaction.sets {
        match op {
            ipset::Op::Create(set) => rendered.sets.sets.push(set.clone()),
            ipset::Op::Add { elements, .. } => {
                if let Some(set) = rendered.sets.sets.last_mut() {
                    set.elements.clone_from(elements);
                }
            }
            _ => {}
        }
    }
    rendered.addresses.clone_from(&transaction.new_addresses);
    mode.committed(transaction, Duration::ZERO);
    Ok(rendered)
}

impl fmt::Display for Rendered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "# ipvsadm\n{}", self.services)?;
        write!(f, "# ipset\n{}", self.sets)?;
        write!(f, "# iptables\n{}", self.tables)
    }
}
