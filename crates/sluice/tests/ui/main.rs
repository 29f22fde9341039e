//! `sluice ui`: its answers equal those of the commands, and its server is closed to others.

mod answers;
mod node;
mod page;
#[path = "../support/mod.rs"]
mod support;
