//! `sluice proxy`: keeps the kernel in step with the objects.

pub(crate) mod admission;
mod driver;
mod engine;
mod families;
mod flows;
mod input;
mod iptables;
mod ipvs;
mod listen_map;
mod local_relay;
mod loopback;
mod nftables;
pub(crate) mod node_ports;
mod node_wait;
mod pending;
mod report;
mod run;
mod schedule;
pub(crate) mod setup;
mod sysctls;
mod userspace;

#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod report_tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ArgMatches;
use config::{Action, Config, ProxyMode, Resolved};
use kernel::ipset::IpSets;
use kernel::iptables::{Backend, Iptables};
use kernel::ipvs::Ipvs;
use kernel::service_device::ServiceDevice;
use model::IpFamily;
use netfilter::ipvs::netlink::Timeouts;
use source::ManifestFiles;
use source::apiserver::{ApiServer, ClientOptions};

use self::input::Inputs;
use self::iptables::{IptablesDriver, SharedGood};
use self::local_relay::SharedRelay;
use self::loopback::LoopbackNodePorts;
use self::nftables::{NftablesDriver, SharedGeneration};
use self::run::{Drivers, Setup};
use self::userspace::UserspaceDriver;
use crate::cli::{IptablesBackend, ProxyArgs};
use crate::logging;
use crate::system::kernel_family;

/// Carries out `sluice proxy`.
pub(crate) fn command(args: &ProxyArgs, matches: &ArgMatches) -> anyhow::Result<()> {
    let resolved = Resolved::from_matches(matches)?;
    let logs = logging::start(&resolved.config.logging)?;
    for note in &resolved.notes {
        tracing::warn!("{note}");
    }
    match &resolved.action {
        Action::Run => {}
        Action::InitOnly => {
            sysctls::apply(&resolved.config);
            return Ok(());
        }
        Action::Cleanup => return crate::cleanup::remove_all(),
        Action::WriteConfig(path) => {
            return std::fs::write(path, resolved.config.file.to_yaml())
                .with_context(|| format!("cannot write {}", path.display()));
        }
        Action::Version { raw } => {
            let name = if *raw { "" } else { "Kubernetes " };
            println!("{name}v{} (sluice)", env!("CARGO_PKG_VERSION"));
            return Ok(());
        }
    }
    let flags = effective_flags(matches);
    let mut setup = setup_of(&resolved, logs.verbosity.clone(), flags)?;
    if !args.listen_map.is_empty() {
        return serve_listen_map(setup, &resolved.config, args, &logs);
    }
    sysctls::apply(&resolved.config);
    let inputs = Inputs::new();
    // The signals go to the one thread that waits for them, so it has to be there first.
    if !args.once {
        inputs.follow_signals()?;
        logs.keep_flushing()?;
        set_oom_score(&resolved.config);
    }
    if args.once && resolved.config.mode == ProxyMode::Userspace {
        bail!("--once cannot be used in userspace mode: the relay would end with this process");
    }
    let drivers = drivers(&resolved.config, args, &inputs)?;
    let stop = if args.manifests.is_empty() {
        let server = api_server(&resolved.config, &setup)?;
        if args.once {
            return run::run_once(setup, run::first_list(server)?, drivers);
        }
        setup.attach(&resolved.config, server.recorder());
        run::run(setup, server, inputs, drivers)?
    } else {
        if args.once {
            return run::run_once(setup, source::read_once(args.manifests.clone()), drivers);
        }
        let files = ManifestFiles::new(args.manifests.clone());
        run::run(setup, files, inputs, drivers)?
    };
    tell_end(&stop, "the rules stay in force")
}

/// `--listen-map`: nothing but sockets. The kernel is not touched, and the node that this is need not
/// be one of the cluster.
fn serve_listen_map(
    mut setup: Setup,
    config: &Config,
    args: &ProxyArgs,
    logs: &logging::Logs,
) -> anyhow::Result<()> {
    if config.mode != ProxyMode::Userspace || args.once {
        bail!("--listen-map goes with --proxy-mode=userspace, and not with --once");
    }
    let drivers = listen_map::drivers(listen_map::read(&args.listen_map)?);
    setup.sockets_only = true;
    let inputs = Inputs::new();
    inputs.follow_signals()?;
    logs.keep_flushing()?;
    let stop = if args.manifests.is_empty() {
        let server = api_server(config, &setup)?;
        run::run(setup, server, inputs, drivers)?
    } else {
        let files = ManifestFiles::new(args.manifests.clone());
        run::run(setup, files, inputs, drivers)?
    };
    tell_end(&stop, "nothing is served any more")
}

fn tell_end(stop: &input::Stop, rest: &str) -> anyhow::Result<()> {
    match stop {
        input::Stop::Signal(signal) => {
            tracing::info!("{signal}: ending; {rest}");
            Ok(())
        }
        input::Stop::ConfigChanged(path) => bail!(
            "{} has changed: ending, to be started again with the new configuration",
            path.display()
        ),
    }
}

fn setup_of(
    resolved: &Resolved,
    verbosity: logging::Verbosity,
    flags: BTreeMap<String, String>,
) -> anyhow::Result<Setup> {
    let config = &resolved.config;
    let node_name = kernel::address::node_name(config.node_name.as_deref())?;
    let metric_set = setup::metric_set(config.mode);
    Ok(Setup {
        settings: setup::settings(config, &node_name),
        node_ips: node_ips(config.bind_address),
        allow_external_ips: config.allow_external_ips,
        intervals: setup::intervals(config),
        metric_set,
        metrics: setup::metrics(metric_set)?,
        observe: setup::observe_options(resolved, verbosity, flags),
        config_file: resolved.config_file.clone(),
        cluster: None,
        sockets_only: false,
        mode: config.mode,
        config_sync_period: config.config_sync_period,
    })
}

/// The API server, as kube-proxy's flags and configuration say.
fn api_server(config: &Config, setup: &Setup) -> anyhow::Result<ApiServer> {
    let client = &config.client;
    let options = ClientOptions {
        kubeconfig: client.kubeconfig.clone(),
        master: client.master.clone(),
        content_type: client.content_type.clone(),
        accept_content_types: client.accept_content_types.clone().unwrap_or_default(),
        qps: client.qps,
        burst: i32::try_from(client.burst).unwrap_or(i32::MAX),
        ..ClientOptions::default()
    };
    let mut server = ApiServer::new(options, &setup.settings.node_name)
        .context("no API server to take Services from (or name files with --manifests)")?;
    let metrics = setup.metrics.clone();
    server.observe(move |sent| setup::count_request(&metrics, sent));
    Ok(server)
}

/// `bindAddress`, where it names one address: it goes before what the Node says.
fn node_ips(bind_address: IpAddr) -> Vec<IpAddr> {
    let named = !bind_address.is_unspecified();
    named.then_some(bind_address).into_iter().collect()
}

fn set_oom_score(config: &Config) {
    if let Err(error) = kernel::process::set_oom_score_adj(config.oom_score_adj) {
        tracing::warn!("{error}; going on without it");
    }
}

/// Every flag with what was given for it, or its default, for `/flagz`.
fn effective_flags(matches: &ArgMatches) -> BTreeMap<String, String> {
    let values = |name: &str| -> Option<String> {
        let raw = matches.try_get_raw(name).ok()??;
        let words: Vec<_> = raw.map(|v| v.to_string_lossy().into_owned()).collect();
        Some(words.join(","))
    };
    config::FLAGS
        .iter()
        .map(|flag| {
            let value = values(flag.name).unwrap_or_else(|| flag.default.to_owned());
            (flag.name.to_owned(), value)
        })
        .collect()
}

/// The drivers of the mode.
fn drivers(config: &Config, args: &ProxyArgs, inputs: &Inputs) -> anyhow::Result<Drivers> {
    match config.mode {
        ProxyMode::Iptables => iptables_drivers(config, args.iptables_backend),
        ProxyMode::Nftables => nftables_drivers(config, inputs),
        ProxyMode::Userspace => userspace_drivers(config),
        ProxyMode::Ipvs => ipvs_drivers(config, args.iptables_backend),
    }
}

fn nftables_drivers(config: &Config, inputs: &Inputs) -> anyhow::Result<Drivers> {
    let options = dataplane::nftables::Options {
        masquerade_bit: config.masquerade_bit,
    };
    let generation = SharedGeneration::default();
    let relay = SharedRelay::new(0);
    let mut drivers = Drivers::new();
    for family in IpFamily::ALL {
        if !kernel::family::in_kernel(kernel_family(family)) {
            tracing::info!("no Services over {family}: it is disabled in this kernel");
            continue;
        }
        let mut driver =
            NftablesDriver::new(family, options, inputs.sender(), Rc::clone(&generation))
                .context("cannot speak to nf_tables; is NET_ADMIN missing?")?;
        if let Some(ip) = node_ports::localhost(config, family) {
            driver.serve_loopback(LoopbackNodePorts::new(ip, Rc::clone(&relay)));
        }
        drivers.push((family, Box::new(driver)));
    }
    Ok(drivers)
}

fn userspace_drivers(config: &Config) -> anyhow::Result<Drivers> {
    let settings = userspace::Settings {
        mark: 1 << config.masquerade_bit,
        localhost_node_ports: node_ports::localhost_node_ports(config),
    };
    let relay = SharedRelay::new(settings.mark);
    let mut drivers = Drivers::new();
    for family in IpFamily::ALL {
        if !kernel::family::in_kernel(kernel_family(family)) {
            tracing::info!("no Services over {family}: it is disabled in this kernel");
            continue;
        }
        let driver = UserspaceDriver::new(family, settings, Rc::clone(&relay)).context(
            "cannot speak to nf_tables; is NET_ADMIN missing? (--listen-map needs no privilege)",
        )?;
        drivers.push((family, Box::new(driver)));
    }
    Ok(drivers)
}

/// The iptables of each family that has one.
fn iptables_tools(backend: Option<IptablesBackend>) -> Vec<(IpFamily, Iptables)> {
    let mut all = Vec::new();
    for family in IpFamily::ALL {
        let found = match backend {
            Some(IptablesBackend::Nft) => {
                Iptables::with_backend(kernel_family(family), Backend::Nft)
            }
            Some(IptablesBackend::Legacy) => {
                Iptables::with_backend(kernel_family(family), Backend::Legacy)
            }
            None => Iptables::find(kernel_family(family)).map(|(tools, choice)| {
                tracing::info!("{family}: iptables' back end is {choice}");
                tools
            }),
        };
        match found {
            Ok(tools) => all.push((family, tools)),
            Err(error) => tracing::warn!("no Services over {family}: {error}"),
        }
    }
    all
}

fn ipvs_drivers(config: &Config, backend: Option<IptablesBackend>) -> anyhow::Result<Drivers> {
    let seconds = |timeout: Option<Duration>| {
        let seconds = timeout.unwrap_or_default().as_secs();
        u32::try_from(seconds).unwrap_or(u32::MAX)
    };
    let timeouts = Timeouts {
        tcp: seconds(config.ipvs.tcp_timeout),
        tcp_fin: seconds(config.ipvs.tcp_fin_timeout),
        udp: seconds(config.ipvs.udp_timeout),
    };
    // Says in one line what is missing where the kernel has no IPVS.
    let mut ipvs = Ipvs::open()?;
    ipvs.load_scheduler(&config.ipvs.scheduler)?;
    tracing::warn!("{}", setup::IPVS_DEPRECATED);
    if timeouts != Timeouts::default()
        && let Err(error) = ipvs.set_timeouts(timeouts)
    {
        tracing::warn!("{error}; going on without it");
    }
    let mut drivers = Drivers::new();
    for (family, rules) in iptables_tools(backend) {
        let options = setup::ipvs_options(config, rules.random_fully());
        let mut tools = ipvs::Tools {
            rules,
            ipvs: Ipvs::open()?,
            sets: IpSets::open()?,
            device: ServiceDevice::open(dataplane::ipvs::DEVICE)?,
        };
        // Before anything is written: without it a connection meets half of a Service.
        tools.device.ensure()?;
        let driver = ipvs::IpvsDriver::new(family, tools, options);
        drivers.push((family, Box::new(driver)));
    }
    if drivers.is_empty() {
        bail!("iptables, which ipvs mode needs too, cannot be used on this host for either family");
    }
    Ok(drivers)
}

fn iptables_drivers(config: &Config, backend: Option<IptablesBackend>) -> anyhow::Result<Drivers> {
    let mut drivers = Drivers::new();
    let good = SharedGood::default();
    for (family, tools) in iptables_tools(backend) {
        let options = setup::host_iptables_options(config, tools.random_fully());
        let driver = IptablesDriver::new(family, tools, options, Rc::clone(&good));
        drivers.push((family, Box::new(driver)));
    }
    if drivers.is_empty() {
        bail!("iptables cannot be used on this host for either family");
    }
    Ok(drivers)
}
