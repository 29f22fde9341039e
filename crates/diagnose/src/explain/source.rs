//! The client's address as the endpoint sees it, and the answers' path back.

use trace::{Did, Outcome, Step, Verdict};

use super::finding::{Cause, Finding, Weight};
use super::owner;
use super::probe::Probe;

/// Compare masquerading with the plan.
pub(crate) fn findings(probe: &Probe) -> Vec<Finding> {
    let Some(masquerade) = probe.expected.masquerade else {
        return Vec::new();
    };
    let delivered = probe.trace.outcomes.iter();
    let delivered = delivered.filter(|o| o.verdict == Verdict::Accept && o.assuming.is_empty());
    let mut found = Vec::new();
    for outcome in delivered {
        // An endpoint that connects to itself is masqueraded in any case.
        let Some(to) = outcome.dnat.filter(|to| to.ip != probe.packet.src) else {
            continue;
        };
        match (masquerade, outcome.snat.is_some()) {
            (false, true) => found.push(replaced(probe, outcome)),
            // An endpoint on this node answers through this node in any case.
            (true, false) if !probe.local.contains(&to.ip) => {
                found.push(kept(probe, outcome, &to.to_string()));
            }
            _ => continue,
        }
        break;
    }
    found
}

/// Return the finding for a client address that must be kept but is replaced.
fn replaced(probe: &Probe, outcome: &Outcome) -> Finding {
    let step = rules(outcome).find(|s| s.effect.contains("source becomes"));
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
            (format!(" by {}", owner::describe(step)), change)
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
}

/// Return the finding for a client address that must be replaced but is kept.
fn kept(probe: &Probe, outcome: &Outcome, to: &str) -> Finding {
    let client = probe.question();
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
    let (why, change) = match (cleared, accepted) {
        (Some(step), _) if marked.is_some() => (
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
            format!(
                "{} accepts the packet before the Service rules in POSTROUTING",
                owner::describe(step)
            ),
            format!(
                "remove this rule, or move it behind the Service rules (table {}, chain {})",
                step.table, step.chain
            ),
        ),
        _ => (
            "no rule in POSTROUTING masquerades it".to_owned(),
            "restart the proxy, which restores its rules in POSTROUTING".to_owned(),
        ),
    };
    Finding::new(
        Weight::Broken,
        Cause::SourceKept,
        format!(
            "{client}: {to} is on another node and sees the client's own address, so that its answers \
             do not come back through this node: {why}"
        ),
        change,
    )
}

fn rules(outcome: &Outcome) -> impl Iterator<Item = &Step> {
    outcome.path.iter().filter(|s| !s.chain.is_empty())
}

/// Find answers that do not reach the client, or not from the address that it asked.
pub(crate) fn lost_replies(probe: &Probe) -> Option<Finding> {
    let certain = |o: &&Outcome| o.assuming.is_empty();
    let outcomes = probe.replies.iter().flat_map(|t| &t.outcomes);
    let lost = outcomes
        .filter(certain)
        .find(|o| o.verdict != Verdict::Accept)?;
    let step = lost.path.last()?;
    // A route that only exists on the client's path is no fault of the rules.
    if step.did == Did::NoRoute || step.did == Did::Martian {
        return None;
    }
    let by = if step.chain.is_empty() {
        step.effect.clone()
    } else {
        format!("by {}", owner::describe(step))
    };
    let change = if step.did == Did::ReversePath {
        "add the route back, or set rp_filter to 2 (loose) on that interface and on all".to_owned()
    } else {
        format!(
            "accept answers (ctstate ESTABLISHED) before this rule (table {}, chain {})",
            step.table, step.chain
        )
    };
    Some(Finding::new(
        Weight::Broken,
        Cause::ReplyLost,
        format!("{}: answers are dropped {by}", probe.question()),
        change,
    ))
}
