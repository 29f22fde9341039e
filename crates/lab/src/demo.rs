//! `lab demo`: a three-node cluster, the example manifests, and experiments with real connections.
//!
//! Each experiment prints its connection, the pod that answered, the source address that the pod
//! saw, and the expected outcome.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use model::Mode;
use nix::sys::signal::{SigSet, Signal};

use crate::commands::{echo_command, mode_parser, proxy_command};
use crate::control::GRACE_SECONDS;
use crate::manifest::Documents;
use crate::names::LabName;
use crate::table::Table;
use crate::{Lab, Options};

mod changes;
mod half_open;
mod shots;
mod stage;

use stage::Stage;

/// The manifests of `examples/`.
const EXAMPLES: [(&str, &str); 6] = [
    (
        "examples/nginx.yaml",
        include_str!("../../../examples/nginx.yaml"),
    ),
    (
        "examples/load-balancer.yaml",
        include_str!("../../../examples/load-balancer.yaml"),
    ),
    (
        "examples/web.yaml",
        include_str!("../../../examples/web.yaml"),
    ),
    (
        "examples/dns.yaml",
        include_str!("../../../examples/dns.yaml"),
    ),
    (
        "examples/cart.yaml",
        include_str!("../../../examples/cart.yaml"),
    ),
    (
        "examples/empty.yaml",
        include_str!("../../../examples/empty.yaml"),
    ),
];

/// The arguments of `lab demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// The proxy's mode on every node
    #[arg(long, default_value_t = Mode::Iptables, value_parser = mode_parser())]
    pub mode: Mode,
    /// The lab's name
    #[arg(long, default_value = "demo")]
    pub name: String,
    /// Factor for all time limits and grace periods, for slow machines such as virtual ones
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub patience: u32,
    /// Further flags for `sluice proxy` on every node, after `--`
    #[arg(last = true, value_name = "PROXY FLAGS")]
    pub proxy_flags: Vec<String>,
}

/// Capabilities that some modes lack by design.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Abilities {
    /// Pods can see the client's own address.
    keeps_client_address: bool,
    /// Traffic continues without the proxy.
    outlives_proxy: bool,
    /// NodePorts answer on a node's loopback addresses.
    serves_loopback: bool,
}

impl Abilities {
    fn of(mode: Mode) -> Self {
        let kernel = Self {
            keeps_client_address: true,
            outlives_proxy: true,
            serves_loopback: true,
        };
        match mode {
            Mode::Iptables | Mode::Nftables => kernel,
            // kube-proxy's ipvs mode does not serve loopback addresses either.
            Mode::Ipvs => Self {
                serves_loopback: false,
                ..kernel
            },
            // A relay carries the packets itself.
            Mode::Userspace => Self {
                keeps_client_address: false,
                outlives_proxy: false,
                ..kernel
            },
        }
    }
}

/// The result of an experiment.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    sent: String,
    arrived: String,
    source: String,
    expected: String,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    Fail,
    NotApplicable,
}

impl Verdict {
    fn of(passed: bool) -> Self {
        if passed { Verdict::Pass } else { Verdict::Fail }
    }
}

impl Report {
    fn not_applicable(why: &str) -> Self {
        let dash = || "-".to_owned();
        Self {
            sent: dash(),
            arrived: dash(),
            source: dash(),
            expected: why.to_owned(),
            verdict: Verdict::NotApplicable,
        }
    }

    /// Return a failure, for an experiment that cannot run.
    fn broken(e: &anyhow::Error) -> Self {
        Self {
            arrived: format!("{e:#}"),
            verdict: Verdict::Fail,
            ..Self::not_applicable("-")
        }
    }
}

/// Create the cluster, run all experiments, print the table, and take the cluster down, also after
/// an error and on SIGINT, SIGTERM and SIGHUP.
///
/// # Errors
/// The cluster cannot be created or taken down. Failed experiments are part of the table and of the
/// exit code.
pub fn run(args: &DemoArgs) -> Result<ExitCode> {
    let began = Instant::now();
    let name = LabName::new(&args.name)?;
    let mut documents = Documents::default();
    for (file, text) in EXAMPLES {
        let read = Documents::from_text(file, text);
        documents.good.extend(read.good);
        documents.errors.extend(read.errors);
    }
    if args.patience > 1 {
        serve_longer(&mut documents, GRACE_SECONDS * args.patience);
    }
    let options = Options {
        name: name.clone(),
        nodes: 3,
        documents,
        echo: echo_command()?,
        proxy: Some(proxy_command(args.mode, &proxy_flags(args))?),
    };
    if Lab::list()?.contains(&name) {
        anyhow::bail!(
            "lab {name} exists already; take it down with: sluice lab down --name {name}"
        );
    }
    tear_down_on_signal(&name)?;
    let result = experiments(options, args.mode, args.patience);
    // The lab was taken down on drop; this verifies it and returns the error.
    let down = Lab::down(&name).context("taking the lab down");
    let rows = result?;
    let mut table = Table::new(&[
        "EXPERIMENT",
        "SENT",
        "ARRIVED",
        "SOURCE SEEN",
        "EXPECTED",
        "RESULT",
    ]);
    for (experiment, report) in &rows {
        let result = match report.verdict {
            Verdict::Pass => "pass",
            Verdict::Fail => "FAIL",
            Verdict::NotApplicable => "n/a",
        };
        let Report {
            sent,
            arrived,
            source,
            expected,
            ..
        } = report.clone();
        table.row([
            (*experiment).to_owned(),
            sent,
            arrived,
            source,
            expected,
            result.to_owned(),
        ]);
    }
    println!("{table}");
    let count = |verdict| {
        rows.iter()
            .filter(|(_, report)| report.verdict == verdict)
            .count()
    };
    let failed = count(Verdict::Fail);
    println!(
        "{} mode: {} passed, {failed} failed, {} not applicable; {:.1} s",
        args.mode,
        count(Verdict::Pass),
        count(Verdict::NotApplicable),
        began.elapsed().as_secs_f64()
    );
    down?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Add the flags for features that the experiments need and that the mode has off by default.
fn proxy_flags(args: &DemoArgs) -> Vec<String> {
    let mut flags = match args.mode {
        Mode::Nftables => vec!["--iptables-localhost-nodeports".to_owned()],
        Mode::Iptables | Mode::Ipvs | Mode::Userspace => Vec::new(),
    };
    flags.extend_from_slice(&args.proxy_flags);
    flags
}

/// Set the grace period of the Deployments' pods.
fn serve_longer(documents: &mut Documents, seconds: u32) {
    for document in &mut documents.good {
        if let Some(pod) = document.value.pointer_mut("/spec/template/spec") {
            pod["terminationGracePeriodSeconds"] = seconds.into();
        }
    }
}

fn experiments(options: Options, mode: Mode, patience: u32) -> Result<Vec<(&'static str, Report)>> {
    let (lab, applied) = Lab::up(options)?;
    if let Some(e) = applied.errors.first() {
        return Err(e.clone()).context("applying the examples");
    }
    let mut stage = Stage::new(lab, mode, patience);
    stage.settle(stage.patience(30))?;
    let mut rows = Vec::new();
    for shot in shots::SHOTS {
        let report = shot.run(&stage).unwrap_or_else(|e| Report::broken(&e));
        rows.push((shot.name, report));
    }
    for experiment in changes::EXPERIMENTS.iter().chain(half_open::EXPERIMENTS) {
        let report = (experiment.run)(&mut stage).unwrap_or_else(|e| Report::broken(&e));
        rows.push((experiment.name, report));
    }
    Ok(rows)
}

/// Let SIGINT, SIGTERM and SIGHUP take the lab down before they end the program. Must be called
/// before any thread starts, so that all inherit the mask.
fn tear_down_on_signal(name: &LabName) -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let name = name.clone();
    thread::Builder::new().spawn(move || {
        let Ok(signal) = signals.wait() else {
            return;
        };
        eprintln!("{signal}: taking the lab down");
        // The main thread may be creating namespaces: repeat until nothing is left.
        let patience = Instant::now() + Duration::from_secs(10);
        while Lab::list().is_ok_and(|labs| labs.contains(&name)) && Instant::now() < patience {
            if let Err(e) = Lab::down(&name) {
                eprintln!("{e:#}");
            }
            thread::sleep(Duration::from_millis(50));
        }
        std::process::exit(128 + signal as i32);
    })?;
    Ok(())
}
