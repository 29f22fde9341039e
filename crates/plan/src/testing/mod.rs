//! Clusters for tests and benches: hand-made, random, or large.
//!
//! Behind the cargo feature `testing`; all crates above `plan` test against the same clusters.
//! Functions panic on invalid arguments, which are errors of the test.

mod big;
mod build;
mod random;

pub use big::{big_cluster, big_cluster_of, big_cluster_settings};
pub use build::{
    Applied, cidrs, endpoint, ips, name, node, port, service, service_cidr, settings, slice,
    zone_label,
};
pub use random::{Cluster, cluster, event, history};
