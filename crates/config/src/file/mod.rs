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

/// The configuration as written in a file. Empty strings, zeros and `None` stand for absent fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Where upstream's name says it all.
pub struct KubeProxyConfiguration {
    /// [`API_VERSION`].
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// [`KIND`].
    pub kind: String,
    /// Primary address of the node.
    #[serde(rename = "bindAddress")]
    pub bind_address: String,
    /// Exit if the health or metrics address cannot be bound.
    #[serde(rename = "bindAddressHardFail")]
    pub bind_address_hard_fail: bool,
    #[serde(rename = "clientConnection")]
    pub client_connection: ClientConnectionConfiguration,
    /// Address ranges of the pods, comma-separated; for ClusterCIDR.
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: String,
    /// Interval at which all objects are processed again.
    #[serde(rename = "configSyncPeriod")]
    pub config_sync_period: GoDuration,
    #[serde(rename = "conntrack")]
    pub conntrack: ConntrackConfiguration,
    #[serde(rename = "detectLocal")]
    pub detect_local: DetectLocalConfiguration,
    /// Method that detects traffic from this node's pods.
    #[serde(rename = "detectLocalMode")]
    pub detect_local_mode: String,
    /// Serve `/debug/flags/v`.
    #[serde(rename = "enableProfiling")]
    pub enable_profiling: bool,
    #[serde(rename = "featureGates", skip_serializing_if = "BTreeMap::is_empty")]
    pub feature_gates: BTreeMap<String, bool>,
    /// Address of `/healthz` and `/livez`.
    #[serde(rename = "healthzBindAddress")]
    pub healthz_bind_address: String,
    /// Name of the Node; if empty, the host name.
    #[serde(rename = "hostnameOverride")]
    pub hostname_override: String,
    #[serde(rename = "iptables")]
    pub iptables: IpTablesConfiguration,
    #[serde(rename = "ipvs")]
    pub ipvs: IpvsConfiguration,
    #[serde(rename = "logging")]
    pub logging: LoggingConfiguration,
    /// Address of `/metrics`.
    #[serde(rename = "metricsBindAddress")]
    pub metrics_bind_address: String,
    /// Proxy mode; if empty, iptables.
    #[serde(rename = "mode")]
    pub mode: String,
    #[serde(rename = "nftables")]
    pub nftables: NfTablesConfiguration,
    /// Local addresses that answer for NodePorts: ranges and the keywords `primary`, `localhost`,
    /// `all`.
    #[serde(rename = "nodePortAddresses")]
    pub node_port_addresses: Option<Vec<String>>,
    /// `oom_score_adj` of the process.
    #[serde(rename = "oomScoreAdj")]
    pub oom_score_adj: Option<i32>,
    /// No effect, as upstream.
    #[serde(rename = "portRange")]
    pub port_range: String,
    /// Version whose hidden metrics to show.
    #[serde(rename = "showHiddenMetricsForVersion")]
    pub show_hidden_metrics_for_version: String,
    /// For Windows; no effect.
    #[serde(
        rename = "windowsRunAsService",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub windows_run_as_service: bool,
    #[serde(rename = "winkernel")]
    pub winkernel: WinkernelConfiguration,
}

/// `clientConnection`: the connection to the API server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Where upstream's name says it all.
pub struct ClientConnectionConfiguration {
    /// Accepted content types; if empty, `contentType`.
    #[serde(rename = "acceptContentTypes")]
    pub accept_content_types: String,
    /// Requests that may exceed `qps` in a burst.
    #[serde(rename = "burst")]
    pub burst: i32,
    /// Content type of requests.
    #[serde(rename = "contentType")]
    pub content_type: String,
    /// Path of a kubeconfig file; if empty, in-cluster configuration.
    #[serde(rename = "kubeconfig")]
    pub kubeconfig: String,
    /// Requests per second; negative for no limit.
    #[serde(rename = "qps")]
    pub qps: f32,
}

/// `conntrack`: sysctls of connection tracking.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Where upstream's name says it all.
pub struct ConntrackConfiguration {
    /// Entries per CPU core; 0 keeps the kernel's limit.
    #[serde(rename = "maxPerCore")]
    pub max_per_core: Option<i32>,
    /// Lower bound of the limit.
    #[serde(rename = "min")]
    pub min: Option<i32>,
    /// Treat out-of-window TCP packets as valid.
    #[serde(rename = "tcpBeLiberal")]
    pub tcp_be_liberal: bool,
    /// Timeout of TCP connections in CLOSE_WAIT.
    #[serde(rename = "tcpCloseWaitTimeout")]
    pub tcp_close_wait_timeout: Option<GoDuration>,
    /// Timeout of idle TCP connections; 0 keeps the kernel's.
    #[serde(rename = "tcpEstablishedTimeout")]
    pub tcp_established_timeout: Option<GoDuration>,
    /// Timeout of assured UDP flows; 0 keeps the kernel's.
    #[serde(rename = "udpStreamTimeout")]
    pub udp_stream_timeout: GoDuration,
    /// Timeout of unreplied UDP flows; 0 keeps the kernel's.
    #[serde(rename = "udpTimeout")]
    pub udp_timeout: GoDuration,
}

/// `detectLocal`: parameters of `detectLocalMode`.
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
    /// Serve NodePorts on IPv4 loopback.
    #[serde(rename = "localhostNodePorts")]
    pub localhost_node_ports: Option<bool>,
    /// Masquerade all traffic to cluster IPs.
    #[serde(rename = "masqueradeAll")]
    pub masquerade_all: bool,
    /// Bit of the packet mark that requests masquerading.
    #[serde(rename = "masqueradeBit")]
    pub masquerade_bit: Option<i32>,
    /// Upper bound of the delay that paces syncs.
    #[serde(rename = "minSyncPeriod")]
    pub min_sync_period: GoDuration,
    /// Interval between full resyncs.
    #[serde(rename = "syncPeriod")]
    pub sync_period: GoDuration,
}

/// `ipvs`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Where upstream's name says it all.
pub struct IpvsConfiguration {
    /// Address ranges whose virtual servers are never removed.
    #[serde(rename = "excludeCIDRs")]
    pub exclude_cidrs: Option<Vec<String>>,
    /// Upper bound of the delay that paces syncs.
    #[serde(rename = "minSyncPeriod")]
    pub min_sync_period: GoDuration,
    /// Scheduler; if empty, round robin.
    #[serde(rename = "scheduler")]
    pub scheduler: String,
    /// Set arp_ignore and arp_announce.
    #[serde(rename = "strictARP")]
    pub strict_arp: bool,
    /// Interval between full resyncs.
    #[serde(rename = "syncPeriod")]
    pub sync_period: GoDuration,
    /// Timeout of TCP connections after a FIN; 0 keeps the kernel's.
    #[serde(rename = "tcpFinTimeout")]
    pub tcp_fin_timeout: GoDuration,
    /// Timeout of idle TCP connections; 0 keeps the kernel's.
    #[serde(rename = "tcpTimeout")]
    pub tcp_timeout: GoDuration,
    /// Timeout of UDP flows; 0 keeps the kernel's.
    #[serde(rename = "udpTimeout")]
    pub udp_timeout: GoDuration,
}

/// `nftables`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Where upstream's name says it all.
pub struct NfTablesConfiguration {
    /// Masquerade all traffic to cluster IPs.
    #[serde(rename = "masqueradeAll")]
    pub masquerade_all: bool,
    /// Bit of the packet mark that requests masquerading.
    #[serde(rename = "masqueradeBit")]
    pub masquerade_bit: Option<i32>,
    /// Upper bound of the delay that paces syncs.
    #[serde(rename = "minSyncPeriod")]
    pub min_sync_period: GoDuration,
    /// Interval between full resyncs.
    #[serde(rename = "syncPeriod")]
    pub sync_period: GoDuration,
}

/// `winkernel`: for Windows; no effect.
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
    /// Maximum time that buffered messages are held back.
    #[serde(rename = "flushFrequency")]
    pub flush_frequency: FlushFrequency,
    /// `text` or `json`.
    #[serde(rename = "format")]
    pub format: String,
    /// Options per format.
    #[serde(rename = "options")]
    pub options: FormatOptions,
    /// Verbosity: messages up to this level are written.
    #[serde(rename = "verbosity")]
    pub verbosity: u32,
    /// Verbosity per source file.
    #[serde(rename = "vmodule", skip_serializing_if = "Vec::is_empty")]
    pub vmodule: Vec<VModuleItem>,
}

/// One of `logging.vmodule`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Where upstream's name says it all.
pub struct VModuleItem {
    /// Pattern of source file names; `*` and `?` are wildcards.
    #[serde(rename = "filePattern")]
    pub file_pattern: String,
    /// Verbosity of these files.
    #[serde(rename = "verbosity")]
    pub verbosity: u32,
}

/// `logging.options`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Where upstream's name says it all.
pub struct FormatOptions {
    /// Options of the format `json`.
    #[serde(rename = "json")]
    pub json: OutputRoutingOptions,
    /// Options of the format `text`.
    #[serde(rename = "text")]
    pub text: OutputRoutingOptions,
}

/// `logging.options.json` or `.text`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Where upstream's name says it all.
pub struct OutputRoutingOptions {
    /// Size of the buffer for info messages.
    #[serde(rename = "infoBufferSize")]
    pub info_buffer_size: Quantity,
    /// Write errors to stderr and everything else to stdout.
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

    /// Encode as a file with fields in alphabetical order, like `kube-proxy --write-config-to`.
    pub fn to_yaml(&self) -> String {
        decode::to_yaml(self)
    }
}
