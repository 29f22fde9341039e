//! Labs on the real kernel. These need root, and fail without it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use kernel::link::RtNetlink;
use kernel::netns::NetNs;
use lab::control::{Cluster, Target};
use lab::manifest::ObjectName;
use lab::probe::{How, Outcome, Probe};
use lab::{Documents, Lab, LabName, Options};
use model::Protocol;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sluice-lab");

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: nginx, labels: {app: nginx}}
spec:
  nodeName: node1
  containers: [{name: c, ports: [{containerPort: 80}, {containerPort: 53, protocol: UDP}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: sibling}
spec: {nodeName: node1, containers: [{name: c, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: stranger, namespace: other}
spec: {nodeName: node2, containers: [{name: c, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: nginx}
spec: {selector: {app: nginx}, ports: [{port: 80}]}
";

fn name(what: &str) -> LabName {
    LabName::new(&format!("t-{what}-{}", std::process::id())).unwrap()
}

fn raise(what: &str, text: &str) -> Lab {
    let (lab, applied) = Lab::up(Options {
        name: name(what),
        nodes: 3,
        documents: Documents::from_text("test.yaml", text),
        echo: vec![PROGRAM.to_owned(), "lab-echo".to_owned()],
        proxy: None,
    })
    .expect("needs root");
    assert_eq!(applied.errors, []);
    lab
}

fn cluster(lab: &Lab) -> Cluster {
    lab.state().unwrap().cluster
}

fn ips(lab: &Lab, pod: &str) -> [IpAddr; 2] {
    let cluster = cluster(lab);
    let id = cluster.live_pod(&ObjectName::parse(pod)).unwrap();
    cluster.pods[&id].ips
}

fn links_here() -> BTreeSet<String> {
    let links = RtNetlink::open().unwrap().links().unwrap();
    links.into_iter().map(|link| link.name).collect()
}

/// Everything that a lab has on the machine: namespaces, mounts, processes in them, its folder.
#[derive(Debug, Default, PartialEq, Eq)]
struct Traces {
    namespaces: Vec<String>,
    mounts: Vec<String>,
    processes: Vec<i32>,
    folder: bool,
}

impl Traces {
    fn of(lab: &LabName) -> Self {
        let prefix = format!("sluice.{lab}.");
        let mut namespaces = NetNs::list().unwrap();
        namespaces.retain(|netns| netns.starts_with(&prefix));
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        Self {
            processes: namespaces
                .iter()
                .filter_map(|netns| NetNs::open(netns).ok()?.processes().ok())
                .flatten()
                .collect(),
            mounts: mounts
                .lines()
                .filter(|line| line.contains(&prefix))
                .map(str::to_owned)
                .collect(),
            namespaces,
            folder: std::path::Path::new("/run/sluice-lab")
                .join(lab.to_string())
                .exists(),
        }
    }
}

/// Assert that no namespace, mount, folder or earlier process of the lab is left.
fn assert_gone(lab: &LabName, before: &Traces) {
    assert_eq!(Traces::of(lab), Traces::default());
    for pid in &before.processes {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(
            !command.contains("lab-echo"),
            "process {pid} is left: {command}"
        );
    }
}

#[test]
fn hosts_reach_each_other_by_both_families_until_down() {
    let links = links_here();
    let lab = raise("reach", PODS);
    let name = lab.name().clone();
    let before = Traces::of(&name);
    assert_eq!(before.namespaces.len(), 1 + 1 + 3 + 3);
    assert_eq!(before.processes.len(), 3);
    let stranger = lab.host("other/stranger").unwrap();
    for from in [
        "client",
        "node1",
        "node2",
        "nginx",
        "sibling",
        "other/stranger",
    ] {
        for ip in ips(&lab, "nginx") {
            let host = lab.host(from).unwrap();
            for probe in [
                Probe::http((ip, 80).into()),
                Probe {
                    how: How::Plain(Protocol::Tcp),
                    ..Probe::http((ip, 80).into())
                },
                Probe::udp((ip, 53).into()),
            ] {
                let outcome = host.probe(probe).unwrap();
                let answer = outcome
                    .answer()
                    .unwrap_or_else(|| panic!("{from}, {probe:?}: {outcome}"));
                assert_eq!((&*answer.pod, &*answer.node), ("nginx", "node1"));
                assert_eq!(answer.local, probe.to);
                if from == "other/stranger" {
                    assert!(ips(&lab, from).contains(&answer.client.ip()), "{answer:?}");
                }
            }
            assert_eq!(
                host.probe(Probe::http((ip, 81).into())).unwrap(),
                Outcome::Refused
            );
        }
    }
    let unused: IpAddr = "10.244.1.200".parse().unwrap();
    let outcome = stranger.probe(Probe::http((unused, 80).into())).unwrap();
    assert_eq!(outcome, Outcome::Unreachable);
    assert_eq!(
        links_here(),
        links,
        "nothing may be in the machine's own namespace"
    );
    drop(lab);
    assert_gone(&name, &before);
}

#[test]
fn two_labs_with_the_same_addresses_are_isolated() {
    let one = raise("one", PODS);
    let text = PODS.replace("nginx", "apache");
    let two = raise("two", &text);
    let ip = ips(&one, "nginx")[0];
    assert_eq!(ip, ips(&two, "apache")[0]);
    for (lab, pod) in [(&one, "nginx"), (&two, "apache")] {
        let outcome = lab
            .client()
            .unwrap()
            .probe(Probe::http((ip, 80).into()))
            .unwrap();
        assert_eq!(outcome.answer().map(|a| &*a.pod), Some(pod));
    }
    let before = Traces::of(one.name());
    let name = one.name().clone();
    drop(one);
    assert_gone(&name, &before);
    assert!(
        two.client()
            .unwrap()
            .probe(Probe::http((ip, 80).into()))
            .unwrap()
            .answer()
            .is_some()
    );
}

#[test]
fn down_leaves_nothing_after_any_crash() {
    let mut lab = raise("crash", PODS);
    lab.keep();
    let name = lab.name().clone();
    // A process that is not recorded, the state lost, a name without its namespace, and a pod
    // that died.
    let mut stray = lab
        .host("node2")
        .unwrap()
        .command(&["sleep", "1000"])
        .unwrap()
        .spawn()
        .unwrap();
    let before = Traces::of(&name);
    let state = lab.state().unwrap();
    let victim = state.pods.values().next().unwrap();
    victim.signal(nix::sys::signal::Signal::SIGKILL);
    fs::remove_file(format!("/run/sluice-lab/{name}/state.json")).unwrap();
    NetNs::delete(&format!("sluice.{name}.node.node3")).unwrap();
    fs::write(format!("/run/netns/sluice.{name}.pod.default.half.9"), "").unwrap();
    assert!(Lab::list().unwrap().contains(&name));
    Lab::down(&name).unwrap();
    assert_gone(&name, &before);
    // Taking the lab down may have waited for it already.
    let _ = stray.wait();
    let stray = format!("/proc/{}", stray.id());
    assert!(!std::path::Path::new(&stray).exists());
    assert!(!Lab::list().unwrap().contains(&name));
}

#[test]
fn a_deleted_pod_serves_through_its_grace_period() {
    let mut lab = raise("grace", PODS);
    let ip = ips(&lab, "nginx")[0];
    let client = lab.client().unwrap();
    let slice = lab
        .folder()
        .manifests()
        .join("endpointslice.default.nginx-ipv4-1.json");
    let conditions = || -> serde_json::Value {
        let text = fs::read(&slice).unwrap();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap()["endpoints"][0]["conditions"]
            .take()
    };
    assert_eq!(conditions()["ready"], true);
    let target = Target {
        kind: "pod".to_owned(),
        name: ObjectName::parse("nginx"),
    };
    thread::scope(|scope| {
        let deleting = scope.spawn(|| lab.delete(&target, Some(2)).unwrap());
        while conditions()["terminating"] == false {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(
            conditions(),
            serde_json::json!({"ready": false, "serving": true, "terminating": true})
        );
        let outcome = client.probe(Probe::http((ip, 80).into())).unwrap();
        assert_eq!(outcome.answer().map(|a| &*a.pod), Some("nginx"));
        deleting.join().unwrap();
    });
    assert!(!slice.exists());
    let outcome = client.probe(Probe::http((ip, 80).into())).unwrap();
    assert_eq!(outcome, Outcome::Unreachable);
    assert!(lab.host("nginx").is_err());
}

#[test]
fn a_pod_that_cannot_start_is_named_and_affects_no_other() {
    let mut lab = raise("port", PODS);
    let host = |name: &str| {
        format!(
            "{{kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: node3, hostNetwork: true, containers: [{{ports: [{{containerPort: 9000}}]}}]}}}}"
        )
    };
    lab.apply(&Documents::from_text("a", &host("first")))
        .unwrap();
    let error = lab
        .apply(&Documents::from_text("b", &host("second")))
        .unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("pod default/second cannot start"), "{text}");
    assert!(text.contains("9000"), "{text}");
    assert!(
        cluster(&lab)
            .live_pod(&ObjectName::parse("second"))
            .is_none()
    );
    let node3 = cluster(&lab).nodes["node3"].ips()[0];
    let outcome = lab
        .client()
        .unwrap()
        .probe(Probe::http((node3, 9000).into()))
        .unwrap();
    assert_eq!(outcome.answer().map(|a| &*a.pod), Some("first"));
}

#[test]
fn a_transport_missing_from_the_kernel_is_reported_as_not_served() {
    let mut lab = raise("sctp", "");
    let text = "{kind: Pod, metadata: {name: p}, spec: {containers: [{ports: [{containerPort: 80}, {containerPort: 9, protocol: SCTP}]}]}}";
    let applied = lab.apply(&Documents::from_text("a", text)).unwrap();
    let ip = ips(&lab, "p")[0];
    let at = |port| SocketAddr::new(ip, port);
    let client = lab.client().unwrap();
    assert!(
        client
            .probe(Probe::http(at(80)))
            .unwrap()
            .answer()
            .is_some()
    );
    let sctp = Probe {
        how: How::Plain(Protocol::Sctp),
        ..Probe::http(at(9))
    };
    let served = client.probe(sctp).unwrap().answer().is_some();
    let said = applied
        .notes
        .iter()
        .any(|note| note.contains("this kernel lacks SCTP"));
    assert_eq!(said, !served, "{:?}", applied.notes);
}

#[test]
fn the_proxy_of_each_node_is_started_killed_and_started_again() {
    let (mut lab, _) = Lab::up(Options {
        name: name("proxy"),
        nodes: 2,
        documents: Documents::default(),
        echo: vec![PROGRAM.to_owned(), "lab-echo".to_owned()],
        proxy: Some(lab::ProxyCommand {
            argv: ["sh", "-c", "echo \"$@\" >&2; exec sleep 1000", "sh"]
                .map(str::to_owned)
                .into(),
        }),
    })
    .unwrap();
    assert!(lab.node_proxy("node2").unwrap().is_alive().unwrap());
    let before = lab.state().unwrap().proxies;
    lab.node_proxy("node2").unwrap().kill().unwrap();
    assert!(!lab.node_proxy("node2").unwrap().is_alive().unwrap());
    assert!(lab.node_proxy("node1").unwrap().is_alive().unwrap());
    lab.node_proxy("node2").unwrap().start().unwrap();
    assert_ne!(lab.state().unwrap().proxies["node2"], before["node2"]);
    let log = lab.folder().log("proxy-node1");
    let expected = format!(
        "--manifests {} --hostname-override node1\n",
        lab.folder().manifests().display()
    );
    assert_eq!(fs::read_to_string(log).unwrap(), expected);
    let error = lab.wait_synced(Duration::from_millis(200)).unwrap_err();
    assert!(
        error.to_string().contains("did not sync in time"),
        "{error}"
    );
    lab.node_proxy("node1").unwrap().kill().unwrap();
    let error = lab.wait_synced(Duration::from_secs(5)).unwrap_err();
    assert!(
        error.to_string().contains("proxy of node1 has ended"),
        "{error}"
    );
}

fn program(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

/// Takes a lab down when the test ends or panics.
struct Guard(LabName);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = Lab::down(&self.0);
    }
}

#[test]
fn lab_commands_work_from_up_to_down() {
    let guard = Guard(name("cli"));
    let name = guard.0.to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pods.yaml");
    let bad = "---\n{kind: Service, metadata: {name: bad}, spec: {type: NodePort, ports: [{port: 80, nodePort: 1}]}}\n";
    fs::write(&file, format!("{PODS}{bad}")).unwrap();
    let path = file.to_str().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();

    let up = program(&["up", "--no-proxy", "--name", &name, "-f", path]);
    assert_eq!(up.status.code(), Some(1), "a bad document is a failure");
    assert!(
        text(&up.stderr).contains("(Service default/bad): spec.ports[0].nodePort"),
        "{up:?}"
    );
    assert!(text(&up.stdout).contains("default/nginx"), "{up:?}");
    let again = program(&["up", "--no-proxy", "--name", &name]);
    assert!(text(&again.stderr).contains("already"), "{again:?}");

    let exec = program(&[
        "exec",
        "--name",
        &name,
        "nginx",
        "--",
        "sh",
        "-c",
        "cat /proc/net/if_inet6; exit 7",
    ]);
    assert_eq!(exec.status.code(), Some(7));
    assert!(
        text(&exec.stdout).contains("fd0000100244000100000000000000"),
        "{exec:?}"
    );
    let unknown = program(&["exec", "--name", &name, "missing", "--", "true"]);
    assert!(
        text(&unknown.stderr).contains("no host missing"),
        "{unknown:?}"
    );

    let moved = program(&["move", "--name", &name, "nginx", "node3"]);
    assert!(moved.status.success(), "{moved:?}");
    let unready = program(&["ready", "--name", &name, "nginx", "false"]);
    assert!(unready.status.success(), "{unready:?}");
    let status = text(&program(&["status", "--name", &name]).stdout);
    assert!(status.contains("node3  10.244.3.2"), "{status}");
    assert!(status.contains("not ready"), "{status}");
    let deleted = program(&[
        "delete",
        "--name",
        &name,
        "--grace-period",
        "0",
        "pod",
        "nginx",
    ]);
    assert_eq!(text(&deleted.stdout), "pod/nginx deleted\n", "{deleted:?}");

    let before = Traces::of(&guard.0);
    assert!(program(&["down", "--name", &name]).status.success());
    assert_gone(&guard.0, &before);
    let gone = program(&["down", "--name", &name]);
    assert!(text(&gone.stderr).contains("does not exist"), "{gone:?}");
}
