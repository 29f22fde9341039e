//! The command line.

mod trace_args;
mod ui_args;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use model::Mode;

pub(crate) use trace_args::{
    ColorArg, Destination, DiagramArgs, DiagramFormat, ExplainArgs, ExplainOutput, HostArgs,
    ObjectArgs, StatusArgs, TraceArgs, TraceOutput, VerifyArgs,
};
pub(crate) use ui_args::{PageArgs, UiArgs};

/// sluice makes Kubernetes Services work on a Linux node, in place of kube-proxy.
#[derive(Debug, Parser)]
#[command(name = "sluice", version = VERSION, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

macro_rules! kubernetes {
    () => {
        "for Kubernetes 1.36 and 1.37"
    };
}

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", kubernetes!(), ")");

/// The version as `kube-proxy --version=raw` prints it.
pub(crate) const PROXY_VERSION: &str = concat!(
    "v",
    env!("CARGO_PKG_VERSION"),
    " (sluice, ",
    kubernetes!(),
    ")"
);

const EXAMPLES: &str = "\
Try it without a cluster (as root):
  sluice lab up -f examples/              three nodes and their pods, as network namespaces
  sluice lab exec client -- curl http://172.18.0.11:30008
  sluice lab down

See what would be programmed, without root and without touching anything:
  kubectl get services,endpointslices,nodes -A -o json > cluster.json
  sluice render --mode iptables --node worker-1 -f cluster.json

Serve Services from files, as a kube-proxy without an API server:
  sluice proxy --manifests /etc/sluice --hostname-override worker-1

Show what happens to a connection, and why; here as root, or anywhere from a file:
  sluice trace --src 10.244.1.5 --dst 10.96.0.10 --proto udp --dport 53
  sluice facts > bug.json

Reach a cluster's Services from a laptop, without privileges:
  sluice proxy --proxy-mode userspace --kubeconfig ~/.kube/config --listen-map 8080=demo/web:http

Called as `kube-proxy`, sluice takes kube-proxy's flags and replaces it. Called as
`kubectl-sluice`, it asks the nodes of a cluster through kubectl.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Program Services into this node's kernel, and keep them up to date.
    ///
    /// Takes every flag and configuration field of kube-proxy 1.36 and 1.37. Rules stay in the kernel when
    /// sluice ends, so that traffic continues; `sluice cleanup` removes them.
    Proxy(Box<ProxyArgs>),

    /// Print the rules that a node would get. Needs no root and changes nothing.
    Render(RenderArgs),

    /// Show what happens to a packet on this node (or on the node of the dumps), and why.
    ///
    /// Walks the packet through every hook, chain and rule in the kernel's order, on every path that it
    /// can take. Understands the rules of every kube-proxy, and those of common CNIs and firewalls.
    Trace(Box<TraceArgs>),

    /// Explain why a Service does not respond, and how to fix it.
    ///
    /// Compares what the objects state, what this node should do, and what its rules do to connections
    /// from a pod, from the node itself and from outside.
    Explain(Box<ExplainArgs>),

    /// Check that this node's rules do what the objects state, for all Services.
    ///
    /// Works with rules of sluice and of every version and mode of kube-proxy. Problems are grouped by
    /// cause.
    Verify(Box<VerifyArgs>),

    /// Report what the proxy on this node is doing: its syncs, Services, source of objects, warnings.
    Status(StatusArgs),

    /// Draw the path of a packet, or all chains and the jumps between them.
    Diagram(Box<DiagramArgs>),

    /// Show Services, their state on this node, and the paths of packets, in a page on loopback.
    Ui(Box<UiArgs>),

    /// Print everything on this node that decides about packets, as JSON for `sluice trace --facts`.
    Facts,

    /// Remove everything that sluice or kube-proxy programmed into this node's kernel.
    Cleanup(CleanupArgs),

    /// Create, use and remove clusters of network namespaces on this machine.
    Lab {
        #[command(subcommand)]
        command: lab::cli::LabCommand,
    },

    /// The echo server that runs in each of the lab's pods.
    #[command(hide = true)]
    LabEcho(lab::echo::EchoArgs),
}

/// Flags of `sluice proxy` in addition to kube-proxy's.
#[derive(Args, Clone, Debug)]
pub(crate) struct ProxyArgs {
    /// Read Services, EndpointSlices, Nodes and ServiceCIDRs from these files and folders instead of
    /// an API server, and follow their changes.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(crate) manifests: Vec<PathBuf>,

    /// Refuse a file of --config with unknown or duplicate fields, instead of ignoring them with a
    /// warning
    #[arg(long)]
    pub(crate) strict_config: bool,

    /// Sync once, then exit; status 0 if the kernel has accepted everything.
    #[arg(long)]
    pub(crate) once: bool,

    /// In userspace mode, serve only this Service port, on a local port, without privileges. May be
    /// repeated. ADDRESS defaults to both loopback addresses. The Service's PORT is a name or a
    /// number, optional if the Service has only one. A value without `=` is a file with one mapping
    /// per line.
    #[arg(long, value_name = "[ADDRESS:]PORT=NAMESPACE/SERVICE[:PORT]|FILE")]
    pub(crate) listen_map: Vec<String>,

    /// Half-open TCP connections whose endpoint was removed: delete their connection-tracking entries,
    /// so that the client's next SYN reaches another endpoint, or keep them, as kube-proxy does.
    #[arg(long, value_enum, default_value = "delete")]
    pub(crate) conntrack_half_open: HalfOpen,

    /// Give up privileges that the mode does not need: capabilities, system calls, writing files
    #[arg(long, value_enum, default_value = "on")]
    pub(crate) sandbox: Switch,

    /// Socket through which `sluice explain`, `verify`, `status` and other commands ask this process;
    /// for root only. Default: /run/sluice/net-N.sock, where N is the network namespace.
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    /// Time between two checks that the kernel's rules do what the objects state, as `sluice verify`
    /// does, with the lowest priority: `10m`, `1h`. Default: no checks. Problems appear in the log, as
    /// Events of the Node and in the metric sluice_verify_problems.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) verify_period: Option<Duration>,

    /// The iptables back end. Default: the one that contains the node's other Kubernetes rules.
    #[arg(long, value_enum)]
    pub(crate) iptables_backend: Option<IptablesBackend>,

    /// In a Pod without --kubeconfig and --master: file for the real addresses of the API servers,
    /// which are tried before the Service `kubernetes` after a reboot
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/lib/sluice/api-servers.json"
    )]
    pub(crate) api_server_addresses: PathBuf,

    /// In a Pod without --kubeconfig and --master: kubeconfig of the node, if mounted, whose server
    /// is tried first; its credentials are not used
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/kubernetes/kubelet.conf"
    )]
    pub(crate) node_kubeconfig: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HalfOpen {
    Delete,
    Keep,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum IptablesBackend {
    Nft,
    Legacy,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RenderArgs {
    /// Proxy mode; in userspace mode the relay's ports are numbered from 20000
    #[arg(long, value_parser = mode_parser(), default_value_t = Mode::Iptables)]
    pub(crate) mode: Mode,

    /// A KubeProxyConfiguration. Default: its default values.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// The address family.
    #[arg(long, value_enum, default_value = "ipv4")]
    pub(crate) ip_family: FamilyArg,

    /// The node's name.
    #[arg(long, value_name = "NAME")]
    pub(crate) node: String,

    /// Services, EndpointSlices, Nodes and ServiceCIDRs, in files or folders, YAML or JSON.
    #[arg(short = 'f', long = "filename", value_name = "PATH", num_args = 1.., required = true)]
    pub(crate) files: Vec<PathBuf>,

    /// The node's addresses, at most one per family. Default: the Node object's.
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub(crate) node_ip: Vec<IpAddr>,

    /// The addresses of the node's interfaces, from which `nodePortAddresses` selects. Default: the
    /// node's addresses.
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub(crate) interface_addresses: Vec<IpAddr>,
}

fn mode_parser() -> impl TypedValueParser<Value = Mode> {
    PossibleValuesParser::new(Mode::ALL.map(Mode::name)).try_map(|name| name.parse::<Mode>())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FamilyArg {
    Ipv4,
    Ipv6,
}

impl From<FamilyArg> for model::IpFamily {
    fn from(family: FamilyArg) -> Self {
        match family {
            FamilyArg::Ipv4 => model::IpFamily::V4,
            FamilyArg::Ipv6 => model::IpFamily::V6,
        }
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CleanupArgs {
    /// Print what would be removed, and remove nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}
