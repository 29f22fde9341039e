//! `kubectl sluice`: asks the proxies of a cluster's nodes, from a workstation.
//!
//! The program is the same, with the name `kubectl-sluice`. It lists sluice's Pods, runs a command in
//! each through `kubectl exec`, and combines the answers: nodes with equal answers are one group. Access
//! and credentials are kubectl's.

mod answers;
mod cli;
mod exec;
mod group;
mod pods;
#[cfg(test)]
mod tests;
mod ui;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser as _;
use serde_json::json;

use answers::View;
use cli::{KubectlCli, Output, Question, Scope};
use exec::{Kubectl, Outcome};
use group::Group;
use pods::Pod;

/// The name that makes this program a plugin of kubectl.
pub(crate) const NAME: &str = "kubectl-sluice";

/// Exit status if no node, or not every node, answers.
const NO_ANSWER: u8 = 2;

/// The answer of one node.
struct Answered {
    pod: Pod,
    outcome: Outcome,
}

/// Run the plugin: 0 if all nodes answer and none has a problem, 1 if a node has one, 2 if a node does
/// not answer.
pub(crate) fn command(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = KubectlCli::parse_from(arguments);
    match run(&cli) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("kubectl sluice: {error:#}");
            ExitCode::from(NO_ANSWER)
        }
    }
}

fn run(cli: &KubectlCli) -> anyhow::Result<u8> {
    if let Question::Ui(page) = &cli.question {
        return ui::command(cli, page).map(|()| 0);
    }
    let scope = &cli.scope;
    let kubectl = Kubectl::new(scope);
    let words = cli.question.words(&kubectl, scope)?;
    let pods = pods::find(&kubectl, scope, cli.question.names_namespace())?;
    if let Question::Facts(facts) = &cli.question {
        return save_facts(&kubectl, scope, &pods, facts.dir.as_deref());
    }
    let limit = Duration::from_secs(scope.timeout);
    let ask = |pod: &Pod| kubectl.ask(pod, &words, limit);
    let outcomes = exec::all(&pods, scope.parallel, ask);
    let answered = pods.into_iter().zip(outcomes);
    let answered: Vec<_> = answered
        .map(|(pod, outcome)| Answered { pod, outcome })
        .collect();
    let views: Vec<View> = answered.iter().map(|one| cli.question.view(one)).collect();
    match scope.output {
        Output::Text => print!("{}", text(&cli.question, &answered, &views)),
        Output::Json => println!(
            "{}",
            serde_json::to_string_pretty(&as_json(&answered, &views))?
        ),
    }
    Ok(if views.iter().any(|view| view.has_problem) {
        1
    } else if views.iter().any(|view| view.is_missing) {
        NO_ANSWER
    } else {
        0
    })
}

/// Return the combined answer for people.
fn text(question: &Question, answered: &[Answered], views: &[View]) -> String {
    let mut out = String::new();
    if let Question::Status = question {
        out += &answers::table(answered);
    }
    let all = answered.iter().zip(views).filter(|(_, view)| {
        // The table has everything about these.
        !matches!(question, Question::Status) || view.has_problem || view.is_missing
    });
    for group in Group::of(all.map(|(one, view)| (&one.pod, view))) {
        out += &group.text();
    }
    out
}

fn as_json(answered: &[Answered], views: &[View]) -> serde_json::Value {
    let nodes = answered.iter().zip(views).map(|(one, view)| {
        let mut node = json!({
            "node": one.pod.node,
            "pod": format!("{}/{}", one.pod.namespace, one.pod.name),
            "problem": view.has_problem,
        });
        match &view.json {
            Ok(answer) => node["answer"] = answer.clone(),
            Err(error) => node["error"] = error.clone().into(),
        }
        node
    });
    json!({"nodes": nodes.collect::<Vec<_>>()})
}

/// Write the facts of each node into a folder, or those of one node to standard output.
fn save_facts(
    kubectl: &Kubectl,
    scope: &Scope,
    pods: &[Pod],
    folder: Option<&Path>,
) -> anyhow::Result<u8> {
    let words = ["facts".to_owned()];
    let limit = Duration::from_secs(scope.timeout);
    let Some(folder) = folder else {
        let [pod] = pods else {
            bail!(
                "--dir FOLDER is required for the facts of {} nodes, or --node for one",
                pods.len()
            );
        };
        return match kubectl.ask(pod, &words, limit) {
            Outcome::Ended {
                status: 0, stdout, ..
            } => {
                print!("{stdout}");
                Ok(0)
            }
            other => bail!("{}: {}", pod.node, other.reason()),
        };
    };
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let save = |pod: &Pod| -> Result<(), String> {
        match kubectl.ask(pod, &words, limit) {
            Outcome::Ended {
                status: 0, stdout, ..
            } => {
                let path = folder.join(format!("{}.json", pod.node));
                std::fs::write(&path, stdout).map_err(|e| format!("{}: {e}", path.display()))
            }
            other => Err(other.reason()),
        }
    };
    let mut status = 0;
    for (pod, saved) in pods.iter().zip(exec::all(pods, scope.parallel, save)) {
        match saved {
            Ok(()) => println!("{}", folder.join(format!("{}.json", pod.node)).display()),
            Err(error) => {
                eprintln!("kubectl sluice: {}: {error}", pod.node);
                status = NO_ANSWER;
            }
        }
    }
    Ok(status)
}
