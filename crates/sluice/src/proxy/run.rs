//! From a resolved setup to a running proxy.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use config::{Config, ConfigFile};
use model::{IpFamily, Mode};
use observe::{Metrics, NodeEligibility, Server};
use plan::{Planner, Settings};
use source::apiserver::Recorder;
use source::{Batch, Source};

use super::driver::Driver;
use super::engine::Engine;
use super::flows::{Flows, HostAddresses};
use super::input::{Input, Inputs, Stop, host_addresses};
use super::node_wait::NodeWait;
use super::own_node::{NodeReport, report_name};
use super::probe::{self, Unsupported};
use super::report::Reporter;
use super::schedule::Intervals;
use super::socket_server::{self, Knowledge, Serving};
use super::start::Start;
use super::verification::Verifier;
use crate::cleanup::{self, InForce};
use crate::cli::HalfOpen;
use crate::logging::Recent;
use crate::sandbox::Sandbox;
use crate::settings::admit;
use crate::socket::{Board, status};
use crate::system::spawn;

/// The resolved settings of a proxy.
pub(crate) struct Setup {
    pub(crate) settings: Settings,
    /// `--node-ip`, or a bind address that is one.
    pub(crate) node_ips: Vec<IpAddr>,
    /// The feature gate AllowServiceExternalIPs.
    pub(crate) allow_external_ips: bool,
    pub(crate) intervals: Intervals,
    pub(crate) metrics: Metrics,
    pub(crate) observe: observe::Options,
    /// The process ends when this file changes.
    pub(crate) config_file: Option<ConfigFile>,
    /// Present if the source provides this node's Node.
    pub(crate) cluster: Option<Cluster>,
    /// Sends Events, if the source is an API server.
    pub(crate) recorder: Option<Recorder>,
    /// Use only sockets, without privileges; the kernel is not programmed.
    pub(crate) sockets_only: bool,
    pub(crate) mode: Mode,
    pub(crate) half_open: HalfOpen,
    /// Restrictions that are applied after the first complete sync.
    pub(crate) sandbox: Option<Sandbox>,
    /// Interval between plans of all objects.
    pub(crate) config_sync_period: Duration,
    /// The status for other commands.
    pub(crate) board: Board,
    /// The time between two checks of all Services (`--verify-period`).
    pub(crate) verify_period: Option<Duration>,
    /// The socket for other commands, with the recent warnings in the log.
    pub(crate) socket: Option<(PathBuf, Recent)>,
}

/// The objects of a cluster that must exist before anything is programmed.
pub(crate) struct Cluster {
    /// The wait for the Node.
    pub(crate) wait: NodeWait,
    /// The configuration that the Node must fit.
    pub(crate) config: Config,
}

/// The drivers of a mode, one for each address family of the host.
pub(crate) type Drivers = Vec<(IpFamily, Box<dyn Driver>)>;

/// Run until a stop is requested. The rules stay in force.
pub(crate) fn run(
    mut setup: Setup,
    source: impl Source,
    mut inputs: Inputs,
    drivers: Drivers,
) -> anyhow::Result<Stop> {
    let addresses = follow_host(&mut setup, &mut inputs)?;
    let node_name = setup.settings.node_name.clone();
    let verifier = verifier(&setup, &inputs);
    let server = Server::start(setup.observe, setup.metrics)?;
    let sandbox = setup.sandbox.iter();
    sandbox.for_each(|sandbox| server.set_restrictions(sandbox.restrictions()));
    let board = setup.board;
    let _serving = serve_socket(setup.socket, &board, &server, &inputs)?;
    verifier.map_or(Ok(()), |verifier| verifier.start(server.clone()))?;
    let mut own_node = NodeReport::new(&node_name, server.clone(), setup.recorder);
    if setup.cluster.is_some() {
        // Until its Node has been seen, no load balancer should use this node.
        server.set_node(NodeEligibility::Ineligible);
    }
    let host = HostAddresses::default();
    host.set(addresses.clone());
    let half_open = (!setup.sockets_only).then_some(setup.half_open);
    let flows = follow_flows(&host, &server, half_open)?;
    let planner = planner(setup.settings, setup.node_ips, addresses);
    let reporter = Reporter::new(server.clone(), setup.mode, flows, board.clone());
    let mut in_force = in_force(setup.mode, &drivers);
    let needs = drivers.iter().flat_map(|(_, driver)| driver.needs());
    probe::start(setup.mode, needs.collect(), inputs.sender())?;
    let mut start = Start::new(setup.cluster, drivers.iter().map(|(family, _)| *family));
    let mut engine = Engine::new(
        planner,
        drivers,
        setup.intervals,
        Box::new(reporter),
        Instant::now(),
    );
    inputs.follow(source, board.clone())?;
    let mut refresh_at = Instant::now() + setup.config_sync_period;
    let mut unsettled = Some(setup.sandbox);
    loop {
        let next = engine.next().map(|next| next.min(refresh_at));
        let first = inputs.next(start.next()?.or(next));
        // Inputs that arrived together are planned together.
        let all = first.into_iter().chain(inputs.ready());
        for input in all {
            match input {
                Input::Objects(mut batch) => {
                    admit(&mut batch.events, setup.allow_external_ips);
                    own_node.apply(&batch.events);
                    start.see(&batch);
                    engine.events(batch.events, Instant::now());
                }
                Input::HostAddresses(addresses) => {
                    host.set(addresses.clone());
                    engine.host_addresses(addresses, Instant::now());
                }
                Input::Disturbed(family) => engine.disturbed(family),
                // The client may have gone away.
                Input::Snapshot(to) => drop(to.try_send(engine.snapshot())),
                Input::Probed(unserved) => {
                    leave_out(unserved.as_ref(), &mut engine, &mut in_force, &board);
                    start.probed(unserved);
                }
                Input::Stop(stop) => {
                    own_node.announce(&stop);
                    return Ok(stop);
                }
            }
        }
        let now = Instant::now();
        if start.is_over()? {
            own_node.report_mismatch();
            own_node.report_other_machine(&host.current());
            engine.complete(now);
            if now >= refresh_at {
                engine.refresh(now);
                refresh_at = now + setup.config_sync_period;
            }
        }
        engine.run();
        post_sizes(&engine, &board);
        if engine.settled() == Ok(true)
            && let Some(sandbox) = unsettled.take()
        {
            let leftovers_of = (!setup.sockets_only).then(|| in_force.clone());
            settle(sandbox, leftovers_of, &server)?;
        }
    }
}

/// Return the verifier; `None` without `--verify-period`.
fn verifier(setup: &Setup, inputs: &Inputs) -> Option<Verifier> {
    Some(Verifier {
        period: setup.verify_period?,
        settings: setup.settings.clone(),
        delay: setup.intervals.min,
        inputs: inputs.sender(),
        recorder: setup.recorder.clone(),
    })
}

/// Serve the socket for other commands, if the setup has one.
fn serve_socket(
    socket: Option<(PathBuf, Recent)>,
    board: &Board,
    server: &Server,
    inputs: &Inputs,
) -> anyhow::Result<Option<Serving>> {
    let Some((path, recent)) = socket else {
        return Ok(None);
    };
    let knowledge = Knowledge {
        board: board.clone(),
        recent,
        server: server.clone(),
        inputs: inputs.sender(),
    };
    Ok(Some(socket_server::start(path, knowledge)?))
}

/// Return a planner without objects, for a node with these addresses.
fn planner(settings: Settings, node_ips: Vec<IpAddr>, host_addresses: Vec<IpAddr>) -> Planner {
    let mut planner = Planner::new(settings);
    planner.set_node_ips(node_ips);
    planner.set_host_addresses(host_addresses);
    planner
}

/// Follow connection tracking, if the kernel is programmed.
fn follow_flows(
    host: &HostAddresses,
    server: &Server,
    half_open: Option<HalfOpen>,
) -> anyhow::Result<Flows> {
    let Some(half_open) = half_open else {
        return Ok(Flows::none());
    };
    Flows::start(host, server.metrics(), half_open == HalfOpen::Delete)
        .context("cannot start the conntrack threads")
}

/// Keep the status up to date.
fn post_sizes(engine: &Engine, board: &Board) {
    let (services, families) = engine.sizes();
    board.update(|status| status.services = services);
    for sizes in families {
        board.update_family(sizes.family, |family: &mut status::Family| {
            family.ports = sizes.ports;
            family.endpoints = sizes.endpoints;
            family.pending = sizes.pending;
        });
    }
}

/// Leave out address families, and put the reason into the status.
fn leave_out(
    unserved: Option<&Unsupported>,
    engine: &mut Engine,
    in_force: &mut InForce,
    board: &Board,
) {
    let Some(unserved) = unserved else {
        return;
    };
    let families = unserved.families();
    in_force.backends.retain(|(f, _)| !families.contains(f));
    for family in &families {
        let reason = unserved.to_string();
        board.update_family(*family, |status| status.unserved = Some(reason));
    }
    engine.leave_out(families);
}

/// Follow the configuration file and the host's addresses. Return the present addresses.
fn follow_host(setup: &mut Setup, inputs: &mut Inputs) -> anyhow::Result<Vec<IpAddr>> {
    if let Some(file) = setup.config_file.take() {
        inputs.follow_config(file)?;
    }
    if setup.sockets_only {
        return Ok(Vec::new());
    }
    inputs.follow_addresses()
}

/// Do the work after the first complete sync: remove the state of other modes, and restrict this process
/// further. It runs on another thread, so that no sync waits for it.
fn settle(
    sandbox: Option<Sandbox>,
    leftovers_of: Option<InForce>,
    server: &Server,
) -> anyhow::Result<()> {
    let leftovers = move || {
        if let Some(in_force) = leftovers_of {
            remove_leftovers(&in_force);
        }
    };
    match sandbox {
        Some(sandbox) => sandbox.settled(server.clone(), leftovers),
        None => spawn("leftovers", leftovers)?,
    }
    Ok(())
}

/// Remove the state of an earlier proxy in another mode or iptables back end. A failure is only
/// reported, since all Services are served.
fn remove_leftovers(in_force: &InForce) {
    if let Err(error) = cleanup::remove_leftovers(in_force) {
        tracing::warn!(
            error = format!("{error:#}"),
            "Cannot remove the rules of an earlier proxy; they stay in force"
        );
    }
}

/// Return the mode whose state must stay, with its iptables back ends.
fn in_force(mode: Mode, drivers: &Drivers) -> InForce {
    let backends = drivers.iter();
    let backends = backends.filter_map(|(family, d)| Some((*family, d.iptables_backend()?)));
    InForce {
        mode,
        backends: backends.collect(),
    }
}

/// Sync once. Every family is tried.
///
/// # Errors
/// A family is not in sync after three attempts.
pub(crate) fn run_once(setup: Setup, mut batch: Batch, mut drivers: Drivers) -> anyhow::Result<()> {
    for problem in &batch.problems {
        tracing::error!(error = %problem, "Object or manifest ignored");
    }
    admit(&mut batch.events, setup.allow_external_ips);
    let addresses = host_addresses()?;
    let name = &setup.settings.node_name;
    let in_cluster = setup.recorder.is_some();
    report_name(name, &batch.events, in_cluster, &addresses);
    let planner = planner(setup.settings, setup.node_ips, addresses);
    let needs = drivers.iter().flat_map(|(_, driver)| driver.needs());
    let unserved = probe::check(setup.mode, &needs.collect::<Vec<_>>());
    if let Some(unserved) = unserved.map_err(Unsupported::into_error)? {
        let families = unserved.families();
        drivers.retain(|(family, _)| !families.contains(family));
    }
    let in_force = in_force(setup.mode, &drivers);
    let mut engine = Engine::new(
        planner,
        drivers,
        setup.intervals,
        Box::new(super::engine::Unobserved),
        Instant::now(),
    );
    engine.events(batch.events, Instant::now());
    engine.complete(Instant::now());
    for attempt in 1..=3 {
        engine.run();
        match engine.settled() {
            Ok(_) => {
                remove_leftovers(&in_force);
                return Ok(());
            }
            Err(error) if attempt == 3 => bail!("not in sync: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(500)),
        }
    }
    Ok(())
}
