//! Health, metrics and health-check node ports after a sync.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use model::{IpFamily, Mode, NamespacedName};
use observe::{Server, ServiceHealth, family_label};
use plan::{HealthCheck, NodeFacts};

use super::driver::{Chain, SyncError};
use super::engine::{Observer, SyncReport};
use super::flows::Flows;
use super::schedule::Work;
use crate::socket::Board;
use crate::socket::status::{self, Time};

/// Reports what the engine did to health, metrics and connection tracking.
pub(crate) struct Reporter {
    server: Server,
    mode: Mode,
    /// Flows are found and removed off the sync path.
    flows: Flows,
    services: BTreeMap<NamespacedName, ServiceHealth>,
    /// The addresses on which health-check ports are open.
    addresses: BTreeMap<IpFamily, Vec<IpAddr>>,
    board: Board,
}

impl Reporter {
    /// Return a reporter for a server and a mode.
    pub(crate) fn new(server: Server, mode: Mode, flows: Flows, board: Board) -> Self {
        Self {
            server,
            mode,
            flows,
            services: BTreeMap::new(),
            addresses: BTreeMap::new(),
            board,
        }
    }

    /// Keep the status up to date.
    fn post(&self, report: &SyncReport<'_>) {
        let synced = report.synced;
        self.board.update_family(report.family, |family| {
            family.syncing = None;
            family.failing = None;
            family.synced = Some(status::Synced {
                at: Time::now(),
                work: report.work.name().to_owned(),
                took: milliseconds(report.ended.duration_since(report.started)),
            });
            if let Some(found) = synced.found.filter(|_| family.adopted.is_none()) {
                family.adopted = Some(status::Adopted {
                    found: found.origin.to_string(),
                    kept: found.kept,
                    written: found.written,
                });
            }
            family.rules = (!synced.rules.is_empty())
                .then(|| synced.rules.iter().map(|rules| rules.total).sum());
            family.refused = synced.quarantined.len();
            let refused = synced.quarantined.iter().take(status::MOST_REFUSED);
            family.refusals = refused
                .map(|((port, protocol), reason)| status::Refused {
                    port: port.to_string(),
                    protocol: protocol.upper().to_owned(),
                    reason: reason.to_string(),
                })
                .collect();
        });
    }

    fn durations(&self, report: &SyncReport<'_>) {
        let m = self.server.metrics();
        let label = [family_label(report.family)];
        let seconds = report.ended.duration_since(report.started).as_secs_f64();
        m.sync_duration.with_label_values(&label).observe(seconds);
        let kind = match report.work {
            Work::Changes => &m.sync_partial_duration,
            Work::Everything | Work::Check => &m.sync_full_duration,
        };
        kind.with_label_values(&label).observe(seconds);
        let now = since_epoch().as_secs_f64();
        m.sync_last_timestamp.with_label_values(&label).set(now);
        for trigger in &report.changes.triggers {
            // Exact: whole seconds since 1970 are far below 2^52.
            let latency = (now - *trigger as f64).max(0.0);
            m.network_programming_duration
                .with_label_values(&label)
                .observe(latency);
        }
    }

    fn counts(&self, report: &SyncReport<'_>) {
        let m = self.server.metrics();
        let family = family_label(report.family);
        let dropping = report.changes.dropping;
        for (policy, more) in [
            ("internal", dropping.internal),
            ("external", dropping.external),
        ] {
            m.no_local_endpoints
                .with_label_values(&[policy, family])
                .add(more);
        }
        for rules in &report.synced.rules {
            let labels = [rules.table, family];
            m.iptables_rules_total
                .with_label_values(&labels)
                .set(gauge(rules.total));
            m.iptables_rules_last
                .with_label_values(&labels)
                .set(gauge(rules.written));
        }
        m.nftables_cleanup_failures
            .with_label_values(&[family])
            .inc_by(report.synced.cleanup_failures);
        m.quarantined
            .with_label_values(&[family])
            .set(gauge(report.synced.quarantined.len()));
        m.endpoint_changes_pending.set(0);
        m.service_changes_pending.set(0);
    }

    /// Open health-check ports on the addresses that answer for NodePorts.
    fn health_addresses(&mut self, family: IpFamily, node: &NodeFacts) {
        let every = match family {
            IpFamily::V4 => IpAddr::from([0; 4]),
            IpFamily::V6 => IpAddr::from([0; 16]),
        };
        let ips = node.node_port_ips.clone();
        let ips = ips.unwrap_or_else(|| vec![every]);
        if self.addresses.get(&family) != Some(&ips) {
            self.addresses.insert(family, ips);
            let all = self.addresses.values().flatten().copied().collect();
            self.server.set_service_health_addresses(all);
        }
    }

    /// A Service has one health-check port; each family counts its own endpoints.
    fn service_health(
        &mut self,
        family: IpFamily,
        changes: &BTreeMap<NamespacedName, Option<HealthCheck>>,
    ) {
        let changed = changes.iter().map(|(name, check)| {
            let health = self.services.entry(name.clone()).or_default();
            health.local_endpoints[family as usize] = check.map(|check| check.local_ready);
            if let Some(check) = check {
                health.port = check.port.get();
            }
            let health = *health;
            if health.local_endpoints == [None, None] {
                self.services.remove(name);
                return (name.clone(), None);
            }
            (name.clone(), Some(health))
        });
        self.server.change_services(changed);
    }
}

impl Observer for Reporter {
    fn received(&mut self, services: usize, slices: usize) {
        let m = self.server.metrics();
        m.service_changes_total.inc_by(services as u64);
        m.endpoint_changes_total.inc_by(slices as u64);
        m.service_changes_pending.add(gauge(services));
        m.endpoint_changes_pending.add(gauge(slices));
    }

    /// Upstream counts these too: its informers deliver every object again.
    fn refreshed(&mut self, services: usize, slices: usize) {
        let m = self.server.metrics();
        m.service_changes_total.inc_by(services as u64);
        m.endpoint_changes_total.inc_by(slices as u64);
    }

    fn queued(&mut self, family: IpFamily, now: Instant) {
        self.server.queued(family, now);
        let gauge = &self.server.metrics().sync_last_queued_timestamp;
        gauge
            .with_label_values(&[family_label(family)])
            .set(since_epoch().as_secs_f64());
    }

    fn started(&mut self, family: IpFamily, work: Work) {
        self.board.update_family(family, |family| {
            family.syncing = Some(status::Syncing {
                since: Time::now(),
                work: work.name().to_owned(),
            });
        });
    }

    fn synced(&mut self, report: &mut SyncReport<'_>) {
        self.server.synced(report.family);
        self.post(report);
        self.durations(report);
        self.counts(report);
        self.health_addresses(report.family, report.node);
        self.service_health(report.family, &report.changes.health);
        let stale = std::mem::take(&mut report.changes.stale_flows);
        self.flows.delete(report.family, stale);
    }

    fn failed(&mut self, family: IpFamily, work: Work, error: &SyncError) {
        self.board.update_family(family, |family| {
            family.syncing = None;
            family.failing = Some(Chain(error).to_string());
        });
        let m = self.server.metrics();
        let label = [family_label(family)];
        match self.mode {
            Mode::Iptables | Mode::Ipvs => {
                m.iptables_restore_failures.with_label_values(&label).inc();
                if work == Work::Changes {
                    m.iptables_partial_restore_failures
                        .with_label_values(&label)
                        .inc();
                }
            }
            Mode::Nftables => m.nftables_sync_failures.with_label_values(&label).inc(),
            Mode::Userspace => {}
        }
    }
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
