//! Arguments of ui.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::ObjectArgs;

const UI_HELP: &str = "\
The page is served on loopback only, and only with the token in its URL. It loads nothing from other hosts. \
Ctrl-C ends the server.

Examples:
  sluice ui --open                                          on a node with a running sluice proxy
  sluice ui --facts node1.json node2.json --manifests cluster.yaml
  sluice ui --export ticket.html --service demo/web --facts bug.json --manifests cluster.yaml
  kubectl sluice ui --open                                  on a workstation, for all nodes";

#[derive(Args, Clone, Debug)]
#[command(after_help = UI_HELP)]
pub(crate) struct UiArgs {
    /// Outputs of `sluice facts`, one for each node of the page. Default: this host.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) facts: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) objects: ObjectArgs,

    #[command(flatten)]
    pub(crate) page: PageArgs,
}

/// How the page is shown.
#[derive(Args, Clone, Debug)]
pub(crate) struct PageArgs {
    /// Loopback address and port of the page; port 0 for a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,

    /// Open the page in the browser (xdg-open).
    #[arg(long, conflicts_with = "export")]
    pub(crate) open: bool,

    /// Write the page with its answers as one HTML file, which needs no server, and exit.
    #[arg(long, value_name = "FILE")]
    pub(crate) export: Option<PathBuf>,

    /// Export the details of this Service; may be repeated. Default: of the Services with problems first.
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "export")]
    pub(crate) service: Vec<String>,

    /// Number of Services of each node whose details are exported.
    #[arg(long, value_name = "N", default_value_t = 25, requires = "export")]
    pub(crate) most: usize,
}
