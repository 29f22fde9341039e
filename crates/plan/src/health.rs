//! Health check NodePorts.

use std::num::NonZeroU16;

/// What `healthCheckNodePort` of one Service is to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port to listen on.
    pub port: NonZeroU16,
    /// How many ready endpoints the Service has on this node, counted by address: a pod that
    /// serves two of its ports counts once. Terminating ones do not count, even where traffic falls
    /// back to them, so that load balancers turn away in time (KEP-1669).
    pub local_ready: usize,
}
