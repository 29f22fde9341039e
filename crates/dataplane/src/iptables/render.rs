//! The complete rules of a plan, without a kernel.

use std::collections::BTreeSet;

use netfilter::iptables::{ApplyError, Flush, Restore, Table, TableSet};
use plan::Plan;

use super::lower::rule_family;
use super::{Mode, Observation, Options, Problem};

/// What a node that had no rules before ends up with.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// The tables, built-in chains and canaries included; prints in iptables-save form.
    pub tables: TableSet,
    /// The Service ports that are not in it.
    pub problems: Vec<Problem>,
}

/// Lays a plan out as the complete rules of its family.
///
/// # Errors
/// Where the rules that were made are not what a kernel would take: a fault of sluice's.
pub fn render(plan: &Plan, options: &Options) -> Result<Rendered, ApplyError> {
    let family = rule_family(plan.family);
    let mut mode = Mode::new(plan.family, *options);
    mode.replace_plan(plan);
    mode.observe(Observation::nothing());
    let mut tables = TableSet::new(family);
    if let Ok(transaction) = mode.transaction(&BTreeSet::new()) {
        let restore = Restore::parse(family, &transaction.text).map_err(|error| ApplyError {
            line: error.line,
            table: Table::Nat,
            reason: netfilter::iptables::Refusal::NotRead(error.message),
        })?;
        tables.apply(restore, Flush::Nothing)?;
    }
    Ok(Rendered {
        tables,
        problems: mode.problems().values().cloned().collect(),
    })
}
