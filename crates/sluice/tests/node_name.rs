//! A proxy whose node name matches no Node reports it.

mod support;

use std::fs;
use std::process::Stdio;

use apiserver_sim::{Config, Sim};
use serde_json::{Value, json};
use support::{Host, Running, SLUICE, eventually};

fn node(name: &str) -> Value {
    node_at(name, "10.200.1.2")
}

fn node_at(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    })
}

/// Start a proxy with this node name and these flags, which logs to a file.
fn start(host: &Host, name: &str, log: &std::path::Path, flags: &[&str]) -> Running {
    let mut command = host.command(SLUICE);
    command.args(["proxy", "--proxy-mode=nftables"]);
    command
        .arg(format!("--hostname-override={name}"))
        .args(flags);
    command.stderr(Stdio::from(fs::File::create(log).unwrap()));
    Running(command.spawn().unwrap())
}

fn healthz(host: &Host) -> String {
    host.sh("printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' | nc -w 2 127.0.0.1 10256 || true")
}

#[test]
fn with_manifests_a_name_without_a_node_is_reported_until_the_node_exists() {
    let host = Host::new();
    let folder = tempfile::tempdir().unwrap();
    let manifests = folder.path().join("manifests");
    fs::create_dir(&manifests).unwrap();
    let write = |name: &str| {
        let path = manifests.join(format!("{name}.json"));
        fs::write(path, node(name).to_string()).unwrap();
    };
    write("ox-2");
    let log = folder.path().join("log");
    let path = format!("--manifests={}", manifests.display());
    let _proxy = start(&host, "ox-1", &log, &[&path]);
    eventually("the mismatch is logged", || {
        let log = fs::read_to_string(&log).unwrap();
        log.contains("No Node has this node's name") && log.contains("ox-2")
    });
    eventually("/healthz fails", || healthz(&host).contains("503"));
    write("ox-1");
    eventually("/healthz recovers", || healthz(&host).contains(" 200 "));
}

/// Run `proxy --once` under a name, with these Nodes, and return its log.
fn once(name: &str, nodes: &[Value]) -> String {
    let host = Host::new();
    let folder = tempfile::tempdir().unwrap();
    for (number, node) in nodes.iter().enumerate() {
        let path = folder.path().join(format!("{number}.json"));
        fs::write(path, node.to_string()).unwrap();
    }
    let output = host.sluice(&[
        "proxy",
        "--once",
        "--proxy-mode=nftables",
        &format!("--hostname-override={name}"),
        &format!("--manifests={}", folder.path().display()),
    ]);
    assert!(output.status.success());
    support::text(&output.stderr)
}

#[test]
fn a_single_sync_reports_a_wrong_name_too() {
    let log = once("ox-1", &[node("ox-2")]);
    assert!(log.contains("No Node has this node's name"), "{log}");
    let log = once("ox-2", &[node("ox-2")]);
    assert!(!log.contains("Node with this node's name"), "{log}");
}

#[test]
fn name_of_another_machines_node_is_reported() {
    let nodes = [node("ox-1"), node_at("ox-2", "10.200.1.3")];
    let log = once("ox-2", &nodes);
    let words = ["no address of the Node", "10.200.1.3", "here=\"ox-1\""];
    for word in words {
        assert!(log.contains(word), "{word}: {log}");
    }
    let log = once("ox-1", &nodes);
    assert!(!log.contains("no address of the Node"), "{log}");
    // The API server delivers this node's Node only.
    let host = Host::new();
    let sim = host.run(|| Sim::start(Config::default()).unwrap());
    sim.apply(nodes);
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{token: abc}").unwrap();
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let log = folder.path().join("log");
    let _proxy = start(&host, "ox-2", &log, &[&kubeconfig]);
    eventually("it is reported", || {
        fs::read_to_string(&log)
            .unwrap()
            .contains("no address of the Node")
    });
}

#[test]
fn names_of_nodes_are_lower_case() {
    let host = Host::new();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("node.json"), node("ox-1").to_string()).unwrap();
    let log = folder.path().join("log");
    let path = format!("--manifests={}", folder.path().display());
    let _proxy = start(&host, "OX-1", &log, &[&path]);
    eventually("/healthz is well", || healthz(&host).contains(" 200 "));
    let log = fs::read_to_string(&log).unwrap();
    assert!(!log.contains("No Node has"), "{log}");
}

/// The API server delivers this node's Node only, so the proxy waits for it first.
#[test]
fn with_an_api_server_a_name_without_a_node_is_an_event() {
    let host = Host::new();
    let sim = host.run(|| Sim::start(Config::default()).unwrap());
    sim.apply([node("ox-2")]);
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{token: abc}").unwrap();
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let log = folder.path().join("log");
    let _proxy = start(&host, "ox-1", &log, &[&kubeconfig]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    let is_meant = |e: &Value| e["reason"] == "NodeNotFound" && e["type"] == "Warning";
    while !sim.posted_events().iter().any(is_meant) {
        let log = || fs::read_to_string(&log).unwrap();
        assert!(std::time::Instant::now() < deadline, "{}", log());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(healthz(&host).contains("503"));
}
