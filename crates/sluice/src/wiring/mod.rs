//! Builds the inputs of each part of the program from the configuration.

pub(crate) mod drivers;
pub(crate) mod modules;
pub(crate) mod objects;
pub(crate) mod setup;
