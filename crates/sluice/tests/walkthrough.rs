//! `docs/paths.md`: the paths of connections in each mode, as `sluice trace` prints them. `UPDATE=1`
//! rewrites it.

mod support;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use model::Mode;
use serde_json::{Value, json};
use support::{SLUICE, text};

const HEAD: &str = "\
# The paths of connections

What happens to the first packet of a connection on a node, step by step, in each mode. The output is
that of `sluice trace`, which works on any node; `make docs` rewrites this page, and a test compares
it.

The node is `node1` with the address 10.200.1.2; its pods are in 10.244.1.0/24 behind the bridge
`cbr0`, those of `node2` in 10.244.2.0/24. The cluster is that of
[testdata/observed](../testdata/observed/README.md). The first
line of an output is the answer. Each indented line is a rule that the packet matched, with its effect
after `=>`. Where paths fork, each branch shows its odds. Only the first packet of a connection takes
this path: connection tracking applies the result to later packets and to the answers.

Every mode makes the same four decisions, in this order: whether the destination is an address of a
Service (PREROUTING, or OUTPUT for the node's own connections), which endpoint gets the connection,
whether it may pass (FORWARD), and whether the endpoint sees the client or this node (POSTROUTING).
";

/// Path, what it shows, source, destination, port.
const PATHS: [(&str, &str, &str, &str, &str); 4] = [
    (
        "ClusterIP",
        "A pod connects to the cluster IP of `demo/web`, which has an endpoint on this node and one \
         on another. The endpoint sees the pod's own address.",
        "10.244.1.50",
        "10.96.10.1",
        "80",
    ),
    (
        "NodePort",
        "A client outside connects to port 30008 of the node, the NodePort of `demo/nodeport`. The endpoint sees \
         the node's address, so that its answer comes back through this node and is translated back.",
        "198.51.100.9",
        "10.200.1.2",
        "30008",
    ),
    (
        "LoadBalancer",
        "A client outside connects to the load balancer's address of `demo/lb-local`, whose external \
         policy is Local: only this node's endpoints get it, and they see the client's address.",
        "198.51.100.9",
        "203.0.113.201",
        "80",
    ),
    (
        "Hairpin",
        "An endpoint of `demo/web` connects to the Service and may be sent to itself. It would drop \
         packets from its own address, so it sees the node's.",
        "10.244.1.11",
        "10.96.10.1",
        "80",
    ),
];

/// An introduction to a mode's paths.
fn about(mode: Mode) -> &'static str {
    match mode {
        Mode::Userspace => {
            "\nThe rules only lead to the relay: for each frontend, NAT sends the packet to a port of \
             this\nnode on which the relay listens. The relay accepts the connection, chooses an \
             endpoint, and opens\nits own connection to it. So the endpoint always sees the node's \
             address, and a hairpin is a\nconnection like any other. `sluice explain` shows the \
             endpoints from which the relay chooses. Its\nports are numbered from 20000 on here, as \
             `sluice render --mode userspace` numbers them.\n"
        }
        Mode::Iptables | Mode::Ipvs | Mode::Nftables => "",
    }
}

/// Return the arguments that describe `node1` with the rules of a mode.
fn mode_words(mode: Mode, folder: &Path) -> Vec<String> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/trace/node1.json");
    let mut facts: Value = serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
    let shown = |path: &Path| path.to_str().unwrap().to_owned();
    let mut words = Vec::new();
    if mode == Mode::Ipvs {
        let addresses = std::fs::read_to_string(observed::path("ipvs-default.addr")).unwrap();
        let own: Vec<&str> = addresses
            .lines()
            .filter(|l| l.contains("kube-ipvs0"))
            .flat_map(str::split_whitespace)
            .filter(|w| w.contains('/'))
            .collect();
        assert!(!own.is_empty());
        let device = json!({"name": "kube-ipvs0", "index": 9, "up": true, "kind": "dummy", "addresses": own});
        facts["interfaces"].as_array_mut().unwrap().push(device);
        for (flag, file) in [
            ("--iptables-save", "ipvs-default.v4.iptables-save"),
            ("--ipset-save", "ipvs-default.ipset"),
            ("--ipvsadm-save", "ipvs-default.ipvsadm"),
        ] {
            words.extend([flag.to_owned(), shown(&observed::path(file))]);
        }
    } else {
        let config = folder.join("config.yaml");
        let text_of_config = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: \
                              KubeProxyConfiguration\nclusterCIDR: 10.244.0.0/16\n";
        std::fs::write(&config, text_of_config).unwrap();
        let output = Command::new(SLUICE)
            .args([
                "render",
                "--node=node1",
                "--node-ip=10.200.1.2",
                "--mode",
                mode.name(),
            ])
            .arg("--config")
            .arg(&config)
            .arg("-f")
            .arg(observed::path("objects.json"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let rules = folder.join(mode.name());
        std::fs::write(&rules, &output.stdout).unwrap();
        let flag = match mode {
            Mode::Iptables | Mode::Ipvs => "--iptables-save",
            Mode::Nftables | Mode::Userspace => "--nft",
        };
        words.extend([flag.to_owned(), shown(&rules)]);
    }
    let file = folder.join(format!("{mode}.json"));
    std::fs::write(&file, facts.to_string()).unwrap();
    words.extend(["--facts".to_owned(), shown(&file)]);
    words
}

fn page() -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut page = HEAD.to_owned();
    for mode in Mode::ALL {
        let _ = writeln!(page, "\n## {mode} mode");
        page.push_str(about(mode));
        let words = mode_words(mode, folder.path());
        for (path, what, src, dst, dport) in PATHS {
            let output = Command::new(SLUICE)
                .args(["trace", "--src", src, "--dst", dst, "--dport", dport])
                .args(&words)
                .output()
                .unwrap();
            let tree = text(&output.stdout);
            let end = match mode {
                Mode::Userspace => "delivered to the listener on tcp 10.200.1.2:20",
                Mode::Iptables | Mode::Ipvs | Mode::Nftables => "destination 10.244.",
            };
            let said = text(&output.stderr);
            assert!(tree.contains(end), "{mode} {path}: {tree}{said}");
            // Endpoints only see the relay.
            let what = match what.split_once(". ") {
                Some((before, _)) if mode == Mode::Userspace => format!("{before}."),
                _ if mode == Mode::Userspace => {
                    what.replace(", and they see the client's address", "")
                }
                _ => what.to_owned(),
            };
            let _ = writeln!(
                page,
                "\n### {path}\n\n{what}\n\n```\n$ sluice trace --src {src} --dst {dst} --dport {dport}\n{tree}```"
            );
        }
    }
    page
}

#[test]
fn page_shows_the_output_of_trace() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/paths.md");
    let page = page();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let current = std::fs::read_to_string(&file).unwrap();
    assert_eq!(
        page,
        current,
        "{} is not current: `make docs`",
        file.display()
    );
}

/// The rules of every mode do what the objects state, for every Service of the observed cluster.
#[test]
fn explain_finds_no_difference_in_any_mode() {
    let folder = tempfile::tempdir().unwrap();
    let objects = observed::path("objects.json");
    let list: Value = serde_json::from_str(&std::fs::read_to_string(&objects).unwrap()).unwrap();
    let services: Vec<String> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|o| o["kind"] == "Service" && o["metadata"]["namespace"] == "demo")
        .map(|o| format!("demo/{}", o["metadata"]["name"].as_str().unwrap()))
        .collect();
    assert!(services.len() > 10, "{services:?}");
    for mode in Mode::ALL {
        let config = folder.path().join("explain.yaml");
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        let text_of_config = format!("{head}mode: {mode}\nclusterCIDR: 10.244.0.0/16\n");
        std::fs::write(&config, text_of_config).unwrap();
        let words = mode_words(mode, folder.path());
        for service in &services {
            let output = Command::new(SLUICE)
                .args(["explain", service, "--node=node1", "-o=json", "--manifests"])
                .arg(&objects)
                .arg("--config")
                .arg(&config)
                .args(&words)
                .output()
                .unwrap();
            let said = text(&output.stderr);
            let answer: Value = serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|e| panic!("{mode} {service}: {e}: {said}"));
            for finding in answer["findings"].as_array().unwrap() {
                let cause = finding["cause"].as_str().unwrap();
                let wrong = [
                    "rules-differ",
                    "foreign-drop",
                    "no-route",
                    "reverse-path-filter",
                    "martian",
                    "foreign-rule",
                    "stale-rules",
                    "node-name",
                    "chain-policy",
                    "shares",
                    "source-kept",
                    "source-replaced",
                    "reply-lost",
                ];
                assert!(!wrong.contains(&cause), "{mode} {service}: {finding:#}");
            }
        }
    }
}
