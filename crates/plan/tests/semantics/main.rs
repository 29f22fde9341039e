//! Service semantics by topic, and properties of any cluster.

mod clashes;
mod conflicts;
mod diffs;
mod endpoints;
mod flows;
mod frontends;
mod load_balancers;
mod node;
mod observed;
mod oracle;
mod policies;
mod properties;
mod topology;

use model::{Event, IpFamily};
use plan::testing::settings;
use plan::{Planner, PortPlan};

/// Return a planner for `node1` with these objects.
fn planner(events: impl IntoIterator<Item = Event>) -> Planner {
    let mut planner = Planner::new(settings("node1"));
    planner.apply_all(events);
    planner.take_diff();
    planner
}

/// Return the only IPv4 port.
fn only(planner: &Planner) -> &PortPlan {
    let mut ports = planner.plan(IpFamily::V4).ports.values();
    match (ports.next(), ports.next()) {
        (Some(port), None) => port,
        (None, _) => panic!("no port"),
        (Some(_), Some(_)) => panic!("more than one port"),
    }
}

fn texts(endpoints: &[plan::Endpoint]) -> Vec<String> {
    endpoints.iter().map(ToString::to_string).collect()
}
