//! KubeProxyConfiguration `kubeproxy.config.k8s.io/v1alpha1`, field by field.

mod decode;
mod defaults;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ConfigError, FieldError, GoDuration};
pub use decode::{FlushFrequency, Quantity};
pub(crate) use defaults::append_port;

/// The `apiVersion` of the file.
pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// The `kind` of the file.
pub const KIND: &str = "KubeProxyConfiguration";

/// The configuration as a file states it; empty strings, zeros and `None` are what is not stated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Where upstream's name says it all.
pub struct KubeProxyConfiguration {
    /// [`API_VERSION`].
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// [`KIND`].
    pub kind: String,
    /// The node's primary address; which is its only meaning.
    #[serde(rename = "bindAddress")]
    pub bind_address: String,
    /// Exit if a server's address cannot be bound.
    #[serde(rename = "bindAddressHardFail")]
    pub bind_address_hard_fail: bool,
    #[serde(rename = "clientConnection")]
    pub client_connection: ClientConnectionConfiguration,
    /// The pods' ranges, comma-separated; for ClusterCIDR.
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: String,
    /// How often objects are taken from the API server anew.
    #[serde(rename = "configSyncPeriod")]
    pub config_sync_period: GoDuration,
    #[serde(rename = "conntrack")]
    pub conntrack: ConntrackConfiguration,
    #[serde(rename = "detectLocal")]
    pub detect_local: DetectLocalConfiguration,
    /// How traffic of this node's pods is recognised.
    #[serde(rename = "detectLocalMode")]
    pub detect_local_mode: String,
    /// Offer `/debug/pprof`.
    #[serde(rename = "enableProfiling")]
    pub enable_profiling: bool,
    #[serde(rename = "featureGates", skip_serializing_if = "BTreeMap::is_empty")]
    pub feature_gates: BTreeMap<String, bool>,
    /// Where `/healthz` and `/livez` are.
    #[serde(rename = "healthzBindAddress")]
    pub healthz_bind_address: String,
    /// The Node's name; empty: the host's.
    #[serde(rename = "hostnameOverride")]
    pub hostname_override: String,
    #[serde(rename = "iptables")]
    pub iptables: IpTablesConfiguration,
    #[serde(rename = "ipvs")]
    pub ipvs: IpvsConfiguration,
    #[serde(rename = "logging")]
    pub logging: LoggingConfiguration,
    /// Where `/metrics` is.
    #[serde(rename = "metricsBindAddress")]
    pub metrics_bind_address: String,
    /// `iptables`, `ipvs`, `nftables` or `userspace`; empty: iptables.
    #[serde(rename = "mode")]
    pub mode: String,
    #[serde(rename = "nftables")]
    pub nftables: NfTablesConfiguration,
    /// Ranges of the local addresses that answer for NodePorts, or `primary`.
    #[serde(rename = "nodePortAddresses")]
    pub node_port_addresses: Option<Vec<String>>,
    /// The process's standing with the kernel's out-of-memory killer.
    #[serde(rename = "oomScoreAdj")]
    pub oom_score_adj: Option<i32>,
    /// Without effect, upstream too.
    #[serde(rename = "portRange")]
    pub port_range: String,
    /// Show the metrics that were hidden since this version.
    #[serde(rename = "showHiddenMetricsForVersion")]
    pub show_hidden_metrics_for_version: String,
    /// For Windows; without effect here.
    #[serde(
        rename = "windowsRunAsService",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub windows_run_as_service: bool,
    #[serde(rename = "winkernel")]
    pub winkernel: WinkernelConfiguration,
}

/// `clientConnection`: how to talk to the API server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Where upstream's name says it all.
pub struct ClientConnectionConfiguration {
    /// Content types to accept; empty: what `contentType` says.
    #[serde(rename = "acceptContentTypes")]
    pub accept_content_types: String,
    /// Requests allowed beyond `qps` for a short while.
    #[serde(rename = "burst")]
    pub burst: i32,
    /// Content type of requests.
    #[serde(rename = "contentType")]
    pub content_type: String,
    /// Path of a kubeconfig file; empty: in-cluster configuration.
    #[serde(rename = "kubeconfig")]
    pub kubeconfig: String,
    /// Requests a second; negative: without bound.
    #[serde(rename = "qps")]
    pub qps: f32,
}

/// `conntrack`: sysctls of connection tracking.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Where upstream's name says it all.
pub struct ConntrackConfiguration {
    /// Entries for each CPU core; 0 leaves the limit as it is.
    #[serde(rename = "maxPerCore")]
    pub max_per_core: Option<i32>,
    /// Entries at least, however few cores there are.
    #[serde(rename = "min")]
    pub min: Option<i32>,
    /// Do not mark out-of-window TCP packets invalid.
    #[serde(rename = "tcpBeLiberal")]
    pub tcp_be_liberal: bool,
    /// For TCP connections in CLOSE_WAIT.
    #[serde(rename = "tcpCloseWaitTimeout")]
    pub tcp_close_wait_timeout: Option<GoDuration>,
    /// For idle TCP connections; 0 leaves it as it is.
    #[serde(rename = "tcpEstablishedTimeout")]
    pub tcp_established_timeout: Option<GoDuration>,
    /// For ASSURED UDP flows; 0 leaves it as it is.
    #[serde(rename = "udpStreamTimeout")]
    pub udp_stream_timeout: GoDuration,
    /// For UNREPLIED UDP flows; 0 leaves it as it is.
    #[serde(rename = "udpTimeout")]
    pub udp_timeout: GoDuration,
}

/// `detectLocal`: what belongs to `detectLocalMode`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Where upstream's name says it all.
pub struct DetectLocalConfiguration {
    /// For BridgeInterface.
    #[serde(rename = "bridgeInterface")]
    pub bridge_interface: String,
    /// For InterfaceNamePrefix.
    #[serde(rename = "interfaceNamePrefix")]
    pub interface_name_prefix: String,
}

/// `iptables`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Where upstream's name says it all.
pub struct IpTablesConfiguration {
    /// Whether NodePorts answer on IPv4 loopback.
    #[serde(rename = "localhostNodePorts")]
    pub localhost_node_ports: Option<bool>,
    /// Masquerade everything that goes to a cluster IP.
    #[serde(rename = "masqueradeAll")]
    pub masquerade_all: bool,
    /// The bit of the packet mark that asks for masquerading.
    #[serde(rename = "masqueradeBit")]
    pub masquerade_bit: Option<i32>,
    /// At least this long from one sync to the next.
    #[serde(rename = "minSyncPeriod")]
    pub min_sync_period: GoDuration,
    /// How often everything is looked over.
    #[serde(rename = "syncPeriod")]
    pub sync_period: GoDuration,
}

/// `ipvs`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Where upstream's name says it all.
pub struct IpvsConfiguration {
    /// Ranges whose virtual servers are left alone in clean-up.
    #[serde(rename = "excludeCIDRs")]
    pub exclude_cidrs: Option<Vec<String>>,
    /// At least this long from one sync to the next.
    #[serde(rename = "minSyncPeriod")]
    pub min_sync_period: GoDuration,
    /// The scheduler; empty: round robin.
    #[serde(rename = "scheduler")]
    pub scheduler: String,
    /// Set arp_ignore and arp_announce.
    #[serde(rename = "strictARP")]
    pub strict_arp: bool,
    /// How often everything is looked over.
    #[serde(rename = "syncPeriod")]
    pub sync_period: GoDuration,
    /// For TCP connections after a FIN; 0 leaves it as it is.
    #[serde(rename = "tcpFinTimeout")]
    pub tcp_fin_timeout: GoDuration,
    /// For idle TCP connections; 0 leaves it as it is.
    #[serde(rename = "tcpTimeout")]
    pub tcp_timeout: GoDuration,
    /// For UDP flows; 0 leaves it as it is.
    #[serde(rename = "udpTimeout")]
    pub udp_timeout: GoDuration,
}

/// `nftables`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Where upstream's name says it all.
pub struct NfTablesConfiguration {
    /// Masquerade everything that goes to a cluster IP.
    #[serde(rename = "masqueradeAll")]
    pub masquerade_all: bool,
    /// The bit of the packet mark that asks for masquerading.
    #[serde(rename = "masqueradeBit")]
    pub masquerade_bit: Option<i32>,
    /// At least this long from one sync to the next.
    #[serde(rename = "minSyncPeriod")]
    pub min_sync_period: GoDuration,
    /// How often everything is looked over.
    #[serde(rename = "syncPeriod")]
    pub sync_period: GoDuration,
}

/// `winkernel`: for Windows; without effect here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Where upstream's name says it all.
pub struct WinkernelConfiguration {
    #[serde(rename = "enableDSR")]
    pub enable_dsr: bool,
    #[serde(rename = "forwardHealthCheckVip")]
    pub forward_health_check_vip: bool,
    #[serde(rename = "networkName")]
    pub network_name: String,
    #[serde(rename = "rootHnsEndpointName")]
    pub root_hns_endpoint_name: String,
    #[serde(rename = "sourceVip")]
    pub source_vip: String,
}

/// `logging`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Where upstream's name says it all.
pub struct LoggingConfiguration {
    /// How long messages may be held back.
    #[serde(rename = "flushFrequency")]
    pub flush_frequency: FlushFrequency,
    /// `text` or `json`.
    #[serde(rename = "format")]
    pub format: String,
    /// Of each format.
    #[serde(rename = "options")]
    pub options: FormatOptions,
    /// Messages up to this level are written.
    #[serde(rename = "verbosity")]
    pub verbosity: u32,
    /// Other levels for some source files.
    #[serde(rename = "vmodule", skip_serializing_if = "Vec::is_empty")]
    pub vmodule: Vec<VModuleItem>,
}

/// One of `logging.vmodule`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Where upstream's name says it all.
pub struct VModuleItem {
    /// Which source files; `*` and `?` are wildcards.
    #[serde(rename = "filePattern")]
    pub file_pattern: String,
    /// Their level.
    #[serde(rename = "verbosity")]
    pub verbosity: u32,
}

/// `logging.options`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Where upstream's name says it all.
pub struct FormatOptions {
    /// Of the format `json`.
    #[serde(rename = "json")]
    pub json: OutputRoutingOptions,
    /// Of the format `text`.
    #[serde(rename = "text")]
    pub text: OutputRoutingOptions,
}

/// `logging.options.json` or `.text`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Where upstream's name says it all.
pub struct OutputRoutingOptions {
    /// How many bytes of messages may be held back.
    #[serde(rename = "infoBufferSize")]
    pub info_buffer_size: Quantity,
    /// Errors to stderr, everything else to stdout.
    #[serde(rename = "splitStream", skip_serializing_if = "std::ops::Not::not")]
    pub split_stream: bool,
}

impl KubeProxyConfiguration {
    /// Decode a file, without filling in defaults.
    ///
    /// Like kube-proxy, ignore unknown fields and all but the last of duplicate fields; return
    /// them beside the configuration.
    ///
    /// # Errors
    /// [`ConfigError::Decode`], with the first value of the wrong type.
    pub fn from_yaml_lenient(text: &str) -> Result<(Self, Vec<FieldError>), ConfigError> {
        decode::from_yaml(text).map_err(|error| ConfigError::Decode {
            path: None,
            errors: vec![error],
        })
    }

    /// Decode a file strictly: unknown and duplicate fields are errors.
    ///
    /// # Errors
    /// [`ConfigError::Decode`], with all unknown and duplicate fields, or the first value of the
    /// wrong type.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        match Self::from_yaml_lenient(text)? {
            (file, ignored) if ignored.is_empty() => Ok(file),
            (_, errors) => Err(ConfigError::Decode { path: None, errors }),
        }
    }

    /// As a file, its fields in alphabetical order, as `kube-proxy --write-config-to` writes it.
    pub fn to_yaml(&self) -> String {
        decode::to_yaml(self)
    }
}
