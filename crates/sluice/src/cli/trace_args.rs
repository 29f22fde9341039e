//! Arguments of trace, explain and diagram.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use diagnose::Start;
use trace::Proto;

/// The host whose rules and routes are used.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct HostArgs {
    /// Output of `sluice facts` on the node in question. Without any file, this host is used.
    #[arg(long, value_name = "FILE", conflicts_with = "this_host")]
    pub(crate) facts: Option<PathBuf>,

    /// Output of `iptables-save` (or `iptables -S`, `iptables -L -n -v`); replaces the facts' dump.
    #[arg(long, value_name = "FILE")]
    pub(crate) iptables_save: Vec<PathBuf>,

    /// Output of `ip6tables-save`.
    #[arg(long, value_name = "FILE")]
    pub(crate) ip6tables_save: Vec<PathBuf>,

    /// Output of `nft list ruleset` or `nft -j list ruleset`.
    #[arg(long, value_name = "FILE")]
    pub(crate) nft: Vec<PathBuf>,

    /// Output of `ipset save` or `ipset list`.
    #[arg(long, value_name = "FILE")]
    pub(crate) ipset_save: Option<PathBuf>,

    /// Output of `ipvsadm-save -n` or `ipvsadm -Ln`.
    #[arg(long, value_name = "FILE")]
    pub(crate) ipvsadm_save: Option<PathBuf>,

    /// An address of the node that the files are from; may be repeated. Without facts, both
    /// possibilities are shown for an address that the rules do not identify as the node's.
    #[arg(long, value_name = "IP", conflicts_with_all = ["facts", "this_host"])]
    pub(crate) local: Vec<IpAddr>,

    /// Use this host for everything that no file contains. Without it, files are assumed to be from
    /// another host, whose addresses and routes are unknown.
    #[arg(long)]
    pub(crate) this_host: bool,
}

impl HostArgs {
    /// Return whether a file with rules is given.
    pub(crate) fn has_rule_files(&self) -> bool {
        !self.iptables_save.is_empty()
            || !self.ip6tables_save.is_empty()
            || !self.nft.is_empty()
            || self.ipset_save.is_some()
            || self.ipvsadm_save.is_some()
    }
}

const TRACE_HELP: &str = "\
Exit status: 0 if the packet is accepted on every path (with --reply, its answer too), 1 if it is \
not, 2 if the question cannot be answered. With --live: 0 if the packet arrived as predicted, 1 if it \
did not arrive or the kernel decided differently, 2 if no packet arrived in time.

Examples:
  sluice trace --src 10.244.1.5 --dst 10.96.0.10 --proto udp --dport 53
  sluice trace --src 10.244.1.5 --dst kube-system/kube-dns:dns
  sluice facts > bug.json
  sluice trace --facts bug.json --src 198.51.100.7 --dst 172.18.0.11 --dport 30080 --reply
  sluice trace --live --send --src 172.18.0.11 --dst 10.96.0.1 --dport 443";

#[derive(Args, Clone, Debug)]
#[command(after_help = TRACE_HELP)]
pub(crate) struct TraceArgs {
    /// Source address.
    #[arg(long, value_name = "IP")]
    pub(crate) src: IpAddr,

    /// Destination: an address, or a Service of the running proxy, which determines cluster IP, protocol
    /// and port.
    #[arg(long, value_name = "IP|NAMESPACE/NAME[:PORT]")]
    pub(crate) dst: Destination,

    /// tcp, udp, sctp, icmp, or a protocol number.
    #[arg(long, default_value = "tcp", value_parser = proto)]
    pub(crate) proto: Proto,

    /// Destination port; for ICMP, the code.
    #[arg(long, value_name = "N")]
    pub(crate) dport: Option<u16>,

    /// Source port; for ICMP, the type (default: echo request).
    #[arg(long, value_name = "N")]
    pub(crate) sport: Option<u16>,

    /// Where the packet starts: pod, node, outside, or the interface through which it enters. Default:
    /// guessed from the source address.
    #[arg(long, value_name = "pod|node|outside|INTERFACE")]
    pub(crate) from: Option<Start>,

    #[command(flatten)]
    pub(crate) host: HostArgs,

    /// Output format.
    #[arg(short, long, value_enum, default_value = "tree")]
    pub(crate) output: TraceOutput,

    /// Also trace the answers back to the client.
    #[arg(long)]
    pub(crate) reply: bool,

    /// Whether to use colors.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) color: ColorArg,

    /// Compare the prediction with the kernel: make nf_tables trace the next packet that opens a
    /// connection of this flow. Needs root. Other flows are not traced, and tracing ends with the
    /// command.
    #[arg(long, conflicts_with_all = ["reply", "facts", "iptables_save", "ip6tables_save", "nft",
        "ipset_save", "ipvsadm_save"])]
    pub(crate) live: bool,

    /// How long to wait for a packet, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, requires = "live")]
    pub(crate) timeout: u64,

    /// Send a packet (tcp or udp) from the source address, in this network namespace or in the named
    /// one (`ip netns`).
    #[arg(long, value_name = "NETNS", requires = "live")]
    pub(crate) send: Option<Option<String>>,
}

/// Where a traced packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    Address(IpAddr),
    /// NAMESPACE/NAME or NAMESPACE/NAME:PORT.
    Service(String),
}

impl std::str::FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(ip) => Ok(Destination::Address(ip)),
            Err(_) if text.contains('/') => Ok(Destination::Service(text.to_owned())),
            Err(_) => Err("neither an IP address nor NAMESPACE/NAME[:PORT]".to_owned()),
        }
    }
}

fn proto(text: &str) -> Result<Proto, String> {
    Proto::parse(text).ok_or_else(|| "not tcp, udp, sctp, icmp or a number".to_owned())
}

/// Where the objects come from, and the node that uses them.
#[derive(Args, Clone, Debug)]
pub(crate) struct ObjectArgs {
    /// Read Services, EndpointSlices, Nodes and ServiceCIDRs from these files and folders. Default: ask
    /// the running proxy.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(crate) manifests: Vec<PathBuf>,

    /// Read the objects from the API server. Default: ask the running proxy; in a Pod without one, the
    /// API server with the service account.
    #[arg(long, value_name = "FILE", conflicts_with = "manifests")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// The node's name in the cluster. Default: the running proxy's, otherwise the host name.
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,

    /// The node's KubeProxyConfiguration. Default: the running proxy's, otherwise the default values.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Socket of the running proxy, which has the objects and the configuration. Default: that of the
    /// proxy in this network namespace.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["manifests", "kubeconfig"])]
    pub(crate) socket: Option<PathBuf>,

    /// Also check connections from a client outside the cluster with this address.
    #[arg(long, value_name = "IP")]
    pub(crate) client: Option<IpAddr>,
}

const EXPLAIN_HELP: &str = "\
Exit status: 0 if there are no problems, 1 if there are, 2 if the question cannot be answered.

Examples:
  sluice explain demo/web                                  on a node with a running sluice proxy
  sluice explain demo/web --kubeconfig /etc/kubernetes/kubelet.conf
  sluice explain 30080 --manifests cluster.json --facts bug.json";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXPLAIN_HELP)]
pub(crate) struct ExplainArgs {
    /// NAMESPACE/NAME, NAMESPACE/NAME:PORT, an address of the Service, or a NodePort.
    #[arg(value_name = "SERVICE")]
    pub(crate) service: Option<String>,

    #[command(flatten)]
    pub(crate) objects: ObjectArgs,

    /// Also connect to the endpoints from this node (TCP; each connection is closed at once), and
    /// report those that do not answer.
    #[arg(long, conflicts_with_all = ["facts", "iptables_save", "ip6tables_save", "nft",
        "ipset_save", "ipvsadm_save"])]
    pub(crate) connect: bool,

    #[command(flatten)]
    pub(crate) host: HostArgs,

    /// Output format.
    #[arg(short, long, value_enum, default_value = "text")]
    pub(crate) output: ExplainOutput,
}

const VERIFY_HELP: &str = "\
Exit status: 0 if there are no problems, 1 if there are, 2 if the rules cannot be checked.

Examples:
  sluice verify                                            on a node with a running sluice proxy
  sluice verify --kubeconfig /etc/kubernetes/kubelet.conf
  sluice verify --manifests cluster.json --facts bug.json -o json";

#[derive(Args, Clone, Debug)]
#[command(after_help = VERIFY_HELP)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) objects: ObjectArgs,

    #[command(flatten)]
    pub(crate) host: HostArgs,

    /// Output format.
    #[arg(short, long, value_enum, default_value = "text")]
    pub(crate) output: ExplainOutput,
}

const STATUS_HELP: &str = "\
Exit status: 0 if there are no problems, 1 if there are, 2 if no proxy can be asked.";

#[derive(Args, Clone, Debug)]
#[command(after_help = STATUS_HELP)]
pub(crate) struct StatusArgs {
    /// Socket of the proxy. Default: that of the proxy in this network namespace.
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    /// Print the proxy's objects instead, as one List for --manifests.
    #[arg(long, conflicts_with_all = ["plan", "output"])]
    pub(crate) objects: bool,

    /// Print the planned Service ports instead, as JSON, one on each line.
    #[arg(long, conflicts_with = "output")]
    pub(crate) plan: bool,

    /// Output format.
    #[arg(short, long, value_enum, default_value = "text")]
    pub(crate) output: ExplainOutput,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExplainOutput {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TraceOutput {
    Tree,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorArg {
    /// If the output is a terminal.
    Auto,
    Always,
    Never,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct DiagramArgs {
    /// Draw the paths of all kinds of client to this Service: NAMESPACE/NAME, NAMESPACE/NAME:PORT, an
    /// address of the Service, or a NodePort.
    #[arg(long, value_name = "SERVICE", conflicts_with_all = ["src", "dst"])]
    pub(crate) service: Option<String>,

    #[command(flatten)]
    pub(crate) objects: ObjectArgs,

    /// Draw the path of a packet from this address. Default: draw all chains.
    #[arg(long, value_name = "IP", requires = "dst")]
    pub(crate) src: Option<IpAddr>,

    /// Destination address of the packet.
    #[arg(long, value_name = "IP", requires = "src")]
    pub(crate) dst: Option<IpAddr>,

    /// tcp, udp, sctp, icmp, or a protocol number.
    #[arg(long, default_value = "tcp", value_parser = proto)]
    pub(crate) proto: Proto,

    /// Destination port of the packet.
    #[arg(long, value_name = "N")]
    pub(crate) dport: Option<u16>,

    /// Where the packet starts: pod, node, outside, or the interface through which it enters.
    #[arg(long, value_name = "pod|node|outside|INTERFACE")]
    pub(crate) from: Option<Start>,

    #[command(flatten)]
    pub(crate) host: HostArgs,

    /// Output format.
    #[arg(short, long, value_enum, default_value = "boxes")]
    pub(crate) output: DiagramFormat,

    /// Maximum number of rules, and of jumps, that are drawn for each chain.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) most: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DiagramFormat {
    /// For the terminal.
    Boxes,
    Mermaid,
    Dot,
    Svg,
    Json,
}
