//! Builds the inputs of each part of the program from the configuration.

pub(crate) mod admission;
pub(crate) mod drivers;
pub(crate) mod families;
pub(crate) mod modules;
pub(crate) mod node_ports;
pub(crate) mod objects;
pub(crate) mod setup;
