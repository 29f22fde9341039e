//! Connections that differ from the plan, and the rule that decides.

use std::collections::BTreeSet;
use std::net::IpAddr;

use plan::FrontendKind;
use trace::{Backend, Did, Fraction, Origin, Outcome, Step, Verdict};

use super::expect::Expected;
use super::finding::{Cause, Finding, Weight, listed};
use super::owner;
use super::probe::{Naming, Probe, shown};

/// Maximum number of destinations in a sentence.
const MOST: usize = 5;

/// Compare plan and rules. `is_lost`: something else on the path ends the connection, and is reported.
pub(crate) fn difference(probe: &Probe, is_lost: bool, naming: &Naming<'_>) -> Option<Finding> {
    let given: BTreeSet<(IpAddr, u16)> = probe.shares().into_keys().collect();
    let as_planned = |expected: &Expected| is_as(probe, expected, &given);
    if as_planned(&probe.expected.to) || probe.expected.or.as_ref().is_some_and(as_planned) {
        return shares(probe, naming);
    }
    // The packet never reached a Service rule, or was on its path to the relay.
    if is_lost && (given.is_empty() || probe.leads_to_relay()) {
        return None;
    }
    // Forwarding that is off has a finding of its own.
    let last = wrong(probe).and_then(|o| o.path.last());
    if given.is_empty() && last.is_some_and(|s| s.did == Did::NotForwarding) {
        return None;
    }
    if let Some(note) = answered_here(probe) {
        return Some(note);
    }
    Some(explained(probe, &given, naming))
}

/// Return whether the rules do what the plan states.
fn is_as(probe: &Probe, expected: &Expected, given: &BTreeSet<(IpAddr, u16)>) -> bool {
    let all = |verdict| probe.trace.outcomes.iter().all(|o| o.verdict == verdict);
    match expected {
        // The relay chooses the endpoint, which no rule shows.
        Expected::To(wanted) => wanted == given || probe.is_relayed(),
        Expected::Refused => {
            given.is_empty() && (all(Verdict::Reject) || leaves(probe) || stays(probe))
        }
        // With or without an answer, the connection fails.
        Expected::Dropped => {
            let is_lost = all(Verdict::Drop) || all(Verdict::Reject);
            // Iptables mode drops in FORWARD what its source ranges exclude. Where another program's
            // rule accepts it before, it leaves the node as it came.
            let leaves = |o: &Outcome| o.verdict == Verdict::Accept && o.out_iface.is_some();
            let is_excluded = probe.kind == FrontendKind::LoadBalancerIp;
            given.is_empty() && (is_lost || is_excluded && probe.trace.outcomes.iter().all(leaves))
        }
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

/// No program of the node listens on a NodePort, so that the node itself refuses the connection.
fn stays(probe: &Probe) -> bool {
    let stays = |o: &Outcome| o.verdict == Verdict::Accept && o.out_iface.is_none();
    probe.kind == FrontendKind::NodePort && probe.trace.outcomes.iter().all(stays)
}

/// Return a note if a program on this node has the Service's address, as NodeLocal DNSCache does.
fn answered_here(probe: &Probe) -> Option<Finding> {
    let interface = probe.own_interface.as_deref()?;
    let is_service = probe.kind != FrontendKind::NodePort;
    if !probe.is_answered_here() || !is_service || !matches!(probe.expected.to, Expected::To(_)) {
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

/// Find connections that pass a program on this node that has the Service's address and answers the
/// same client over another protocol, as a DNS cache whose rules cover UDP only.
pub(crate) fn passing_by(probes: &[Probe]) -> Vec<Finding> {
    let mut found = Vec::new();
    let is_service = |p: &&Probe| p.kind != FrontendKind::NodePort && p.own_interface.is_some();
    for probe in probes.iter().filter(is_service) {
        let is_other = |p: &&Probe| {
            let (a, b) = (&p.packet, &probe.packet);
            (a.from, a.src, a.dst, a.dport) == (b.from, b.src, b.dst, b.dport) && a.proto != b.proto
        };
        let mut others = probes.iter().filter(is_other);
        let is_expected = |p: &&Probe| matches!(p.expected.to, Expected::To(_));
        let Some(other) = others.find(|p| is_expected(p) && p.is_answered_here()) else {
            continue;
        };
        let given: BTreeSet<(IpAddr, u16)> = probe.shares().into_keys().collect();
        if !given.is_empty() {
            found.push(passed_by(probe, other, &given));
        }
    }
    found
}

fn passed_by(probe: &Probe, other: &Probe, given: &BTreeSet<(IpAddr, u16)>) -> Finding {
    let rules = |p: &'_ Probe| -> Vec<Step> {
        let steps = p.trace.outcomes.iter().flat_map(|o| &o.path);
        steps.filter(|s| !s.chain.is_empty()).cloned().collect()
    };
    let untracked = rules(other)
        .into_iter()
        .find(|s| s.effect.contains("not tracked"));
    let accepted = rules(probe).into_iter().find(|s| {
        let is_there = untracked
            .as_ref()
            .is_none_or(|u| (u.hook, &u.table) == (s.hook, &s.table));
        is_there && s.did == Did::Accepted && !owner::is_service_rule(s)
    });
    let place = |s: &Step| format!("table {}, chain {}", s.table, s.chain);
    let (why, change) = match (&accepted, &untracked) {
        (Some(step), _) => (
            format!("{} accepts them first", owner::describe(step)),
            format!(
                "move this rule ({}) behind the rules that exempt connections to the program from tracking",
                place(step)
            ),
        ),
        (None, Some(step)) => (
            format!(
                "no rule exempts {} from tracking, as {} does",
                probe.packet.proto,
                owner::describe(step)
            ),
            format!(
                "add such a rule for {} ({}), or restart the program that makes these rules",
                probe.packet.proto,
                place(step)
            ),
        ),
        (None, None) => (
            "Service rules match them".to_owned(),
            "compare the path of both: sluice trace --proto tcp, --proto udp".to_owned(),
        ),
    };
    let finding = Finding::new(
        Weight::Partly,
        Cause::ForeignRule,
        format!(
            "{}: interface {} has {}, and a program on this node answers {} connections to port {} \
             there, but {} connections go to {}: {why}",
            probe.question(),
            probe.own_interface.as_deref().unwrap_or_default(),
            probe.packet.dst,
            other.packet.proto,
            probe.packet.dport,
            probe.packet.proto,
            shown(given)
        ),
        change,
    );
    finding.decided_by(accepted.as_ref().map_or(why, owner::describe))
}

/// Report a difference with the rule that decides.
fn explained(probe: &Probe, given: &BTreeSet<(IpAddr, u16)>, naming: &Naming<'_>) -> Finding {
    let plan = match &probe.expected.to {
        Expected::To(wanted) => format!("go to {}", shown(wanted)),
        Expected::Refused => "are refused".to_owned(),
        Expected::Dropped => "are dropped".to_owned(),
    };
    let deciding = deciding(probe);
    let is_ours = deciding.is_none_or(owner::is_service_rule);
    let difference = is_ours.then(|| naming(probe)).flatten();
    let named = difference
        .as_ref()
        .map_or(String::new(), |d| format!(": {}", d.what));
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
        "{}: according to the objects, connections {plan}; in the kernel they {}{by}{only_if}{named}",
        probe.question(),
        kernel(probe, given)
    );
    let (mut cause, mut change) = cause(probe, given, deciding);
    let other = difference.as_ref().and_then(|d| d.node.as_ref());
    if cause == Cause::RulesDiffer && difference.is_some() {
        (cause, change) = other.map_or((cause, restore(probe)), |name| other_node(name));
    }
    // As for connections that an endpoint expects.
    if cause == Cause::ForeignRule && wrong.is_some_and(|o| o.verdict != Verdict::Accept) {
        cause = Cause::ForeignDrop;
    }
    let decides = difference.map(|d| d.what);
    let decides = decides.or_else(|| deciding.map(owner::describe));
    Finding::new(weight, cause, what, change).decided_by(decides.unwrap_or_default())
}

/// The cause and the fix for rules that were made for another Node.
pub(crate) fn other_node(name: &str) -> (Cause, String) {
    let change = format!(
        "the rules are those of node {name}: start the proxy with the name of this Node \
         (--hostname-override, or hostnameOverride in its configuration); compare with kubectl get nodes"
    );
    (Cause::NodeName, change)
}

/// Return the fix for a rule or an element that was changed.
pub(crate) fn restore(probe: &Probe) -> String {
    let fix = if probe.is_unserved { START } else { RESTORE };
    fix.to_owned()
}

const START: &str =
    "no proxy runs on this node: start it (kube-proxy or sluice), which restores its rules";
const RESTORE: &str = "restart the proxy, which restores its rules; if they are changed again, find \
     out by which program (nft monitor), or compare the objects with the proxy's log";

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
        _ if probe.is_unserved => START,
        None => {
            "read the log of the node's proxy; check that the objects are from this cluster and the dumps \
             from this node"
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
    // A rule that accepts the packet before the Service rules refuse it.
    let accepts = |s: &&Step| s.did == Did::Accepted && s.table != "nat";
    if probe.expected.to == Expected::Refused
        && let Some(step) = rules().find(|s| accepts(s) && !owner::is_service_rule(s))
    {
        return Some(step);
    }
    // A rule that makes the packet bypass the Service rules: it is not tracked, or accepted in NAT.
    let early = |s: &&Step| matches!(s.hook, "prerouting" | "output");
    rules().filter(early).find(|s| {
        s.effect.contains("not tracked")
            || (s.table != "filter" && s.effect.contains("accept") && !owner::is_service_rule(s))
    })
}

/// Report endpoints with unequal shares. Affinity and IPVS weights are not in the rules' odds.
fn shares(probe: &Probe, naming: &Naming<'_>) -> Option<Finding> {
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
    let difference = naming(probe).map_or(String::new(), |d| d.what);
    let named = if difference.is_empty() {
        String::new()
    } else {
        format!(": {difference}")
    };
    let finding = Finding::new(
        Weight::Partly,
        Cause::Shares,
        format!(
            "{}: the endpoints get unequal shares: {}{named}",
            probe.question(),
            listed(all, MOST)
        ),
        restore(probe),
    );
    Some(finding.decided_by(difference))
}
