//! `lab status`: a lab as tables.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::Value;

use crate::control::{Cluster, service};
use crate::lab::now;
use crate::process::Process;
use crate::state::State;
use crate::table::Table;

/// Return tables of nodes, pods and Services.
pub(crate) fn of(state: &State) -> String {
    let mut text = String::new();
    for table in [nodes(state), pods(state), services(&state.cluster)] {
        let _ = writeln!(text, "{table}");
    }
    text
}

fn nodes(state: &State) -> Table {
    let mut table = Table::new(&["NODE", "ZONE", "ADDRESSES", "PROXY"]);
    for (name, node) in &state.cluster.nodes {
        let proxy = match state.proxies.get(name) {
            None => "none".to_owned(),
            Some(process) if process.is_alive() => format!("running ({})", process.pid),
            Some(_) => "ended".to_owned(),
        };
        let ips = node.ips().map(|ip| ip.to_string()).join(" ");
        table.row([
            name.clone(),
            node.zone().unwrap_or("-").to_owned(),
            ips,
            proxy,
        ]);
    }
    table
}

fn pods(state: &State) -> Table {
    let mut table = Table::new(&["POD", "NODE", "ADDRESSES", "PORTS", "STATE"]);
    for (id, pod) in &state.cluster.pods {
        let alive = state.pods.get(id).is_some_and(Process::is_alive);
        let condition = match pod.gone_at {
            _ if !alive => "ended".to_owned(),
            Some(end) => format!("terminating, {} ms left", end.saturating_sub(now())),
            None if pod.ready => "ready".to_owned(),
            None => "not ready".to_owned(),
        };
        let ports = pod.template.ports.iter();
        let ports: Vec<String> = ports
            .map(|p| format!("{}/{}", p.port, p.protocol))
            .collect();
        let ips = pod.ips.map(|ip| ip.to_string()).join(" ");
        table.row([
            pod.name.to_string(),
            pod.node.clone(),
            ips,
            ports.join(" "),
            condition,
        ]);
    }
    table
}

fn services(cluster: &Cluster) -> Table {
    let columns = [
        "SERVICE",
        "TYPE",
        "CLUSTER IPS",
        "EXTERNAL IPS",
        "PORTS",
        "READY",
    ];
    let mut table = Table::new(&columns);
    let slices = cluster.endpoint_slices();
    for (name, object) in &cluster.services {
        let text = |pointer: &str| {
            object
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or("-")
        };
        let cluster_ips = strings(object.pointer("/spec/clusterIPs"));
        let ingress = service::ingress_ips(object).map(|ip| ip.to_string());
        let external: Vec<String> = strings(object.pointer("/spec/externalIPs"))
            .into_iter()
            .chain(ingress)
            .collect();
        let ready: BTreeSet<String> = slices
            .iter()
            .filter(|(slice, _)| slice.namespace == name.namespace)
            .filter(|(_, slice)| {
                let label = slice
                    .get("metadata")
                    .and_then(|m| m.get("labels")?.get("kubernetes.io/service-name"));
                label.and_then(Value::as_str) == Some(&name.name)
            })
            .filter_map(|(_, slice)| slice.get("endpoints")?.as_array())
            .flatten()
            .filter(|endpoint| endpoint.pointer("/conditions/ready") != Some(&Value::Bool(false)))
            .filter_map(|endpoint| {
                endpoint
                    .pointer("/targetRef/name")
                    .or(endpoint.pointer("/addresses/0"))
            })
            .map(ToString::to_string)
            .collect();
        table.row([
            name.to_string(),
            text("/spec/type").to_owned(),
            cluster_ips.join(" "),
            external.join(" "),
            ports(object),
            ready.len().to_string(),
        ]);
    }
    table
}

fn strings(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|v| Some(v.as_str()?.to_owned())).collect()
}

/// Format ports like `kubectl get services`: `80:30008/TCP`.
fn ports(service: &Value) -> String {
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    let spelled = ports.into_iter().flatten().map(|port| {
        let number = |key: &str| port.get(key).and_then(Value::as_u64);
        let node_port = number("nodePort").map_or(String::new(), |n| format!(":{n}"));
        let protocol = port
            .get("protocol")
            .and_then(Value::as_str)
            .unwrap_or("TCP");
        format!("{}{node_port}/{protocol}", number("port").unwrap_or(0))
    });
    spelled.collect::<Vec<_>>().join(" ")
}
