//! What the objects mean for this node.
//!
//! The only home of Service semantics. Objects go into a [`Planner`] as [`model::Event`]s, a
//! [`Plan`] for each address family and the [`PlanDiff`] since the last look come out. Pure: no
//! I/O, no clock, no wire types. A proxy mode lays a plan out as rules and decides nothing.

mod diff;
mod endpoint;
mod health;
mod plan;
mod planner;
mod settings;
#[cfg(feature = "testing")]
pub mod testing;
mod warning;

pub use diff::{FamilyDiff, FlowFrontend, HealthChange, PlanDiff, PortChange, StaleFlows};
pub use endpoint::Endpoint;
pub use health::HealthCheck;
pub use plan::{Affinity, Frontend, FrontendKind, NodeFacts, Plan, PortKey, PortPlan, Traffic};
pub use planner::Planner;
pub use settings::{LocalDetector, LocalTraffic, NodePortAddresses, Settings};
pub use warning::{Reason, Warning};
