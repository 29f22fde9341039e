//! One module for each command.

pub(crate) mod cleanup;
pub(crate) mod diagram;
pub(crate) mod explain;
pub(crate) mod facts;
pub(crate) mod proxy;
pub(crate) mod render;
pub(crate) mod status;
pub(crate) mod trace;
pub(crate) mod ui;
pub(crate) mod verify;
