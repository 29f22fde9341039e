//! `kubectl sluice`: the real kubectl runs the program as a plugin, against a simulated API server whose
//! Pods are proxies in network namespaces.

mod support;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use apiserver_sim::{Config, Exec, Sim};
use model::Mode;
use serde_json::{Value, json};
use support::{Proxy, SLUICE, eventually, text, web};
use tempfile::TempDir;

/// Some nodes, each with a proxy, and a workstation with kubectl.
struct Cluster {
    nodes: BTreeMap<String, Proxy>,
    sim: Sim,
    folder: TempDir,
    kubeconfig: PathBuf,
}

fn pod(node: &str) -> Value {
    json!({
        "metadata": {
            "name": format!("sluice-{node}"), "namespace": "kube-system",
            "labels": {"app.kubernetes.io/name": "sluice"},
        },
        "spec": {"nodeName": node, "containers": [{"name": "sluice", "image": "sluice:0.1.0"}]},
        "status": {"phase": "Running", "hostIP": "10.200.1.2"},
    })
}

/// Return the command that runs a Pod's command in the node's network namespace.
fn command_in(namespaces: &BTreeMap<String, String>, exec: &Exec) -> Option<Command> {
    let node = exec.pod.strip_prefix("sluice-")?;
    assert_eq!(
        (&*exec.namespace, &*exec.container),
        ("kube-system", "sluice")
    );
    let mut words = exec.command.iter();
    assert_eq!(words.next().unwrap(), "kube-proxy");
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespaces.get(node)?, SLUICE]);
    command.args(words);
    Some(command)
}

impl Cluster {
    fn new(nodes: &[&str]) -> Self {
        let start = |node: &&str| {
            let name = format!("--hostname-override={node}");
            let files = [("a.yaml", web("web", 1, "10.244.1.11"))];
            let files = files
                .each_ref()
                .map(|(name, content)| (*name, content.as_str()));
            let proxy = Proxy::start(Mode::Nftables, &files, &[&name]);
            proxy
                .host
                .sh("ip link add pods type bridge && ip link set pods up
                 ip addr add 10.244.1.254/24 dev pods && ip route add default via 10.200.1.1
                 echo 1 > /proc/sys/net/ipv4/ip_forward");
            ((*node).to_owned(), proxy)
        };
        let nodes: BTreeMap<String, Proxy> = nodes.iter().map(start).collect();
        let sim = Sim::start(Config {
            tokens: vec!["abc".to_owned()],
            ..Config::default()
        })
        .unwrap();
        sim.set_pods(nodes.keys().map(|node| pod(node)).collect());
        let namespaces = nodes.iter();
        let namespaces: BTreeMap<_, _> = namespaces
            .map(|(node, proxy)| (node.clone(), proxy.host.name.clone()))
            .collect();
        sim.on_exec(move |exec| command_in(&namespaces, exec));
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = sim.write_kubeconfig(folder.path(), "{token: abc}").unwrap();
        symlink(SLUICE, folder.path().join("kubectl-sluice")).unwrap();
        for (node, proxy) in &nodes {
            eventually(&format!("rules of {node}"), || {
                let output = proxy.host.sluice(&["explain", "demo/web"]);
                output.status.code() == Some(0)
            });
        }
        Self {
            nodes,
            sim,
            folder,
            kubeconfig,
        }
    }

    /// Run `kubectl sluice`.
    fn ask(&self, words: &[&str]) -> Output {
        let kubeconfig = format!("--kubeconfig={}", self.kubeconfig.display());
        self.ask_with(&[words, &[&kubeconfig]].concat())
    }

    fn ask_with(&self, words: &[&str]) -> Output {
        let kubectl = kubectl();
        let mut path = OsString::from(self.folder.path());
        path.push(":");
        path.push(kubectl.parent().unwrap());
        path.push(":/usr/bin:/bin:/usr/sbin:/sbin");
        let mut command = Command::new(kubectl);
        command.arg("sluice").args(words).env("PATH", path);
        command
            .env("HOME", self.folder.path())
            .env_remove("KUBECONFIG");
        command.output().unwrap()
    }

    fn sh(&self, node: &str, line: &str) {
        self.nodes[node].host.sh(line);
    }
}

fn kubectl() -> PathBuf {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/tool");
    let output = Command::new(tool).arg("kubectl").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim().into()
}

#[track_caller]
fn assert_answer(output: &Output, code: i32, expected: &[&str]) {
    let (said, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{said}{error}");
    for text in expected {
        assert!(
            said.contains(text) || error.contains(text),
            "{text:?} is not in:\n{said}{error}"
        );
    }
}

const DROP: &str = "nft add table ip filter; nft 'add chain ip filter forward \
    { type filter hook forward priority 0; }'; nft add rule ip filter forward ip daddr 10.244.1.11 drop; \
    nft 'add chain ip filter output { type filter hook output priority 0; }'; \
    nft add rule ip filter output ip daddr 10.244.1.11 drop";

#[test]
fn nodes_with_equal_answers_are_grouped_and_a_broken_node_is_named() {
    let cluster = Cluster::new(&["node1", "node2", "node3"]);
    let fine = "node1, node2, node3: no problems found";
    assert_answer(&cluster.ask(&["explain", "demo/web"]), 0, &[fine]);
    assert_answer(&cluster.ask(&["explain", "web", "-n", "demo"]), 0, &[fine]);
    assert_answer(
        &cluster.ask(&["verify"]),
        0,
        &["node1, node2, node3: no problems found in 1 Services"],
    );
    let said = text(&cluster.ask(&["status"]).stdout);
    assert_eq!(said.lines().count(), 4, "{said}");
    assert!(
        said.lines().skip(1).all(|line| line.contains("nftables")),
        "{said}"
    );

    cluster.sh("node3", DROP);
    let dropped = [
        "node1, node2: no problems found",
        "node3: problems found\n  1. foreign-drop",
    ];
    assert_answer(&cluster.ask(&["explain", "demo/web"]), 1, &dropped);
    assert_answer(&cluster.ask(&["verify"]), 1, &dropped);
    let question = [
        "trace",
        "--src=10.200.1.2",
        "--dst=10.96.10.1",
        "--dport=80",
    ];
    let output = cluster.ask(&question);
    assert_answer(&output, 1, &["node1, node2: \n", "node3: \n", "drop"]);
    let named = ["trace", "--src=10.200.1.2", "--dst=demo/web"];
    assert_answer(&cluster.ask(&named), 1, &["node1, node2: \n", "node3: \n"]);
    let one = cluster.ask(&[&question[..], &["--node=node1"]].concat());
    assert_answer(&one, 0, &["node1: \n", "10.244.1.11"]);

    // The same damage on another node: one group for both.
    cluster.sh("node1", DROP);
    let output = cluster.ask(&["explain", "demo/web", "--node", "node1,node3"]);
    assert_answer(
        &output,
        1,
        &["node1, node3: problems found\n  1. foreign-drop"],
    );

    let output = cluster.ask(&["explain", "demo/web", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let nodes = json["nodes"].as_array().unwrap();
    let problems: Vec<_> = nodes
        .iter()
        .map(|n| (n["node"].as_str().unwrap(), &n["problem"]))
        .collect();
    let (yes, no) = (Value::from(true), Value::from(false));
    assert_eq!(problems, [("node1", &yes), ("node2", &no), ("node3", &yes)]);
    assert_eq!(nodes[1]["answer"]["service"], "demo/web");
}

#[test]
fn node_that_does_not_answer_does_not_hide_the_others() {
    let mut cluster = Cluster::new(&["node1", "node2"]);
    // A node that the API server cannot reach, and one with a pending Pod.
    let mut pending = pod("node4");
    pending["status"]["phase"] = "Pending".into();
    let pods = ["node1", "node2", "node3"]
        .map(pod)
        .into_iter()
        .chain([pending]);
    cluster.sim.set_pods(pods.collect());
    let output = cluster.ask(&["explain", "demo/web"]);
    let expected = [
        "node1, node2: no problems found",
        "node3: no answer: ",
        "the node does not answer",
        "node4: no answer: Pod kube-system/sluice-node4 is Pending",
    ];
    assert_answer(&output, 2, &expected);
    let output = cluster.ask(&["status"]);
    assert_answer(&output, 2, &["node3  -", "no answer", "node1  nftables"]);

    // A proxy that was killed: explain has no objects.
    cluster.nodes.get_mut("node2").unwrap().kill();
    let output = cluster.ask(&["explain", "demo/web", "--node=node1,node2"]);
    let expected = [
        "node1: no problems found",
        "node2: no answer: sluice: no sluice proxy is running",
    ];
    assert_answer(&output, 2, &expected);
    // A problem decides about the exit status.
    cluster.sh("node1", DROP);
    assert_eq!(cluster.ask(&["explain", "demo/web"]).status.code(), Some(1));
}

#[test]
fn facts_of_all_nodes_are_saved_and_answer_questions_elsewhere() {
    let cluster = Cluster::new(&["node1", "node2"]);
    cluster.sh("node2", DROP);
    let folder = cluster.folder.path().join("facts");
    let output = cluster.ask(&["facts"]);
    assert_answer(
        &output,
        2,
        &["--dir FOLDER is required for the facts of 2 nodes"],
    );
    let output = cluster.ask(&["facts", "--dir", folder.to_str().unwrap()]);
    assert_answer(&output, 0, &["node1.json", "node2.json"]);
    for (node, status) in [("node1", 0), ("node2", 1)] {
        let file = folder.join(format!("{node}.json"));
        let question = [
            "trace",
            "--src=10.200.1.2",
            "--dst=10.96.10.1",
            "--dport=80",
        ];
        let output = Command::new(SLUICE)
            .args(question)
            .arg("--facts")
            .arg(file)
            .output();
        assert_answer(&output.unwrap(), status, &["10.244.1.11"]);
    }
    let one = cluster.ask(&["facts", "--node=node1"]);
    let facts: Value = serde_json::from_slice(&one.stdout).unwrap();
    assert!(facts["dumps"].is_object(), "{facts}");
}

#[test]
fn flags_of_kubectl_choose_cluster_and_pods() {
    let cluster = Cluster::new(&["node1"]);
    let fine = ["node1: no problems found"];
    let kubeconfig = cluster.kubeconfig.to_str().unwrap();
    let with = |words: &[&str]| cluster.ask_with(&[&["explain"], words].concat());
    assert_answer(
        &with(&["demo/web", "--kubeconfig", kubeconfig, "--context", "sim"]),
        0,
        &fine,
    );
    let wrong = with(&["demo/web", "--kubeconfig", kubeconfig, "--context", "other"]);
    assert_answer(&wrong, 2, &["cannot list sluice's Pods", "other"]);
    let nowhere = with(&["demo/web"]);
    assert_answer(&nowhere, 2, &["cannot list sluice's Pods"]);
    assert_answer(
        &cluster.ask(&["explain", "demo/web", "-n", "kube-system"]),
        0,
        &fine,
    );
    let other = cluster.ask(&["explain", "demo/web", "-n", "other"]);
    assert_answer(
        &other,
        2,
        &["found no Pod of sluice in namespace other", "--selector"],
    );
    let missing = cluster.ask(&["verify", "--node=node7"]);
    assert_answer(
        &missing,
        2,
        &["no Pod of sluice is on node node7; nodes with one: node1"],
    );
    let unknown = cluster.ask(&["explain", "web"]);
    assert_answer(
        &unknown,
        2,
        &["node1: no answer: sluice: Service default/web does not exist"],
    );

    // kube-proxy's DaemonSet, in which only the image was replaced.
    let mut replaced = pod("node1");
    replaced["metadata"]["labels"] = json!({"k8s-app": "kube-proxy"});
    cluster.sim.set_pods(vec![replaced.clone()]);
    assert_answer(&cluster.ask(&["explain", "demo/web"]), 0, &fine);
    replaced["spec"]["containers"][0]["image"] = "registry.k8s.io/kube-proxy:v1.36.0".into();
    cluster.sim.set_pods(vec![replaced]);
    assert_answer(
        &cluster.ask(&["explain", "demo/web"]),
        2,
        &["found no Pod of sluice in any namespace"],
    );
    let named = cluster.ask(&["explain", "demo/web", "-l", "k8s-app=kube-proxy"]);
    assert_answer(&named, 0, &fine);
    assert!(fs::exists(cluster.folder.path().join("kubectl-sluice")).unwrap());
}

#[test]
fn exported_page_contains_every_node() {
    let cluster = Cluster::new(&["node1", "node2"]);
    cluster.sh(
        "node2",
        "nft add table ip mine; nft add chain ip mine out '{ type filter hook output priority 0; }'
                nft add rule ip mine out ip daddr 10.244.1.11 drop",
    );
    let file = cluster.folder.path().join("page.html");
    let output = cluster.ask(&[
        "ui",
        "--service=demo/web",
        "--export",
        file.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let html = fs::read_to_string(&file).unwrap();
    let (_, data) = html.split_once("id=\"data\">").unwrap();
    let data: Value = serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap();
    let answers = data["answers"].as_object().unwrap();
    for (node, expected) in [("node1", false), ("node2", true)] {
        let key = json!(["service", [["name", "demo/web"], ["node", node]]]).to_string();
        let answer = &answers[&key]["answer"];
        assert_eq!(answer["node"], node);
        let found = answer["findings"].to_string().contains("foreign-drop");
        assert_eq!(found, expected, "{answer}");
    }
}
