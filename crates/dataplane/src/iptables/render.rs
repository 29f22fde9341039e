//! The complete rules of a plan, without a kernel.

use std::collections::BTreeSet;

use netfilter::iptables::{ApplyError, Flush, Restore, Table, TableSet};
use plan::Plan;

use super::lower::rule_family;
use super::{Mode, Observation, Options, Problem, RestoreText};

/// The rules of a node that had none before.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// The tables with built-in chains and canaries. Displayed in the format of iptables-save.
    pub tables: TableSet,
    /// The Service ports that are left out.
    pub problems: Vec<Problem>,
}

/// Derive the complete rules of a plan's family.
///
/// # Errors
/// The kernel would reject the rules: a bug in sluice.
pub fn render(plan: &Plan, options: &Options) -> Result<Rendered, ApplyError> {
    let family = rule_family(plan.family);
    let mut mode = Mode::new(plan.family, *options);
    mode.observe(Observation::nothing());
    let mut tables = TableSet::new(family);
    let mut text = RestoreText::default();
    if mode.transaction(plan, &BTreeSet::new(), &mut text).is_ok() {
        let restore = Restore::parse(family, &text.finish()).map_err(|error| ApplyError {
            line: error.line,
            table: Table::Nat,
            reason: netfilter::iptables::Refusal::Unparsable(error.message),
        })?;
        tables.apply(restore, Flush::Nothing)?;
    }
    Ok(Rendered {
        tables,
        problems: mode.problems().values().cloned().collect(),
    })
}
