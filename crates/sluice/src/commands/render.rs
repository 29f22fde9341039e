//! `sluice render`: prints the rules that a node would have.

use std::net::IpAddr;

use anyhow::{Context as _, bail};
use config::Config;
use dataplane::iptables::Nfacct;
use model::{Change, Event, IpFamily, Mode};
use plan::{Plan, Planner};
use source::{Batch, Severity};

use crate::cli::RenderArgs;
use crate::settings::{admit, node_ports};
use crate::wiring::objects::{known_node, read_config};
use crate::wiring::setup;

/// Run `sluice render`.
pub(crate) fn command(args: &RenderArgs) -> anyhow::Result<()> {
    let config = read_config(
        args.config.as_deref(),
        // Use the fields of the rendered mode, even if the file names another mode.
        Some(args.mode),
    )?;
    let mut batch = source::read_once(args.files.clone());
    admit(&mut batch.events, config.allow_external_ips);
    let failed = print_problems(&batch);
    known_node(&batch.events, &args.node)?;
    let family = args.ip_family.into();
    let addresses = addresses(args, &batch.events);
    let plan = plan(args, &config, batch, &addresses, family);
    let text = match args.mode {
        Mode::Iptables => iptables(&plan, &config)?,
        Mode::Ipvs => ipvs(&plan, &config, &addresses)?,
        Mode::Nftables => {
            let options = dataplane::nftables::Options {
                masquerade_bit: config.masquerade_bit,
            };
            dataplane::nftables::render(&plan, options)
        }
        Mode::Userspace => userspace(&plan, &config)?,
    };
    print!("{text}");
    if failed {
        bail!("some objects could not be used; the rules above are those of the others");
    }
    Ok(())
}

/// Print each problem on standard error. Return whether any object could not be used.
fn print_problems(batch: &Batch) -> bool {
    for problem in &batch.problems {
        eprintln!("{problem}");
    }
    let mut problems = batch.problems.iter();
    problems.any(|p| p.severity() == Severity::Error)
}

/// Return the addresses of the node's interfaces: as given, or those of `--node-ip` and of the Node.
fn addresses(args: &RenderArgs, events: &[Event]) -> Vec<IpAddr> {
    if !args.interface_addresses.is_empty() {
        return args.interface_addresses.clone();
    }
    let nodes = events.iter().filter_map(|event| match event {
        Event::Node(Change::Applied(node)) if *node.name == *args.node => Some(node),
        _ => None,
    });
    let stated = nodes.flat_map(|node| node.addresses.iter().map(|address| address.ip));
    args.node_ip.iter().copied().chain(stated).collect()
}

fn plan(
    args: &RenderArgs,
    config: &Config,
    batch: Batch,
    addresses: &[IpAddr],
    family: IpFamily,
) -> Plan {
    let mut planner = Planner::new(setup::settings(config, &args.node));
    planner.set_node_ips(args.node_ip.clone());
    planner.set_host_addresses(addresses.to_vec());
    planner.apply_all(batch.events);
    planner.take_diff();
    for warning in planner.take_warnings() {
        eprintln!("{warning}");
    }
    planner.plan(family).clone()
}

fn ipvs(plan: &Plan, config: &Config, addresses: &[IpAddr]) -> anyhow::Result<String> {
    let options = setup::ipvs_options(config);
    Ok(dataplane::ipvs::render(plan, &options, addresses)?.to_string())
}

fn userspace(plan: &Plan, config: &Config) -> anyhow::Result<String> {
    let relay_ip = plan.node.node_ip;
    let options = dataplane::userspace::Options {
        relay_ip: relay_ip
            .context("the address on which the relay listens is not known; pass --node-ip")?,
        relay_mark: 1 << config.masquerade_bit,
        localhost_node_ports: node_ports::localhost_node_ports(config),
    };
    Ok(dataplane::userspace::render(plan, options))
}

fn iptables(plan: &Plan, config: &Config) -> anyhow::Result<String> {
    // The rules of kube-proxy on a kernel with all features, so that the output does not depend on
    // this machine.
    let nfacct = Nfacct {
        invalid_dropped: true,
        localhost_node_ports: true,
    };
    let options = setup::iptables_options(config, nfacct);
    let rendered = dataplane::iptables::render(plan, &options)?;
    for problem in &rendered.problems {
        eprintln!("{problem}");
    }
    Ok(rendered.tables.to_string())
}
