//! Objects for tests under load, and their plans for the observed node.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::PathBuf;

use model::IpFamily;
use plan::{LocalTraffic, NodePortAddresses, Plan, Planner, Settings};

/// The plans of both families for the objects in files and folders.
pub(crate) fn plans(paths: &[PathBuf]) -> [Plan; 2] {
    let batch = source::read_once(paths.iter().cloned());
    assert!(batch.initial_list_complete, "{:?}", batch.problems);
    let cidrs = ["10.244.0.0/16", "fd00:10:244::/56"];
    let mut planner = Planner::new(Settings {
        node_name: "node1".to_owned(),
        local_traffic: LocalTraffic::ClusterCidr(cidrs.map(|c| c.parse().unwrap()).to_vec()),
        masquerade_all: false,
        node_port_addresses: NodePortAddresses::Primary,
    });
    planner.apply_all(batch.events);
    planner.take_diff();
    IpFamily::ALL.map(|family| planner.plan(family).clone())
}

/// One of a thousand unused Services in both families, with this number of endpoints.
pub(crate) fn other(number: usize, endpoints: usize) -> String {
    let v4 = format!("10.96.{}.{}", 60 + number / 100, number % 100);
    let v6 = format!("fd00:10:96::{:x}", 0x6000 + number);
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: other-{number}, namespace: demo}}\n\
         spec:\n  type: NodePort\n  clusterIP: {v4}\n  \
         clusterIPs: [{v4}, '{v6}']\n  \
         ipFamilies: [IPv4, IPv6]\n  ipFamilyPolicy: RequireDualStack\n  \
         ports: [{{port: 80, targetPort: 8080, nodePort: 31{number:03}}}]\n"
    );
    for (version, prefix) in [(4, "10.244.2."), (6, "fd00:10:244:2::")] {
        let endpoints: String = (0..endpoints)
            .map(|n| {
                format!(
                    "- {{addresses: ['{prefix}{}'], conditions: {{ready: true}}}}\n",
                    100 + n
                )
            })
            .collect();
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: other-{number}-{version}, namespace: demo, \
             labels: {{kubernetes.io/service-name: other-{number}}}}}\n\
             addressType: IPv{version}\nports: [{{port: 8080}}]\nendpoints:\n{endpoints}"
        );
    }
    text
}
