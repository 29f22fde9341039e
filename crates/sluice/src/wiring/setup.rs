//! Builds the inputs of each part of the proxy from the configuration.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use anyhow::Context as _;
use config::{Config, Resolved};
use dataplane::iptables::{Nfacct, Options};
use kernel::nfacct::{Counter, NfAcct};
use model::{LocalTraffic, Mode};
use observe::{Metrics, Pages};
use plan::Settings;
use source::apiserver::{
    ApiServer, ClientOptions, EventType, NewEvent, Recorder, Sent, WatchState,
};

use crate::cli::{HalfOpen, ProxyArgs};
use crate::logging::Verbosity;
use crate::proxy::node_wait::NodeWait;
use crate::proxy::own_node::{node_event, regarding};
use crate::proxy::run::{Cluster, Setup};
use crate::proxy::schedule::Intervals;
use crate::proxy::sysctls::tcp_is_liberal;
use crate::settings::node_ports::localhost_node_ports;
use crate::socket::status::{Failing, Time};
use crate::socket::{Board, Status};

/// Return the settings of the plan.
pub(crate) fn settings(config: &Config, node_name: &str) -> Settings {
    Settings {
        node_name: node_name.to_owned(),
        local_traffic: config.local_traffic.clone(),
        masquerade_all: config.masquerade_all,
        node_port_addresses: config.node_port_addresses.clone(),
    }
}

/// Keep the status of an API server up to date.
fn post_watch(board: &Board, kind: model::Kind, state: WatchState<'_>) {
    board.update(|status| {
        let source = &mut status.source;
        match state {
            WatchState::Heard => source.heard = Some(Time::now()),
            WatchState::Recovered => source.failing.retain(|f| f.kind != kind.name()),
            WatchState::Failing(error) => {
                source.failing.retain(|f| f.kind != kind.name());
                source.failing.push(Failing {
                    kind: kind.name().to_owned(),
                    error: error.to_owned(),
                    since: Time::now(),
                });
            }
        }
    });
}

pub(crate) fn intervals(config: &Config) -> Intervals {
    Intervals {
        min: config.min_sync_period,
        check: config.sync_period,
    }
}

/// The version in the build information: that of the corresponding kube-proxy, then sluice's own.
const BUILD: &str = concat!("v1.36.2+sluice.", env!("CARGO_PKG_VERSION"));

/// Create the metrics, and set those that never change.
pub(crate) fn metrics(mode: Mode) -> anyhow::Result<Metrics> {
    let metrics = Metrics::new(mode).context("cannot create the metrics")?;
    // Go's names.
    let platform = match std::env::consts::ARCH {
        "x86_64" => "linux/amd64",
        "aarch64" => "linux/arm64",
        _ => "linux",
    };
    let labels = ["", "rustc", "", "", BUILD, "", "1", "36", platform];
    metrics.build_info.with_label_values(&labels).set(1);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs_f64();
    metrics.process_start.set(now);
    Ok(metrics)
}

pub(crate) fn setup_of(
    resolved: &Resolved,
    verbosity: Verbosity,
    flags: BTreeMap<String, String>,
) -> anyhow::Result<Setup> {
    let config = &resolved.config;
    let node_name = kernel::address::node_name(config.node_name.as_deref())?;
    let board = Board::new(Status::starting(
        &node_name,
        config.mode,
        serde_json::json!(config.file),
    ));
    Ok(Setup {
        board,
        socket: None,
        verify_period: None,
        settings: settings(config, &node_name),
        node_ips: node_ips(config.bind_address),
        allow_external_ips: config.allow_external_ips,
        intervals: intervals(config),
        metrics: metrics(config.mode)?,
        observe: observe_options(resolved, verbosity, flags),
        config_file: resolved.config_file.clone(),
        cluster: None,
        recorder: None,
        sockets_only: false,
        half_open: HalfOpen::Delete,
        sandbox: None,
        mode: config.mode,
        config_sync_period: config.config_sync_period,
    })
}

/// Create the client for the API server from flags and configuration.
pub(crate) fn api_server(
    config: &Config,
    args: &ProxyArgs,
    setup: &Setup,
) -> anyhow::Result<ApiServer> {
    let client = &config.client;
    let options = ClientOptions {
        kubeconfig: client.kubeconfig.clone(),
        master: client.master.clone(),
        node_kubeconfig: Some(args.node_kubeconfig.clone()),
        address_file: Some(args.api_server_addresses.clone()),
        content_type: client.content_type.clone(),
        accept_content_types: client.accept_content_types.clone().unwrap_or_default(),
        qps: client.qps,
        burst: i32::try_from(client.burst).unwrap_or(i32::MAX),
        ..ClientOptions::default()
    };
    let mut server = ApiServer::new(options, &setup.settings.node_name).context(
        "no API server configured: pass --kubeconfig or --master, or --manifests to read files",
    )?;
    let metrics = setup.metrics.clone();
    server.observe(move |sent| count_request(&metrics, sent));
    let board = setup.board.clone();
    board.update(|status| status.source.place = server.url().to_owned());
    server.observe_watches(move |kind, state| post_watch(&board, kind, state));
    Ok(server)
}

/// Return `bindAddress` if it is a specific address; it overrides the Node's addresses.
fn node_ips(bind_address: IpAddr) -> Vec<IpAddr> {
    let named = !bind_address.is_unspecified();
    named.then_some(bind_address).into_iter().collect()
}

/// Count a request to the API server as client-go does.
pub(crate) fn count_request(metrics: &Metrics, sent: &Sent<'_>) {
    let code = sent
        .code
        .map_or_else(|| "<error>".to_owned(), |code| code.to_string());
    let labels = [code.as_str(), sent.host, sent.method];
    metrics.api_requests.with_label_values(&labels).inc();
    if !sent.watch {
        let duration = &metrics.api_request_duration;
        let duration = duration.with_label_values(&[sent.host, sent.method]);
        duration.observe(sent.took.as_secs_f64());
    }
}

/// Update the metrics of the process's resources.
pub(crate) fn scrape_process(metrics: &Metrics) {
    let used = kernel::process::usage();
    for (metric, value) in [
        (&metrics.process_open_fds, used.open_files),
        (&metrics.process_max_fds, used.max_files),
        (&metrics.process_resident, used.resident_bytes),
        (&metrics.process_virtual, used.virtual_bytes),
        (&metrics.process_virtual_max, used.max_virtual_bytes),
    ] {
        metric.set(value as f64);
    }
    for (metric, value) in [
        (&metrics.process_cpu, used.processor_seconds),
        (&metrics.process_received, used.received_bytes as f64),
        (&metrics.process_sent, used.sent_bytes as f64),
    ] {
        metric.inc_by((value - metric.get()).max(0.0));
    }
}

/// Return the inputs of the iptables rules other than the plan, for a host with these features.
pub(crate) fn iptables_options(config: &Config, nfacct: Nfacct) -> Options {
    Options {
        masquerade_bit: config.masquerade_bit,
        localhost_node_ports: localhost_node_ports(config),
        conntrack_tcp_be_liberal: config.conntrack.tcp_be_liberal,
        random_fully: true,
        nfacct,
    }
}

/// Return the inputs of ipvs mode's layout other than the plan.
pub(crate) fn ipvs_options(config: &Config) -> dataplane::ipvs::Options {
    dataplane::ipvs::Options {
        scheduler: config.ipvs.scheduler.as_str().into(),
        masquerade_bit: config.masquerade_bit,
        random_fully: true,
        exclude: config.ipvs.exclude_cidrs.clone(),
    }
}

/// Return the [`iptables_options`] for this host.
pub(crate) fn host_iptables_options(config: &Config) -> Options {
    Options {
        conntrack_tcp_be_liberal: tcp_is_liberal(),
        ..iptables_options(config, ensure_nfacct())
    }
}

/// Create the counters that rules name, and return which of them exist.
fn ensure_nfacct() -> Nfacct {
    let mut nfacct = match NfAcct::open() {
        Ok(Some(nfacct)) => nfacct,
        Ok(None) => return Nfacct::default(),
        Err(error) => {
            tracing::warn!(%error, "Packet counters not available");
            return Nfacct::default();
        }
    };
    let mut ensure = |counter: Counter| match nfacct.ensure(counter) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(name = %counter.name(), %error, "Packet counter not available");
            false
        }
    };
    Nfacct {
        invalid_dropped: ensure(Counter::CtStateInvalidDropped),
        localhost_node_ports: ensure(Counter::LocalhostNodePortsAccepted),
    }
}

/// Update the metrics of the packet counters.
fn scrape_nfacct(metrics: &Metrics) {
    let Ok(Some(mut nfacct)) = NfAcct::open() else {
        return;
    };
    for (counter, metric) in [
        (Counter::CtStateInvalidDropped, &metrics.invalid_dropped),
        (
            Counter::LocalhostNodePortsAccepted,
            &metrics.localhost_nodeports,
        ),
    ] {
        if let Ok(Some(counted)) = nfacct.read(counter) {
            // Neither the metric nor the kernel's counter ever decreases.
            metric.inc_by(counted.packets.saturating_sub(metric.get()));
        }
    }
}

/// The warning that kube-proxy logs and sends as an Event in the same cases.
pub(crate) const IPVS_DEPRECATED: &str =
    "Kubernetes has deprecated the proxy mode ipvs; the mode nftables takes its place";

/// Return the options of the HTTP server.
pub(crate) fn observe_options(
    resolved: &Resolved,
    verbosity: Verbosity,
    flags: BTreeMap<String, String>,
) -> observe::Options {
    let config = &resolved.config;
    let iptables = config.mode == Mode::Iptables;
    observe::Options {
        healthz: config.healthz_bind_address,
        metrics: config.metrics_bind_address,
        bind_hard_fail: config.bind_address_hard_fail,
        // As upstream: a change may wait for two sync periods.
        health_timeout: 2 * config.sync_period,
        pages: Pages {
            proxy_mode: config.mode.name().to_owned(),
            configz: serde_json::json!({ "kubeproxy.config.k8s.io": config.file }),
            flags: config.flagz.then_some(flags),
            statusz: config.statusz,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: SystemTime::now(),
        },
        set_verbosity: config.enable_profiling.then(|| {
            Box::new(move |v: &str| verbosity.set(v).map_err(|e| format!("{e:#}\n"))) as _
        }),
        before_scrape: Box::new(move |metrics| {
            scrape_process(metrics);
            if iptables {
                scrape_nfacct(metrics);
            }
        }),
        listen_failed: Box::new(|_, _, _| {}),
    }
}

impl Setup {
    /// Attach an API server, which receives Events and provides the Node.
    pub(crate) fn attach(&mut self, config: &Config, recorder: Recorder) {
        let needs_pod_range = config.local_traffic == LocalTraffic::NodeCidr;
        let node = &self.settings.node_name;
        for event in events_at_start(config.mode, node) {
            recorder.record(event);
        }
        self.recorder = Some(recorder.clone());
        self.cluster = Some(Cluster {
            wait: NodeWait::new(node, needs_pod_range, Instant::now()),
            config: config.clone(),
        });
        let node = node.clone();
        self.observe.listen_failed = Box::new(move |service, port, why| {
            recorder.record(NewEvent {
                regarding: regarding("Service", &service.namespace, &service.name),
                event_type: EventType::Warning,
                reason: "FailedToStartServiceHealthcheck".to_owned(),
                action: "Listen".to_owned(),
                note: format!(
                    "node {node} failed to start healthcheck {:?} on port {port}: {why}",
                    service.to_string()
                ),
            });
        });
    }
}

/// Return the Events about the Node at startup. kube-proxy has two more, for servers that cannot
/// listen when that is fatal, but it exits before they are sent.
fn events_at_start(mode: Mode, node: &str) -> Vec<NewEvent> {
    let event = |event_type, reason: &str, note: &str| {
        node_event(node, event_type, reason, "StartKubeProxy", note)
    };
    let mut events = vec![event(EventType::Normal, "Starting", "")];
    if mode.has_virtual_servers() {
        let warning = EventType::Warning;
        events.push(event(warning, "IPVSDeprecation", IPVS_DEPRECATED));
    }
    events
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::proxy::budget::Budget;
    use crate::proxy::schedule::{Schedule, Work};

    /// Arguments of `sluice proxy`, or a configuration file, with a minimum sync period of 7 s.
    fn seven_seconds() -> Vec<(String, Option<String>)> {
        let header = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        let file = |mode: &str| {
            Some(format!(
                "{header}mode: {mode}\n{mode}: {{minSyncPeriod: 7s}}"
            ))
        };
        let flags = |mode: &str| {
            let flag = if mode == "ipvs" { "ipvs" } else { "iptables" };
            format!("--proxy-mode={mode} --{flag}-min-sync-period=7s")
        };
        ["iptables", "nftables", "ipvs"]
            .into_iter()
            .flat_map(|mode| [(flags(mode), None), (String::new(), file(mode))])
            .collect()
    }

    #[test]
    fn the_minimum_sync_period_is_the_longest_delay_of_a_change() {
        for (flags, file) in seven_seconds() {
            let folder = tempfile::tempdir().unwrap();
            let mut args: Vec<String> = vec!["sluice".into(), "proxy".into()];
            args.extend(flags.split_whitespace().map(str::to_owned));
            if let Some(text) = &file {
                let path = folder.path().join("config.yaml");
                std::fs::write(&path, text).unwrap();
                args.push(format!("--config={}", path.display()));
            }
            let matches = crate::command().try_get_matches_from(args).unwrap();
            let matches = matches.subcommand_matches("proxy").unwrap();
            let config = Resolved::from_matches(matches, true).unwrap().config;

            // Far enough from the start of the clock for an overdrawn budget.
            let start = Instant::now() + Duration::from_secs(24 * 3600);
            let mut budget = Budget::new(start);
            let mut schedule = Schedule::new(intervals(&config), start);
            schedule.changed();
            schedule.due(&budget, start);
            schedule.started(start);
            schedule.succeeded(Work::Everything, start);
            budget.spend(Duration::from_secs(3600), start);
            schedule.changed();
            let delay = schedule.next(&budget) - start;
            assert_eq!(delay, Duration::from_secs(7), "{flags} {file:?}");
        }
    }

    #[test]
    fn deprecated_modes_are_announced_as_events_of_the_node() {
        let told = |mode| -> Vec<_> {
            let events = events_at_start(mode, "a").into_iter();
            events.map(|e| (e.event_type, e.reason)).collect()
        };
        let starting = (EventType::Normal, "Starting".to_owned());
        assert!(told(Mode::Nftables).iter().eq([&starting]));
        let deprecated = (EventType::Warning, "IPVSDeprecation".to_owned());
        assert_eq!(told(Mode::Ipvs), [starting, deprecated]);
    }
}
