//! HTTP servers for operators and load balancers: health, metrics, status pages, and health-check
//! node ports of Services. A separate thread serves them, so that a slow scrape never delays a
//! sync.
//!
//! The paths, bodies, status codes and metric names are kube-proxy v1.36's.

mod health;
mod metrics;
mod pages;
mod server;
mod service_health;
mod shared;

pub use health::{Health, HealthReport, NodeEligibility, ServiceHealth};
pub use metrics::{Metrics, family_label};
pub use pages::{Pages, Restriction};
pub use server::{Error, Server};
pub use shared::{ListenFailed, Options, SetVerbosity};
