//! `sluice ui`: its answers equal those of the commands, its server is closed to others, and the page works
//! in a browser.

mod answers;
mod browser;
mod hostile;
mod node;
mod page;
mod pictures;
#[path = "../support/mod.rs"]
mod support;
mod views;
