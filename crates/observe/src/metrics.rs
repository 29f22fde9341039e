//! Metrics, with names, types, labels, help texts and buckets of kube-proxy v1.36.

use model::{IpFamily, Mode};
use prometheus::core::Collector as _;
use prometheus::{
    Counter, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder, linear_buckets,
};

/// Metrics that the same modes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    /// All modes.
    All,
    /// Modes that program the kernel and clean up connection tracking.
    Kernel,
    /// Modes that distinguish partial from full syncs.
    Partial,
    /// Modes that run `iptables-restore`.
    Restore,
    Iptables,
    Nftables,
}

/// Return the groups of metrics that a mode has.
fn groups(mode: Mode) -> &'static [Group] {
    match mode {
        Mode::Iptables => &[All, Kernel, Partial, Restore, Iptables],
        Mode::Ipvs => &[All, Kernel, Restore],
        Mode::Nftables => &[All, Kernel, Partial, Nftables],
        Mode::Userspace => &[All],
    }
}

/// Declares [`Metrics`] from one table: field, type, group of modes, constructor.
macro_rules! metrics {
    ($($(#[$doc:meta])* $field:ident: $type:ty, $group:expr, $make:expr;)+) => {
        /// All metrics. Clones share their values.
        #[derive(Clone)]
        pub struct Metrics {
            registry: Registry,
            names: Vec<String>,
            $($(#[$doc])* pub $field: $type,)+
        }

        impl Metrics {
            /// Return all metrics at zero; [`Metrics::text`] contains those of `mode`.
            ///
            /// # Errors
            ///
            /// A malformed name or label: an error in this file.
            pub fn new(mode: Mode) -> Result<Self, prometheus::Error> {
                let registry = Registry::new();
                let mut names = Vec::new();
                $(
                    let $field: $type = $make?;
                    if groups(mode).contains(&$group) {
                        names.extend($field.desc().iter().map(|desc| desc.fq_name.clone()));
                        registry.register(Box::new($field.clone()))?;
                    }
                )+
                Ok(Self { registry, names, $($field,)+ })
            }
        }
    };
}

use Group::{All, Iptables, Kernel, Nftables, Partial, Restore};

const FAMILY: &[&str] = &["ip_family"];
const REQUESTS: &[f64] = &[
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0,
];
const BUILD: &[&str] = &[
    "build_date",
    "compiler",
    "git_commit",
    "git_tree_state",
    "git_version",
    "go_version",
    "major",
    "minor",
    "platform",
];
const SYNC: &[f64] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096,
    8.192, 16.384,
];

metrics! {
    /// Duration of syncs.
    sync_duration: HistogramVec, All,
        histogram("sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds", SYNC);
    /// Duration of full syncs.
    sync_full_duration: HistogramVec, Partial,
        histogram("sync_full_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds for full resyncs", SYNC);
    /// Duration of syncs of changes only.
    sync_partial_duration: HistogramVec, Partial,
        histogram("sync_partial_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds for partial resyncs", SYNC);
    /// Time of the last complete sync.
    sync_last_timestamp: GaugeVec, All,
        gauges_f64("sync_proxy_rules_last_timestamp_seconds", "The last time proxy rules were successfully synced");
    /// Time of the last change.
    sync_last_queued_timestamp: GaugeVec, All,
        gauges_f64("sync_proxy_rules_last_queued_timestamp_seconds", "The last time a sync of proxy rules was queued");
    /// Time from the change of a pod or Service to the kernel, from the time stamps in slices.
    network_programming_duration: HistogramVec, All,
        histogram("network_programming_duration_seconds", "In Cluster Network Programming Latency in seconds", &programming_buckets()?);
    /// Endpoint changes that are not yet in the kernel.
    endpoint_changes_pending: IntGauge, All,
        gauge("sync_proxy_rules_endpoint_changes_pending", "Pending proxy rules Endpoint changes");
    /// Endpoint changes received.
    endpoint_changes_total: IntCounter, All,
        counter("sync_proxy_rules_endpoint_changes_total", "Cumulative proxy rules Endpoint changes");
    /// Service changes that are not yet in the kernel.
    service_changes_pending: IntGauge, All,
        gauge("sync_proxy_rules_service_changes_pending", "Pending proxy rules Service changes");
    /// Service changes received.
    service_changes_total: IntCounter, All,
        counter("sync_proxy_rules_service_changes_total", "Cumulative proxy rules Service changes");
    /// Service ports that drop traffic on this node, by policy.
    no_local_endpoints: IntGaugeVec, All,
        gauges("sync_proxy_rules_no_local_endpoints_total", "Number of services with a Local traffic policy and no endpoints", &["traffic_policy", "ip_family"]);
    /// Answers of `/healthz`.
    healthz_total: IntCounterVec, All,
        counters("proxy_healthz_total", "Cumulative proxy healthz HTTP status", &["code"]);
    /// Answers of `/livez`.
    livez_total: IntCounterVec, All,
        counters("proxy_livez_total", "Cumulative proxy livez HTTP status", &["code"]);
    /// Refused restores.
    iptables_restore_failures: IntCounterVec, Restore,
        counters("sync_proxy_rules_iptables_restore_failures_total", "Cumulative proxy iptables restore failures", FAMILY);
    /// Refused restores of changes only.
    iptables_partial_restore_failures: IntCounterVec, Iptables,
        counters("sync_proxy_rules_iptables_partial_restore_failures_total", "Cumulative proxy iptables partial restore failures", FAMILY);
    /// Rules in the kernel.
    iptables_rules_total: IntGaugeVec, Iptables,
        gauges("sync_proxy_rules_iptables_total", "Total number of iptables rules owned by kube-proxy", &["table", "ip_family"]);
    /// Rules in the last restore.
    iptables_rules_last: IntGaugeVec, Iptables,
        gauges("sync_proxy_rules_iptables_last", "Number of iptables rules written by kube-proxy in last sync", &["table", "ip_family"]);
    /// Refused transactions.
    nftables_sync_failures: IntCounterVec, Nftables,
        counters("sync_proxy_rules_nftables_sync_failures_total", "Cumulative proxy nftables sync failures", FAMILY);
    /// Refused deletions of unused objects.
    nftables_cleanup_failures: IntCounterVec, Nftables,
        counters("sync_proxy_rules_nftables_cleanup_failures_total", "Cumulative proxy nftables cleanup failures", FAMILY);
    /// Duration of the search for stale flows.
    conntrack_duration: HistogramVec, Kernel,
        histogram("conntrack_reconciler_sync_duration_seconds", "ReconcileConntrackFlowsLatency latency in seconds", SYNC);
    /// Removed stale flows.
    conntrack_deleted: IntCounterVec, Kernel,
        counters("conntrack_reconciler_deleted_entries_total", "Cumulative conntrack flows deleted by conntrack reconciler", FAMILY);
    /// Packets dropped by the INVALID rule, read from nfacct at each scrape.
    invalid_dropped: IntCounter, Iptables,
        counter("iptables_ct_state_invalid_dropped_packets_total", "packets dropped by iptables to work around conntrack problems");
    /// Packets to NodePorts on loopback, read from nfacct at each scrape.
    localhost_nodeports: IntCounter, Iptables,
        counter("iptables_localhost_nodeports_accepted_packets_total", "Number of packets accepted on nodeports of loopback interface");
    /// Build information, as labels.
    build_info: IntGaugeVec, All,
        IntGaugeVec::new(Opts::new("kubernetes_build_info", "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running."), BUILD);
    /// Requests to the API server.
    api_requests: IntCounterVec, All,
        IntCounterVec::new(Opts::new("rest_client_requests_total", "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host."), &["code", "host", "method"]);
    /// Latency of API requests, without watches.
    api_request_duration: HistogramVec, All,
        HistogramVec::new(HistogramOpts::new("rest_client_request_duration_seconds", "[ALPHA] Request latency in seconds. Broken down by verb, and host.").buckets(REQUESTS.to_vec()), &["host", "verb"]);
    /// Processor time used.
    process_cpu: Counter, All,
        Counter::new("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.");
    /// Open file descriptors.
    process_open_fds: Gauge, All,
        Gauge::new("process_open_fds", "Number of open file descriptors.");
    /// Limit of open file descriptors.
    process_max_fds: Gauge, All,
        Gauge::new("process_max_fds", "Maximum number of open file descriptors.");
    /// Resident memory.
    process_resident: Gauge, All,
        Gauge::new("process_resident_memory_bytes", "Resident memory size in bytes.");
    /// Virtual memory.
    process_virtual: Gauge, All,
        Gauge::new("process_virtual_memory_bytes", "Virtual memory size in bytes.");
    /// Limit of virtual memory.
    process_virtual_max: Gauge, All,
        Gauge::new("process_virtual_memory_max_bytes", "Maximum amount of virtual memory available in bytes.");
    /// Start time of the process.
    process_start: Gauge, All,
        Gauge::new("process_start_time_seconds", "Start time of the process since unix epoch in seconds.");
    /// Bytes received in the network namespace.
    process_received: Counter, All,
        Counter::new("process_network_receive_bytes_total", "Number of bytes received by the process over the network.");
    /// Bytes sent from the network namespace.
    process_sent: Counter, All,
        Counter::new("process_network_transmit_bytes_total", "Number of bytes sent by the process over the network.");
    /// sluice's own: quarantined Service ports, which the kernel refused.
    quarantined: IntGaugeVec, All,
        IntGaugeVec::new(Opts::new("sluice_quarantined_services", "Service ports that the kernel refused; each keeps its last accepted state and is tried again"), FAMILY);
    /// sluice's own: problems that the last verification found.
    verify_problems: IntGaugeVec, All,
        IntGaugeVec::new(Opts::new("sluice_verify_problems", "Services with a problem that the last verification of the rules found, by cause; 1 for a problem of the node"), &["cause"]);
    /// sluice's own: the time of the last verification. Without a label, so that it is absent before the first.
    verify_last_timestamp: GaugeVec, All,
        GaugeVec::new(Opts::new("sluice_verify_last_timestamp_seconds", "The last time the rules were verified"), &[]);
    /// sluice's own: restrictions that the process has put on itself.
    restrictions: IntGaugeVec, All,
        IntGaugeVec::new(Opts::new("sluice_process_restrictions", "Restrictions of the process: 1 in force, 0 not supported or refused"), &["restriction"]);
}

impl Metrics {
    /// Return the names of the mode's metrics, with or without samples.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Return the metrics in the Prometheus text format, version 0.0.4.
    ///
    /// # Errors
    ///
    /// A metric family with samples of another type: an error in this file.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// Return the label value of a family: `IPv4` or `IPv6`.
pub fn family_label(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "IPv4",
        IpFamily::V6 => "IPv6",
    }
}

fn opts(name: &str, help: &str) -> Opts {
    // Upstream's registry puts the stability level before each help text.
    Opts::new(format!("kubeproxy_{name}"), format!("[ALPHA] {help}"))
}

fn histogram(name: &str, help: &str, buckets: &[f64]) -> Result<HistogramVec, prometheus::Error> {
    let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
    HistogramVec::new(opts, FAMILY)
}

fn gauges_f64(name: &str, help: &str) -> Result<GaugeVec, prometheus::Error> {
    GaugeVec::new(opts(name, help), FAMILY)
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    IntGaugeVec::new(opts(name, help), labels)
}

fn gauge(name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    IntGauge::with_opts(opts(name, help))
}

fn counters(name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    IntCounterVec::new(opts(name, help), labels)
}

fn counter(name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    IntCounter::with_opts(opts(name, help))
}

/// Return 0.25 s and 0.5 s, every second to 59, every 5 s to 115, every 30 s to 300.
fn programming_buckets() -> Result<Vec<f64>, prometheus::Error> {
    Ok([
        linear_buckets(0.25, 0.25, 2)?,
        linear_buckets(1.0, 1.0, 59)?,
        linear_buckets(60.0, 5.0, 12)?,
        linear_buckets(120.0, 30.0, 7)?,
    ]
    .concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// Add a sample to every metric, so that those with labels appear.
    fn touch(m: &Metrics) {
        for vec in [
            &m.sync_duration,
            &m.sync_full_duration,
            &m.sync_partial_duration,
            &m.network_programming_duration,
            &m.conntrack_duration,
        ] {
            vec.with_label_values(&["IPv4"]).observe(0.1);
        }
        for vec in [&m.sync_last_timestamp, &m.sync_last_queued_timestamp] {
            vec.with_label_values(&["IPv4"]).set(1.0);
        }
        for vec in [
            &m.iptables_restore_failures,
            &m.iptables_partial_restore_failures,
            &m.nftables_sync_failures,
            &m.nftables_cleanup_failures,
            &m.conntrack_deleted,
        ] {
            vec.with_label_values(&["IPv4"]).inc();
        }
        for vec in [&m.iptables_rules_total, &m.iptables_rules_last] {
            vec.with_label_values(&["nat", "IPv4"]).set(1);
        }
        m.no_local_endpoints
            .with_label_values(&["internal", "IPv4"])
            .set(1);
        m.restrictions.with_label_values(&["seccomp"]).set(1);
        m.healthz_total.with_label_values(&["200"]).inc();
        m.livez_total.with_label_values(&["200"]).inc();
        m.build_info.with_label_values(&[""; 9]).set(1);
        m.api_requests.with_label_values(&["", "", ""]).inc();
        m.api_request_duration
            .with_label_values(&["", ""])
            .observe(0.1);
    }

    /// `name -> (type, help, label names)` of each family in the text format.
    fn families(text: &str) -> BTreeMap<String, (String, String, Vec<String>)> {
        let mut out: BTreeMap<String, (String, String, Vec<String>)> = BTreeMap::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                out.entry(name.to_owned()).or_default().1 = help.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                out.entry(name.to_owned()).or_default().0 = kind.to_owned();
            } else if let Some((name, rest)) = line.split_once('{') {
                let base = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|s| name.strip_suffix(s).filter(|n| out.contains_key(*n)))
                    .unwrap_or(name);
                let labels = &mut out.get_mut(base).unwrap().2;
                let (inside, _) = rest.rsplit_once('}').unwrap();
                for label in inside.split(',') {
                    let label = label.split('=').next().unwrap().to_owned();
                    if label != "le" && !labels.contains(&label) {
                        labels.push(label);
                    }
                }
                labels.sort();
            }
        }
        out
    }

    /// Metrics of kube-proxy that had no sample yet when a mode was recorded.
    const WITHOUT_SAMPLE: &[&str] = &[
        "network_programming_duration_seconds",
        "proxy_healthz_total",
        "proxy_livez_total",
        "sync_partial_proxy_rules_duration_seconds",
        "sync_proxy_rules_iptables_partial_restore_failures_total",
        "sync_proxy_rules_iptables_restore_failures_total",
        "sync_proxy_rules_nftables_cleanup_failures_total",
        "sync_proxy_rules_nftables_sync_failures_total",
    ];

    #[test]
    fn metric_families_equal_the_observed_ones() {
        // The metrics of every component of Kubernetes.
        let common = include_str!("../testdata/common.metrics");
        for (file, mode) in [
            ("iptables-default.metrics", Mode::Iptables),
            ("ipvs-default.metrics", Mode::Ipvs),
            ("nftables-default.metrics", Mode::Nftables),
        ] {
            let observed = observed::read(file);
            let observed = families(&(observed + common));
            let metrics = Metrics::new(mode).unwrap();
            touch(&metrics);
            let ours = families(&metrics.text().unwrap());
            for (name, (kind, help, labels)) in &observed {
                let (our_kind, our_help, our_labels) = ours
                    .get(name)
                    .unwrap_or_else(|| panic!("{file}: {name} is missing"));
                assert_eq!((our_kind, our_help), (kind, help), "{file}: {name}");
                // The recording omits values that vary between runs, and with them labels.
                if !labels.is_empty() {
                    assert_eq!(our_labels, labels, "{file}: {name}");
                }
            }
            let known = |name: &str| {
                observed.contains_key(name)
                    || name.starts_with("sluice_")
                    || WITHOUT_SAMPLE.contains(&name.trim_start_matches("kubeproxy_"))
            };
            let unknown: Vec<_> = metrics.names().filter(|name| !known(name)).collect();
            assert_eq!(unknown, [""; 0], "{file}: not a metric of kube-proxy");
        }
    }

    /// A mode has upstream's metrics, and sluice's own ones.
    #[test]
    fn each_mode_exposes_exactly_its_metrics() {
        const ALL: &str = "sync_proxy_rules_duration_seconds \
            sync_proxy_rules_last_queued_timestamp_seconds sync_proxy_rules_last_timestamp_seconds \
            sync_proxy_rules_endpoint_changes_pending sync_proxy_rules_endpoint_changes_total \
            sync_proxy_rules_service_changes_pending sync_proxy_rules_service_changes_total \
            proxy_healthz_total proxy_livez_total network_programming_duration_seconds \
            sync_proxy_rules_no_local_endpoints_total";
        const FULL: &str = "sync_full_proxy_rules_duration_seconds \
            sync_partial_proxy_rules_duration_seconds";
        const CONNTRACK: &str = "conntrack_reconciler_sync_duration_seconds \
            conntrack_reconciler_deleted_entries_total";
        const RESTORE: &str = "sync_proxy_rules_iptables_restore_failures_total";
        const IPTABLES: &str = "sync_proxy_rules_iptables_partial_restore_failures_total \
            sync_proxy_rules_iptables_total sync_proxy_rules_iptables_last \
            iptables_ct_state_invalid_dropped_packets_total \
            iptables_localhost_nodeports_accepted_packets_total";
        const NFTABLES: &str = "sync_proxy_rules_nftables_sync_failures_total \
            sync_proxy_rules_nftables_cleanup_failures_total";
        for (mode, groups) in [
            (
                Mode::Iptables,
                &[ALL, FULL, CONNTRACK, RESTORE, IPTABLES][..],
            ),
            (Mode::Nftables, &[ALL, FULL, CONNTRACK, NFTABLES]),
            (Mode::Ipvs, &[ALL, CONNTRACK, RESTORE]),
            (Mode::Userspace, &[ALL]),
        ] {
            let wanted = groups.iter().flat_map(|group| group.split_whitespace());
            let wanted: BTreeSet<_> = wanted.map(|name| format!("kubeproxy_{name}")).collect();
            let metrics = Metrics::new(mode).unwrap();
            let names = metrics
                .names()
                .filter(|name| name.starts_with("kubeproxy_"));
            let names: BTreeSet<_> = names.map(str::to_owned).collect();
            assert_eq!(names, wanted, "{mode}");
        }
    }

    #[test]
    fn programming_buckets_are_ascending() {
        let buckets = programming_buckets().unwrap();
        assert_eq!(buckets.len(), 80);
        assert!(buckets.windows(2).all(|w| w[0] < w[1]));
        assert_eq!((buckets[0], buckets[79]), (0.25, 300.0));
    }
}
