//! The subcommands of `sluice lab`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use model::Mode;

use crate::commands::{echo_command, mode_parser, proxy_command};
use crate::control::{Applied, Target, WorkloadKind};
use crate::demo::{self, DemoArgs};
use crate::manifest::{Documents, ObjectName};
use crate::names::LabName;
use crate::{Lab, Options, status};

/// The subcommands of `sluice lab`.
#[derive(Clone, Debug, Subcommand)]
pub enum LabCommand {
    /// Create a cluster: nodes, a pod network, an outside client, and the pods of the manifests
    Up(UpArgs),
    /// Run a command on a pod, on a node, or on the outside client
    Exec {
        /// Selects a lab.
        #[command(flatten)]
        lab: Which,
        /// `client`, `router`, a node, or a pod as NAME or NAMESPACE/NAME
        host: String,
        /// The command, after `--`
        #[arg(last = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Apply manifests to a lab
    Apply {
        /// Selects a lab.
        #[command(flatten)]
        lab: Which,
        /// Manifest files or folders
        #[arg(short, long = "filename", value_name = "FILE", required = true, num_args = 1..)]
        files: Vec<PathBuf>,
    },
    /// Delete objects; pods keep serving for their grace period
    Delete {
        /// Selects a lab.
        #[command(flatten)]
        lab: Which,
        /// Delete the objects of these manifests
        #[arg(short, long = "filename", value_name = "FILE", num_args = 1..)]
        files: Vec<PathBuf>,
        /// Seconds that pods keep serving, instead of their own grace period
        #[arg(long, value_name = "SECONDS")]
        grace_period: Option<u32>,
        /// service, endpointslice, pod, deployment, statefulset or daemonset
        #[arg(
            requires = "object",
            conflicts_with = "files",
            required_unless_present = "files"
        )]
        kind: Option<String>,
        /// NAME or NAMESPACE/NAME
        #[arg(value_name = "NAME")]
        object: Option<String>,
    },
    /// Change the number of pods of a Deployment or StatefulSet
    Scale {
        /// Selects a lab.
        #[command(flatten)]
        lab: Which,
        /// The workload, as NAME or NAMESPACE/NAME
        workload: String,
        /// Number of pods
        replicas: u32,
    },
    /// Replace a pod by one on another node
    Move {
        /// Selects a lab.
        #[command(flatten)]
        lab: Which,
        /// The pod, as NAME or NAMESPACE/NAME
        pod: String,
        /// The node of the new pod
        node: String,
    },
    /// Set whether a pod is ready
    Ready {
        /// Selects a lab.
        #[command(flatten)]
        lab: Which,
        /// The pod, as NAME or NAMESPACE/NAME
        pod: String,
        /// true or false
        #[arg(action = clap::ArgAction::Set)]
        ready: bool,
    },
    /// Show nodes, pods and Services
    Status {
        /// Selects a lab.
        #[command(flatten)]
        lab: Which,
    },
    /// Create a cluster, run experiments with real connections, and show the results
    Demo(DemoArgs),
    /// Remove a lab completely
    Down {
        /// Selects a lab.
        #[command(flatten)]
        lab: Which,
        /// All labs of this machine
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
}

/// Selects a lab.
#[derive(Clone, Debug, clap::Args)]
pub struct Which {
    /// The lab's name
    #[arg(long, default_value = "lab")]
    pub name: String,
}

impl Which {
    fn name(&self) -> Result<LabName> {
        Ok(LabName::new(&self.name)?)
    }

    fn open(&self) -> Result<Lab> {
        Lab::open(self.name()?)
    }
}

/// The arguments of `lab up`.
#[derive(Clone, Debug, clap::Args)]
pub struct UpArgs {
    /// The lab to create.
    #[command(flatten)]
    pub lab: Which,
    /// Manifest files or folders
    #[arg(short, long = "filename", value_name = "FILE", num_args = 1..)]
    pub files: Vec<PathBuf>,
    /// Number of nodes if the manifests contain none
    #[arg(long, default_value_t = 3)]
    pub nodes: u8,
    /// The proxy's mode on every node
    #[arg(long, default_value_t = Mode::Iptables, value_parser = mode_parser())]
    pub mode: Mode,
    /// Run no proxy, so that Services do not work
    #[arg(long, conflicts_with_all = ["mode", "proxy_flags"])]
    pub no_proxy: bool,
    /// Further flags for `sluice proxy` on every node, after `--`
    #[arg(last = true, value_name = "PROXY FLAGS")]
    pub proxy_flags: Vec<String>,
}

/// Run a subcommand.
///
/// # Errors
/// The operation fails. Errors of single documents are printed.
pub fn run(command: &LabCommand) -> Result<ExitCode> {
    match command {
        LabCommand::Up(args) => up(args),
        LabCommand::Exec { lab, host, command } => {
            let status = lab.open()?.host(host)?.command(command)?.status();
            let status = status.with_context(|| format!("running {}", command[0].display()))?;
            // A command that was ended by a signal has no exit code; shells report 128 plus the signal.
            let signal = std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0);
            let code = status.code().unwrap_or(128 + signal);
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
        }
        LabCommand::Apply { lab, files } => {
            let applied = lab.open()?.apply(&Documents::from_paths(files))?;
            Ok(report(&applied))
        }
        LabCommand::Delete {
            lab,
            files,
            grace_period,
            kind,
            object,
        } => delete(
            &mut lab.open()?,
            files,
            *grace_period,
            kind.as_deref().zip(object.as_deref()),
        ),
        LabCommand::Scale {
            lab,
            workload,
            replicas,
        } => print_note(&lab.open()?.scale(&ObjectName::parse(workload), *replicas)?),
        LabCommand::Move { lab, pod, node } => {
            print_note(&lab.open()?.move_pod(&ObjectName::parse(pod), node)?)
        }
        LabCommand::Ready { lab, pod, ready } => {
            print_note(&lab.open()?.set_ready(&ObjectName::parse(pod), *ready)?)
        }
        LabCommand::Status { lab } => print_note(&status::of(&lab.open()?.state()?)),
        LabCommand::Demo(args) => demo::run(args),
        LabCommand::Down { lab, all } => down(lab, *all),
    }
}

fn up(args: &UpArgs) -> Result<ExitCode> {
    let proxy = if args.no_proxy {
        None
    } else {
        Some(proxy_command(args.mode, &args.proxy_flags)?)
    };
    let has_proxy = proxy.is_some();
    let (mut lab, applied) = Lab::up(Options {
        name: args.lab.name()?,
        nodes: args.nodes,
        documents: Documents::from_paths(&args.files),
        echo: echo_command()?,
        proxy,
    })?;
    if has_proxy {
        lab.wait_synced(std::time::Duration::from_secs(30))?;
    }
    lab.keep();
    println!("{}", status::of(&lab.state()?));
    Ok(report(&applied))
}

fn delete(
    lab: &mut Lab,
    files: &[PathBuf],
    grace: Option<u32>,
    one: Option<(&str, &str)>,
) -> Result<ExitCode> {
    let documents = Documents::from_paths(files);
    let mut targets: Vec<Target> = documents
        .good
        .iter()
        .filter(|d| {
            matches!(d.kind.as_str(), "Service" | "EndpointSlice" | "Pod")
                || WorkloadKind::named(&d.kind).is_some()
        })
        .map(|d| Target {
            kind: d.kind.clone(),
            name: d.name.clone(),
        })
        .collect();
    targets.extend(one.map(|(kind, name)| Target {
        kind: kind.to_owned(),
        name: ObjectName::parse(name),
    }));
    let mut errors: Vec<String> = documents.errors.iter().map(ToString::to_string).collect();
    for target in &targets {
        match lab.delete(target, grace) {
            Ok(note) => println!("{note}"),
            Err(e) => errors.push(format!("{e:#}")),
        }
    }
    errors.iter().for_each(|e| eprintln!("{e}"));
    Ok(if errors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn down(which: &Which, all: bool) -> Result<ExitCode> {
    let labs = Lab::list()?;
    if all {
        let results: Vec<Result<()>> = labs.iter().map(Lab::down).collect();
        return results
            .into_iter()
            .collect::<Result<()>>()
            .map(|()| ExitCode::SUCCESS);
    }
    let name = which.name()?;
    if !labs.contains(&name) {
        bail!("lab {name} does not exist");
    }
    Lab::down(&name).map(|()| ExitCode::SUCCESS)
}

fn print_note(note: &str) -> Result<ExitCode> {
    println!("{note}");
    Ok(ExitCode::SUCCESS)
}

fn report(applied: &Applied) -> ExitCode {
    applied.notes.iter().for_each(|note| println!("{note}"));
    applied.errors.iter().for_each(|e| eprintln!("{e}"));
    if applied.errors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
