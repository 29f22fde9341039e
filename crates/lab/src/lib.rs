//! Clusters made of network namespaces on one machine.
//!
//! A lab consists of a router, an outside client, nodes and pods. Pure functions ([`control`]) take the
//! place of the control plane. Everything is in named network namespaces and nothing in the host's, so
//! that labs affect neither the host nor each other.

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
