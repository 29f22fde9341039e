//! Resolution of flags and file into the struct that the rest of sluice reads.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgMatches;
use model::{Cidr, LocalTraffic, Mode, NodePortAddresses, parse_cidr, parse_ip};

use crate::file::append_port;
use crate::flags::{Draft, FLAGS, is_given};
use crate::gates::{self, Stage};
use crate::{ConfigError, FieldError, GoDuration, KubeProxyConfiguration, Quantity, validate};

/// The resolved command line.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The requested action.
    pub action: Action,
    /// The configuration for the action.
    pub config: Config,
    /// The file of `--config`; kube-proxy exits when it changes.
    pub config_file: Option<ConfigFile>,
    /// Warnings, one line each: ignored or deprecated flags, ignored fields, fields and feature
    /// gates without effect.
    pub notes: Vec<String>,
    /// Unknown and duplicate fields of the file, which are ignored.
    pub ignored: Vec<FieldError>,
}

/// A configuration file and its content at startup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    /// Its path.
    pub path: PathBuf,
    /// Its content.
    pub text: String,
}

/// The requested action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run the proxy.
    Run,
    /// `--init-only`: perform the privileged setup, and exit.
    InitOnly,
    /// `--cleanup`: remove all kernel state, and exit.
    Cleanup,
    /// `--write-config-to`: write [`Config::file`] there, and exit.
    WriteConfig(PathBuf),
    /// `--version`: print the version, and exit.
    Version {
        /// `--version=raw`.
        raw: bool,
    },
}

/// A configuration that has been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `mode`.
    pub mode: Mode,
    /// `hostnameOverride`, in lower case; `None` for the host name.
    pub node_name: Option<String>,
    /// `bindAddress`: the primary address of the node; unspecified if the Node object decides.
    pub bind_address: IpAddr,
    /// `healthzBindAddress`; `None` switches the server off.
    pub healthz_bind_address: Option<SocketAddr>,
    /// `metricsBindAddress`; `None` switches the server off.
    pub metrics_bind_address: Option<SocketAddr>,
    /// `bindAddressHardFail`.
    pub bind_address_hard_fail: bool,
    /// `enableProfiling`.
    pub enable_profiling: bool,
    /// Feature gate ComponentFlagz: serve `/flagz`.
    pub flagz: bool,
    /// Feature gate ComponentStatusz: serve `/statusz`.
    pub statusz: bool,
    /// `clientConnection` and `--master`.
    pub client: ClientConnection,
    /// `detectLocalMode` and its parameter.
    pub local_traffic: LocalTraffic,
    /// `masqueradeAll` of the mode.
    pub masquerade_all: bool,
    /// `masqueradeBit` of the mode, 0 to 31.
    pub masquerade_bit: u8,
    /// `iptables.localhostNodePorts`.
    pub localhost_node_ports: bool,
    /// Whether a flag or the file sets it explicitly.
    pub localhost_node_ports_stated: bool,
    /// `nodePortAddresses`.
    pub node_port_addresses: NodePortAddresses,
    /// `syncPeriod` of the mode; above zero.
    pub sync_period: Duration,
    /// `minSyncPeriod` of the mode; at most [`Config::sync_period`].
    pub min_sync_period: Duration,
    /// `configSyncPeriod`; above zero.
    pub config_sync_period: Duration,
    /// `oomScoreAdj`, -1000 to 1000.
    pub oom_score_adj: i32,
    /// `ipvs`.
    pub ipvs: Ipvs,
    /// `conntrack`.
    pub conntrack: Conntrack,
    /// Feature gate AllowServiceExternalIPs: serve external IPs.
    pub allow_external_ips: bool,
    /// `logging`.
    pub logging: Logging,
    /// All fields with defaults, as `/configz` shows them.
    pub file: KubeProxyConfiguration,
}

/// The connection to the API server.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientConnection {
    /// `--master`: overrides the address in the kubeconfig.
    pub master: Option<String>,
    /// Kubeconfig file; `None` for in-cluster configuration.
    pub kubeconfig: Option<PathBuf>,
    /// Accepted content types; `None` for `content_type`.
    pub accept_content_types: Option<String>,
    /// Content type of requests.
    pub content_type: String,
    /// Requests per second; negative for no limit.
    pub qps: f32,
    /// Requests that may exceed `qps` in a burst.
    pub burst: u32,
}

/// `ipvs`. A timeout of `None` keeps the kernel's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields' own names.
pub struct Ipvs {
    /// `rr` by default.
    pub scheduler: String,
    /// Address ranges whose virtual servers are never removed.
    pub exclude_cidrs: Vec<Cidr>,
    pub strict_arp: bool,
    pub tcp_timeout: Option<Duration>,
    pub tcp_fin_timeout: Option<Duration>,
    pub udp_timeout: Option<Duration>,
}

/// `conntrack`. A timeout of `None` keeps the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields' own names.
pub struct Conntrack {
    /// Entries per CPU core; `None` keeps the kernel's limit and ignores `min`.
    pub max_per_core: Option<u32>,
    /// Lower bound of the limit.
    pub min: u32,
    pub tcp_established_timeout: Option<Duration>,
    pub tcp_close_wait_timeout: Option<Duration>,
    pub tcp_be_liberal: bool,
    pub udp_timeout: Option<Duration>,
    pub udp_stream_timeout: Option<Duration>,
}

/// `logging`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// Text or JSON.
    pub format: LogFormat,
    /// Maximum time that buffered messages are held back; above zero.
    pub flush_frequency: Duration,
    /// Verbosity: messages up to this level are written.
    pub verbosity: u32,
    /// Verbosity of source files whose names match a pattern; the first match counts.
    pub vmodule: Vec<(String, u32)>,
    /// Output of the format in force.
    pub stream: LogStream,
}

/// `logging.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The formats' own names.
pub enum LogFormat {
    Text,
    Json,
}

/// `logging.options` of the format in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogStream {
    /// Write errors to stderr and everything else to stdout, instead of everything to stderr.
    pub split: bool,
    /// Buffer for messages other than errors in bytes; with `split`.
    pub info_buffer_size: u64,
}

impl Resolved {
    /// Resolve the arguments of a command that [`augment`](crate::augment) was applied to, and read
    /// the file of `--config`. `strict` turns unknown and duplicate fields of the file into errors.
    ///
    /// # Errors
    /// A file that cannot be read or decoded, or invalid values; all of them are named.
    pub fn from_matches(matches: &ArgMatches, strict: bool) -> Result<Self, ConfigError> {
        let mut draft = Draft::new();
        draft.apply(matches, |flag| flag.name == "config")?;
        let (mut notes, mut ignored) = (Vec::new(), Vec::new());
        let config_file = match draft.config.as_str() {
            "" => None,
            path => Some(ConfigFile::read(path.into())?),
        };
        let given = |name: &str| {
            let mut flags = FLAGS.iter().filter(|flag| flag.name == name);
            config_file.is_none() && flags.any(|flag| is_given(matches, flag))
        };
        let localhost_stated;
        if let Some(file) = &config_file {
            (draft.file, ignored) = file.decode(strict)?;
            notes.extend(ignored_note(&file.path, &ignored));
            localhost_stated = draft.file.iptables.localhost_node_ports.is_some();
            draft.file.set_defaults();
            // Patterns of the flag precede those of the file, so that they win.
            let vmodule = std::mem::take(&mut draft.file.logging.vmodule);
            draft.apply(matches, |flag| flag.beside_config)?;
            draft.file.logging.vmodule.extend(vmodule);
        } else {
            draft.apply(matches, |_| true)?;
            draft.settle();
            localhost_stated = given("iptables-localhost-nodeports");
        }
        for flag in FLAGS.iter().filter(|flag| is_given(matches, flag)) {
            if config_file.is_some() && !flag.beside_config {
                notes.push(format!(
                    "--{} is ignored because --config is given",
                    flag.name
                ));
            } else if let Some(instead) = flag.deprecated {
                notes.push(format!("--{} is deprecated; use {instead}", flag.name));
            }
        }
        if !draft.hostname_override.is_empty() {
            draft.file.hostname_override = lower_name(&draft.hostname_override)?;
        }
        if draft.file.mode.is_empty() || (config_file.is_none() && !given("proxy-mode")) {
            notes.push(NO_MODE.into());
        }
        let mut config = Config::from_file(draft.file)?;
        if given("cluster-cidr") && config.local_traffic == LocalTraffic::ClusterCidr(Vec::new()) {
            return Err(ConfigError::Flag {
                flag: "cluster-cidr",
                reason: "\"\" is not an address range".into(),
            });
        }
        config.localhost_node_ports_stated = localhost_stated;
        config.client.master = (!draft.master.is_empty()).then_some(draft.master);
        notes.extend(config.without_effect());
        let action = if let Some(version) = draft.version {
            Action::Version {
                raw: version == "raw",
            }
        } else if !draft.write_config_to.is_empty() {
            Action::WriteConfig(draft.write_config_to.into())
        } else if draft.cleanup {
            Action::Cleanup
        } else if draft.init_only {
            Action::InitOnly
        } else {
            Action::Run
        };
        Ok(Self {
            action,
            config,
            config_file,
            notes,
            ignored,
        })
    }
}

impl ConfigFile {
    fn read(path: PathBuf) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Self { path, text }),
            Err(error) => Err(ConfigError::Read { path, error }),
        }
    }

    /// Decode the file; return the ignored fields with it.
    fn decode(
        &self,
        strict: bool,
    ) -> Result<(KubeProxyConfiguration, Vec<FieldError>), ConfigError> {
        let decoded = if strict {
            KubeProxyConfiguration::from_yaml(&self.text).map(|file| (file, Vec::new()))
        } else {
            KubeProxyConfiguration::from_yaml_lenient(&self.text)
        };
        decoded.map_err(|error| match error {
            ConfigError::Decode { errors, .. } => ConfigError::Decode {
                path: Some(self.path.clone()),
                errors,
            },
            other => other,
        })
    }
}

/// The default mode applies.
const NO_MODE: &str = "mode is not set: using iptables; a later Kubernetes release changes the \
    default to nftables (KEP-5343), so set it";

/// Return the warning that lists all ignored fields of a file.
pub fn ignored_note(path: &Path, ignored: &[FieldError]) -> Option<String> {
    let fields: Vec<_> = ignored.iter().map(FieldError::to_string).collect();
    (!fields.is_empty()).then(|| {
        format!(
            "{}: ignored {}; --strict-config refuses such a file",
            path.display(),
            fields.join(", ")
        )
    })
}

fn lower_name(name: &str) -> Result<String, ConfigError> {
    match name.trim() {
        "" => Err(ConfigError::Flag {
            flag: "hostname-override",
            reason: "is empty".into(),
        }),
        name => Ok(name.to_lowercase()),
    }
}

impl Draft {
    /// Apply the flags without a field of their own to the file.
    fn settle(&mut self) {
        let ports = if self.write_config_to.is_empty() {
            (self.healthz_port, self.metrics_port)
        } else {
            // A file cannot switch a server off, so these flags are not written to one.
            let usual = Self::new();
            (usual.healthz_port, usual.metrics_port)
        };
        for (address, port) in [
            (&mut self.file.healthz_bind_address, ports.0),
            (&mut self.file.metrics_bind_address, ports.1),
        ] {
            match port {
                0 => address.clear(),
                _ => append_port(address, port),
            }
        }
        let file = &mut self.file;
        // Validation refuses an unknown mode later.
        let mode = validate::mode(&file.mode).unwrap_or(Mode::Iptables);
        let (all, period, min_period) = match mode {
            Mode::Nftables => (
                &mut file.nftables.masquerade_all,
                &mut file.nftables.sync_period,
                &mut file.nftables.min_sync_period,
            ),
            Mode::Ipvs => {
                // With flags, the defaults of the default mode apply.
                file.ipvs.min_sync_period = file.iptables.min_sync_period;
                (
                    &mut file.iptables.masquerade_all,
                    &mut file.ipvs.sync_period,
                    &mut file.ipvs.min_sync_period,
                )
            }
            Mode::Iptables | Mode::Userspace => (
                &mut file.iptables.masquerade_all,
                &mut file.iptables.sync_period,
                &mut file.iptables.min_sync_period,
            ),
        };
        *all |= self.masquerade_all;
        let (given, min_given) = match mode {
            Mode::Ipvs => (self.ipvs_sync_period, self.ipvs_min_sync_period),
            _ => (self.iptables_sync_period, self.iptables_min_sync_period),
        };
        *period = given.unwrap_or(*period);
        *min_period = min_given.unwrap_or(*min_period);
    }
}

impl Config {
    /// Validate a configuration and convert it to typed values; fill in defaults if absent.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], with every invalid field.
    pub fn from_file(mut file: KubeProxyConfiguration) -> Result<Self, ConfigError> {
        if file.api_version.is_empty() {
            file.set_defaults();
        }
        let errors = validate::validate(&file).0;
        if !errors.is_empty() {
            return Err(ConfigError::Invalid(errors));
        }
        let one = |error: FieldError| ConfigError::Invalid(vec![error]);
        let mode = validate::mode(&file.mode).map_err(one)?;
        settle_defaults(&mut file, mode);
        let (period, min_period) = validate::periods(&file, mode);
        // Validation refuses negative durations.
        let duration = |d: GoDuration| d.positive().unwrap_or_default();
        let (masquerade_all, masquerade_bit) = match mode {
            Mode::Nftables => (file.nftables.masquerade_all, file.nftables.masquerade_bit),
            _ => (file.iptables.masquerade_all, file.iptables.masquerade_bit),
        };
        let text = |s: &String| (!s.is_empty()).then(|| s.clone());
        let address = |s: &String| validate::socket_address(s).ok();
        let name = file.hostname_override.trim().to_lowercase();
        Ok(Self {
            mode,
            node_name: text(&name),
            bind_address: parse_ip(&file.bind_address).unwrap_or(IpAddr::from([0; 4])),
            healthz_bind_address: address(&file.healthz_bind_address),
            metrics_bind_address: address(&file.metrics_bind_address),
            bind_address_hard_fail: file.bind_address_hard_fail,
            enable_profiling: file.enable_profiling,
            flagz: gates::is_on(&file.feature_gates, "ComponentFlagz", Stage::Beta),
            statusz: gates::is_on(&file.feature_gates, "ComponentStatusz", Stage::Beta),
            client: ClientConnection {
                master: None,
                kubeconfig: text(&file.client_connection.kubeconfig).map(PathBuf::from),
                accept_content_types: text(&file.client_connection.accept_content_types),
                content_type: file.client_connection.content_type.clone(),
                qps: file.client_connection.qps,
                burst: u32::try_from(file.client_connection.burst).unwrap_or(0),
            },
            local_traffic: local_traffic(&file).map_err(one)?,
            masquerade_all,
            masquerade_bit: masquerade_bit
                .and_then(|b| u8::try_from(b).ok())
                .unwrap_or(14),
            localhost_node_ports: file.iptables.localhost_node_ports.unwrap_or(true)
                && (mode != Mode::Nftables
                    || gates::allows_nftables_localhost(&file.feature_gates)),
            localhost_node_ports_stated: false,
            node_port_addresses: node_port_addresses(&file),
            sync_period: duration(period),
            min_sync_period: duration(min_period),
            config_sync_period: duration(file.config_sync_period),
            oom_score_adj: file.oom_score_adj.unwrap_or(-999),
            ipvs: ipvs(&file),
            conntrack: conntrack(&file),
            allow_external_ips: file
                .feature_gates
                .get("AllowServiceExternalIPs")
                .copied()
                .unwrap_or(true),
            logging: logging(&file),
            file,
        })
    }

    /// Return one line for each setting without effect.
    fn without_effect(&self) -> Vec<String> {
        let mut lines: Vec<_> = self
            .file
            .feature_gates
            .keys()
            .filter(|gate| !gates::WITH_EFFECT.contains(&gate.as_str()))
            .map(|gate| format!("featureGates.{gate}: has no effect in sluice"))
            .collect();
        if !self.file.show_hidden_metrics_for_version.is_empty() {
            lines.push(
                "showHiddenMetricsForVersion: has no effect, Kubernetes 1.36 and 1.37 hide no \
                 metrics of kube-proxy"
                    .into(),
            );
        }
        if self.file.windows_run_as_service {
            lines.push("windowsRunAsService: has no effect on Linux".into());
        }
        if self.file.winkernel != crate::WinkernelConfiguration::default() {
            lines.push("winkernel: has no effect on Linux".into());
        }
        if !self.file.port_range.is_empty() {
            lines.push("portRange: has no effect, as in kube-proxy".into());
        }
        lines
    }
}

/// Fill in the defaults that depend on mode or platform. Like upstream, keep the sync periods of
/// the mode in force only.
fn settle_defaults(file: &mut KubeProxyConfiguration, mode: Mode) {
    file.mode = mode.name().into();
    let block = validate::sync_block(mode);
    for (of, period, min_period) in [
        (
            "iptables",
            &mut file.iptables.sync_period,
            &mut file.iptables.min_sync_period,
        ),
        (
            "ipvs",
            &mut file.ipvs.sync_period,
            &mut file.ipvs.min_sync_period,
        ),
        (
            "nftables",
            &mut file.nftables.sync_period,
            &mut file.nftables.min_sync_period,
        ),
    ] {
        if of != block {
            (*period, *min_period) = Default::default();
        }
    }
    if file.detect_local_mode.is_empty() {
        file.detect_local_mode = "ClusterCIDR".into();
    }
    let unset = file.node_port_addresses.as_ref().is_none_or(Vec::is_empty);
    if unset && mode == Mode::Nftables {
        file.node_port_addresses = Some(vec!["primary".into()]);
    }
}

fn local_traffic(file: &KubeProxyConfiguration) -> Result<LocalTraffic, FieldError> {
    let local = &file.detect_local;
    Ok(match file.detect_local_mode.as_str() {
        "NodeCIDR" => LocalTraffic::NodeCidr,
        "BridgeInterface" => LocalTraffic::BridgeInterface(local.bridge_interface.clone()),
        "InterfaceNamePrefix" => {
            LocalTraffic::InterfaceNamePrefix(local.interface_name_prefix.clone())
        }
        _ => LocalTraffic::ClusterCidr(validate::cluster_cidrs(file)?),
    })
}

fn node_port_addresses(file: &KubeProxyConfiguration) -> NodePortAddresses {
    match file.node_port_addresses.as_deref().unwrap_or_default() {
        [] => NodePortAddresses::All,
        stated if stated.iter().any(|s| s == "all") => NodePortAddresses::All,
        stated => {
            let mut ranges: Vec<Cidr> = stated.iter().filter_map(|r| parse_cidr(r)).collect();
            if stated.iter().any(|s| s == "localhost") {
                ranges.extend(LOOPBACK.iter().filter_map(|r| parse_cidr(r)));
            }
            match stated.iter().any(|s| s == "primary") {
                false => NodePortAddresses::Ranges(ranges),
                true if ranges.is_empty() => NodePortAddresses::Primary,
                true => NodePortAddresses::PrimaryAnd(ranges),
            }
        }
    }
}

/// The keyword `localhost` of `nodePortAddresses`.
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];

fn ipvs(file: &KubeProxyConfiguration) -> Ipvs {
    let ipvs = &file.ipvs;
    let exclude = ipvs.exclude_cidrs.as_deref().unwrap_or_default();
    Ipvs {
        scheduler: match ipvs.scheduler.as_str() {
            "" => "rr".into(),
            stated => stated.into(),
        },
        exclude_cidrs: exclude.iter().filter_map(|r| parse_cidr(r)).collect(),
        strict_arp: ipvs.strict_arp,
        tcp_timeout: ipvs.tcp_timeout.nonzero(),
        tcp_fin_timeout: ipvs.tcp_fin_timeout.nonzero(),
        udp_timeout: ipvs.udp_timeout.nonzero(),
    }
}

fn conntrack(file: &KubeProxyConfiguration) -> Conntrack {
    let conntrack = &file.conntrack;
    let number = |n: Option<i32>| n.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
    Conntrack {
        max_per_core: number(conntrack.max_per_core),
        min: number(conntrack.min).unwrap_or(0),
        tcp_established_timeout: conntrack
            .tcp_established_timeout
            .and_then(GoDuration::nonzero),
        tcp_close_wait_timeout: conntrack
            .tcp_close_wait_timeout
            .and_then(GoDuration::nonzero),
        tcp_be_liberal: conntrack.tcp_be_liberal,
        udp_timeout: conntrack.udp_timeout.nonzero(),
        udp_stream_timeout: conntrack.udp_stream_timeout.nonzero(),
    }
}

fn logging(file: &KubeProxyConfiguration) -> Logging {
    let logging = &file.logging;
    let (format, options) = match logging.format.as_str() {
        "json" => (LogFormat::Json, &logging.options.json),
        _ => (LogFormat::Text, &logging.options.text),
    };
    Logging {
        format,
        flush_frequency: logging.flush_frequency.0.positive().unwrap_or_default(),
        verbosity: logging.verbosity,
        vmodule: logging
            .vmodule
            .iter()
            .map(|item| (item.file_pattern.clone(), item.verbosity))
            .collect(),
        stream: LogStream {
            split: options.split_stream,
            info_buffer_size: Quantity::bytes(&options.info_buffer_size).unwrap_or(0),
        },
    }
}
