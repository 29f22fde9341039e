//! `--verify-period`: the running proxy reports what other programs do to connections.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;

use apiserver_sim::{Config, Sim};
use serde_json::{Value, json};
use support::{Host, Running, SLUICE, eventually_or};

fn objects() -> [Value; 3] {
    [
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.200.1.2"}]},
        }),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "namespace": "demo"},
            "spec": {
                "type": "ClusterIP", "clusterIP": "10.96.10.1", "clusterIPs": ["10.96.10.1"],
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "web-a", "namespace": "demo",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.244.2.1"], "nodeName": "node2",
                           "conditions": {"ready": true}}],
        }),
    ]
}

fn metrics(host: &Host) -> String {
    host.run(|| {
        let mut page = String::new();
        if let Ok(mut stream) = TcpStream::connect("127.0.0.1:10249") {
            write!(stream, "GET /metrics HTTP/1.0\r\n\r\n").unwrap();
            stream.read_to_string(&mut page).unwrap();
        }
        page
    })
}

/// Return the time of the last verification; 0 before the first.
fn verified_at(host: &Host) -> f64 {
    let page = metrics(host);
    let mut lines = page.lines();
    let value = lines.find_map(|l| l.strip_prefix("sluice_verify_last_timestamp_seconds "));
    value.map_or(0.0, |value| value.parse().unwrap())
}

/// Return the reasons and notes of the Events about verifications.
fn events(sim: &Sim) -> Vec<(String, String)> {
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    let all = sim.posted_events().into_iter();
    all.map(|event| (text(&event, "reason"), text(&event, "note")))
        .filter(|(reason, _)| reason.starts_with("Verify"))
        .collect()
}

#[test]
fn problems_that_other_programs_cause_are_reported_and_withdrawn() {
    let host = Host::new();
    host.sh("sysctl -qw net.ipv4.ip_forward=1; ip route add default dev eth0");
    let sim = host.run(|| Sim::start(Config::default())).unwrap();
    sim.apply(objects());
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{token: abc}").unwrap();
    let log = folder.path().join("log");
    let mut command = host.command(SLUICE);
    command.args([
        "proxy",
        "--proxy-mode=nftables",
        "--hostname-override=node1",
    ]);
    command.args(["--cluster-cidr=10.244.0.0/16", "--verify-period=200ms"]);
    command.arg("--kubeconfig").arg(&kubeconfig);
    command.stderr(Stdio::from(std::fs::File::create(&log).unwrap()));
    let _proxy = Running(command.spawn().unwrap());
    let state = || {
        let log = std::fs::read_to_string(&log).unwrap();
        let page = metrics(&host);
        let page = page.lines().filter(|line| line.starts_with("sluice_"));
        format!(
            "{log}\n{:#?}\n{:#?}",
            page.collect::<Vec<_>>(),
            events(&sim)
        )
    };

    // The node is healthy: several checks report nothing.
    for _ in 0..3 {
        let before = verified_at(&host);
        eventually_or(&state, || verified_at(&host) > before);
    }
    assert!(
        !metrics(&host).contains("sluice_verify_problems{"),
        "{}",
        state()
    );
    assert_eq!(events(&sim), []);

    for (cause, damage, repair) in [
        (
            "foreign-drop",
            "iptables-legacy -I FORWARD -d 10.244.0.0/16 -j DROP",
            "iptables-legacy -F FORWARD",
        ),
        (
            "stale-rules",
            "iptables-legacy -t nat -N KUBE-SERVICES; iptables-legacy -t nat -N KUBE-SVC-A; \
             iptables-legacy -t nat -A KUBE-SERVICES -d 10.96.99.99 -p tcp --dport 80 -j KUBE-SVC-A",
            "iptables-legacy -t nat -F KUBE-SERVICES",
        ),
    ] {
        host.sh(damage);
        let sample = format!("sluice_verify_problems{{cause=\"{cause}\"}} ");
        eventually_or(&state, || metrics(&host).contains(&format!("{sample}1\n")));
        let is_reported = |(reason, note): &(String, String)| {
            reason == "VerifyFoundProblem" && note.starts_with(cause)
        };
        eventually_or(&state, || events(&sim).iter().any(is_reported));
        host.sh(repair);
        eventually_or(&state, || metrics(&host).contains(&format!("{sample}0\n")));
    }
    let withdrawn = |(reason, _): &(String, String)| reason == "VerifyFoundNoProblem";
    eventually_or(&state, || events(&sim).iter().any(withdrawn));
    assert!(host.sluice(&["status"]).status.success(), "{}", state());
}
