//! Routes to endpoints that lead elsewhere.

use trace::{Outcome, Verdict};

use super::finding::{Cause, Finding, Weight};
use super::probe::Probe;

/// Find an endpoint on this node to which only the default route leads, as when its pod's interface is
/// down.
pub(crate) fn misled(probe: &Probe) -> Option<Finding> {
    let delivered = |o: &&Outcome| o.verdict == Verdict::Accept && o.out_iface.is_some();
    for outcome in probe.trace.outcomes.iter().filter(delivered) {
        let to = outcome.dst;
        if !probe.local.contains(&to.ip) {
            continue;
        }
        let mut routes = outcome.path.iter().filter(|s| s.hook == "routing");
        let Some(step) = routes.next_back().filter(|s| s.rule.starts_with("default")) else {
            continue;
        };
        let out = outcome.out_iface.as_deref().unwrap_or_default();
        let weight = if probe.trace.outcomes.len() == 1 {
            Weight::Broken
        } else {
            Weight::Partly
        };
        let finding = Finding::new(
            weight,
            Cause::NoRoute,
            format!(
                "{}: endpoint {to} is on this node, but no route leads to its pod: the packet leaves \
                 through {out} ({})",
                probe.question(),
                step.rule
            ),
            "check that the pod runs and that its interface on this node is up (ip link, ip route); the CNI \
             has to add a route to it",
        );
        return Some(finding.decided_by(&*step.rule));
    }
    None
}
