//! The commands that say why.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use diagnose::Start;
use trace::Proto;

/// Whose rules and routes are asked.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct HostArgs {
    /// What `sluice facts` printed on the node that is asked about. Without any file: this host.
    #[arg(long, value_name = "FILE", conflicts_with = "this_host")]
    pub(crate) facts: Option<PathBuf>,

    /// What `iptables-save` printed, in place of what the facts have.
    #[arg(long, value_name = "FILE")]
    pub(crate) iptables_save: Vec<PathBuf>,

    /// What `ip6tables-save` printed.
    #[arg(long, value_name = "FILE")]
    pub(crate) ip6tables_save: Vec<PathBuf>,

    /// What `nft list ruleset` or `nft -j list ruleset` printed.
    #[arg(long, value_name = "FILE")]
    pub(crate) nft: Vec<PathBuf>,

    /// What `ipset save` printed.
    #[arg(long, value_name = "FILE")]
    pub(crate) ipset_save: Option<PathBuf>,

    /// What `ipvsadm-save -n` printed.
    #[arg(long, value_name = "FILE")]
    pub(crate) ipvsadm_save: Option<PathBuf>,

    /// Take from this host whatever no file gives. Without it, files are taken to be another
    /// host's, and nothing is assumed of its addresses and routes.
    #[arg(long)]
    pub(crate) this_host: bool,
}

impl HostArgs {
    /// Whether any file of rules is given.
    pub(crate) fn has_rule_files(&self) -> bool {
        !self.iptables_save.is_empty()
            || !self.ip6tables_save.is_empty()
            || !self.nft.is_empty()
            || self.ipset_save.is_some()
            || self.ipvsadm_save.is_some()
    }
}

const TRACE_HELP: &str = "\
Exit status: 0 when the packet is accepted whatever happens (with --reply, its answer too), 1 when \
some or all of it is not, 2 when the question cannot be answered. With --live: 0 when the packet \
arrived as predicted, 1 when it did not arrive or the kernel did something else, 2 when none came.

Examples:
  sluice trace --src 10.244.1.5 --dst 10.96.0.10 --proto udp --dport 53
  sluice facts > bug.json
  sluice trace --facts bug.json --src 198.51.100.7 --dst 172.18.0.11 --dport 30080 --reply
  sluice trace --live --send --src 172.18.0.11 --dst 10.96.0.1 --dport 443";

#[derive(Args, Clone, Debug)]
#[command(after_help = TRACE_HELP)]
pub(crate) struct TraceArgs {
    /// The packet's source address.
    #[arg(long, value_name = "IP")]
    pub(crate) src: IpAddr,

    /// Its destination address.
    #[arg(long, value_name = "IP")]
    pub(crate) dst: IpAddr,

    /// tcp, udp, sctp, icmp, or a protocol's number.
    #[arg(long, default_value = "tcp", value_parser = proto)]
    pub(crate) proto: Proto,

    /// Its destination port; of ICMP, the code.
    #[arg(long, value_name = "N")]
    pub(crate) dport: Option<u16>,

    /// Its source port; of ICMP, the type (an echo request where not given).
    #[arg(long, value_name = "N")]
    pub(crate) sport: Option<u16>,

    /// Where it starts: pod, node, outside, or the interface that it comes in through. Without it:
    /// guessed from the source address.
    #[arg(long, value_name = "pod|node|outside|INTERFACE")]
    pub(crate) from: Option<Start>,

    #[command(flatten)]
    pub(crate) host: HostArgs,

    /// A tree for people, or JSON for machines.
    #[arg(short, long, value_enum, default_value = "tree")]
    pub(crate) output: TraceOutput,

    /// Walk the answers back, too.
    #[arg(long)]
    pub(crate) reply: bool,

    /// Colours.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) color: ColorArg,

    /// Ask the kernel, too: have nf_tables trace the first packet of this flow that opens a
    /// connection, and compare what becomes of it with the prediction. Needs root; of other flows
    /// nothing is traced, and of this one no longer than the command runs.
    #[arg(long, conflicts_with_all = ["reply", "facts", "iptables_save", "ip6tables_save", "nft",
        "ipset_save", "ipvsadm_save"])]
    pub(crate) live: bool,

    /// How many seconds to wait for such a packet.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, requires = "live")]
    pub(crate) timeout: u64,

    /// Send one (tcp or udp) from the source address: from this network namespace, or from the one
    /// of this name (`ip netns`).
    #[arg(long, value_name = "NETNS", requires = "live")]
    pub(crate) send: Option<Option<String>>,
}

fn proto(text: &str) -> Result<Proto, String> {
    Proto::parse(text).ok_or_else(|| "neither tcp, udp, sctp, icmp nor a number".to_owned())
}

/// Where the objects come from, and whose view of them is asked for.
#[derive(Args, Clone, Debug)]
pub(crate) struct ObjectArgs {
    /// Read Services, EndpointSlices, Nodes and ServiceCIDRs from these files and folders, in place
    /// of an API server.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(crate) manifests: Vec<PathBuf>,

    /// How to reach the API server. Without it, the pod's own account is used.
    #[arg(long, value_name = "FILE", conflicts_with = "manifests")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// The node's name in the cluster. Without it: the host's name.
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,

    /// The node's KubeProxyConfiguration; its defaults where there is none.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// A client outside that is asked for, too.
    #[arg(long, value_name = "IP")]
    pub(crate) client: Option<IpAddr>,
}

const EXPLAIN_HELP: &str = "\
Exit status: 0 when nothing is wrong, 1 when something is, 2 when the question cannot be answered.

Examples:
  sluice explain demo/web --kubeconfig /etc/kubernetes/kubelet.conf
  sluice explain 30080 --manifests cluster.json --facts bug.json";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXPLAIN_HELP)]
pub(crate) struct ExplainArgs {
    /// NAMESPACE/NAME, NAMESPACE/NAME:PORT, an address of the Service, or a NodePort.
    #[arg(value_name = "SERVICE")]
    pub(crate) service: String,

    #[command(flatten)]
    pub(crate) objects: ObjectArgs,

    /// Also connect to the endpoints from this node (TCP; each connection is closed at once), and
    /// say which do not answer.
    #[arg(long, conflicts_with_all = ["facts", "iptables_save", "ip6tables_save", "nft",
        "ipset_save", "ipvsadm_save"])]
    pub(crate) connect: bool,

    #[command(flatten)]
    pub(crate) host: HostArgs,

    /// Text for people, or JSON for machines.
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
    /// Where the output is a terminal.
    Auto,
    Always,
    Never,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct DiagramArgs {
    /// Draw the ways of all kinds of client to this Service: NAMESPACE/NAME, NAMESPACE/NAME:PORT, an
    /// address of the Service, or a NodePort.
    #[arg(long, value_name = "SERVICE", conflicts_with_all = ["src", "dst"])]
    pub(crate) service: Option<String>,

    #[command(flatten)]
    pub(crate) objects: ObjectArgs,

    /// Draw the way of a packet from this address; without it, all chains.
    #[arg(long, value_name = "IP", requires = "dst")]
    pub(crate) src: Option<IpAddr>,

    /// The packet's destination address.
    #[arg(long, value_name = "IP", requires = "src")]
    pub(crate) dst: Option<IpAddr>,

    /// tcp, udp, sctp, icmp, or a protocol's number.
    #[arg(long, default_value = "tcp", value_parser = proto)]
    pub(crate) proto: Proto,

    /// Its destination port.
    #[arg(long, value_name = "N")]
    pub(crate) dport: Option<u16>,

    /// Where it starts: pod, node, outside, or the interface that it comes in through.
    #[arg(long, value_name = "pod|node|outside|INTERFACE")]
    pub(crate) from: Option<Start>,

    #[command(flatten)]
    pub(crate) host: HostArgs,

    /// What to draw.
    #[arg(short, long, value_enum, default_value = "boxes")]
    pub(crate) output: DiagramFormat,

    /// How many rules of a chain, and how many ways out of it, are drawn before the rest is folded.
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
