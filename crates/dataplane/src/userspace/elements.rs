//! The elements of one Service port.

use netfilter::nft::table::Contents;
use netfilter::nft::{Data, Element, Value, Verdict, fit_comment};
use plan::{Frontend, FrontendKind, NodeFacts, PortPlan, Traffic};

use super::listeners::{Outside, RelayPorts, Spread, routes, unserved};
use super::names::{REJECT, SetId};
use crate::nft_table::source_range_elements;

/// An element and its set.
pub(super) type Placed = (SetId, Element);

/// Return the key of a port of the relay.
pub(super) fn relay_port(protocol: u8, port: u16) -> Placed {
    let key = Value::EMPTY.with_protocol(protocol).with_port(port);
    (SetId::RelayPorts, Element::key(key))
}

/// Return all elements of a Service port for which the relay listens at `ports`.
pub(super) fn port_elements(port: &PortPlan, ports: RelayPorts, node: &NodeFacts) -> Vec<Placed> {
    let mut found = Vec::new();
    let number = port.protocol.number();
    found.extend(ports.iter().map(|p| relay_port(number, p)));
    for frontend in port.frontends() {
        frontend_elements(port, &frontend, ports, &mut found);
        if frontend.kind == FrontendKind::LoadBalancerIp && !port.source_ranges.is_empty() {
            let (key, _) = place(port, &frontend);
            found.push((SetId::SourceRanged, Element::key(key)));
            let ranges = source_range_elements(key, port, node);
            found.extend(ranges.into_iter().map(|e| (SetId::SourceRanges, e)));
        }
    }
    found
}

/// Return the relay's ports to which a table leads for a Service port: those of an earlier process.
pub fn ports_in(table: &Contents, port: &PortPlan) -> RelayPorts {
    let mut found = RelayPorts::default();
    for frontend in port.frontends() {
        let (key, sets) = place(port, &frontend);
        let (everyone, outside) = routes(frontend.kind, frontend.traffic);
        let outside = match outside {
            Outside::Listener(spread) => Some(spread),
            Outside::Same | Outside::Dropped => None,
        };
        for (spread, set) in [(everyone, sets.everyone), (outside, sets.outside)] {
            if let Some(spread) = spread
                && let Some(led_to) = port_at(table, set, key)
            {
                found.set(spread, led_to);
            }
        }
    }
    found
}

fn port_at(table: &Contents, set: SetId, key: Value) -> Option<u16> {
    let elements = &table.sets.get(set.name())?.elements;
    let Data::Value(value) = &elements.get(&(key, false))?.data else {
        return None;
    };
    let bytes = value.as_bytes().try_into().ok()?;
    Some(u16::from_be_bytes(bytes))
}

/// The sets of a frontend's elements.
struct Sets {
    no_endpoints: SetId,
    local: SetId,
    outside: SetId,
    everyone: SetId,
}

const OF_ADDRESSES: Sets = Sets {
    no_endpoints: SetId::NoEndpoints,
    local: SetId::LocalFrontends,
    outside: SetId::OutsideFrontends,
    everyone: SetId::Frontends,
};

const OF_NODE_PORTS: Sets = Sets {
    no_endpoints: SetId::NodePortNoEndpoints,
    local: SetId::LocalNodePorts,
    outside: SetId::OutsideNodePorts,
    everyone: SetId::NodePorts,
};

/// Return a frontend's key, and the sets in which it is used.
fn place(port: &PortPlan, frontend: &Frontend) -> (Value, Sets) {
    let (start, sets) = match frontend.ip {
        Some(ip) => (Value::ip(ip), OF_ADDRESSES),
        None => (Value::EMPTY, OF_NODE_PORTS),
    };
    let key = start
        .with_protocol(port.protocol.number())
        .with_port(frontend.port.get());
    (key, sets)
}

fn frontend_elements(
    port: &PortPlan,
    frontend: &Frontend,
    ports: RelayPorts,
    found: &mut Vec<Placed>,
) {
    let (key, sets) = place(port, frontend);
    let comment = fit_comment(&port.name.to_string());
    let mut add = |set, element: Element| {
        found.push((set, element.with_comment(comment.as_str())));
    };
    let traffic = match unserved(port) {
        Some(_) => Traffic::Reject,
        None => frontend.traffic,
    };
    let reject = Verdict::Goto(REJECT.to_owned());
    match traffic {
        Traffic::Reject => add(sets.no_endpoints, Element::verdict(key, reject)),
        Traffic::Drop => add(sets.no_endpoints, Element::verdict(key, Verdict::Drop)),
        Traffic::Cluster | Traffic::Local => {}
    }
    let to = |spread: Spread| {
        let data = Value::port(ports.get(spread)?);
        Some(Element::map(key, data))
    };
    let (everyone, outside) = routes(frontend.kind, traffic);
    if let Some(element) = everyone.and_then(to) {
        add(sets.everyone, element);
    }
    if outside != Outside::Same {
        add(sets.local, Element::key(key));
    }
    if let Outside::Listener(spread) = outside
        && let Some(element) = to(spread)
    {
        add(sets.outside, element);
    }
}
