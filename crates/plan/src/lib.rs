//! The meaning of the objects for this node.
//!
//! This crate alone implements Service semantics. A [`Planner`] consumes [`model::Event`]s and
//! produces a [`Plan`] per address family and the [`PlanDiff`] since the last call. It is pure: no
//! I/O, no clock, no wire types. A proxy mode lays a plan out as rules and decides nothing.
//!
//! ```
//! use plan::testing::{Applied, endpoint, service, settings, slice};
//! use plan::{Planner, Traffic};
//!
//! let mut planner = Planner::new(settings("node1"));
//! planner.apply(service("demo/web", &["10.96.0.1"], &["http:80"]).applied());
//! let diff = planner.take_diff();
//! let web = diff.v4.ports[0].after.as_ref().unwrap();
//! assert_eq!(web.internal_traffic(), Traffic::Reject);
//!
//! let pods = vec![endpoint("10.244.1.11", "node1"), endpoint("10.244.2.11", "node2")];
//! planner.apply(slice("web-a", "demo/web", &["http:8080"], pods).applied());
//! let diff = planner.take_diff();
//! let web = diff.v4.ports[0].after.as_ref().unwrap();
//! assert_eq!(web.internal_traffic(), Traffic::Cluster);
//! assert_eq!(web.cluster[1].to_string(), "10.244.2.11:8080");
//! ```

mod diff;
mod endpoint;
mod plan;
mod planner;
mod settings;
#[cfg(feature = "testing")]
pub mod testing;
mod warning;

pub use diff::{FamilyDiff, FlowFrontend, HealthChange, PlanDiff, PortChange, StaleFlows};
pub use endpoint::Endpoint;
pub use plan::{
    Affinity, Frontend, FrontendKind, HealthCheck, NodeFacts, Plan, PortKey, PortPlan, Traffic,
};
pub use planner::Planner;
pub use settings::{LocalDetector, LocalTraffic, NodePortAddresses, Settings};
pub use warning::{Reason, Warning};
