//! The whole program against an API server over TLS, in nftables mode: whatever the server does, in
//! the end the kernel has what the objects say.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use apiserver_sim::{Config, Corruption, Refusal, Resource, Sim};
use serde_json::{Value, json};
use support::{CLUSTER_CIDR, Host, Running, SLUICE, eventually, observed, text};
use tempfile::TempDir;

/// A host with an API server on its loopback and a proxy that follows it.
struct Cluster {
    host: Host,
    sim: Sim,
    folder: TempDir,
    kubeconfig: PathBuf,
    _proxy: Option<Running>,
}

fn objects() -> Vec<Value> {
    let list: Value =
        serde_json::from_str(&fs::read_to_string(observed("objects.json")).unwrap()).unwrap();
    list["items"].as_array().unwrap().clone()
}

impl Cluster {
    /// Without a proxy yet.
    fn new(objects: Vec<Value>) -> Self {
        let host = Host::new();
        // Its sockets are to be in the namespace.
        let sim = host.run(|| Sim::start(Config::default()).unwrap());
        sim.apply(objects);
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = sim.write_kubeconfig(folder.path(), "{token: abc}").unwrap();
        Self {
            host,
            sim,
            folder,
            kubeconfig,
            _proxy: None,
        }
    }

    fn start_proxy(&mut self) {
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let process = self
            .host
            .command(SLUICE)
            .args([
                "proxy",
                "--proxy-mode=nftables",
                "--hostname-override=node1",
            ])
            .args(["--iptables-min-sync-period=10ms"])
            .arg(format!("--cluster-cidr={CLUSTER_CIDR}"))
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        self._proxy = Some(Running(process));
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn table(&self) -> String {
        self.host
            .sh("nft list table ip kube-proxy 2>/dev/null || true")
    }

    /// Waits until the table has the elements that `render` says the server's objects mean.
    fn wait_until_right(&self, when: &str) {
        let mut items = Vec::new();
        for resource in Resource::ALL {
            items.extend(self.sim.objects(resource));
        }
        let file = self.folder.path().join("objects.json");
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        fs::write(&file, list.to_string()).unwrap();
        let config = self.folder.path().join("config.yaml");
        fs::write(
            &config,
            format!(
                "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                 mode: nftables\nclusterCIDR: {CLUSTER_CIDR}\n"
            ),
        )
        .unwrap();
        let other = Host::new();
        let output = other.sluice(&[
            "render",
            "--mode=nftables",
            "--node=node1",
            "--config",
            config.to_str().unwrap(),
            "-f",
            file.to_str().unwrap(),
        ]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let rendered = self.folder.path().join("rendered.nft");
        fs::write(&rendered, &output.stdout).unwrap();
        other.sh(&format!("nft -f {}", rendered.display()));
        let expected = elements(&other.sh("nft list table ip kube-proxy"));
        let mut seen = Vec::new();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while std::time::Instant::now() < deadline {
            seen = elements(&self.table());
            if seen == expected {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let missing: Vec<_> = expected.iter().filter(|e| !seen.contains(e)).collect();
        let more: Vec<_> = seen.iter().filter(|e| !expected.contains(e)).collect();
        panic!(
            "{when}: missing {missing:#?}, too many {more:#?}\n{}",
            self.log()
        );
    }
}

/// The addresses, ports and verdicts of a listing, whatever lines they stand on.
fn elements(listing: &str) -> Vec<String> {
    let mut found = Vec::new();
    for block in listing.split("elements = {").skip(1) {
        let Some((inside, _)) = block.split_once('}') else {
            continue;
        };
        for element in inside.split(',') {
            // What is learnt, or runs out, is not what the objects say.
            let words: Vec<&str> = element.split_whitespace().collect();
            if !words.contains(&"expires") {
                found.push(words.join(" "));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn the_observed_objects_are_served_and_their_changes_followed() {
    let mut cluster = Cluster::new(objects());
    cluster.start_proxy();
    cluster.wait_until_right("at start");
    assert!(cluster.table().contains("10.244.1.11 . 8080"));
    let mut slice = cluster
        .sim
        .objects(Resource::EndpointSlices)
        .into_iter()
        .find(|s| s["metadata"]["name"] == "web-a")
        .unwrap();
    slice["endpoints"][0]["addresses"][0] = json!("10.244.1.77");
    cluster.sim.apply([slice]);
    cluster.wait_until_right("after a changed slice");
    assert!(cluster.table().contains("10.244.1.77 . 8080"));
    assert!(cluster.sim.delete(Resource::Services, "demo", "web"));
    cluster.wait_until_right("after a deleted Service");
    eventually("an Event says that it has started", || {
        let events = cluster.sim.posted_events();
        events
            .iter()
            .any(|e| e["reason"] == "Starting" && e["regarding"]["name"] == "node1")
    });
}

#[test]
fn a_server_that_misbehaves_changes_nothing_for_good() {
    let mut cluster = Cluster::new(objects());
    cluster.start_proxy();
    cluster.wait_until_right("at start");
    let before = elements(&cluster.table());

    cluster.sim.cut_connections();
    cluster.sim.expire();
    cluster.sim.repeat_events(50);
    cluster
        .sim
        .send_garbage(Resource::Services, Corruption::Whole);
    cluster.sim.misbehave(|faults| {
        faults.no_streaming_lists = true;
        faults.no_protobuf = true;
        faults.chunk = 7;
        faults.refusals.push(Refusal {
            code: 429,
            reason: "TooManyRequests".to_owned(),
            retry_after: Some(1),
            times: 3,
            resource: None,
        });
    });
    cluster.sim.cut_connections();
    cluster.wait_until_right("after cuts, 410, 429 and JSON in pieces");
    assert_eq!(elements(&cluster.table()), before);

    // An object that cannot be read: its last good version stays, and others are followed.
    let services = cluster.sim.objects(Resource::Services);
    cluster
        .sim
        .corrupt(Resource::Services, "demo", "web", Corruption::Body);
    let slices = cluster.sim.objects(Resource::EndpointSlices);
    let mut slice = slices
        .iter()
        .find(|s| s["metadata"]["name"] == "lb-a")
        .unwrap()
        .clone();
    slice["endpoints"][0]["addresses"][0] = json!("10.244.2.99");
    cluster.sim.apply([slice]);
    eventually("others are followed", || {
        cluster.table().contains("10.244.2.99 . 8443")
    });
    assert!(
        cluster.table().contains("10.96.10.1 . tcp . 80"),
        "demo/web stays"
    );
    eventually("it is named", || cluster.log().contains("demo/web"));

    // Away: nothing changes in the kernel. Back: all is caught up on.
    cluster.sim.misbehave(|faults| faults.stalled = true);
    cluster.sim.cut_connections();
    let stalled = elements(&cluster.table());
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(elements(&cluster.table()), stalled);
    cluster.sim.apply(
        services
            .into_iter()
            .filter(|s| s["metadata"]["name"] == "web"),
    );
    cluster.sim.delete(Resource::Services, "demo", "sticky");
    cluster
        .sim
        .misbehave(|faults| *faults = apiserver_sim::Faults::default());
    cluster.sim.cut_connections();
    cluster.wait_until_right("after the server is back");
}

#[test]
fn nothing_is_programmed_before_the_first_complete_list() {
    let mut cluster = Cluster::new(objects());
    cluster.sim.misbehave(|faults| {
        faults.refusals.push(Refusal {
            code: 500,
            reason: "InternalError".to_owned(),
            retry_after: None,
            times: usize::MAX,
            resource: Some(Resource::EndpointSlices),
        });
    });
    cluster.start_proxy();
    eventually("it is told", || cluster.log().contains("EndpointSlice"));
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(cluster.table(), "");
    cluster.sim.misbehave(|faults| faults.refusals.clear());
    cluster.wait_until_right("once the list comes");
}

#[test]
fn a_node_that_does_not_exist_yet_is_waited_for() {
    let all = objects();
    let (nodes, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|o| o["kind"] == "Node");
    let mut cluster = Cluster::new(others);
    cluster.start_proxy();
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(cluster.table(), "", "{}", cluster.log());
    cluster.sim.apply(nodes);
    cluster.wait_until_right("once the Node is there");
    assert!(
        cluster.table().contains("10.200.1.2"),
        "its NodePort address"
    );
}
