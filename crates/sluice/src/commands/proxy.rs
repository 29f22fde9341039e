//! `sluice proxy`: keeps the kernel in sync with the objects.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::ArgMatches;
use config::{Action, Config, Resolved};
use source::ManifestFiles;
use source::apiserver::credential_plugin;

use crate::cleanup;
use crate::cli::{PROXY_VERSION, ProxyArgs, Switch};
use crate::logging;
use crate::proxy::input::{Inputs, Stop};
use crate::proxy::run::{self, Setup};
use crate::proxy::{listen_map, socket_server, sysctls};
use crate::sandbox::{self, Policy, Sandbox};
use crate::socket;
use crate::wiring::drivers::drivers;
use crate::wiring::modules;
use crate::wiring::objects::first_list;
use crate::wiring::setup::{api_server, setup_of};

/// Run `sluice proxy`.
pub(crate) fn command(args: &ProxyArgs, matches: &ArgMatches) -> anyhow::Result<()> {
    let resolved = Resolved::from_matches(matches, args.strict_config)?;
    let logs = logging::start(&resolved.config.logging)?;
    for note in &resolved.notes {
        tracing::warn!(reason = note, "The configuration has a setting to review");
    }
    match &resolved.action {
        Action::Run => {}
        Action::InitOnly => {
            modules::load(&resolved.config, args.iptables_backend);
            sysctls::apply(&resolved.config);
            return Ok(());
        }
        Action::Cleanup => return cleanup::remove_all(false),
        Action::WriteConfig(path) => {
            return std::fs::write(path, resolved.config.file.to_yaml())
                .with_context(|| format!("cannot write {}", path.display()));
        }
        Action::Version { raw } => {
            let name = if *raw { "" } else { "Kubernetes " };
            println!("{name}{PROXY_VERSION}");
            return Ok(());
        }
    }
    let flags = effective_flags(matches);
    let mut setup = setup_of(&resolved, logs.verbosity.clone(), flags)?;
    setup.half_open = args.conntrack_half_open;
    if !args.listen_map.is_empty() {
        return serve_listen_map(setup, &resolved.config, args, &logs);
    }
    sysctls::apply(&resolved.config);
    if !args.once {
        setup.socket = Some((socket_path(args)?, logs.recent.clone()));
        setup.verify_period = args.verify_period.filter(|period| !period.is_zero());
        set_oom_score(&resolved.config);
        setup.sandbox = sandbox(args, &resolved.config, false)?;
    }
    let inputs = Inputs::new();
    // Block signals before other threads start, so that only the waiting thread receives them.
    if !args.once {
        inputs.follow_signals()?;
        logs.keep_flushing()?;
    }
    if args.once && resolved.config.mode.relays() {
        bail!("--once cannot be used in userspace mode: the relay would end with this process");
    }
    let drivers = drivers(&resolved.config, args, &inputs)?;
    let stop = if args.manifests.is_empty() {
        let server = api_server(&resolved.config, args, &setup)?;
        if args.once {
            return run::run_once(setup, first_list(server)?, drivers);
        }
        setup.attach(&resolved.config, server.recorder());
        run::run(setup, server, inputs, drivers)?
    } else {
        if args.once {
            return run::run_once(setup, source::read_once(args.manifests.clone()), drivers);
        }
        let files = manifests(args, &setup);
        run::run(setup, files, inputs, drivers)?
    };
    report_end(&stop, "the rules stay in force")
}

fn manifests(args: &ProxyArgs, setup: &Setup) -> ManifestFiles {
    let paths = args.manifests.iter().map(|path| path.display().to_string());
    let paths: Vec<String> = paths.collect();
    setup
        .board
        .update(|status| status.source.place = paths.join(", "));
    ManifestFiles::new(args.manifests.clone())
}

fn socket_path(args: &ProxyArgs) -> anyhow::Result<PathBuf> {
    match &args.socket {
        Some(path) => Ok(path.clone()),
        None => socket::default_path().context("cannot read this process's network namespace"),
    }
}

/// Serve `--listen-map` with sockets only. The kernel is not programmed, and this host does not need to
/// be a node of the cluster.
fn serve_listen_map(
    mut setup: Setup,
    config: &Config,
    args: &ProxyArgs,
    logs: &logging::Logs,
) -> anyhow::Result<()> {
    if !config.mode.relays() || args.once {
        bail!("--listen-map requires --proxy-mode=userspace and excludes --once");
    }
    let drivers = listen_map::drivers(listen_map::read(&args.listen_map)?);
    setup.sockets_only = true;
    setup.sandbox = sandbox(args, config, true)?;
    let inputs = Inputs::new();
    inputs.follow_signals()?;
    logs.keep_flushing()?;
    let stop = if args.manifests.is_empty() {
        let server = api_server(config, args, &setup)?;
        run::run(setup, server, inputs, drivers)?
    } else {
        let files = manifests(args, &setup);
        run::run(setup, files, inputs, drivers)?
    };
    report_end(&stop, "no Service is served now")
}

/// Restrict this process. Must run before other threads start.
fn sandbox(
    args: &ProxyArgs,
    config: &Config,
    sockets_only: bool,
) -> anyhow::Result<Option<Sandbox>> {
    if args.sandbox == Switch::Off {
        return Ok(None);
    }
    // In a container without this privilege, `--init-only` has loaded them.
    if sandbox::may_load_modules() {
        modules::load(config, args.iptables_backend);
    }
    let mut writable = Vec::new();
    if args.manifests.is_empty()
        && let Some(folder) = args.api_server_addresses.parent()
    {
        // A file in a folder that does not exist cannot be permitted.
        let _ = std::fs::create_dir_all(folder);
        writable.push(folder.to_owned());
    }
    if !sockets_only
        && let path = socket_path(args)?
        && let Some(folder) = path.parent()
    {
        // The thread that serves the socket reports a failure.
        let _ = socket_server::prepare_folder(&path);
        writable.push(folder.to_owned());
    }
    let client = &config.client;
    let kubeconfig = client.kubeconfig.as_deref();
    let policy = Policy {
        sockets_only,
        writable,
        credential_plugin: kubeconfig
            .filter(|_| args.manifests.is_empty())
            .and_then(|path| credential_plugin(path, client.master.as_deref())),
    };
    Sandbox::enter(&policy).map(Some)
}

fn report_end(stop: &Stop, rest: &str) -> anyhow::Result<()> {
    match stop {
        Stop::Signal(signal) => {
            tracing::info!(%signal, result = rest, "Signal received; ending");
            Ok(())
        }
        Stop::ConfigChanged(path) => bail!(
            "{} has changed: exiting, to be restarted with the new configuration",
            path.display()
        ),
        Stop::Unsupported(unsupported) => Err(unsupported.clone().into_error()),
    }
}

fn set_oom_score(config: &Config) {
    if let Err(error) = kernel::process::set_oom_score_adj(config.oom_score_adj) {
        tracing::warn!(%error, "OOM score not set; continuing without it");
    }
}

/// Return every flag with its given value or its default, for `/flagz`.
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
