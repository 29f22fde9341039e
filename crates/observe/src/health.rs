//! Health of the proxy, for `/healthz` and `/livez`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use model::IpFamily;
use serde::Serialize;

/// State of this node's Node object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeEligibility {
    /// The Node exists and stays.
    Eligible,
    /// The Node is absent, being deleted, or tainted `ToBeDeletedByClusterAutoscaler` (KEP-3836).
    Ineligible,
}

/// The health of the proxy over time. It reads no clock: `now` is an argument.
///
/// A family is unhealthy if a change has waited longer than the timeout. A family before its first
/// sync is healthy: it is starting up.
#[derive(Debug)]
pub struct Health {
    timeout: Duration,
    node: NodeEligibility,
    families: BTreeMap<IpFamily, FamilyHealth>,
}

#[derive(Debug, Default)]
struct FamilyHealth {
    synced: Option<SystemTime>,
    waiting_since: Option<Instant>,
}

/// The body of `/healthz` and `/livez`. Field names and order are kube-proxy's.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthReport {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<String, FamilyReport>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyReport {
    last_updated: String,
    healthy: bool,
}

impl HealthReport {
    /// Return whether every family is healthy.
    pub fn healthy(&self) -> bool {
        self.healthy
    }

    /// Return whether `/healthz` answers 200: the proxy is healthy and the Node stays.
    pub fn serving(&self) -> bool {
        self.healthy && self.node_eligible != Some(false)
    }
}

impl Health {
    /// Return the health at startup. A change may wait for `timeout`; upstream uses twice the sync
    /// period.
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            node: NodeEligibility::Eligible,
            families: BTreeMap::new(),
        }
    }

    /// Record that a change waits for the kernel.
    pub fn queued(&mut self, family: IpFamily, now: Instant) {
        let state = self.families.entry(family).or_default();
        state.waiting_since.get_or_insert(now);
    }

    /// Record that the kernel has all changes.
    pub fn synced(&mut self, family: IpFamily, wall: SystemTime) {
        self.families.insert(
            family,
            FamilyHealth {
                synced: Some(wall),
                waiting_since: None,
            },
        );
    }

    /// Set the state of the Node object.
    pub fn set_node(&mut self, node: NodeEligibility) {
        self.node = node;
    }

    /// Return whether every family is healthy.
    pub fn is_healthy(&self, now: Instant) -> bool {
        self.families.values().all(|f| self.in_time(f, now))
    }

    fn in_time(&self, family: &FamilyHealth, now: Instant) -> bool {
        match (family.synced, family.waiting_since) {
            (Some(_), Some(since)) => now.saturating_duration_since(since) < self.timeout,
            _ => true,
        }
    }

    /// Return the body of `/healthz` (`with_node`) or `/livez`.
    pub fn report(&self, now: Instant, wall: SystemTime, with_node: bool) -> HealthReport {
        let healthy = self.is_healthy(now);
        let eligible = self.node == NodeEligibility::Eligible;
        let latest = self.families.values().filter_map(|f| f.synced).max();
        // While healthy, upstream reports the time of the request, for compatibility with older
        // releases.
        let last_updated = if healthy && (eligible || !with_node) {
            Some(wall)
        } else {
            latest
        };
        HealthReport {
            last_updated: timestamp(last_updated),
            current_time: timestamp(Some(wall)),
            node_eligible: with_node.then_some(eligible),
            healthy,
            status: self
                .families
                .iter()
                .filter_map(|(family, state)| {
                    let report = FamilyReport {
                        last_updated: timestamp(Some(state.synced?)),
                        healthy: self.in_time(state, now),
                    };
                    Some((family.to_string(), report))
                })
                .collect(),
        }
    }
}

/// Format a time as in RFC 3339; `None` is Go's zero time.
fn timestamp(time: Option<SystemTime>) -> String {
    time.map_or_else(
        || "0001-01-01T00:00:00Z".to_owned(),
        |t| humantime::format_rfc3339_nanos(t).to_string(),
    )
}

/// State of one Service's health-check port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceHealth {
    /// `healthCheckNodePort`.
    pub port: u16,
    /// Number of ready endpoints on this node over IPv4 and over IPv6; `None` if the Service lacks
    /// the family.
    pub local_endpoints: [Option<usize>; 2],
}

impl ServiceHealth {
    /// Return the number of local endpoints that a check over `family` reports.
    ///
    /// A dual-stack Service answers per family if `both_listen`: checks can arrive over either
    /// family. In all other cases the larger number counts.
    pub fn count(&self, family: IpFamily, both_listen: bool) -> usize {
        let [v4, v6] = self.local_endpoints;
        match (v4, v6, family) {
            (Some(count), Some(_), IpFamily::V4) | (Some(_), Some(count), IpFamily::V6)
                if both_listen =>
            {
                count
            }
            _ => v4.max(v6).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dual_stack_services_answer_per_family() {
        let health = |v4, v6| ServiceHealth {
            port: 1,
            local_endpoints: [v4, v6],
        };
        let counts =
            |health: ServiceHealth, both| IpFamily::ALL.map(|family| health.count(family, both));
        assert_eq!(counts(health(Some(0), Some(2)), true), [0, 2]);
        assert_eq!(counts(health(Some(1), Some(0)), true), [1, 0]);
        // Checks arrive over one family only, or the Service has one family.
        assert_eq!(counts(health(Some(0), Some(2)), false), [2, 2]);
        assert_eq!(counts(health(Some(3), None), true), [3, 3]);
        assert_eq!(counts(health(None, Some(3)), true), [3, 3]);
    }

    const TIMEOUT: Duration = Duration::from_secs(60);

    #[test]
    fn health_is_ok_while_starting_up() {
        let mut health = Health::new(TIMEOUT);
        let start = Instant::now();
        health.queued(IpFamily::V4, start);
        let report = health.report(start + 10 * TIMEOUT, SystemTime::now(), true);
        assert!(report.serving());
        assert!(report.status.is_empty());
    }

    #[test]
    fn health_fails_once_a_change_has_waited_too_long() {
        let mut health = Health::new(TIMEOUT);
        let start = Instant::now();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        health.synced(IpFamily::V4, wall);
        health.synced(IpFamily::V6, wall);
        health.queued(IpFamily::V4, start);
        // A second change does not restart the wait.
        health.queued(IpFamily::V4, start + TIMEOUT / 2);
        assert!(health.is_healthy(start + TIMEOUT - Duration::from_millis(1)));
        let late = health.report(start + TIMEOUT, wall + TIMEOUT, false);
        assert_eq!(
            serde_json::to_string(&late).unwrap(),
            r#"{"lastUpdated":"2001-09-09T01:46:40.000000000Z","currentTime":"2001-09-09T01:47:40.000000000Z","healthy":false,"status":{"IPv4":{"lastUpdated":"2001-09-09T01:46:40.000000000Z","healthy":false},"IPv6":{"lastUpdated":"2001-09-09T01:46:40.000000000Z","healthy":true}}}"#
        );
        health.synced(IpFamily::V4, wall);
        assert!(health.is_healthy(start + 10 * TIMEOUT));
    }

    #[test]
    fn a_node_being_deleted_fails_healthz_but_not_livez() {
        let mut health = Health::new(TIMEOUT);
        health.synced(IpFamily::V4, SystemTime::now());
        health.set_node(NodeEligibility::Ineligible);
        let now = Instant::now();
        assert!(!health.report(now, SystemTime::now(), true).serving());
        assert!(health.report(now, SystemTime::now(), false).serving());
    }
}
