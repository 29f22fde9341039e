//! Validation, as in kube-proxy (`pkg/proxy/apis/config/validation` of v1.36).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use model::{Cidr, IpFamily, Mode, family_of_net, parse_cidr, parse_ip};

use crate::file::{
    ClientConnectionConfiguration, ConntrackConfiguration, IpTablesConfiguration,
    IpvsConfiguration, LoggingConfiguration, NfTablesConfiguration,
};
use crate::{FieldError, GoDuration, KubeProxyConfiguration, gates};

/// The minor versions before those whose metrics are served.
const PREVIOUS_VERSIONS: [&str; 2] = ["1.35", "1.36"];

/// Keywords in `nodePortAddresses`.
const NODE_PORT_KEYWORDS: [&str; 3] = ["primary", "localhost", "all"];

/// Collects errors.
#[derive(Default)]
pub(crate) struct Errors(pub(crate) Vec<FieldError>);

impl Errors {
    fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.0.push(FieldError {
            field: field.into(),
            reason: reason.into(),
        });
    }

    fn not_negative(&mut self, field: &str, duration: GoDuration) {
        if duration.0 < 0 {
            self.add(field, format!("{duration} is negative"));
        }
    }

    fn above_zero(&mut self, field: &str, duration: GoDuration) {
        if duration.0 <= 0 {
            self.add(field, format!("{duration} is not above zero"));
        }
    }

    fn in_range(&mut self, field: &str, value: i32, range: std::ops::RangeInclusive<i32>) {
        if !range.contains(&value) {
            let (from, to) = range.into_inner();
            self.add(field, format!("{value} is out of range ({from} to {to})"));
        }
    }

    fn ranges(&mut self, field: &str, ranges: &[String]) {
        for (i, range) in ranges.iter().enumerate() {
            if parse_cidr(range).is_none() {
                self.add(
                    format!("{field}[{i}]"),
                    format!("{range:?} is not an address range"),
                );
            }
        }
    }
}

/// Parse an address with a port.
pub(crate) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let (host, port) = text
        .rsplit_once(':')
        .ok_or_else(|| format!("{text:?} is not IP:port"))?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host = match bare {
        Some(host) => host,
        None if host.contains(':') => return Err(format!("{text:?} is not IP:port")),
        None => host,
    };
    let ip = parse_ip(host).ok_or_else(|| format!("{host:?} is not an IP address"))?;
    let port: u16 = port
        .parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("{port:?} is not a port (1 to 65535)"))?;
    Ok(SocketAddr::new(ip, port))
}

/// Return the name of the block with the mode's sync periods.
pub(crate) fn sync_block(mode: Mode) -> &'static str {
    match mode {
        Mode::Ipvs => "ipvs",
        Mode::Nftables => "nftables",
        Mode::Iptables | Mode::Userspace => "iptables",
    }
}

/// Parse the mode of a file.
pub(crate) fn mode(text: &str) -> Result<Mode, FieldError> {
    if text.is_empty() {
        return Ok(Mode::Iptables);
    }
    text.parse().map_err(|_| FieldError {
        field: "mode".into(),
        reason: format!(
            "{text:?} is not one of {}",
            Mode::ALL.map(Mode::name).join(", ")
        ),
    })
}

/// Return all errors of a configuration with defaults.
///
/// Lists every field, so that a new one does not compile before it is validated, or accepted with
/// any value.
pub(crate) fn validate(config: &KubeProxyConfiguration) -> Errors {
    let KubeProxyConfiguration {
        bind_address,
        client_connection,
        config_sync_period,
        conntrack,
        detect_local: _, // with `detectLocalMode`
        detect_local_mode: _,
        cluster_cidr: _, // with `detectLocalMode`
        feature_gates,
        healthz_bind_address,
        hostname_override,
        iptables,
        ipvs,
        logging,
        metrics_bind_address,
        mode: stated_mode,
        nftables,
        node_port_addresses,
        oom_score_adj,
        show_hidden_metrics_for_version,
        // Any value is valid.
        api_version: _,
        kind: _,
        bind_address_hard_fail: _,
        enable_profiling: _,
        port_range: _,
        windows_run_as_service: _,
        winkernel: _,
    } = config;
    let mut errors = Errors::default();
    let e = &mut errors;
    let mode = match mode(stated_mode) {
        Ok(mode) => mode,
        Err(error) => {
            e.0.push(error);
            Mode::Iptables
        }
    };
    e.0.extend(gates::refused(feature_gates));
    if mode == Mode::Ipvs && !gates::has_ipvs(feature_gates) {
        e.add("mode", "ipvs is disabled by the feature gate KubeProxyIPVS");
    }
    mode_blocks(e, mode, iptables, ipvs, nftables);
    validate_conntrack(e, conntrack);
    e.in_range("oomScoreAdj", oom_score_adj.unwrap_or(-999), -1000..=1000);
    validate_client(e, client_connection);
    e.above_zero("configSyncPeriod", *config_sync_period);
    sync_periods(e, config, mode);
    if !hostname_override.is_empty() && hostname_override.trim().is_empty() {
        e.add("hostnameOverride", "is empty");
    }
    if parse_ip(bind_address).is_none() {
        let reason = format!("{bind_address:?} is not an IP address");
        e.add("bindAddress", reason);
    }
    serving_address(e, "healthzBindAddress", healthz_bind_address);
    serving_address(e, "metricsBindAddress", metrics_bind_address);
    node_ports(e, node_port_addresses.as_deref().unwrap_or_default());
    let version = show_hidden_metrics_for_version.as_str();
    if !version.is_empty() && !PREVIOUS_VERSIONS.contains(&version) {
        let reason = format!("{version:?} is not one of {}", PREVIOUS_VERSIONS.join(", "));
        e.add("showHiddenMetricsForVersion", reason);
    }
    local_traffic(e, config);
    validate_logging(e, logging, feature_gates);
    errors
}

/// Validate the blocks of the modes, except for their sync periods. Like kube-proxy, ignore those
/// of ipvs and nftables in other modes.
fn mode_blocks(
    e: &mut Errors,
    mode: Mode,
    iptables: &IpTablesConfiguration,
    ipvs: &IpvsConfiguration,
    nftables: &NfTablesConfiguration,
) {
    let IpTablesConfiguration {
        masquerade_bit,
        sync_period: _,
        min_sync_period: _,
        localhost_node_ports: _,
        masquerade_all: _,
    } = iptables;
    let bit = masquerade_bit.unwrap_or(14);
    e.in_range("iptables.masqueradeBit", bit, 0..=31);
    match mode {
        Mode::Ipvs => {
            let IpvsConfiguration {
                exclude_cidrs,
                tcp_timeout,
                tcp_fin_timeout,
                udp_timeout,
                sync_period: _,
                min_sync_period: _,
                scheduler: _,
                strict_arp: _,
            } = ipvs;
            e.not_negative("ipvs.tcpTimeout", *tcp_timeout);
            e.not_negative("ipvs.tcpFinTimeout", *tcp_fin_timeout);
            e.not_negative("ipvs.udpTimeout", *udp_timeout);
            let exclude = exclude_cidrs.as_deref().unwrap_or_default();
            e.ranges("ipvs.excludeCIDRs", exclude);
        }
        Mode::Nftables => {
            let NfTablesConfiguration {
                masquerade_bit,
                sync_period: _,
                min_sync_period: _,
                masquerade_all: _,
            } = nftables;
            let bit = masquerade_bit.unwrap_or(14);
            e.in_range("nftables.masqueradeBit", bit, 0..=31);
        }
        Mode::Iptables | Mode::Userspace => {}
    }
}

fn validate_client(e: &mut Errors, client: &ClientConnectionConfiguration) {
    let ClientConnectionConfiguration {
        burst,
        qps,
        // Any value is valid.
        accept_content_types: _,
        content_type: _,
        kubeconfig: _,
    } = client;
    e.in_range("clientConnection.burst", *burst, 0..=i32::MAX);
    if !qps.is_finite() {
        e.add("clientConnection.qps", "is not a number that fits");
    }
}

fn validate_conntrack(e: &mut Errors, conntrack: &ConntrackConfiguration) {
    let ConntrackConfiguration {
        max_per_core,
        min,
        tcp_established_timeout,
        tcp_close_wait_timeout,
        udp_timeout,
        udp_stream_timeout,
        tcp_be_liberal: _,
    } = conntrack;
    for (field, entries) in [("maxPerCore", max_per_core), ("min", min)] {
        let entries = entries.unwrap_or(0);
        e.in_range(&format!("conntrack.{field}"), entries, 0..=i32::MAX);
    }
    let established = tcp_established_timeout.unwrap_or_default();
    let close_wait = tcp_close_wait_timeout.unwrap_or_default();
    for (field, timeout) in [
        ("tcpEstablishedTimeout", established),
        ("tcpCloseWaitTimeout", close_wait),
        ("udpTimeout", *udp_timeout),
        ("udpStreamTimeout", *udp_stream_timeout),
    ] {
        e.not_negative(&format!("conntrack.{field}"), timeout);
    }
}

/// Return the resync period and the minimum sync period of a mode.
pub(crate) fn periods(config: &KubeProxyConfiguration, mode: Mode) -> (GoDuration, GoDuration) {
    match mode {
        Mode::Ipvs => (config.ipvs.sync_period, config.ipvs.min_sync_period),
        Mode::Nftables => (config.nftables.sync_period, config.nftables.min_sync_period),
        Mode::Iptables | Mode::Userspace => {
            (config.iptables.sync_period, config.iptables.min_sync_period)
        }
    }
}

fn sync_periods(e: &mut Errors, config: &KubeProxyConfiguration, mode: Mode) {
    let block = sync_block(mode);
    let (period, min_period) = periods(config, mode);
    e.above_zero(&format!("{block}.syncPeriod"), period);
    e.not_negative(&format!("{block}.minSyncPeriod"), min_period);
    if min_period > period {
        let reason = format!("{period} is less than {block}.minSyncPeriod ({min_period})");
        e.add(format!("{block}.syncPeriod"), reason);
    }
}

fn serving_address(e: &mut Errors, field: &str, address: &str) {
    if !address.is_empty()
        && let Err(reason) = socket_address(address)
    {
        e.add(field, reason);
    }
}

fn node_ports(e: &mut Errors, addresses: &[String]) {
    for (i, stated) in addresses.iter().enumerate() {
        if !NODE_PORT_KEYWORDS.contains(&stated.as_str()) && parse_cidr(stated).is_none() {
            let keywords = NODE_PORT_KEYWORDS.join(", ");
            e.add(
                format!("nodePortAddresses[{i}]"),
                format!("{stated:?} is neither an address range nor one of {keywords}"),
            );
        }
    }
}

/// Parse the ranges in `clusterCIDR`.
pub(crate) fn cluster_cidrs(config: &KubeProxyConfiguration) -> Result<Vec<Cidr>, FieldError> {
    let error = |reason: String| FieldError {
        field: "clusterCIDR".into(),
        reason,
    };
    if config.cluster_cidr.is_empty() {
        return Ok(Vec::new());
    }
    let ranges = config
        .cluster_cidr
        .split(',')
        .map(|s| parse_cidr(s).ok_or_else(|| error(format!("{s:?} is not an address range"))))
        .collect::<Result<Vec<_>, _>>()?;
    let of = |family| ranges.iter().filter(|r| family_of_net(r) == family).count();
    if IpFamily::ALL.into_iter().any(|family| of(family) > 1) {
        let reason = format!(
            "{:?} contains two ranges of one address family",
            config.cluster_cidr
        );
        return Err(error(reason));
    }
    Ok(ranges)
}

fn local_traffic(e: &mut Errors, config: &KubeProxyConfiguration) {
    let local = &config.detect_local;
    let (field, interface) = match config.detect_local_mode.as_str() {
        "" | "ClusterCIDR" => return e.0.extend(cluster_cidrs(config).err()),
        "NodeCIDR" => return,
        "BridgeInterface" => ("detectLocal.bridgeInterface", &local.bridge_interface),
        "InterfaceNamePrefix" => (
            "detectLocal.interfaceNamePrefix",
            &local.interface_name_prefix,
        ),
        other => {
            let reason = format!(
                "{other:?} is not a mode (ClusterCIDR, NodeCIDR, BridgeInterface or \
                 InterfaceNamePrefix)"
            );
            return e.add("detectLocalMode", reason);
        }
    };
    if interface.is_empty() {
        let reason = format!(
            "is required if detectLocalMode is {}",
            config.detect_local_mode
        );
        e.add(field, reason);
    } else if interface.len() > 15
        || interface.contains(|c: char| !c.is_ascii_graphic() || c == '/')
    {
        // The kernel's rule (`dev_valid_name`); no rule could name such an interface.
        e.add(
            field,
            format!("{interface:?} is not the name of an interface"),
        );
    }
}

fn validate_logging(
    e: &mut Errors,
    logging: &LoggingConfiguration,
    feature_gates: &BTreeMap<String, bool>,
) {
    let LoggingConfiguration {
        flush_frequency,
        format,
        options,
        verbosity,
        vmodule,
    } = logging;
    e.above_zero("logging.flushFrequency", flush_frequency.0);
    let format = format.as_str();
    let on = |gate, stage| gates::is_on(feature_gates, gate, stage);
    if !matches!(format, "text" | "json") {
        e.add(
            "logging.format",
            format!("{format:?} is not a format (text or json)"),
        );
    } else if format == "json" && !on("LoggingBetaOptions", gates::Stage::Beta) {
        e.add(
            "logging.format",
            "needs the feature gate LoggingBetaOptions",
        );
    }
    let too_high = |level: u32| i32::try_from(level).is_err();
    if too_high(*verbosity) {
        let reason = format!("{verbosity} is out of range (0 to {})", i32::MAX);
        e.add("logging.verbosity", reason);
    }
    if !vmodule.is_empty() && format != "text" {
        e.add("logging.vmodule", "is for the format text only");
    }
    for (i, item) in vmodule.iter().enumerate() {
        let field = format!("logging.vmodule[{i}]");
        if item.file_pattern.is_empty() || item.file_pattern.contains(['=', ',']) {
            e.add(
                &field,
                format!("{:?} is not a pattern for file names", item.file_pattern),
            );
        }
        if too_high(item.verbosity) {
            e.add(
                field,
                format!("{} is out of range (0 to {})", item.verbosity, i32::MAX),
            );
        }
    }
    let alpha = on("LoggingAlphaOptions", gates::Stage::Alpha);
    for (name, options) in [("text", &options.text), ("json", &options.json)] {
        let field = |field| format!("logging.options.{name}.{field}");
        let off = "needs the feature gate LoggingAlphaOptions";
        if options.split_stream && !alpha {
            e.add(field("splitStream"), off);
        }
        match options.info_buffer_size.bytes() {
            None => {
                let reason = format!("{:?} is not a number of bytes", options.info_buffer_size.0);
                e.add(field("infoBufferSize"), reason);
            }
            Some(0) => {}
            Some(_) if alpha => {}
            Some(_) => e.add(field("infoBufferSize"), off),
        }
    }
}
