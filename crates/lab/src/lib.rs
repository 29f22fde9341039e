//! Clusters made of network namespaces on one machine.
//!
//! A lab is a router namespace, an outside client, nodes and pods, with the control plane's part
//! played by pure functions ([`control`]). Everything is in named network namespaces, nothing in
//! the machine's own: labs cannot disturb it, nor each other.

pub mod cli;
mod commands;
pub mod control;
pub mod demo;
pub mod echo;
mod fabric;
mod host;
mod lab;
pub mod manifest;
pub mod names;
pub mod probe;
pub mod process;
pub mod state;
mod status;
mod table;

pub use host::Host;
pub use lab::{Lab, NodeProxy, Options};
pub use manifest::Documents;
pub use names::LabName;
pub use state::ProxyCommand;
