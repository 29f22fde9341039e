//! `sluice explain`: why a Service does not answer, for a person in trouble.
//!
//! Three views are put beside each other: what the objects say, what this node's plan makes of them,
//! and what the node's rules do to connections from each kind of client. Each cause that is known to
//! lose connections is a small check over these, in `objects`, `node` and `probe`; `connect` asks the endpoints.

mod connect;
mod finding;
mod node;
mod objects;
mod print;
mod probe;
mod subject;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kernel::conntrack::{Conntrack, Filter};
use model::{Event, Mode};
use source::apiserver::{ApiServer, ClientOptions};
use trace::{Facts, World};

use crate::cli::{ExplainArgs, ExplainOutput, HostArgs, ObjectArgs};
use crate::commands::trace::question;
use crate::wiring::objects::{first_list_within, read_config};
use crate::wiring::setup;
use finding::{Finding, Weight};
use node::KnownFlow;
pub(crate) use probe::Probe;
pub(crate) use subject::Objects;
use subject::Subject;

/// What the exit status tells of a question that could not be answered.
const NO_ANSWER: u8 = 2;
/// How long the API server may take to tell what there is.
const PATIENCE: Duration = Duration::from_secs(30);

/// Carries out `sluice explain`: 0 when nothing is wrong, 1 when something is, 2 when the question
/// cannot be answered.
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

/// A Service as the objects, the plan and the node's rules have it.
pub(crate) struct Asked {
    facts: Facts,
    pub(crate) world: World,
    subject: Subject,
    /// From each kind of client.
    pub(crate) probes: Vec<Probe>,
}

/// Return the mode that has objects of its own in the kernel, or iptables mode, which has only rules.
fn mode_of(world: &World) -> Mode {
    let has_table = |name: &str| world.nft.tables.iter().any(|table| *table.name == *name);
    if !world.ipvs.services.is_empty() {
        Mode::Ipvs
    } else if has_table(dataplane::userspace::TABLE) {
        Mode::Userspace
    } else if has_table(dataplane::nftables::TABLE) {
        Mode::Nftables
    } else {
        Mode::Iptables
    }
}

fn is_live(host: &HostArgs) -> bool {
    host.facts.is_none() && !host.has_rule_files()
}

/// Looks a Service up and walks connections to it.
pub(crate) fn ask(service: &str, args: &ObjectArgs, host: &HostArgs) -> anyhow::Result<Asked> {
    let facts = question::facts(host)?;
    let world = question::world_of(&facts, host)?;
    let node_name = match &args.node {
        Some(name) => name.clone(),
        None if !is_live(host) && !facts.hostname.is_empty() => facts.hostname.clone(),
        None if !is_live(host) => {
            bail!("--node is needed: the files do not tell the node's name")
        }
        None => kernel::address::node_name(None)?,
    };
    let config = read_config(args.config.as_deref(), None)?;
    let events = objects(args, &node_name)?;
    let interfaces: Vec<IpAddr> = facts
        .interfaces
        .iter()
        .flat_map(|i| &i.addresses)
        .map(ipnet::IpNet::addr)
        .collect();
    let named = args.node.as_deref();
    let node_name = Objects::of(&events).node_name(named, node_name, &interfaces)?;
    let settings = setup::settings(&config, &node_name);
    let mut subject = Subject::new(service, events, settings, interfaces)?;
    subject.mode = mode_of(&world);
    let mut probes = probe::ask(&subject, &facts, &world, args.client)?;
    if host.has_rule_files() {
        for family in model::IpFamily::ALL {
            only_known(&world, family, &mut probes);
        }
    }
    Ok(Asked {
        facts,
        world,
        subject,
        probes,
    })
}

/// Files that have no rules of a family say nothing of it, least of all that rules are missing.
fn only_known(world: &World, family: model::IpFamily, probes: &mut Vec<Probe>) {
    use netfilter::iptables::Family::{Ipv4, Ipv6};
    use netfilter::nft::listing::Family::{Inet, Ip, Ip6};
    let (of_iptables, of_nft) = match family {
        model::IpFamily::V4 => (Ipv4, Ip),
        model::IpFamily::V6 => (Ipv6, Ip6),
    };
    let is_known = world.iptables.iter().any(|set| set.family == of_iptables)
        || world
            .nft
            .tables
            .iter()
            .any(|t| t.family == of_nft || t.family == Inet);
    let before = probes.len();
    probes.retain(|p| is_known || model::IpFamily::of(p.packet.dst) != family);
    if probes.len() < before {
        eprintln!("sluice: no file has rules of {family}: nothing is said of them");
    }
}

fn run(args: &ExplainArgs) -> anyhow::Result<bool> {
    let Asked {
        facts,
        world,
        subject,
        probes,
    } = ask(&args.service, &args.objects, &args.host)?;
    let flows = if is_live(&args.host) {
        known_flows(&subject)
    } else {
        Vec::new()
    };
    let mut findings = findings(&subject, &facts, &flows, &probes, args.objects.client);
    if args.connect {
        findings.extend(connect::findings(&subject, connect::tcp));
        findings.sort_by_key(|f| f.weight);
    }
    match args.output {
        ExplainOutput::Text => print!(
            "{}",
            print::text(&subject, &probes, &findings, &world.warnings)
        ),
        ExplainOutput::Json => {
            let value = print::json(&subject, &probes, &findings, &world.warnings);
            println!("{}", serde_json::to_string_pretty(&value)?);
        }
    }
    Ok(findings.iter().all(|f| f.weight == Weight::Note))
}

/// What every check finds, the heaviest first.
fn findings(
    subject: &Subject,
    facts: &Facts,
    flows: &[KnownFlow],
    probes: &[Probe],
    client: Option<IpAddr>,
) -> Vec<Finding> {
    let mut all = objects::findings(subject, client);
    all.extend(node::findings(subject, facts, flows));
    all.extend(probe::findings(probes));
    // Stable: within a weight, what the objects tell comes before what the kernel shows.
    all.sort_by_key(|f| f.weight);
    all
}

fn objects(args: &ObjectArgs, node_name: &str) -> anyhow::Result<Vec<Event>> {
    let batch = if args.manifests.is_empty() {
        let options = ClientOptions {
            kubeconfig: args.kubeconfig.clone(),
            ..ClientOptions::default()
        };
        let server = ApiServer::new(options, node_name).context(
            "no objects to explain: give --manifests, or a --kubeconfig to ask the API server",
        )?;
        first_list_within(server, PATIENCE)?
    } else {
        source::read_once(args.manifests.clone())
    };
    for problem in &batch.problems {
        eprintln!("{problem}");
    }
    if batch.events.is_empty() {
        bail!("there are no objects to explain");
    }
    Ok(batch.events)
}

/// What the kernel knows of connections to the Service. Without it, nothing can be stale.
fn known_flows(subject: &Subject) -> Vec<KnownFlow> {
    let mut found = Vec::new();
    let mut read = || -> Result<(), kernel::netlink::Error> {
        let mut conntrack = Conntrack::open()?;
        for (plan, _) in &subject.plans {
            for ip in plan.frontends().filter_map(|f| f.ip) {
                let filter = Filter {
                    destination: Some(ip),
                    ..Filter::all(kernel::Family::of(ip))
                };
                conntrack.dump(&filter, |flow| {
                    found.push(KnownFlow {
                        protocol: flow.original.protocol.0,
                        client: flow.original.source(),
                        asked: flow.original.destination(),
                        given: SocketAddr::new(flow.reply.source, flow.reply.source_port),
                    });
                })?;
            }
        }
        Ok(())
    };
    if let Err(error) = read() {
        eprintln!("sluice: known connections are not considered: {error}");
    }
    found
}
