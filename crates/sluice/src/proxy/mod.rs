//! The running proxy: from batches of objects to what the drivers sync.

pub(crate) mod budget;
mod driver;
pub(crate) mod engine;
mod flows;
mod half_open;
pub(crate) mod input;
pub(crate) mod iptables;
pub(crate) mod ipvs;
pub(crate) mod listen_map;
pub(crate) mod local_relay;
pub(crate) mod loopback;
pub(crate) mod nftables;
pub(crate) mod node_wait;
pub(crate) mod own_node;
mod pending;
mod probe;
mod report;
pub(crate) mod run;
pub(crate) mod schedule;
pub(crate) mod socket_server;
mod start;
pub(crate) mod sysctls;
pub(crate) mod userspace;
mod verification;
mod watch;

#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod metrics_tests;
#[cfg(test)]
mod report_tests;
#[cfg(test)]
mod socket_tests;
