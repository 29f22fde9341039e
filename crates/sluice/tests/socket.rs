//! The socket of the running proxy, through which other commands need no flags.

mod support;

use std::io::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use apiserver_sim::{Config, Sim};
use model::Mode;
use serde_json::Value;
use support::{CLUSTER_CIDR, Host, Proxy, Running, SLUICE, eventually, eventually_or, text, web};

fn status(host: &Host) -> Option<Value> {
    let output = host.sluice(&["status", "-o", "json"]);
    serde_json::from_slice(&output.stdout).ok()
}

/// Wait for a status that fulfils a condition, and return it.
fn status_with(host: &Host, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
    let mut last = None;
    eventually_or(&|| what.to_owned(), || {
        last = status(host);
        last.as_ref().is_some_and(&mut wanted)
    });
    last.unwrap()
}

fn is_settled(status: &Value) -> bool {
    let families = status["families"].as_array().unwrap();
    let sandbox = status["sandbox"].as_array().unwrap();
    !families.is_empty()
        && families.iter().all(|f| f["synced"].is_object())
        && sandbox
            .iter()
            .any(|r| r["name"] == "seccomp" && r["enforced"] == true)
}

/// Return a host without a socket of an earlier test, whose namespace had the same number.
fn clean_host() -> Host {
    let host = Host::new();
    let _ = std::fs::remove_file(socket(&host));
    host
}

/// The socket of the proxy in a namespace.
fn socket(host: &Host) -> PathBuf {
    let number = host.sh("stat -L -c %i /proc/self/ns/net");
    format!("/run/sluice/net-{}.sock", number.trim()).into()
}

fn assert_fine(output: &Output, expected: &str) {
    let (said, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}{error}");
    assert!(
        said.contains(expected),
        "{expected} is not in {said}{error}"
    );
}

#[test]
fn commands_need_no_flags_beside_a_running_proxy() {
    for mode in [Mode::Iptables, Mode::Nftables] {
        let proxy = Proxy::start(mode, &[("a.yaml", &web("a", 1, "10.244.1.1"))], &[]);
        let host = &proxy.host;
        // Pods are behind this interface.
        host.sh(
            "ip link add pods type bridge && ip link set pods up && ip addr add 10.244.1.254/24 dev pods
             ip route add default via 10.200.1.1
             echo 1 > /proc/sys/net/ipv4/ip_forward",
        );
        let status = status_with(host, "settled", is_settled);
        assert_eq!(status["node"], "node1");
        assert_eq!(status["mode"], mode.name());
        assert_eq!(status["services"], 1);
        assert_eq!(status["configuration"]["clusterCIDR"], CLUSTER_CIDR);
        assert_eq!(status["families"][0]["ports"], 1, "{status}");
        assert_eq!(status["families"][0]["endpoints"], 1, "{status}");
        assert_eq!(status["families"][0]["adopted"]["found"], "nothing");
        assert_fine(&host.sluice(&["status"]), "node1: ");
        assert_fine(
            &host.sluice(&["verify"]),
            "node1: no problems found (1 Services, ",
        );
        let said = "demo/a: no problems found on node1";
        assert_fine(&host.sluice(&["explain", "demo/a"]), said);
        assert_fine(
            &host.sluice(&["diagram", "--service", "demo/a"]),
            "10.244.1.1:8080",
        );
        assert_fine(
            &host.sluice(&["status", "--plan"]),
            "\"port\":\"demo/a:http\"",
        );
        let trace = |dst: &str| host.sluice(&["trace", "--src=10.200.1.2", "--dst", dst]);
        for dst in ["demo/a", "demo/a:http", "demo/a:80"] {
            assert_fine(&trace(dst), "10.244.1.1:8080");
        }
        let wrong = trace("demo/a:https");
        assert_eq!(wrong.status.code(), Some(2));
        let error = text(&wrong.stderr);
        let expected = "name one port of Service demo/a, which has http (80)";
        assert!(error.contains(expected), "{error}");

        // The commands follow the proxy's objects.
        proxy.write("a.yaml", &web("b", 2, "10.244.1.2"));
        status_with(host, "the change", |status| {
            status["services"] == 1 && status["families"][0]["pending"] == 0
        });
        eventually("the new Service", || {
            host.sluice(&["explain", "demo/b"]).status.code() == Some(0)
        });
        let gone = host.sluice(&["explain", "demo/a"]);
        assert_eq!(gone.status.code(), Some(2));
        assert!(text(&gone.stderr).contains("Service demo/a does not exist"));

        // The objects of the proxy are manifests.
        let objects = host.sluice(&["status", "--objects"]);
        let file = proxy.folder.path().join(".objects.json");
        std::fs::write(&file, &objects.stdout).unwrap();
        let words = ["explain", "demo/b", "--node=node1", "--manifests"];
        let output = host.sluice(&[&words[..], &[file.to_str().unwrap()]].concat());
        assert_fine(&output, "demo/b: no problems found on node1");
    }
}

#[test]
fn killed_proxy_leaves_a_socket_that_its_sandboxed_successor_replaces() {
    let mut proxy = Proxy::start(
        Mode::Nftables,
        &[("a.yaml", &web("a", 1, "10.244.1.1"))],
        &[],
    );
    let first = status_with(&proxy.host, "settled", is_settled);
    proxy.kill();
    assert!(socket(&proxy.host).exists());
    let output = proxy.host.sluice(&["status"]);
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    assert!(
        error.contains("was left by a process that has ended"),
        "{error}"
    );
    proxy.respawn();
    let second = status_with(&proxy.host, "settled", is_settled);
    assert_ne!(first["process"], second["process"]);
    let adopted = &second["families"][0]["adopted"];
    assert_eq!(adopted["found"], "the same layout", "{second}");
    assert_eq!(
        (&adopted["kept"], &adopted["written"]),
        (&1.into(), &0.into())
    );

    // Clean-up programs remove old files from /run.
    std::fs::remove_file(socket(&proxy.host)).unwrap();
    status_with(&proxy.host, "a new socket", is_settled);

    // An ended process leaves nothing.
    let process = second["process"].to_string();
    proxy.host.sh(&format!("kill {process}"));
    eventually("the end", || !socket(&proxy.host).exists());
}

#[test]
fn socket_is_served_at_the_path_of_its_flag() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/here.sock");
    let flag = format!("--socket={}", path.display());
    let files = [("a.yaml", &*web("a", 1, "10.244.1.1"))];
    let proxy = Proxy::start(Mode::Nftables, &files, &[&flag]);
    let ask = || proxy.host.sluice(&["status", &flag]);
    eventually("a status", || ask().status.code() == Some(0));
    assert_fine(&ask(), "node1: nftables mode");
    // Not at the default path.
    assert_eq!(proxy.host.sluice(&["status"]).status.code(), Some(2));
}

#[test]
fn proxies_in_several_network_namespaces_have_their_own_sockets() {
    let files = |name| [("a.yaml", web(name, 1, "10.244.1.1"))];
    let start = |name| {
        let [(file, content)] = files(name);
        Proxy::start(Mode::Nftables, &[(file, &content)], &[])
    };
    let (one, two) = (start("one"), start("two"));
    for (proxy, own, other) in [(&one, "one", "two"), (&two, "two", "one")] {
        let status = status_with(&proxy.host, "settled", is_settled);
        assert_eq!(status["process"], proxy.process.0.id());
        let explain = |name: &str| proxy.host.sluice(&["explain", &format!("demo/{name}")]);
        let said = text(&explain(own).stdout);
        assert!(said.starts_with(&format!("demo/{own}: ")), "{said}");
        assert_eq!(explain(other).status.code(), Some(2));
    }
    // From elsewhere, with the path.
    let elsewhere = Host::new();
    let output = elsewhere.sluice(&["status"]);
    assert_eq!(output.status.code(), Some(2));
    let path = socket(&one.host);
    let error = text(&output.stderr);
    assert!(
        error.contains("proxies in other network namespaces"),
        "{error}"
    );
    let output = elsewhere.sluice(&["status", "--socket", path.to_str().unwrap()]);
    let said = text(&output.stdout);
    assert!(
        said.contains(&format!("process {}", one.process.0.id())),
        "{said}"
    );
}

#[test]
fn commands_without_a_proxy_state_where_they_looked_and_which_flags_to_pass() {
    let host = clean_host();
    let path = socket(&host);
    for words in [
        &["explain", "demo/web"][..],
        &["verify"],
        &["diagram", "--service", "demo/web"],
    ] {
        let output = host.sluice(words);
        assert!(!output.status.success());
        let error = text(&output.stderr);
        for expected in [
            path.to_str().unwrap(),
            "does not exist",
            "--kubeconfig",
            "--manifests",
        ] {
            assert!(
                error.contains(expected),
                "{words:?}: {expected} is not in {error}"
            );
        }
    }
    let output = host.sluice(&["status"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains(path.to_str().unwrap()));
    let named = host.sluice(&["verify", "--socket=/nonexistent/socket"]);
    assert!(text(&named.stderr).contains("/nonexistent/socket does not exist"));
}

#[test]
fn status_names_objects_that_are_not_used() {
    let proxy = Proxy::start(
        Mode::Nftables,
        &[("a.yaml", &web("a", 1, "10.244.1.1"))],
        &[],
    );
    status_with(&proxy.host, "settled", is_settled);
    let bad = web("a", 1, "10.244.1.1").replace("port: 80}", "port: 99999}");
    proxy.write("a.yaml", &bad);
    status_with(&proxy.host, "the problem", |s| {
        s["source"]["problemCount"] == 1
    });
    let output = proxy.host.sluice(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    assert!(said.contains("spec.ports[0].port"), "{said}");
    assert!(said.contains("last warnings in the log"), "{said}");
    proxy.write("a.yaml", &web("a", 1, "10.244.1.1"));
    status_with(&proxy.host, "no problem", |s| {
        s["source"]["problemCount"] == 0
    });
    assert_fine(&proxy.host.sluice(&["status"]), "no problems");
}

#[test]
fn port_that_the_proxy_cannot_program_is_named_by_every_command() {
    let host = Host::new();
    // Another program has the loopback NodePort, which sluice serves with a socket.
    let _taken = host.run(|| TcpListener::bind("127.0.0.1:30080").unwrap());
    let folder = tempfile::tempdir().unwrap();
    let service = web("a", 1, "10.244.1.1").replace(
        "ports: [{name: http, port: 80}]",
        "type: NodePort, ports: [{name: http, port: 80, nodePort: 30080}]",
    );
    std::fs::write(folder.path().join("a.yaml"), &service).unwrap();
    let _proxy = host
        .command(SLUICE)
        .args([
            "proxy",
            "--proxy-mode=nftables",
            "--hostname-override=node1",
        ])
        .args(["--nodeport-addresses=127.0.0.0/8", "--manifests"])
        .arg(folder.path())
        .spawn()
        .map(Running)
        .unwrap();
    let status = status_with(&host, "the refusal", |s| s["families"][0]["refused"] == 1);
    let refused = &status["families"][0]["refusals"][0];
    assert_eq!(
        (&refused["port"], &refused["protocol"]),
        (&"demo/a:http".into(), &"TCP".into())
    );
    for (words, expected) in [
        (&["status"][..], "IPv4: demo/a:http/TCP is refused"),
        (
            &["explain", "demo/a"],
            "quarantined: the running proxy cannot program demo/a:http/TCP",
        ),
        (&["verify"], "quarantined in 1 Service (demo/a:http)"),
    ] {
        let output = host.sluice(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        let said = text(&output.stdout);
        assert!(
            said.contains(expected),
            "{words:?}: {expected} is not in {said}"
        );
        assert!(said.contains("30080"), "{said}");
    }
}

#[test]
fn status_reports_syncs_that_fail() {
    let proxy = Proxy::start(
        Mode::Nftables,
        &[("a.yaml", &web("a", 1, "10.244.1.1"))],
        &[],
    );
    let host = &proxy.host;
    status_with(host, "settled", is_settled);
    // A table that another process owns cannot be changed.
    let mut nft = host
        .command("nft")
        .arg("-i")
        .stdin(Stdio::piped())
        .spawn()
        .map(Running)
        .unwrap();
    let line = "delete table ip kube-proxy; add table ip kube-proxy { flags owner; }\n";
    nft.0
        .stdin
        .as_mut()
        .unwrap()
        .write_all(line.as_bytes())
        .unwrap();
    status_with(host, "the failure", |s| {
        s["families"][0]["failing"].is_string()
    });
    let output = host.sluice(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    assert!(
        said.contains("IPv4: syncs fail, and the last committed state stays in force"),
        "{said}"
    );
    drop(nft);
    let repaired = status_with(host, "repaired", |s| s["families"][0]["failing"].is_null());
    let warnings = repaired["warnings"].as_array().unwrap();
    assert!(
        warnings
            .iter()
            .any(|w| w["text"].as_str().unwrap().starts_with("Sync failed"))
    );
    proxy.wait_for("10.244.1.1", true);
}

#[test]
fn status_reports_an_api_server_that_does_not_answer() {
    let host = Host::new();
    let sim = host.run(|| Sim::start(Config::default()).unwrap());
    sim.apply([serde_json::json!({"kind": "Node", "metadata": {"name": "node1"}})]);
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").unwrap();
    let _proxy = host.follow(&kubeconfig, &[]);
    let fine = status_with(&host, "settled", |s| {
        is_settled(s) && s["source"]["complete"] == true
    });
    assert!(
        fine["source"]["place"]
            .as_str()
            .unwrap()
            .starts_with("https://"),
        "{fine}"
    );
    assert!(fine["source"]["heard"].is_string(), "{fine}");
    drop(sim);
    let failing = status_with(&host, "failing watches", |s| {
        s["source"]["failing"]
            .as_array()
            .is_some_and(|f| !f.is_empty())
    });
    let output = host.sluice(&["status"]);
    assert_eq!(output.status.code(), Some(1), "{failing}");
    let said = text(&output.stdout);
    assert!(said.contains("fails for"), "{said}");
}
