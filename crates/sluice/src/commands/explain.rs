//! `sluice explain`: why a Service does not respond.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use diagnose::explain::{self, Given, Inspector};
use model::Event;
use source::apiserver::{ApiServer, ClientOptions};
use trace::{Facts, World};

use super::trace::request;
use crate::cli::{ExplainArgs, ExplainOutput, HostArgs, ObjectArgs};
use crate::socket::protocol::Topic;
use crate::socket::{Status, client};
use crate::wiring::objects::{first_list_within, read_config};
use crate::wiring::setup;

/// Exit status for a question that cannot be answered.
const NO_ANSWER: u8 = 2;
/// Limit on the time between two answers of the API server.
const PATIENCE: Duration = Duration::from_secs(30);

/// Run `sluice explain`: 0 if nothing is wrong, 1 if something is, 2 if the question cannot be
/// answered.
pub(crate) fn command(args: &ExplainArgs) -> ExitCode {
    match run(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sluice: {error:#}");
            ExitCode::from(NO_ANSWER)
        }
    }
}

/// Whether the question is about this host, not about files.
pub(crate) fn is_live(host: &HostArgs) -> bool {
    host.facts.is_none() && !host.has_rule_files()
}

/// Read what the arguments name. Without files and kubeconfig, ask the running proxy.
fn gather(args: &ObjectArgs, host: &HostArgs) -> anyhow::Result<Given> {
    let proxy = running_proxy(args, host)?;
    let mut facts = request::facts(host)?;
    let world = request::world_of(&facts, host)?;
    // In a large cluster their text has 50 MB.
    facts.dumps = trace::Dumps::default();
    if let Some((status, events)) = proxy {
        let config = match args.config.as_deref() {
            Some(path) => read_config(Some(path), None)?,
            None => status.config()?,
        };
        let refused = refused(&status);
        let named = args.node.as_deref();
        let node_name = match named {
            None => status.node,
            Some(_) => {
                explain::node_name(&events, named, status.node, &explain::addresses(&facts))?
            }
        };
        return Ok(Given {
            refused,
            events,
            settings: setup::settings(&config, &node_name),
            facts,
            world,
            is_partial: host.has_rule_files(),
            is_configured: true,
        });
    }
    let here = match &args.node {
        Some(name) => name.clone(),
        None if is_live(host) => kernel::address::node_name(None)?,
        None if facts.hostname.is_empty() => {
            bail!("--node is required: the files do not contain the node name")
        }
        None => facts.hostname.clone(),
    };
    // Defaults differ between modes, such as the addresses of NodePorts.
    let config = read_config(args.config.as_deref(), Some(explain::mode_of(&world)))?;
    let events = objects(args, &here)?;
    let named = args.node.as_deref();
    let node_name = explain::node_name(&events, named, here, &explain::addresses(&facts))?;
    Ok(Given {
        events,
        settings: setup::settings(&config, &node_name),
        facts,
        world,
        is_partial: host.has_rule_files(),
        is_configured: args.config.is_some(),
        refused: Vec::new(),
    })
}

/// Return the refused Service ports of both families.
pub(crate) fn refused(status: &Status) -> Vec<explain::Refused> {
    let all = status.families.iter().flat_map(|family| &family.refusals);
    all.map(|refused| explain::Refused {
        port: refused.port.clone(),
        protocol: refused.protocol.clone(),
        reason: refused.reason.clone(),
    })
    .collect()
}

/// Return the status and objects of the running proxy; `None` if the arguments name other sources, or
/// no proxy runs and the API server can be asked with this Pod's service account.
///
/// # Errors
/// The proxy cannot be asked, and no other source is named.
fn running_proxy(
    args: &ObjectArgs,
    host: &HostArgs,
) -> anyhow::Result<Option<(Status, Vec<Event>)>> {
    let is_named = !args.manifests.is_empty() || args.kubeconfig.is_some();
    if is_named || (!is_live(host) && args.socket.is_none()) {
        return Ok(None);
    }
    let is_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let asked = client::ask(args.socket.as_deref(), Topic::Objects).and_then(|answer| {
        let status = answer.status.clone();
        Ok((status, answer.objects()?))
    });
    match asked {
        Ok(answer) => Ok(Some(answer)),
        Err(_) if is_pod && args.socket.is_none() => Ok(None),
        Err(error) => bail!(
            "{error:#}; pass --kubeconfig FILE or --manifests PATH for the objects, and --config FILE for \
             the configuration of the node's proxy"
        ),
    }
}

/// Combine the facts of nodes with the objects that the arguments name, if they name some.
pub(crate) fn of_facts(
    args: &ObjectArgs,
    nodes: impl Iterator<Item = Facts>,
) -> anyhow::Result<Vec<Given>> {
    let nodes: Vec<Facts> = nodes.collect();
    let first = nodes.first().map_or("", |facts| &*facts.hostname);
    let mut proxy = None;
    let events = if args.socket.is_some() {
        let answer = client::ask(args.socket.as_deref(), Topic::Objects)?;
        proxy = Some(answer.status.config()?);
        answer.objects()?
    } else if args.manifests.is_empty() && args.kubeconfig.is_none() {
        Vec::new()
    } else {
        objects(args, first)?
    };
    let mut all = Vec::new();
    for mut facts in nodes {
        let world = World::from_facts(&facts)?;
        facts.dumps = trace::Dumps::default();
        let config = match (&proxy, args.config.as_deref()) {
            (Some(config), None) => config.clone(),
            (_, path) => read_config(path, Some(explain::mode_of(&world)))?,
        };
        let named = args.node.as_deref();
        let here = facts.hostname.clone();
        let node = explain::node_name(&events, named, here, &explain::addresses(&facts))?;
        if node.is_empty() {
            bail!("--node is required: the files do not contain the node name");
        }
        all.push(Given {
            events: events.clone(),
            settings: setup::settings(&config, &node),
            facts,
            world,
            is_partial: false,
            is_configured: proxy.is_some() || args.config.is_some(),
            refused: Vec::new(),
        });
    }
    Ok(all)
}

/// Prepare the node and the objects that the arguments name for questions.
pub(crate) fn inspector(args: &ObjectArgs, host: &HostArgs) -> anyhow::Result<Inspector> {
    Ok(Inspector::new(gather(args, host)?))
}

fn run(args: &ExplainArgs) -> anyhow::Result<bool> {
    let (service, objects) = named(args)?;
    let inspector = inspector(&objects, &args.host)?;
    let asked = inspector.ask(&service, objects.client)?;
    let flows = if is_live(&args.host) {
        let (flows, note) = asked.known_flows();
        if let Some(note) = note {
            eprintln!("sluice: {note}");
        }
        flows
    } else {
        Vec::new()
    };
    let answer = asked.explain(&flows, args.connect);
    match args.output {
        ExplainOutput::Text => print!("{}", answer.text()),
        ExplainOutput::Json => println!("{}", serde_json::to_string_pretty(&answer)?),
    }
    Ok(answer.is_healthy())
}

/// Return the Service and where its objects are. In `--manifests FILE SERVICE` the parser takes the
/// Service for another file.
fn named(args: &ExplainArgs) -> anyhow::Result<(String, ObjectArgs)> {
    let mut objects = args.objects.clone();
    if let Some(service) = &args.service {
        return Ok((service.clone(), objects));
    }
    let last = objects.manifests.pop().filter(|path| !path.exists());
    match last.and_then(|path| path.into_os_string().into_string().ok()) {
        Some(service) if !objects.manifests.is_empty() => Ok((service, objects)),
        _ => bail!("name a Service: NAMESPACE/NAME, one of its addresses, or a NodePort"),
    }
}

fn objects(args: &ObjectArgs, node_name: &str) -> anyhow::Result<Vec<Event>> {
    let batch = if args.manifests.is_empty() {
        let options = ClientOptions {
            kubeconfig: args.kubeconfig.clone(),
            ..ClientOptions::default()
        };
        let server = ApiServer::new(options, node_name)
            .context("no objects: pass --manifests, or --kubeconfig to ask the API server")?;
        first_list_within(server, PATIENCE)?
    } else {
        source::read_once(args.manifests.clone())
    };
    for problem in &batch.problems {
        eprintln!("{problem}");
    }
    if batch.events.is_empty() {
        bail!("found no objects to explain");
    }
    Ok(batch.events)
}
