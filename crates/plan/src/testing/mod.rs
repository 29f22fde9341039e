//! Clusters for tests and benches: built by hand, generated at random, or as big as one likes.
//!
//! Behind the cargo feature `testing`; all crates above `plan` test against the same clusters.
//! Everything here panics on bad arguments, which are a test's own mistake.

mod big;
mod build;
mod random;

pub use big::{big_cluster, big_cluster_of, big_cluster_settings};
pub use build::{
    Applied, cidrs, endpoint, ips, name, node, port, service, service_cidr, settings, slice,
    zone_label,
};
pub use random::{Cluster, cluster, event, history};
