//! The nodes of the page, and the check of their rules in the background.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use diagnose::explain::Inspector;
use diagnose::verify::{self, Checked};
use serde::Serialize;

/// Where a node's rules come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This host, whose connection tracking can be read too.
    Live,
    /// A file with the output of `sluice facts`.
    File(String),
}

/// A node for the page.
#[derive(Debug)]
pub struct Given {
    /// Its rules and objects.
    pub inspector: Inspector,
    /// Where its rules come from.
    pub origin: Origin,
    /// A client outside the cluster, from which every explanation also checks connections.
    pub client: Option<IpAddr>,
}

/// The nodes of the page.
#[derive(Clone, Debug)]
pub struct Nodes {
    all: Arc<Vec<Arc<Node>>>,
}

/// A node, and the check of its rules.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its name on the page.
    pub(crate) name: String,
    pub(crate) inspector: Inspector,
    pub(crate) origin: Origin,
    pub(crate) client: Option<IpAddr>,
    done: AtomicUsize,
    services: AtomicUsize,
    checked: OnceLock<Result<Checked, String>>,
}

/// How far a check is.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Progress {
    /// Services that were checked.
    done: usize,
    /// All Services.
    all: usize,
    /// Whether the check has ended.
    finished: bool,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Return the names of nodes. Several files of one node, such as before and after a change, add the name of
/// the file, or its path if that is the same too.
fn names(given: &[Given]) -> Vec<String> {
    let of_node = |node: &Given| node.inspector.node().to_owned();
    let with_file = |node: &Given, is_short: bool| match &node.origin {
        Origin::Live => of_node(node),
        Origin::File(path) => {
            let file = path.rsplit('/').next().filter(|_| is_short);
            format!("{} ({})", of_node(node), file.unwrap_or(path))
        }
    };
    let mut names: Vec<String> = given.iter().map(of_node).collect();
    for is_short in [true, false] {
        let all = names.clone();
        for (name, node) in names.iter_mut().zip(given) {
            if all.iter().filter(|other| *other == name).count() > 1 {
                *name = with_file(node, is_short);
            }
        }
    }
    names
}

impl Nodes {
    /// Check the rules of all nodes on a separate thread.
    pub fn new(given: Vec<Given>) -> Self {
        let names = names(&given);
        let nodes = given.into_iter().zip(names).map(|(given, name)| {
            let Given {
                inspector,
                origin,
                client,
            } = given;
            Arc::new(Node {
                name,
                inspector,
                origin,
                client,
                done: AtomicUsize::new(0),
                services: AtomicUsize::new(0),
                checked: OnceLock::new(),
            })
        });
        let all: Arc<Vec<Arc<Node>>> = Arc::new(nodes.collect());
        let work = Arc::clone(&all);
        std::thread::spawn(move || work.iter().for_each(|node| node.check()));
        Self { all }
    }

    pub(crate) fn all(&self) -> &[Arc<Node>] {
        &self.all
    }

    /// Return the node with a name; without a name, the first.
    pub(crate) fn find(&self, name: &str) -> anyhow::Result<&Node> {
        let mut nodes = self.all.iter();
        let found = nodes.find(|node| name.is_empty() || node.name == name);
        found
            .map(|node| &**node)
            .ok_or_else(|| anyhow::anyhow!("node {name:?} is not on this page"))
    }

    /// Wait until the rules of all nodes are checked.
    pub fn wait(&self) {
        for node in self.all.iter() {
            node.checked.wait();
        }
    }
}

impl Node {
    fn check(&self) {
        let progress = |done, all| {
            self.done.fetch_max(done, Ordering::Relaxed);
            self.services.store(all, Ordering::Relaxed);
        };
        let checked = verify::check(&self.inspector, progress).map_err(|e| format!("{e:#}"));
        // Nothing else sets it.
        let _ = self.checked.set(checked);
    }

    /// Return the result of the check, if it has ended without an error.
    pub(crate) fn checked(&self) -> Option<&Checked> {
        self.checked.get()?.as_ref().ok()
    }

    pub(crate) fn progress(&self) -> Progress {
        let result = self.checked.get();
        Progress {
            done: self.done.load(Ordering::Relaxed),
            all: self.services.load(Ordering::Relaxed),
            finished: result.is_some(),
            error: result.and_then(|result| result.as_ref().err().cloned()),
        }
    }
}
