//! The socket of the running proxy: the other commands read its objects, plan and status from it.
//!
//! A Unix socket for root only. A client sends one line with a [`protocol::Request`] and receives
//! lines of JSON: a [`protocol::Head`] with the [`Status`], then objects or Service ports, each on a
//! line, and at last a [`protocol::Line::End`]. Version skew is harmless within one protocol version:
//! unknown fields are ignored, and objects have the form of the Kubernetes API.
//!
//! The default path contains the number of the network namespace, because that is the scope of a
//! proxy: proxies of several namespaces do not collide, and a command finds the proxy that programs
//! its own namespace.
//!
//! The serving side is in [`proxy`](crate::proxy::socket_server).

pub(crate) mod client;
pub(crate) mod plan;
pub(crate) mod protocol;
pub(crate) mod status;
mod time;

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

pub(crate) use status::{Board, Status};

/// The folder of the sockets.
pub(crate) const FOLDER: &str = "/run/sluice";

/// Return the number of this thread's network namespace.
pub(crate) fn network_namespace() -> io::Result<u64> {
    Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino())
}

/// Return the socket of the proxy in this network namespace.
pub(crate) fn default_path() -> io::Result<PathBuf> {
    let name = format!("net-{}.sock", network_namespace()?);
    Ok(Path::new(FOLDER).join(name))
}
