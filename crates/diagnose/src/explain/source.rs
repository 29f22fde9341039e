//! The client's address as the endpoint sees it, and the answers' path back.

use trace::{Did, Origin, Outcome, Step, Verdict};

use super::differ::{other_node, restore};
use super::expect::Expected;
use super::finding::{Cause, Finding, Weight};
use super::owner;
use super::probe::{Naming, Probe};

/// Compare masquerading with the plan.
pub(crate) fn findings(probe: &Probe, naming: &Naming<'_>) -> Vec<Finding> {
    let delivered = probe.trace.outcomes.iter();
    let delivered = delivered.filter(|o| o.verdict == Verdict::Accept && o.assuming.is_empty());
    let mut found = Vec::new();
    for outcome in delivered {
        let Some(to) = outcome.dnat else {
            continue;
        };
        if to.ip == probe.packet.src {
            // An endpoint that connects to itself is masqueraded in any case.
            let is_pod = probe.packet.from == Origin::Pod && !probe.is_relayed();
            if is_pod && outcome.snat.is_none() {
                found.push(to_itself(probe, outcome, naming));
                break;
            }
            continue;
        }
        match (probe.expected.masquerade, outcome.snat.is_some()) {
            (Some(false), true) => found.push(replaced(probe, outcome, naming)),
            // An endpoint on this node answers through this node in any case.
            (Some(true), false) if !probe.local.contains(&to.ip) => {
                found.push(kept(probe, outcome, &to.to_string(), naming));
            }
            _ => continue,
        }
        break;
    }
    found
}

/// An endpoint that connects to itself through the Service receives its own address as the client's,
/// and answers to itself.
fn to_itself(probe: &Probe, outcome: &Outcome, naming: &Naming<'_>) -> Finding {
    let (cause, why, change) = unmasqueraded(probe, outcome, naming);
    let finding = Finding::new(
        Weight::Partly,
        cause,
        format!(
            "{}: the endpoint is given its own address and drops the packet, or answers to itself: {why}",
            probe.question()
        ),
        change,
    );
    finding.decided_by(why)
}

/// The client's address is to be kept, and a rule replaces it.
fn replaced(probe: &Probe, outcome: &Outcome, naming: &Naming<'_>) -> Finding {
    let step = rules(outcome).find(|s| s.effect.contains("source becomes"));
    let is_ours = step.is_some_and(owner::is_service_rule);
    let difference = is_ours.then(|| naming(probe)).flatten();
    let difference = difference.map_or(String::new(), |d| d.what);
    let (by, change) = match step {
        Some(step) => {
            let change = match owner::of(step) {
                Some("the proxy") | None => format!(
                    "find out which program makes chain {} of table {}, and except packets to pods \
                     from its masquerading",
                    step.chain, step.table
                ),
                Some(owner) => format!(
                    "check the configuration of {owner}: packets to pods need an exception from its \
                     masquerading"
                ),
            };
            let by = format!(" by {}", owner::describe(step));
            if difference.is_empty() {
                (by, change)
            } else {
                (format!("{by}: {difference}"), restore(probe))
            }
        }
        None => (String::new(), "find the rule with sluice trace".to_owned()),
    };
    Finding::new(
        Weight::Partly,
        Cause::SourceReplaced,
        format!(
            "{}: the client's address must be kept, but is replaced{by}",
            probe.question()
        ),
        change,
    )
    .decided_by(difference)
}

/// The client's address is to be replaced, and none does.
fn kept(probe: &Probe, outcome: &Outcome, to: &str, naming: &Naming<'_>) -> Finding {
    let (cause, why, change) = unmasqueraded(probe, outcome, naming);
    let finding = Finding::new(
        Weight::Broken,
        cause,
        format!(
            "{}: {to} is on another node and sees the client's own address, so that its answers do not \
             come back through this node: {why}",
            probe.question()
        ),
        change,
    );
    finding.decided_by(why)
}

/// Return why a packet is not masqueraded, and the fix.
fn unmasqueraded(probe: &Probe, outcome: &Outcome, naming: &Naming<'_>) -> (Cause, String, String) {
    let rules: Vec<&Step> = rules(outcome).collect();
    let marks = |s: &&Step| s.effect.contains("mark becomes");
    let marked = rules.iter().position(|s| {
        marks(s) && owner::is_service_rule(s) && !s.effect.contains("mark becomes 0x0")
    });
    let after = marked.map_or(&rules[..], |place| &rules[place + 1..]);
    let cleared = after
        .iter()
        .find(|s| s.effect.contains("mark becomes") && !owner::is_service_rule(s));
    let accepted = after.iter().rev().find(|s| {
        s.hook == "postrouting" && s.table != "filter" && s.did == Did::Accepted
            || s.hook == "postrouting" && s.table == "nat" && s.effect.contains("accept")
    });
    match (cleared, accepted) {
        (Some(step), _) if marked.is_some() => (
            Cause::SourceKept,
            format!(
                "the mark that requests it is changed by {}",
                owner::describe(step)
            ),
            format!(
                "limit this rule to its own bits of the mark (table {}, chain {})",
                step.table, step.chain
            ),
        ),
        (_, Some(step)) => (
            Cause::SourceKept,
            format!(
                "{} accepts the packet before the Service rules in POSTROUTING",
                owner::describe(step)
            ),
            format!(
                "remove this rule, or move it behind the Service rules (table {}, chain {})",
                step.table, step.chain
            ),
        ),
        _ => match naming(probe) {
            Some(difference) => {
                let (cause, change) = match &difference.node {
                    Some(name) => other_node(name),
                    None => (Cause::SourceKept, restore(probe)),
                };
                (cause, difference.what, change)
            }
            None => (
                Cause::SourceKept,
                "no rule in POSTROUTING masquerades it".to_owned(),
                restore(probe),
            ),
        },
    }
}

fn rules(outcome: &Outcome) -> impl Iterator<Item = &Step> {
    outcome.path.iter().filter(|s| !s.chain.is_empty())
}

/// Find answers that do not reach the client, or not from the address that it asked.
pub(crate) fn lost_replies(probe: &Probe) -> Option<Finding> {
    let certain = |o: &&Outcome| o.assuming.is_empty();
    let outcomes = || {
        probe
            .replies
            .iter()
            .flat_map(|t| &t.outcomes)
            .filter(certain)
    };
    let Some(lost) = outcomes().find(|o| o.verdict != Verdict::Accept) else {
        let mut answered = outcomes();
        return answered.find_map(|o| untranslated(probe, o));
    };
    let step = lost.path.last()?;
    // A route that only exists on the client's path is no fault of the rules.
    if step.did == Did::NoRoute || step.did == Did::Martian {
        return None;
    }
    let is_route = is_of_route(step);
    let by = ending(step);
    let change = if step.did == Did::ReversePath {
        "add the route back, or set rp_filter to 2 (loose) on that interface and on all".to_owned()
    } else if is_route {
        CHECK_ROUTE.to_owned()
    } else {
        format!(
            "accept answers (ctstate ESTABLISHED) before this rule (table {}, chain {})",
            step.table, step.chain
        )
    };
    let finding = Finding::new(
        Weight::Broken,
        Cause::ReplyLost,
        format!("{}: answers are dropped {by}", probe.question()),
        change,
    );
    Some(finding.decided_by(by))
}

const CHECK_ROUTE: &str = "find out which program added this route: ip route, ip rule";

fn is_of_route(step: &Step) -> bool {
    step.hook == "routing" && step.did != Did::ReversePath
}

/// Describe the step that ends an answer.
fn ending(step: &Step) -> String {
    if is_of_route(step) {
        format!("by the route `{}` ({})", step.rule, step.effect)
    } else if step.chain.is_empty() {
        step.effect.clone()
    } else {
        format!("by {}", owner::describe(step))
    }
}

/// Find errors that refuse connections and do not reach the client, which then waits.
pub(crate) fn lost_refusals(probe: &Probe) -> Option<Finding> {
    if !matches!(probe.expected.to, Expected::Refused) {
        return None;
    }
    let mut outcomes = probe.refusals.iter().flat_map(|t| &t.outcomes);
    let lost = outcomes.find(|o| o.assuming.is_empty() && o.verdict != Verdict::Accept)?;
    let step = lost.path.last()?;
    if step.did == Did::NoRoute || step.did == Did::Martian {
        return None;
    }
    let by = ending(step);
    let change = if is_of_route(step) {
        CHECK_ROUTE.to_owned()
    } else {
        format!(
            "accept such errors (ctstate RELATED) before this rule (table {}, chain {})",
            step.table, step.chain
        )
    };
    let finding = Finding::new(
        Weight::Partly,
        Cause::ReplyLost,
        format!(
            "{}: the connection is refused, but the error is dropped {by}, so that the client waits",
            probe.question()
        ),
        change,
    );
    Some(finding.decided_by(by))
}

/// Find an answer that does not come from the address to which the client connected.
fn untranslated(probe: &Probe, answer: &Outcome) -> Option<Finding> {
    let packet = &probe.packet;
    let is_right = answer.src.ip == packet.dst
        && answer.src.port == packet.dport
        && answer.dst.ip == packet.src;
    if is_right {
        return None;
    }
    let untracked = rules(answer).find(|s| s.effect.contains("not tracked"));
    let by = untracked.map_or_else(
        || "connection tracking does not translate them back".to_owned(),
        |step| format!("they are not tracked, by {}", owner::describe(step)),
    );
    let to = trace::Endpoint {
        ip: packet.dst,
        port: packet.dport,
    };
    let change = match untracked {
        Some(step) => format!(
            "except answers of pods from this rule (table {}, chain {})",
            step.table, step.chain
        ),
        None => "compare the path of the answer: sluice trace --reply".to_owned(),
    };
    let finding = Finding::new(
        Weight::Broken,
        Cause::ReplyLost,
        format!(
            "{}: answers come from {} instead of {to}, and the client refuses them: {by}",
            probe.question(),
            answer.src
        ),
        change,
    );
    Some(finding.decided_by(by))
}
