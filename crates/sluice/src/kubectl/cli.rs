//! The command line of the plugin.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::exec::Kubectl;
use crate::cli::PageArgs;

const AFTER: &str = "\
Exit status: 0 if all nodes answer and none has a problem, 1 if a node has one, 2 if a node does not answer.

Examples:
  kubectl sluice status
  kubectl sluice explain web -n demo
  kubectl sluice trace --node worker-1 --src 10.244.1.5 --dst 10.96.0.10 --proto udp --dport 53
  kubectl sluice facts --dir facts/";

/// Ask the sluice proxies of a cluster's nodes, and combine their answers.
#[derive(Debug, Parser)]
#[command(name = "kubectl-sluice", bin_name = "kubectl sluice", version, max_term_width = 100, after_help = AFTER)]
pub(super) struct KubectlCli {
    #[command(flatten)]
    pub(super) scope: Scope,

    #[command(subcommand)]
    pub(super) question: Question,
}

/// The cluster and the nodes to ask.
#[derive(Args, Clone, Debug)]
pub(super) struct Scope {
    /// Namespace of the Service, if its name has none; otherwise of sluice's Pods. Default: the
    /// context's namespace for a Service, all namespaces for the Pods
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    pub(super) namespace: Option<String>,

    /// Context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) context: Option<String>,

    /// Path of the kubeconfig
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,

    /// Ask these nodes only; may be repeated
    #[arg(long, global = true, value_name = "NODE", value_delimiter = ',')]
    pub(super) node: Vec<String>,

    /// Labels of sluice's Pods. Default: app.kubernetes.io/name=sluice; if no Pod has it, Pods with
    /// k8s-app=kube-proxy and an image of sluice
    #[arg(short = 'l', long, global = true, value_name = "LABELS")]
    pub(super) selector: Option<String>,

    /// Container in the Pods. Default: that of sluice
    #[arg(short = 'c', long, global = true, value_name = "NAME")]
    pub(super) container: Option<String>,

    /// Number of nodes that are asked at the same time
    #[arg(long, global = true, value_name = "N", default_value_t = 8,
        value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) parallel: u16,

    /// How long to wait for a node, in seconds
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 60)]
    pub(super) timeout: u64,

    /// Output format
    #[arg(short, long, global = true, value_enum, default_value = "text")]
    pub(super) output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Question {
    /// Report what each proxy is doing
    Status,

    /// Explain why a Service does not respond
    Explain(Explain),

    /// Check that the rules of each node do what the objects state, for all Services
    Verify,

    /// Show what happens to a packet, and why
    Trace(Trace),

    /// Save everything on each node that decides about packets, for `sluice trace --facts`
    Facts(Facts),

    /// Show Services, their states and the paths of packets on each node, in a page on loopback
    Ui(Box<PageArgs>),
}

#[derive(Args, Debug)]
pub(super) struct Explain {
    /// NAMESPACE/NAME, NAME (with the namespace of -n), an address of the Service, or a NodePort
    #[arg(value_name = "SERVICE")]
    service: String,

    /// Also check connections from a client outside the cluster with this address
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,

    /// Also connect to the endpoints from each node
    #[arg(long)]
    connect: bool,
}

#[derive(Args, Debug)]
pub(super) struct Trace {
    /// Source address
    #[arg(long, value_name = "IP")]
    src: IpAddr,

    /// Destination: an address, or a Service
    #[arg(long, value_name = "IP|NAMESPACE/NAME[:PORT]")]
    dst: String,

    /// tcp, udp, sctp, icmp, or a protocol number
    #[arg(long, default_value = "tcp")]
    proto: String,

    /// Destination port
    #[arg(long, value_name = "N")]
    dport: Option<u16>,

    /// Source port
    #[arg(long, value_name = "N")]
    sport: Option<u16>,

    /// Where the packet starts
    #[arg(long, value_name = "pod|node|outside|INTERFACE")]
    from: Option<String>,

    /// Also trace the answers back to the client
    #[arg(long)]
    reply: bool,
}

#[derive(Args, Debug)]
pub(super) struct Facts {
    /// Write NODE.json for each node into this folder; required for more than one node
    #[arg(long, value_name = "FOLDER")]
    pub(super) dir: Option<PathBuf>,
}

impl Question {
    /// Return the command for each node.
    ///
    /// # Errors
    /// The namespace of the Service cannot be found out.
    pub(super) fn words(&self, kubectl: &Kubectl, scope: &Scope) -> anyhow::Result<Vec<String>> {
        let words: Vec<String> = match self {
            Question::Status => vec!["status".into(), "--output=json".into()],
            Question::Verify => vec!["verify".into(), "--output=json".into()],
            Question::Facts(_) | Question::Ui(_) => vec!["facts".into()],
            Question::Explain(explain) => {
                let service = match explain.is_bare() {
                    false => explain.service.clone(),
                    true => {
                        let namespace = match &scope.namespace {
                            Some(namespace) => namespace.clone(),
                            None => kubectl.namespace()?,
                        };
                        format!("{namespace}/{}", explain.service)
                    }
                };
                let mut words = vec!["explain".into(), service, "--output=json".into()];
                words.extend(explain.client.map(|ip| format!("--client={ip}")));
                words.extend(explain.connect.then(|| "--connect".to_owned()));
                words
            }
            Question::Trace(trace) => {
                let mut words = vec![
                    "trace".into(),
                    "--color=never".into(),
                    format!("--src={}", trace.src),
                    format!("--dst={}", trace.dst),
                    format!("--proto={}", trace.proto),
                ];
                words.extend(trace.dport.map(|port| format!("--dport={port}")));
                words.extend(trace.sport.map(|port| format!("--sport={port}")));
                words.extend(trace.from.iter().map(|from| format!("--from={from}")));
                words.extend(trace.reply.then(|| "--reply".to_owned()));
                words
            }
        };
        Ok(words)
    }

    /// Whether `--namespace` is that of the Service.
    pub(super) fn names_namespace(&self) -> bool {
        matches!(self, Question::Explain(explain) if explain.is_bare())
    }
}

impl Explain {
    /// Whether the Service is given by its name without a namespace.
    fn is_bare(&self) -> bool {
        let service = &self.service;
        !service.contains('/')
            && service.parse::<IpAddr>().is_err()
            && service.parse::<u16>().is_err()
    }
}
