//! What is shipped: manifests, chart, alerts and dashboard say what the program takes, needs and has.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use apiserver_sim::{Config, Sim};
use model::Mode;
use observe::Metrics;
use serde_json::{Value, json};
use support::{Host, SLUICE, eventually, text};

fn deploy(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    root.join(path)
}

/// The objects of files.
fn objects(files: &[&str]) -> Vec<Value> {
    let of_file = |file: &&str| -> Vec<Value> {
        let text = fs::read_to_string(deploy(file)).unwrap();
        serde_saphyr::from_multiple(&text).unwrap_or_else(|e| panic!("{file}: {e}"))
    };
    files.iter().flat_map(of_file).collect()
}

fn kustomization() -> Vec<Value> {
    let list = objects(&["kustomize/kustomization.yaml"]).remove(0);
    let files = list["resources"].as_array().unwrap().iter();
    let files: Vec<_> = files
        .map(|f| format!("kustomize/{}", f.as_str().unwrap()))
        .collect();
    objects(&files.iter().map(String::as_str).collect::<Vec<_>>())
}

fn chart() -> Vec<Value> {
    objects(&["helm/rendered.yaml"])
}

fn of_kind(objects: &[Value], kind: &str) -> Value {
    let mut found = objects.iter().filter(|o| o["kind"] == kind);
    let (Some(one), None) = (found.next(), found.next()) else {
        panic!("not one {kind}");
    };
    one.clone()
}

#[test]
fn the_chart_is_the_one_that_was_rendered() {
    let line = "cat sluice/Chart.yaml sluice/values.yaml sluice/templates/*.yaml | sha256sum";
    let output = Command::new("sh")
        .args(["-c", line])
        .current_dir(deploy("helm"))
        .output()
        .unwrap();
    let sum = text(&output.stdout);
    let sum = sum.split_whitespace().next().unwrap();
    let rendered = fs::read_to_string(deploy("helm/rendered.yaml")).unwrap();
    let first = rendered.lines().next().unwrap();
    assert!(
        first.ends_with(sum),
        "the chart has changed: run scripts/render-chart"
    );
}

#[test]
fn chart_and_kustomization_install_the_same() {
    let (ours, charts) = (kustomization(), chart());
    let pod = |objects: &[Value]| {
        let mut spec = of_kind(objects, "DaemonSet")["spec"]["template"]["spec"].clone();
        // Where the image comes from is up to each.
        for field in ["image", "imagePullPolicy"] {
            spec["containers"][0].as_object_mut().unwrap().remove(field);
        }
        spec
    };
    assert_eq!(pod(&ours), pod(&charts));
    let rules = |objects: &[Value]| of_kind(objects, "ClusterRole")["rules"].clone();
    assert_eq!(rules(&ours), rules(&charts));
    let config = |objects: &[Value]| {
        let map = of_kind(objects, "ConfigMap");
        let text = map["data"]["config.conf"].as_str().unwrap().to_owned();
        let mut file = config::KubeProxyConfiguration::from_yaml(&text).unwrap();
        file.set_defaults();
        file
    };
    assert_eq!(config(&ours), config(&charts));
}

#[test]
fn what_the_pod_runs_is_taken() {
    for objects in [kustomization(), chart()] {
        let folder = tempfile::tempdir().unwrap();
        let config = of_kind(&objects, "ConfigMap")["data"]["config.conf"].clone();
        fs::write(folder.path().join("config.conf"), config.as_str().unwrap()).unwrap();
        let pod = of_kind(&objects, "DaemonSet")["spec"]["template"]["spec"].clone();
        let container = &pod["containers"][0];
        let mount = container["volumeMounts"].as_array().unwrap().iter();
        let mut mount = mount.filter(|m| m["name"] == "config");
        let mounted = mount.next().unwrap()["mountPath"]
            .as_str()
            .unwrap()
            .to_owned();
        // As the image has it.
        let program = folder.path().join("kube-proxy");
        std::os::unix::fs::symlink(SLUICE, &program).unwrap();
        let written = folder.path().join("written");
        let args = container["args"].as_array().unwrap().iter().map(|arg| {
            let arg = arg.as_str().unwrap().replace("$(NODE_NAME)", "node1");
            arg.replace(&mounted, folder.path().to_str().unwrap())
        });
        let output = Command::new(program)
            .args(args)
            .arg("--write-config-to")
            .arg(&written)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "", "nothing is ignored or deprecated");
        let file = fs::read_to_string(written).unwrap();
        assert!(file.contains("hostnameOverride: node1\n"), "{file}");
        let file = config::KubeProxyConfiguration::from_yaml(&file).unwrap();
        let config = config::Config::from_file(file).unwrap();
        let port = u64::from(config.healthz_bind_address.unwrap().port());
        for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/healthz")] {
            let get = &container[probe]["httpGet"];
            assert_eq!((&get["path"], &get["port"]), (&json!(path), &json!(port)));
        }
    }
}

/// `group/resource verb` of a request.
fn request(line: &str) -> String {
    let mut words = line.split(' ');
    let (method, uri) = (words.next().unwrap(), words.next().unwrap());
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let parts: Vec<_> = path.split('/').skip(1).collect();
    let (group, rest) = match parts[0] {
        "api" => ("", &parts[2..]),
        _ => (parts[1], &parts[3..]),
    };
    let resource = match rest {
        ["namespaces", _, resource, ..] => resource,
        rest => &rest[0],
    };
    let verb = match method {
        "GET" if query.contains("watch=true") || query.contains("watch=1") => "watch",
        "GET" => "list",
        "POST" => "create",
        other => other,
    };
    format!("{group}/{resource} {verb}")
}

#[test]
fn the_role_allows_what_is_asked_for_and_nothing_else() {
    let mut asked = BTreeSet::new();
    for streaming in [true, false] {
        let host = Host::new();
        let sim = host.run(|| Sim::start(Config::default()).unwrap());
        sim.misbehave(|faults| faults.no_streaming_lists = !streaming);
        sim.apply([json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.200.1.2"}]},
        })]);
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = sim.write_kubeconfig(folder.path(), "{token: abc}").unwrap();
        let _running = host.follow(&kubeconfig, &["--kube-api-qps=1000"]);
        eventually("everything is followed, and said to have started", || {
            sim.open_watches() == 4 && !sim.posted_events().is_empty()
        });
        asked.extend(sim.requests().iter().map(|line| request(line)));
    }
    // An Event that repeats is counted; the tests of the source make one repeat.
    asked.insert("events.k8s.io/events patch".to_owned());
    for objects in [kustomization(), chart()] {
        let role = of_kind(&objects, "ClusterRole");
        let words = |list: &Value| -> Vec<String> {
            let words = list.as_array().unwrap().iter();
            words.map(|w| w.as_str().unwrap().to_owned()).collect()
        };
        let mut allowed = BTreeSet::new();
        for rule in role["rules"].as_array().unwrap() {
            for group in words(&rule["apiGroups"]) {
                for resource in words(&rule["resources"]) {
                    let of = |verb| format!("{group}/{resource} {verb}");
                    allowed.extend(words(&rule["verbs"]).into_iter().map(of));
                }
            }
        }
        assert_eq!(allowed, asked);
    }
}

/// The metrics that PromQL texts name, without the endings of a histogram's parts.
fn named(expressions: &[String]) -> BTreeSet<String> {
    let words = expressions.iter().flat_map(|text| {
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("kubeproxy_") || word.starts_with("sluice_"))
    });
    let base = |word: &str| {
        let part = ["_bucket", "_sum", "_count"].into_iter();
        let mut base = part.filter_map(|part| word.strip_suffix(part));
        base.next().unwrap_or(word).to_owned()
    };
    words.map(base).collect()
}

/// The strings of every field of this name, anywhere.
fn strings(value: &Value, field: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == field => found.push(text.clone()),
                    value => strings(value, field, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|v| strings(v, field, found)),
        _ => {}
    }
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_exist() {
    let sets = [Mode::Iptables, Mode::Ipvs, Mode::Nftables];
    let metrics = sets.map(|set| Metrics::new(set).unwrap());
    let exist: BTreeSet<_> = metrics.iter().flat_map(Metrics::names).collect();
    let alerts = objects(&["monitoring/alerts.yaml"]).remove(0);
    let dashboard = fs::read_to_string(deploy("monitoring/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    for (what, value, fields, least) in [
        ("alerts", alerts, &["expr"][..], 4),
        ("dashboard", dashboard, &["expr", "query"], 5),
    ] {
        let mut expressions = Vec::new();
        for field in fields {
            strings(&value, field, &mut expressions);
        }
        let named = named(&expressions);
        assert!(named.len() >= least, "{what}: {named:?}");
        for name in named {
            assert!(
                exist.contains(name.as_str()),
                "{what}: {name} does not exist"
            );
        }
    }
}

#[test]
fn the_image_holds_what_is_built_for_it() {
    let dockerfile = fs::read_to_string(deploy("Dockerfile")).unwrap();
    let makefile = fs::read_to_string(deploy("../Makefile")).unwrap();
    let copied = dockerfile.lines().filter(|line| line.starts_with("COPY "));
    let mut stages = 0;
    for line in copied {
        let from = line.split_whitespace().nth(1).unwrap();
        assert!(
            makefile.contains(&format!("/release/sluice {from}\n")),
            "{line}"
        );
        stages += 1;
    }
    assert_eq!(
        stages,
        dockerfile
            .lines()
            .filter(|l| l.starts_with("FROM "))
            .count()
    );
}
