//! Service ports of the plan as JSON.

use model::IpFamily;
use plan::{Endpoint, Frontend, FrontendKind, PortPlan, Traffic};
use serde_json::{Value, json};

/// Return a Service port.
pub(crate) fn port(family: IpFamily, port: &PortPlan) -> Value {
    let texts = |all: &[Endpoint]| -> Vec<String> { all.iter().map(Endpoint::to_string).collect() };
    json!({
        "family": family.to_string(),
        "port": port.name.to_string(),
        "protocol": port.protocol.upper(),
        "frontends": port.frontends().map(|f| frontend(&f)).collect::<Vec<_>>(),
        "endpoints": texts(&port.cluster),
        "localEndpoints": texts(&port.local),
        "affinitySeconds": port.affinity.map(|a| a.timeout_seconds),
        "sourceRanges": port.source_ranges,
    })
}

fn frontend(frontend: &Frontend) -> Value {
    json!({
        "kind": match frontend.kind {
            FrontendKind::ClusterIp => "ClusterIP",
            FrontendKind::ExternalIp => "ExternalIP",
            FrontendKind::LoadBalancerIp => "LoadBalancerIP",
            FrontendKind::NodePort => "NodePort",
        },
        "address": frontend.ip,
        "port": frontend.port,
        "traffic": match frontend.traffic {
            Traffic::Cluster => "endpoints",
            Traffic::Local => "localEndpoints",
            Traffic::Reject => "refused",
            Traffic::Drop => "dropped",
        },
    })
}
