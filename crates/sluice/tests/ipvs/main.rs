//! The ipvs mode on a kernel that has IPVS: every test boots a virtual machine of its own.

mod demo;
mod refusals;
mod state;
#[path = "../support/mod.rs"]
mod support;
mod traffic;
