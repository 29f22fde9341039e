//! Manifests, chart, alerts and dashboard match the program's flags, permissions and metrics. The real
//! helm and kubectl render them.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use apiserver_sim::{Config, Sim};
use model::Mode;
use observe::Metrics;
use serde_json::{Value, json};
use support::manifests::{
    chart, chart_with, deploy, helm, kustomization, objects, of_kind, pod_of,
};
use support::{Host, SLUICE, eventually, text};

#[test]
fn helm_accepts_the_chart() {
    for values in [
        &[][..],
        &["apiServer=https://192.0.2.1:6443"],
        &[
            "nodeKubeconfig=/etc/kubernetes/kubelet.conf",
            "config.mode=ipvs",
            "extraCapabilities[0]=NET_BIND_SERVICE",
        ],
    ] {
        let output = helm(&["lint", "--strict"], values);
        assert!(output.status.success(), "{}", text(&output.stdout));
    }
}

#[test]
fn the_schema_refuses_wrong_values() {
    for value in [
        "apiServer=192.0.2.1",
        "apiServer=https://192.0.2.1:6443/path",
        "nodeKubeconfig=kubelet.conf",
        "config.mode=ebpf",
        "config.kind=KubeProxyConfiguration",
        "image.pullPolicy=Sometimes",
        "image.repository=",
        "extraCapabilities[0]=SYS_ADMIN",
        "apiserver=https://192.0.2.1:6443",
    ] {
        let output = helm(&["template", "sluice"], &[value]);
        assert!(!output.status.success(), "{value}");
        let message = text(&output.stderr);
        assert!(message.contains("values don't meet"), "{value}: {message}");
    }
}

#[test]
fn the_notes_request_an_api_server_if_none_is_known() {
    let notes = |values: &[&str]| {
        let install = [
            "install",
            "sluice",
            "--dry-run=client",
            "--namespace=kube-system",
        ];
        let output = helm(&install, values);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let all = text(&output.stdout);
        all.split_once("NOTES:").unwrap().1.to_owned()
    };
    let asks = |notes: &str| notes.contains("--set apiServer=https://HOST:PORT");
    assert!(asks(&notes(&[])));
    assert!(!asks(&notes(&["apiServer=https://192.0.2.1:6443"])));
    assert!(!asks(&notes(&[
        "nodeKubeconfig=/etc/kubernetes/kubelet.conf"
    ])));
}

#[test]
fn the_values_for_the_api_server_reach_the_pod() {
    let pod = |values: &[&str]| {
        let objects = chart_with(values);
        of_kind(&objects, "DaemonSet")["spec"]["template"]["spec"].clone()
    };
    let explicit = pod(&["apiServer=https://192.0.2.1:6443"]);
    let args = &explicit["containers"][0]["args"];
    assert!(
        args.as_array()
            .unwrap()
            .contains(&json!("--master=https://192.0.2.1:6443"))
    );
    let mounted = pod(&["nodeKubeconfig=/srv/kubelet.conf"]);
    let default = config::FLAGS
        .iter()
        .any(|flag| flag.name == "node-kubeconfig");
    assert!(!default, "it is a flag of sluice, with this default:");
    let path = "/etc/kubernetes/kubelet.conf";
    let mounts = mounted["containers"][0]["volumeMounts"].as_array().unwrap();
    assert!(
        mounts
            .iter()
            .any(|m| m["mountPath"] == path && m["readOnly"] == true)
    );
    let volumes = mounted["volumes"].as_array().unwrap();
    assert!(
        volumes
            .iter()
            .any(|v| v["hostPath"]["path"] == "/srv/kubelet.conf")
    );
}

/// The file with the API server's addresses survives a reboot: its folder is one of the node's.
#[test]
fn the_state_folder_is_on_the_node() {
    let help = Command::new(SLUICE).args(["proxy", "--help"]).output();
    let help = text(&help.unwrap().stdout).to_owned();
    assert!(help.contains("/var/lib/sluice/api-servers.json"), "{help}");
    for objects in [kustomization(), chart()] {
        let pod = of_kind(&objects, "DaemonSet")["spec"]["template"]["spec"].clone();
        let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
        let state = mounts.iter().find(|m| m["mountPath"] == "/var/lib/sluice");
        let state = state.unwrap();
        assert_eq!(state["readOnly"], Value::Null);
        let volumes = pod["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|v| v["name"] == state["name"]).unwrap();
        assert_eq!(volume["hostPath"]["type"], "DirectoryOrCreate");
        let socket = mounts
            .iter()
            .find(|m| m["mountPath"] == "/run/sluice")
            .unwrap();
        let volume = volumes
            .iter()
            .find(|v| v["name"] == socket["name"])
            .unwrap();
        assert!(volume["emptyDir"].is_object(), "{volume}");
    }
}

#[test]
fn the_icon_of_the_chart_is_its_svg() {
    let chart = objects(&["helm/sluice/Chart.yaml"]).remove(0);
    let svg = fs::read(deploy("helm/sluice/icon.svg")).unwrap();
    let icon = chart["icon"].as_str().unwrap();
    let encoded = icon.strip_prefix("data:image/svg+xml;base64,").unwrap();
    assert_eq!(encoded, data_encoding::BASE64.encode(&svg));
}

#[test]
fn chart_and_kustomization_install_equal_objects() {
    let (ours, charts) = (kustomization(), chart());
    let pod = |objects: &[Value]| {
        let mut spec = of_kind(objects, "DaemonSet")["spec"]["template"]["spec"].clone();
        // The source of the image may differ.
        for containers in ["initContainers", "containers"] {
            for field in ["image", "imagePullPolicy"] {
                let container = &mut spec[containers][0];
                container.as_object_mut().unwrap().remove(field);
            }
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
fn only_the_init_container_is_privileged() {
    let low_ports = chart_with(&["extraCapabilities[0]=NET_BIND_SERVICE"]);
    for (objects, capabilities) in [
        (kustomization(), &["NET_ADMIN"][..]),
        (chart(), &["NET_ADMIN"]),
        (low_ports, &["NET_ADMIN", "NET_BIND_SERVICE"]),
    ] {
        let pod = pod_of(&objects);
        let (inits, containers) = (&pod["initContainers"], &pod["containers"]);
        assert_eq!(inits.as_array().unwrap().len(), 1);
        assert_eq!(containers.as_array().unwrap().len(), 1);
        let (init, proxy) = (&inits[0], &containers[0]);
        assert_eq!(init["securityContext"]["privileged"], true);
        assert_eq!(
            proxy["securityContext"],
            json!({
                "capabilities": {"drop": ["ALL"], "add": capabilities},
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "seccompProfile": {"type": "RuntimeDefault"},
            })
        );
        assert_eq!(init["image"], proxy["image"]);
        let config = |container: &Value| container["args"][0].clone();
        assert_eq!(config(init), config(proxy), "the same configuration");
        assert_eq!(init["args"][1], "--init-only");
    }
}

#[test]
fn the_pods_command_line_is_accepted() {
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
        // The name in the image.
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
fn the_role_allows_exactly_the_requests_of_the_proxy() {
    let mut requested = BTreeSet::new();
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
        eventually("four watches and an Event", || {
            sim.open_watches() == 4 && !sim.posted_events().is_empty()
        });
        requested.extend(sim.requests().iter().map(|line| request(line)));
    }
    // A repeated Event is patched; tests of the source cover that.
    requested.insert("events.k8s.io/events patch".to_owned());
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
        assert_eq!(allowed, requested);
    }
}

/// The metrics in PromQL expressions, without the suffixes of a histogram's parts.
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

/// All strings in fields of this name.
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
fn alerts_and_dashboard_use_existing_metrics() {
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
fn the_image_contains_the_built_program() {
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
