//! Defaults of absent fields (upstream's `v1alpha1` defaults).

use std::net::IpAddr;

use super::{API_VERSION, FlushFrequency, KIND, KubeProxyConfiguration, Quantity};
use crate::GoDuration;

const HEALTHZ_PORT: i32 = 10256;
const METRICS_PORT: i32 = 10249;

fn or_set<T: Default + PartialEq>(field: &mut T, default: T) {
    if *field == T::default() {
        *field = default;
    }
}

impl KubeProxyConfiguration {
    /// Return the configuration with all defaults.
    pub fn defaulted() -> Self {
        let mut config = Self::default();
        config.set_defaults();
        config
    }

    /// Fill in the defaults of absent fields.
    pub fn set_defaults(&mut self) {
        or_set(&mut self.api_version, API_VERSION.into());
        or_set(&mut self.kind, KIND.into());
        or_set(&mut self.bind_address, "0.0.0.0".into());
        // Validation refuses an invalid address later; upstream treats it as IPv6 here.
        let (any, loopback) = match model::parse_ip(&self.bind_address) {
            Some(IpAddr::V4(_)) => ("0.0.0.0", "127.0.0.1"),
            _ => ("::", "::1"),
        };
        or_set(&mut self.healthz_bind_address, any.into());
        or_set(&mut self.metrics_bind_address, loopback.into());
        append_port(&mut self.healthz_bind_address, HEALTHZ_PORT);
        append_port(&mut self.metrics_bind_address, METRICS_PORT);
        self.oom_score_adj.get_or_insert(-999);
        or_set(&mut self.config_sync_period, GoDuration::from_secs(15 * 60));

        let (period, min_period) = (GoDuration::from_secs(30), GoDuration::from_secs(1));
        or_set(&mut self.iptables.sync_period, period);
        or_set(&mut self.iptables.min_sync_period, min_period);
        self.iptables.localhost_node_ports.get_or_insert(true);
        self.iptables.masquerade_bit.get_or_insert(14);
        or_set(&mut self.ipvs.sync_period, period);
        or_set(&mut self.nftables.sync_period, period);
        or_set(&mut self.nftables.min_sync_period, min_period);
        self.nftables.masquerade_bit.get_or_insert(14);

        let conntrack = &mut self.conntrack;
        conntrack.max_per_core.get_or_insert(32 * 1024);
        conntrack.min.get_or_insert(128 * 1024);
        let (day, hour) = (GoDuration::from_secs(86_400), GoDuration::from_secs(3600));
        conntrack.tcp_established_timeout.get_or_insert(day);
        conntrack.tcp_close_wait_timeout.get_or_insert(hour);

        let client = &mut self.client_connection;
        or_set(
            &mut client.content_type,
            "application/vnd.kubernetes.protobuf".into(),
        );
        or_set(&mut client.qps, 5.0);
        or_set(&mut client.burst, 10);

        let logging = &mut self.logging;
        or_set(&mut logging.format, "text".into());
        or_set(
            &mut logging.flush_frequency,
            FlushFrequency(GoDuration::from_secs(5)),
        );
        for options in [&mut logging.options.json, &mut logging.options.text] {
            or_set(&mut options.info_buffer_size, Quantity("0".into()));
        }
    }
}

/// Append a port to an address without one; leave anything else to validation.
pub(crate) fn append_port(address: &mut String, port: i32) {
    match model::parse_ip(address) {
        Some(IpAddr::V6(_)) => *address = format!("[{address}]:{port}"),
        Some(IpAddr::V4(_)) => *address = format!("{address}:{port}"),
        None => {}
    }
}
