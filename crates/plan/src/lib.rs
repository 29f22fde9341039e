//! What the objects mean for this node.
//!
//! The only home of Service semantics. Objects go in as [`model::Event`]s, a [`Plan`] for each
//! address family and the [`PlanDiff`] since the last look come out. Pure: no I/O, no clock, no
//! wire types. A proxy mode lays a plan out as rules and decides nothing.

mod plan;
mod settings;

pub use plan::{
    Affinity, Endpoint, FamilyDiff, Frontend, FrontendKind, NodeFacts, Plan, PlanDiff, PortChange,
    PortPlan, Traffic,
};
pub use settings::{LocalDetector, LocalTraffic, NodePortAddresses, Settings};
