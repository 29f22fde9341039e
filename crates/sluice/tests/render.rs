//! `sluice render` without the node: its addresses come from the Node.

use std::fs;
use std::path::Path;
use std::process::Command;

use model::Mode;

const OBJECTS: &str = "apiVersion: v1
kind: Node
metadata: {name: node1}
status: {addresses: [{type: InternalIP, address: 192.0.2.11}, {type: ExternalIP, address: 198.51.100.11}]}
---
apiVersion: v1
kind: Node
metadata: {name: node2}
status: {addresses: [{type: InternalIP, address: 192.0.2.12}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec: {type: NodePort, clusterIP: 10.96.10.1, ports: [{name: http, port: 80, nodePort: 30080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-a, namespace: demo, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.244.1.5], conditions: {ready: true}}]
";

const CONFIG: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
nodePortAddresses: [192.0.2.0/24]
";

fn rendered(folder: &Path, mode: Mode, flags: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.args(["render", "--node=node1"]).args(flags);
    command.arg(format!("--mode={mode}"));
    command.arg("--config").arg(folder.join("config.yaml"));
    let output = command.arg("-f").arg(folder.join("objects.yaml")).output();
    let output = output.unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    String::from_utf8(output.stdout).unwrap()
}

/// The rules of the NodePort for this address.
fn node_port(mode: Mode, ip: &str) -> String {
    match mode {
        Mode::Iptables => format!("-A KUBE-SERVICES -d {ip}/32 -m comment"),
        Mode::Ipvs => format!("-A -t {ip}:30080"),
        Mode::Nftables | Mode::Userspace => format!("elements = {{ {ip} }}"),
    }
}

#[test]
fn ranges_of_node_port_addresses_select_from_the_addresses_of_the_node() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("objects.yaml"), OBJECTS).unwrap();
    fs::write(folder.path().join("config.yaml"), CONFIG).unwrap();
    for mode in Mode::ALL {
        let of_node = rendered(folder.path(), mode, &[]);
        assert!(
            of_node.contains(&node_port(mode, "192.0.2.11")),
            "{of_node}"
        );
        for other in ["192.0.2.12", "198.51.100.11"] {
            assert!(!of_node.contains(&node_port(mode, other)), "{of_node}");
        }
        let given = ["--interface-addresses=192.0.2.77,198.51.100.11"];
        let given = rendered(folder.path(), mode, &given);
        assert!(given.contains(&node_port(mode, "192.0.2.77")), "{given}");
        assert!(!given.contains(&node_port(mode, "192.0.2.11")), "{given}");
    }
}
