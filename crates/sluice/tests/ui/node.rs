//! Nodes for the page: files with facts and objects.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{SLUICE, text};

/// A folder with `cluster.json` and the facts of some nodes.
pub(crate) struct Files {
    folder: TempDir,
}

impl Files {
    /// Create the folder with these objects.
    pub(crate) fn new(objects: &[Value]) -> Self {
        let files = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        std::fs::write(files.path("cluster.json"), list.to_string()).unwrap();
        let config = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                      clusterCIDR: 10.244.0.0/16\n";
        std::fs::write(files.path("config.yaml"), config).unwrap();
        files
    }

    /// The recorded cluster.
    pub(crate) fn observed() -> Self {
        Self::new(&observed::objects_json())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Return the IPv4 rules that a mode makes of the objects.
    pub(crate) fn rules(&self, mode: &str) -> String {
        let output = Command::new(SLUICE)
            .args([
                "render",
                "--node=node1",
                "--node-ip=10.200.1.2",
                "--mode",
                mode,
            ])
            .arg("--config")
            .arg(self.path("config.yaml"))
            .arg("-f")
            .arg(self.path("cluster.json"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Write the facts of a node with these rules, and return the file's name.
    pub(crate) fn node(&self, hostname: &str, mode: &str, rules: &str) -> PathBuf {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/trace/node1.json");
        let mut facts: Value =
            serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
        facts["hostname"] = hostname.into();
        facts["sysctls"]["net.bridge.bridge-nf-call-iptables"] = "1".into();
        let dump = match mode {
            "nftables" => "nft_ruleset",
            _ => "iptables_save",
        };
        facts["dumps"] = json!({ dump: rules });
        let path = self.path(&format!("{hostname}-{mode}.json"));
        std::fs::write(&path, facts.to_string()).unwrap();
        path
    }

    /// Return the arguments that name objects and configuration.
    pub(crate) fn words(&self) -> Vec<String> {
        let named = |flag: &str, file: &str| format!("{flag}={}", self.path(file).display());
        vec![
            named("--manifests", "cluster.json"),
            named("--config", "config.yaml"),
        ]
    }
}

/// Add a firewall to rules of iptables: it drops packets to the pods of node2.
pub(crate) fn with_firewall(rules: &str) -> String {
    let filter = rules.find("*filter").unwrap();
    let first = filter + rules[filter..].find("-A ").unwrap();
    let (before, after) = rules.split_at(first);
    format!(
        "{before}:MY-FIREWALL - [0:0]\n-A FORWARD -j MY-FIREWALL\n-A MY-FIREWALL -d 10.244.2.0/24 -j DROP\n{after}"
    )
}

/// Return a Service with endpoints, and its EndpointSlice. `at` numbers its addresses.
pub(crate) fn service(name: &str, at: usize, endpoints: usize) -> Vec<Value> {
    let ip = format!(
        "10.{}.{}.{}",
        100 + at / 62_500,
        at / 250 % 250,
        at % 250 + 1
    );
    let pods = (0..endpoints).map(|pod| {
        let node = 1 + pod % 2;
        json!({
            "addresses": [format!("10.244.{node}.{}", 10 + (at + pod) % 200)],
            "nodeName": format!("node{node}"), "zone": format!("zone-{node}"),
            "conditions": {"ready": true},
        })
    });
    vec![
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "load"},
            "spec": {
                "clusterIP": ip, "clusterIPs": [ip], "selector": {"app": name},
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": format!("{name}-a"), "namespace": "load",
                "labels": {"kubernetes.io/service-name": name},
            },
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": pods.collect::<Vec<_>>(),
        }),
    ]
}
