//! `kubectl sluice ui`: the page of `sluice ui` for the nodes of a cluster.

use anyhow::{Context as _, bail};
use diagnose::explain::{self, Inspector, addresses, node_name};
use model::Event;
use trace::{Facts, World};
use ui::{Given, Origin};

use super::cli::{KubectlCli, Scope};
use super::exec::{self, Kubectl};
use super::pods::{self, Pod};
use crate::cli::PageArgs;
use crate::commands::ui::{objects, show};
use crate::socket::Status;
use crate::wiring::setup;

/// Show the page. It is complete without nodes that do not answer.
pub(super) fn command(cli: &KubectlCli, page: &PageArgs) -> anyhow::Result<()> {
    let scope = cli.scope.clone();
    show(page, move || load(&scope))
}

/// Read rules, objects and configuration of each node.
fn load(scope: &Scope) -> anyhow::Result<Vec<Given>> {
    let kubectl = Kubectl::new(scope);
    let pods = pods::find(&kubectl, scope, false)?;
    let read = |pod: &Pod| node(&kubectl, scope, pod);
    let mut nodes = Vec::new();
    let mut last = None;
    for (pod, read) in pods.iter().zip(exec::all(&pods, scope.parallel, read)) {
        match read {
            Ok(node) => nodes.push(node),
            Err(error) => {
                eprintln!("kubectl sluice: {}: {error:#}", pod.node);
                last = Some(error);
            }
        }
    }
    match last {
        Some(error) if nodes.is_empty() => Err(error.context("no node answers")),
        _ => Ok(nodes),
    }
}

fn node(kubectl: &Kubectl, scope: &Scope, pod: &Pod) -> anyhow::Result<Given> {
    let limit = std::time::Duration::from_secs(scope.timeout);
    let ask = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        match kubectl.ask(pod, &words, limit) {
            // A status with problems is an answer.
            exec::Outcome::Ended {
                status: 0 | 1,
                stdout,
                ..
            } if !stdout.is_empty() => Ok(stdout),
            other => bail!("{}", other.reason()),
        }
    };
    let facts = Facts::parse(&ask(&["facts"])?)?;
    let status: Status = serde_json::from_str(&ask(&["status", "--output=json"])?)
        .context("unknown answer of sluice status")?;
    let events: Vec<Event> = objects(&ask(&["status", "--objects"])?)?;
    let node = node_name(&events, None, status.node.clone(), &addresses(&facts))?;
    let settings = setup::settings(&status.config()?, &node);
    let world = World::from_facts(&facts)?;
    Ok(Given {
        inspector: Inspector::new(explain::Given {
            events,
            settings,
            facts,
            world,
            is_partial: false,
            is_configured: true,
            refused: crate::commands::explain::refused(&status),
        }),
        origin: Origin::File(format!("Pod {}/{}", pod.namespace, pod.name)),
        client: None,
    })
}
