//! Connections that differ from the plan, and the rule that decides.

use std::collections::BTreeSet;
use std::net::IpAddr;

use plan::FrontendKind;
use trace::{Backend, Fraction, Origin, Outcome, Step, Verdict};

use super::expect::Expected;
use super::finding::{Cause, Finding, Weight, listed};
use super::owner;
use super::probe::{Probe, shown};

/// Maximum number of destinations in a sentence.
const MOST: usize = 5;

/// Compare plan and rules. `is_lost`: something else on the path ends the connection, and is reported.
pub(crate) fn difference(probe: &Probe, is_lost: bool) -> Option<Finding> {
    let given: BTreeSet<(IpAddr, u16)> = probe.shares().into_keys().collect();
    let as_planned = |expected: &Expected| is_as(probe, expected, &given);
    if as_planned(&probe.expected.to) || probe.expected.or.as_ref().is_some_and(as_planned) {
        return shares(probe);
    }
    // The packet never reached a Service rule.
    if is_lost && given.is_empty() && matches!(probe.expected.to, Expected::To(_)) {
        return None;
    }
    if let Some(note) = answered_here(probe, &given) {
        return Some(note);
    }
    Some(explained(probe, &given))
}

/// Return whether the rules do what the plan states.
fn is_as(probe: &Probe, expected: &Expected, given: &BTreeSet<(IpAddr, u16)>) -> bool {
    let all = |verdict| probe.trace.outcomes.iter().all(|o| o.verdict == verdict);
    match expected {
        // The relay chooses the endpoint, which no rule shows.
        Expected::To(wanted) => wanted == given || probe.is_relayed(),
        Expected::Refused => given.is_empty() && (all(Verdict::Reject) || leaves(probe)),
        // With or without an answer, the connection fails.
        Expected::Dropped => given.is_empty() && (all(Verdict::Drop) || all(Verdict::Reject)),
    }
}

/// iptables mode does not refuse external addresses in OUTPUT: packets of the node itself to an address
/// that is not its own leave the node.
fn leaves(probe: &Probe) -> bool {
    let leaves = |o: &Outcome| o.verdict == Verdict::Accept && o.out_iface.is_some();
    probe.kind != FrontendKind::ClusterIp
        && probe.packet.from == Origin::Node
        && probe.trace.outcomes.iter().all(leaves)
}

/// Return a note if a program on this node has the Service's address, as NodeLocal DNSCache does.
fn answered_here(probe: &Probe, given: &BTreeSet<(IpAddr, u16)>) -> Option<Finding> {
    let interface = probe.own_interface.as_deref()?;
    let stays = |o: &Outcome| o.verdict == Verdict::Accept && o.out_iface.is_none();
    let stays = given.is_empty() && probe.trace.outcomes.iter().all(stays);
    let is_service = probe.kind != FrontendKind::NodePort;
    if !stays || !is_service || !matches!(probe.expected.to, Expected::To(_)) {
        return None;
    }
    let name = if probe.packet.dport == 53 {
        " (as NodeLocal DNSCache does)"
    } else {
        ""
    };
    Some(Finding::new(
        Weight::Note,
        Cause::AnsweredHere,
        format!(
            "interface {interface} has {}: a program on this node answers {} connections to port \
             {}{name}, and Service rules are not used for them",
            probe.packet.dst, probe.packet.proto, probe.packet.dport
        ),
        "",
    ))
}

/// Report a difference with the rule that decides.
fn explained(probe: &Probe, given: &BTreeSet<(IpAddr, u16)>) -> Finding {
    let plan = match &probe.expected.to {
        Expected::To(wanted) => format!("go to {}", shown(wanted)),
        Expected::Refused => "are refused".to_owned(),
        Expected::Dropped => "are dropped".to_owned(),
    };
    let deciding = deciding(probe);
    let by = deciding.map_or_else(
        || ", because no rule matches them".to_owned(),
        |step| format!(", by {}", owner::describe(step)),
    );
    let wrong = wrong(probe);
    let (weight, only_if) = match wrong.map(|o| o.assuming.as_slice()) {
        Some(all @ [_, ..]) => (Weight::Partly, format!(", if {}", all.join(", and "))),
        _ => (Weight::Broken, String::new()),
    };
    let what = format!(
        "{}: according to the objects, connections {plan}; in the kernel they {}{by}{only_if}",
        probe.question(),
        kernel(probe, given)
    );
    let (cause, change) = cause(probe, given, deciding);
    Finding::new(weight, cause, what, change)
}

fn cause(
    probe: &Probe,
    given: &BTreeSet<(IpAddr, u16)>,
    deciding: Option<&Step>,
) -> (Cause, String) {
    if let Some(step) = deciding {
        if step.backend == Some(Backend::Legacy) && owner::is_service_rule(step) {
            let change = "remove the rules that an earlier proxy left in iptables-legacy: run `sluice \
                          cleanup` and restart the proxy, or reboot the node";
            return (Cause::StaleRules, change.to_owned());
        }
        if !owner::is_service_rule(step) {
            let owner = match owner::of(step) {
                Some(owner) => format!("check the configuration of {owner}"),
                None => format!(
                    "find out which program makes chain {} of table {}",
                    step.chain, step.table
                ),
            };
            let change = format!("{owner}: its rule decides before the Service rules");
            return (Cause::ForeignRule, change);
        }
    }
    if treats_local_as_remote(probe, given) {
        let change = "start the proxy with the name of this Node (--hostname-override, or \
                      hostnameOverride in its configuration); compare with kubectl get nodes";
        return (Cause::NodeName, change.to_owned());
    }
    let change = match deciding {
        None => {
            "check that the proxy runs on this node, and read its log; check that the objects are from \
             this cluster and the dumps from this node"
        }
        Some(_) => {
            "these rules were made from other objects: read the proxy's log; check that the objects are \
             from this cluster and the dumps from this node"
        }
    };
    (Cause::RulesDiffer, change.to_owned())
}

/// Return whether the rules treat the endpoints of this node as another node's, as the rules of a proxy with
/// a wrong node name do.
fn treats_local_as_remote(probe: &Probe, given: &BTreeSet<(IpAddr, u16)>) -> bool {
    let Expected::To(wanted) = &probe.expected.to else {
        return false;
    };
    let says_so =
        |s: &Step| s.rule.contains("has no local endpoints") || s.effect.contains("no-local");
    let rules = probe.trace.outcomes.iter().flat_map(|o| &o.path);
    given.is_empty()
        && !wanted.is_empty()
        && wanted.iter().all(|(ip, _)| probe.local.contains(ip))
        && (rules.into_iter().any(says_so)
            || probe
                .trace
                .outcomes
                .iter()
                .all(|o| o.verdict == Verdict::Drop))
}

fn kernel(probe: &Probe, given: &BTreeSet<(IpAddr, u16)>) -> String {
    if !given.is_empty() {
        return format!("go to {}", shown(given));
    }
    let all = probe.trace.summary();
    let ends: BTreeSet<&str> = all
        .iter()
        .map(|s| match s.verdict {
            Verdict::Accept => "are not sent to any endpoint",
            Verdict::Drop => "are dropped",
            Verdict::Reject => "are refused",
        })
        .collect();
    listed(ends, MOST)
}

/// Return the first outcome that the plan does not state.
fn wrong(probe: &Probe) -> Option<&Outcome> {
    let wanted = match &probe.expected.to {
        Expected::To(wanted) => Some(wanted),
        _ => None,
    };
    let is_wrong = |o: &&Outcome| match (o.dnat, wanted) {
        (Some(to), Some(wanted)) => !wanted.contains(&(to.ip, to.port)),
        _ => true,
    };
    let outcomes = &probe.trace.outcomes;
    outcomes.iter().find(is_wrong).or(outcomes.first())
}

/// Return the step that decides where the connection goes; `None` if no rule does.
fn deciding(probe: &Probe) -> Option<&Step> {
    let outcome = wrong(probe)?;
    let is_rule = |s: &&Step| !s.chain.is_empty();
    let rules = || outcome.path.iter().filter(is_rule);
    if outcome.verdict != Verdict::Accept {
        return outcome.path.last().filter(is_rule);
    }
    if outcome.dnat.is_some() {
        return rules().find(|s| s.effect.contains("destination becomes"));
    }
    // A rule that makes the packet bypass the Service rules: it is not tracked, or accepted in NAT.
    let early = |s: &&Step| matches!(s.hook, "prerouting" | "output");
    rules().filter(early).find(|s| {
        s.effect.contains("not tracked")
            || (s.table != "filter" && s.effect.contains("accept") && !owner::is_service_rule(s))
    })
}

/// Report endpoints with unequal shares. Affinity and IPVS weights are not in the rules' odds.
fn shares(probe: &Probe) -> Option<Finding> {
    let shares = probe.shares();
    let count = u64::try_from(shares.len()).ok().filter(|n| *n > 1)?;
    let has_assumptions = probe.trace.outcomes.iter().any(|o| !o.assuming.is_empty());
    let fair = Fraction::new(1, count)?.to_f64();
    let total: f64 = shares.values().map(|s| s.to_f64()).sum();
    let is_off = |s: &&Fraction| (s.to_f64() / total - fair).abs() > fair / 4.0;
    if has_assumptions || probe.is_relayed() || !shares.values().any(|s| is_off(&s)) {
        return None;
    }
    let all = shares.iter().map(|((ip, port), share)| {
        let to = trace::Endpoint {
            ip: *ip,
            port: *port,
        };
        format!("{to} gets {:.0} %", share.to_f64() * 100.0)
    });
    Some(Finding::new(
        Weight::Partly,
        Cause::Shares,
        format!(
            "{}: the endpoints get unequal shares: {}",
            probe.question(),
            listed(all, MOST)
        ),
        "a Service rule was removed or added by another program: restart the proxy, which restores it",
    ))
}
