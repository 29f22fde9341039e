//! Validation, as in kube-proxy (`pkg/proxy/apis/config/validation` of v1.36).

use std::net::SocketAddr;

use model::{Cidr, IpFamily, Mode, family_of_net, parse_cidr, parse_ip};

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
pub(crate) fn validate(config: &KubeProxyConfiguration) -> Errors {
    let mut errors = Errors::default();
    let e = &mut errors;
    let mode = match mode(&config.mode) {
        Ok(mode) => mode,
        Err(error) => {
            e.0.push(error);
            Mode::Iptables
        }
    };
    e.0.extend(gates::refused(&config.feature_gates));
    if mode == Mode::Ipvs && !gates::has_ipvs(&config.feature_gates) {
        e.add("mode", "ipvs is disabled by the feature gate KubeProxyIPVS");
    }
    e.in_range(
        "iptables.masqueradeBit",
        config.iptables.masquerade_bit.unwrap_or(14),
        0..=31,
    );
    match mode {
        Mode::Ipvs => {
            e.not_negative("ipvs.tcpTimeout", config.ipvs.tcp_timeout);
            e.not_negative("ipvs.tcpFinTimeout", config.ipvs.tcp_fin_timeout);
            e.not_negative("ipvs.udpTimeout", config.ipvs.udp_timeout);
            let exclude = config.ipvs.exclude_cidrs.as_deref().unwrap_or_default();
            e.ranges("ipvs.excludeCIDRs", exclude);
        }
        Mode::Nftables => {
            let bit = config.nftables.masquerade_bit.unwrap_or(14);
            e.in_range("nftables.masqueradeBit", bit, 0..=31);
        }
        Mode::Iptables | Mode::Userspace => {}
    }
    conntrack(e, &config.conntrack);
    e.in_range(
        "oomScoreAdj",
        config.oom_score_adj.unwrap_or(-999),
        -1000..=1000,
    );
    e.in_range(
        "clientConnection.burst",
        config.client_connection.burst,
        0..=i32::MAX,
    );
    if !config.client_connection.qps.is_finite() {
        e.add("clientConnection.qps", "is not a number that fits");
    }
    e.above_zero("configSyncPeriod", config.config_sync_period);
    sync_periods(e, config, mode);
    let name = &config.hostname_override;
    if !name.is_empty() && name.trim().is_empty() {
        e.add("hostnameOverride", "is empty");
    }
    addresses(e, config);
    local_traffic(e, config);
    logging(e, config);
    errors
}

fn conntrack(e: &mut Errors, config: &crate::ConntrackConfiguration) {
    let at_least_zero = 0..=i32::MAX;
    e.in_range(
        "conntrack.maxPerCore",
        config.max_per_core.unwrap_or(0),
        at_least_zero.clone(),
    );
    e.in_range("conntrack.min", config.min.unwrap_or(0), at_least_zero);
    for (field, timeout) in [
        (
            "tcpEstablishedTimeout",
            config.tcp_established_timeout.unwrap_or_default(),
        ),
        (
            "tcpCloseWaitTimeout",
            config.tcp_close_wait_timeout.unwrap_or_default(),
        ),
        ("udpTimeout", config.udp_timeout),
        ("udpStreamTimeout", config.udp_stream_timeout),
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

fn addresses(e: &mut Errors, config: &KubeProxyConfiguration) {
    if parse_ip(&config.bind_address).is_none() {
        e.add(
            "bindAddress",
            format!("{:?} is not an IP address", config.bind_address),
        );
    }
    for (field, address) in [
        ("healthzBindAddress", &config.healthz_bind_address),
        ("metricsBindAddress", &config.metrics_bind_address),
    ] {
        if !address.is_empty()
            && let Err(reason) = socket_address(address)
        {
            e.add(field, reason);
        }
    }
    let node_ports = config.node_port_addresses.as_deref().unwrap_or_default();
    for (i, stated) in node_ports.iter().enumerate() {
        if !NODE_PORT_KEYWORDS.contains(&stated.as_str()) && parse_cidr(stated).is_none() {
            let keywords = NODE_PORT_KEYWORDS.join(", ");
            e.add(
                format!("nodePortAddresses[{i}]"),
                format!("{stated:?} is neither an address range nor one of {keywords}"),
            );
        }
    }
    let version = config.show_hidden_metrics_for_version.as_str();
    if !version.is_empty() && !PREVIOUS_VERSIONS.contains(&version) {
        let reason = format!("{version:?} is not one of {}", PREVIOUS_VERSIONS.join(", "));
        e.add("showHiddenMetricsForVersion", reason);
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

fn logging(e: &mut Errors, config: &KubeProxyConfiguration) {
    let logging = &config.logging;
    e.above_zero("logging.flushFrequency", logging.flush_frequency.0);
    let format = logging.format.as_str();
    let on = |gate, stage| gates::is_on(&config.feature_gates, gate, stage);
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
    if too_high(logging.verbosity) {
        let reason = format!("{} is out of range (0 to {})", logging.verbosity, i32::MAX);
        e.add("logging.verbosity", reason);
    }
    if !logging.vmodule.is_empty() && format != "text" {
        e.add("logging.vmodule", "is for the format text only");
    }
    for (i, item) in logging.vmodule.iter().enumerate() {
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
    let options = &logging.options;
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
