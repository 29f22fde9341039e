//! trace, explain and diagram on a running host, and on files from it.

mod support;

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Output;

use model::Mode;
use serde_json::Value;
use support::{Host, text};

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}{}", text(&output.stdout), text(&output.stderr)))
}

/// The configuration with which the rules were made.
const CONFIG: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                      clusterCIDR: 10.244.0.0/16,fd00:10:244::/56\n";

/// The observed node with pods behind a bridge, and the observed cluster's rules in one mode.
fn node(mode: Mode) -> Host {
    let host = Host::new();
    for line in [
        "ip link add cbr0 type bridge && ip link set cbr0 up",
        "ip link add veth11 type veth peer name pod11 && ip link set veth11 master cbr0 up",
        "ip link set pod11 up && ip addr add 10.244.1.1/24 dev cbr0",
        "ip route add 10.244.2.0/24 via 10.200.1.3 && ip route add default via 10.200.1.1",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
    ] {
        host.sh(line);
    }
    host.program_observed(mode);
    host
}

const QUESTIONS: [&[&str]; 4] = [
    &["--src=10.244.1.50", "--dst=10.96.10.1", "--dport=80"],
    &["--src=198.51.100.9", "--dst=10.200.1.2", "--dport=30008"],
    &["--src=10.200.1.2", "--dst=10.96.10.1", "--dport=80"],
    &["--src=10.244.1.50", "--dst=8.8.8.8", "--proto=icmp"],
];

#[test]
fn facts_file_gives_the_same_answers_as_its_host() {
    for mode in [Mode::Iptables, Mode::Nftables] {
        let host = node(mode);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bug.json");
        let facts = host.sluice(&["facts"]);
        assert!(facts.status.success(), "{}", text(&facts.stderr));
        std::fs::write(&file, &facts.stdout).unwrap();
        // Another host, without rules.
        let laptop = Host::new();
        for question in QUESTIONS {
            let mut words = vec!["trace", "-o", "json", "--reply"];
            words.extend(question);
            let live = host.sluice(&words);
            words.extend(["--facts", file.to_str().unwrap()]);
            let away = laptop.sluice(&words);
            assert_eq!(json(&live), json(&away), "{mode} {question:?}");
            assert_eq!(live.status.code(), away.status.code());
        }
    }
}

#[test]
fn input_files_of_every_kind_can_be_combined() {
    let host = node(Mode::Nftables);
    host.sh("ipset create clients hash:ip && ipset add clients 10.244.1.50");
    host.sh("iptables-nft -A FORWARD -m set --match-set clients src -d 10.244.2.0/24 -j DROP");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, contents: &str| -> String {
        let path = folder.path().join(name);
        std::fs::write(&path, contents).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let mut facts = json(&host.sluice(&["facts"]));
    facts["dumps"] = serde_json::json!({});
    let files = [
        ("--facts", facts.to_string()),
        ("--iptables-save", host.sh("iptables-nft-save")),
        ("--nft", host.sh("nft -j list ruleset")),
        ("--ipset-save", host.sh("ipset save")),
    ];
    let files: Vec<String> = files
        .iter()
        .flat_map(|(flag, text)| [(*flag).to_owned(), file(&flag[2..], text)])
        .collect();
    let laptop = Host::new();
    let away = |words: &[&str], more: &[&str]| {
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        json(&laptop.sluice(&[words, &files, more].concat()))
    };
    for question in QUESTIONS {
        let words = [&["trace", "-o", "json", "--reply"], question].concat();
        assert_eq!(
            json(&host.sluice(&words)),
            away(&words, &[]),
            "{question:?}"
        );
    }
    let words = [&["trace", "-o", "json"], QUESTIONS[0]].concat();
    assert_eq!(away(&words, &[])["outcomes"][1]["verdict"], "drop");
    // IPVS is not in this kernel, but can be in files.
    let servers = "-A -t 10.200.1.2:8088 -s rr\n-a -t 10.200.1.2:8088 -r 10.244.1.12:80 -m -w 1\n";
    let servers = file("servers", servers);
    let words = [
        "trace",
        "-o=json",
        "--src=198.51.100.9",
        "--dst=10.200.1.2",
        "--dport=8088",
    ];
    let served = away(&words, &["--ipvsadm-save", &servers]);
    assert_eq!(served["outcomes"][0]["dnat"], "10.244.1.12:80");
}

#[test]
fn every_mode_gives_the_same_results_for_one_cluster() {
    let ends = |host: &Host, question: &[&str]| -> Vec<String> {
        let mut words = vec!["trace", "-o", "json"];
        words.extend(question);
        let answer = json(&host.sluice(&words));
        let outcomes = answer["outcomes"].as_array().unwrap().iter();
        let mut ends: Vec<String> = outcomes
            .map(|o| {
                format!(
                    "{} {} {} {}",
                    o["probability"], o["verdict"], o["dnat"], o["snat"]
                )
            })
            .collect();
        ends.sort();
        ends
    };
    let (iptables, nftables) = (node(Mode::Iptables), node(Mode::Nftables));
    for question in QUESTIONS {
        let expected = ends(&iptables, question);
        assert_eq!(expected, ends(&nftables, question), "{question:?}");
    }
    let pod = ends(&iptables, QUESTIONS[0]);
    assert_eq!(
        pod,
        [
            r#"0.5 "accept" "10.244.1.11:8080" null"#,
            r#"0.5 "accept" "10.244.2.11:8080" null"#
        ]
    );
}

#[test]
fn exit_status_shows_whether_the_packet_arrives() {
    let host = node(Mode::Iptables);
    let ask = |dport: &str, more: &[&str]| {
        let mut words = vec!["trace", "--src=198.51.100.9", "--dst=10.200.1.2", dport];
        words.extend(more);
        host.sluice(&words).status.code()
    };
    assert_eq!(ask("--dport=30008", &[]), Some(0));
    host.sh("iptables-nft -t filter -I INPUT -p tcp --dport 9999 -j DROP");
    assert_eq!(ask("--dport=9999", &[]), Some(1));
    assert_eq!(ask("--dport=9999", &["--facts=/nowhere.json"]), Some(2));
    assert_eq!(ask("--dport=nine", &[]), Some(2));
    assert_eq!(ask("--dport=30008", &["--from=eth0"]), Some(0));
    assert_eq!(ask("--dport=30008", &["--from=eth7"]), Some(2));
}

#[test]
fn dump_without_facts_is_another_host() {
    let host = Host::new();
    let dump = observed::path("iptables-default.v4.iptables-save");
    let output = host.sluice(&[
        "trace",
        "-o",
        "json",
        "--src=10.244.1.50",
        "--dst=10.96.10.1",
        "--dport=80",
        "--from=pod",
        "--iptables-save",
        dump.to_str().unwrap(),
    ]);
    let answer = json(&output);
    let to: Vec<&str> = answer["outcomes"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|o| o["dnat"].as_str())
        .collect();
    assert!(to.contains(&"10.244.1.11:8080"), "{answer}");
}

#[test]
fn error_in_a_dump_names_line_and_column() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.save");
    std::fs::write(&file, "*nat\n:PREROUTING ACCEPT [0:0]\n-A NOWHERE -j\n").unwrap();
    let output = Host::new().sluice(&[
        "trace",
        "--src=10.0.0.1",
        "--dst=10.0.0.2",
        "--dport=80",
        "--iptables-save",
        file.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    for word in ["bad.save", "line 3", "column"] {
        assert!(said.contains(word), "{word} is not in: {said}");
    }
}

#[test]
fn closed_output_ends_the_process_without_panic() {
    let objects = observed::path("objects.json");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = std::process::Command::new(support::SLUICE)
        .args(["render", "--mode=iptables", "--node=node1", "-f"])
        .arg(objects)
        .stdout(writer)
        .output()
        .unwrap();
    const SIGPIPE: i32 = 13;
    assert_eq!(
        output.status.signal(),
        Some(SIGPIPE),
        "{}",
        text(&output.stderr)
    );
    assert!(!text(&output.stderr).contains("panicked"));
}

#[test]
fn diagram_without_rules_is_an_error() {
    let output = Host::new().sluice(&["diagram"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no rules to draw"));
}

/// The problems that `sluice explain demo/web` finds once the proxy has synced these objects: causes
/// and their descriptions.
fn wrong(objects: &str, before: &str) -> Vec<(String, String)> {
    let host = Host::new();
    for line in [
        "ip link add cbr0 type bridge && ip link set cbr0 up",
        "ip link add veth11 type veth peer name pod11 && ip link set veth11 master cbr0 up",
        "ip link set pod11 up && ip addr add 10.244.1.1/24 dev cbr0",
        "ip route add default via 10.200.1.1",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        before,
    ] {
        host.sh(line);
    }
    let folder = tempfile::tempdir().unwrap();
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: node1}\n\
                spec: {podCIDRs: [10.244.1.0/24]}\n\
                status: {addresses: [{type: InternalIP, address: 10.200.1.2}]}\n---\n";
    std::fs::write(folder.path().join("all.yaml"), format!("{node}{objects}")).unwrap();
    let manifests = folder.path().to_str().unwrap();
    let synced = host.sluice(&[
        "proxy",
        "--once",
        "--proxy-mode=nftables",
        "--hostname-override=node1",
        "--manifests",
        manifests,
    ]);
    assert!(synced.status.success(), "{}", text(&synced.stderr));
    let words = [
        "explain",
        "demo/web",
        "--node=node1",
        "-o",
        "json",
        "--manifests",
        manifests,
    ];
    let output = host.sluice(&words);
    let answer = json(&output);
    let findings = answer["findings"].as_array().unwrap().iter();
    let found: Vec<(String, String)> = findings
        .filter(|f| f["weight"] != "note")
        .map(|f| {
            let word = |key: &str| f[key].as_str().unwrap().to_owned();
            (word("cause"), word("what"))
        })
        .collect();
    assert_eq!(output.status.code(), Some(i32::from(!found.is_empty())));
    found
}

#[track_caller]
fn assert_wrong(found: &[(String, String)], cause: &str, words: &[&str]) {
    let (first, what) = found.first().expect("a problem is found");
    assert_eq!(first, cause, "{found:?}");
    for word in words {
        assert!(what.contains(word), "{word:?} is not in {what:?}");
    }
}

#[test]
fn explain_reads_objects_from_an_api_server() {
    use apiserver_sim::{Config, Sim};
    let host = node(Mode::Nftables);
    let list: Value =
        serde_json::from_str(&std::fs::read_to_string(observed::path("objects.json")).unwrap())
            .unwrap();
    // Its sockets have to be in the namespace.
    let sim = host.run(|| Sim::start(Config::default()).unwrap());
    sim.apply(list["items"].as_array().unwrap().clone());
    sim.apply(vec![serde_json::json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "demo", "name": "empty-1",
                     "labels": {"kubernetes.io/service-name": "empty"}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.244.1.99"], "conditions": {"ready": false},
                       "targetRef": {"kind": "Pod", "namespace": "demo", "name": "empty-x7k2"}}],
    })]);
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{token: abc}").unwrap();
    let kubeconfig = kubeconfig.to_str().unwrap();
    let config = folder.path().join("config");
    std::fs::write(&config, CONFIG).unwrap();
    let config = format!("--config={}", config.display());
    let words = [
        "--node=node1",
        &config,
        "--kubeconfig",
        kubeconfig,
        "-o",
        "json",
    ];
    for (service, cause) in [
        ("demo/empty", "no-ready-endpoint"),
        ("30081", "no-local-endpoint"),
    ] {
        let output = host.sluice(&[&["explain", service], &words[..]].concat());
        let answer = json(&output);
        assert_eq!(answer["findings"][0]["cause"], cause, "{answer:#}");
        let what = answer["findings"][0]["what"].as_str().unwrap();
        assert!(
            cause != "no-ready-endpoint" || what.contains("pod empty-x7k2"),
            "{what}"
        );
    }
    // The namespace is missing.
    let output = host.sluice(&[&["explain", "web"], &words[..]].concat());
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("did you mean demo/web?"), "{said}");
}

/// A Service whose endpoint is on another node, so that this node's bridge does not matter.
fn web_elsewhere() -> String {
    support::web("web", 1, "10.244.2.11").replace(
        "conditions: {ready: true}",
        "nodeName: node2, conditions: {ready: true}",
    )
}

#[test]
fn explain_finds_no_problems_on_a_healthy_node() {
    assert_eq!(wrong(&web_elsewhere(), "true"), []);
}

#[test]
fn explain_takes_the_service_after_the_manifests() {
    let host = Host::new();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.yaml"), web_elsewhere()).unwrap();
    let manifests = folder.path().to_str().unwrap();
    let words = ["explain", "--node=node1", "--manifests", manifests];
    let output = host.sluice(&[&words[..], &["demo/web"]].concat());
    assert!(
        text(&output.stdout).starts_with("demo/web: "),
        "{}",
        text(&output.stderr)
    );
    let output = host.sluice(&words);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("name a Service"));
}

#[test]
fn explain_names_unready_endpoints() {
    let objects = web_elsewhere().replace(
        "conditions: {ready: true}",
        "conditions: {ready: false}, targetRef: {kind: Pod, name: web-7}",
    );
    let words = ["pod web-7 (10.244.2.11) on node2 (not ready)", "refused"];
    assert_wrong(&wrong(&objects, "true"), "no-ready-endpoint", &words);
}

#[test]
fn explain_names_a_port_that_no_endpoint_serves() {
    let objects = web_elsewhere().replace("{name: http, port: 8080", "{name: web, port: 8080");
    assert_wrong(
        &wrong(&objects, "true"),
        "port-not-served",
        &["\"http\"", "\"web\""],
    );
}

#[test]
fn explain_names_a_local_policy_without_local_endpoint() {
    let objects = web_elsewhere().replace(
        "ports: [{name: http, port: 80}]",
        "internalTrafficPolicy: Local, ports: [{name: http, port: 80}]",
    );
    let words = ["internalTrafficPolicy is Local", "node1", "node2"];
    assert_wrong(&wrong(&objects, "true"), "no-local-endpoint", &words);
}

#[test]
fn explain_names_disabled_forwarding() {
    let found = wrong(&web_elsewhere(), "echo 0 > /proc/sys/net/ipv4/ip_forward");
    assert_wrong(&found, "forwarding-off", &["net.ipv4.ip_forward is 0"]);
}

#[test]
fn explain_names_a_foreign_chain_that_drops() {
    let drop = "iptables-nft -N MY-FIREWALL; iptables-nft -A FORWARD -j MY-FIREWALL; \
                iptables-nft -A MY-FIREWALL -d 10.244.2.0/24 -j DROP";
    let found = wrong(&web_elsewhere(), drop);
    assert_wrong(&found, "foreign-drop", &["MY-FIREWALL", "10.244.2.0/24"]);
}

#[test]
fn explain_names_a_missing_route() {
    let unreachable = "ip route add unreachable 10.244.2.0/24";
    let found = wrong(&web_elsewhere(), unreachable);
    assert_wrong(&found, "no-route", &["10.244.2.11:8080", "no route leads"]);
}

/// Another program's translation of the Service's address, before the proxy's.
fn early(hook: &str) -> String {
    format!(
        "nft 'add table ip early; \
         add chain ip early {hook} {{ type nat hook {hook} priority -150; }}; \
         add rule ip early {hook} ip daddr 10.96.10.1 meta l4proto tcp dnat to 10.244.2.99:8080'"
    )
}

#[test]
fn explain_names_a_foreign_translation() {
    let other = &format!("{}; {}", early("prerouting"), early("output"));
    let found = wrong(&web_elsewhere(), other);
    let words = ["10.244.2.11:8080", "10.244.2.99:8080", "table early"];
    assert_wrong(&found, "foreign-rule", &words);
}

#[test]
fn explain_names_flows_to_a_removed_endpoint() {
    let early = early("output").replace("tcp", "udp");
    let send = "timeout 1 bash -c 'echo > /dev/udp/10.96.10.1/80' || true";
    let stale = &format!("{early}; {send}; nft delete table ip early");
    let objects = web_elsewhere()
        .replace("port: 80}", "port: 80, protocol: UDP}")
        .replace("protocol: TCP", "protocol: UDP");
    let found = wrong(&objects, stale);
    let words = ["10.200.1.2:", "10.244.2.99:8080"];
    assert_wrong(&found, "stale-flow", &words);
}

#[test]
fn explain_connects_to_endpoints_on_request() {
    let host = node(Mode::Iptables);
    let folder = tempfile::tempdir().unwrap();
    // The node itself, where nothing listens.
    let objects = support::web("web", 1, "10.200.1.2");
    std::fs::write(folder.path().join("all.yaml"), objects).unwrap();
    let manifests = folder.path().to_str().unwrap();
    let words = [
        "explain",
        "demo/web",
        "--node=node1",
        "-o=json",
        "--manifests",
        manifests,
    ];
    let ask = |more: &[&str]| json(&host.sluice(&[&words[..], more].concat())).to_string();
    assert!(!ask(&[]).contains("nobody-listens"));
    assert!(ask(&["--connect"]).contains("nobody-listens"));
    let listening = host.run(|| std::net::TcpListener::bind("10.200.1.2:8080").unwrap());
    assert!(!ask(&["--connect"]).contains("nobody-listens"));
    drop(listening);
}

#[test]
fn paths_to_a_service_are_drawn() {
    let host = node(Mode::Iptables);
    let objects = observed::path("objects.json");
    let draw = |format: &str, service: &str| {
        let words = [
            "diagram",
            "--node=node1",
            "-o",
            format,
            "--service",
            service,
            "--manifests",
        ];
        host.sluice(&[&words[..], &[objects.to_str().unwrap()]].concat())
    };
    for format in ["boxes", "mermaid", "dot", "svg"] {
        let output = draw(format, "demo/nodeport");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let drawn = text(&output.stdout);
        for word in [
            "a pod of this node",
            "outside",
            "10.200.1.2:30008",
            "10.244.3.12:80",
            "33.33%",
        ] {
            assert!(drawn.contains(word), "{word:?} is not in {format}: {drawn}");
        }
    }
    let output = draw("svg", "nodeport");
    assert!(text(&output.stderr).contains("did you mean demo/nodeport?"));
}

/// The whole output for kube-proxy's own rules. `UPDATE=1` rewrites the files.
#[test]
fn traces_of_the_observed_rules_are_printed_as_trees() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/trace");
    let facts = folder.join("node1.json");
    for (mode, flag, dump) in [
        (
            "iptables",
            "--iptables-save",
            "iptables-default.v4.iptables-save",
        ),
        ("nftables", "--nft", "nftables-default.v4.nft"),
    ] {
        let dump = observed::path(dump);
        for (what, dst, dport, src) in [
            ("cluster-ip", "10.96.10.1", "80", "10.244.1.50"),
            ("hairpin", "10.96.10.1", "80", "10.244.1.11"),
            ("node-port", "10.200.1.2", "30008", "198.51.100.9"),
        ] {
            let output = std::process::Command::new(support::SLUICE)
                .args([
                    "trace", "--src", src, "--dst", dst, "--dport", dport, "--facts",
                ])
                .arg(&facts)
                .arg(flag)
                .arg(&dump)
                .output()
                .unwrap();
            let tree = text(&output.stdout);
            assert!(
                tree.contains("destination 10.244."),
                "{tree}{}",
                text(&output.stderr)
            );
            let golden = folder.join(format!("{mode}-{what}.txt"));
            if std::env::var_os("UPDATE").is_some() {
                std::fs::write(&golden, &tree).unwrap();
            }
            let expected = std::fs::read_to_string(&golden).unwrap();
            assert_eq!(tree, expected, "{}; UPDATE=1 rewrites it", golden.display());
        }
    }
}

/// A packet's path in each format. `UPDATE=1` rewrites the files.
#[test]
fn observed_rules_are_drawn() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let facts = golden.join("trace/node1.json");
    for (format, ending) in [
        ("boxes", "txt"),
        ("mermaid", "mmd"),
        ("dot", "dot"),
        ("svg", "svg"),
    ] {
        let output = std::process::Command::new(support::SLUICE)
            .args([
                "diagram",
                "--src=10.244.1.50",
                "--dst=10.96.10.1",
                "--dport=80",
            ])
            .args(["-o", format, "--facts"])
            .arg(&facts)
            .arg("--iptables-save")
            .arg(observed::path("iptables-default.v4.iptables-save"))
            .output()
            .unwrap();
        let drawn = text(&output.stdout);
        assert!(drawn.contains("10.244.2.11:8080"), "{drawn}");
        let file = golden.join(format!("diagram/cluster-ip.{ending}"));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, &drawn).unwrap();
        }
        let expected = std::fs::read_to_string(&file).unwrap();
        assert_eq!(drawn, expected, "{}; UPDATE=1 rewrites it", file.display());
    }
}

/// What `sluice verify` finds on a host: causes, with the number of Services.
fn verified(host: &Host, objects: &str) -> (Option<i32>, Vec<(String, u64)>) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.yaml");
    std::fs::write(&config, CONFIG).unwrap();
    let output = host.sluice(&[
        "verify",
        "-o=json",
        "--node=node1",
        "--config",
        config.to_str().unwrap(),
        "--manifests",
        objects,
    ]);
    let answer = json(&output);
    assert!(answer["services"].as_u64().unwrap() > 10, "{answer:#}");
    let problems = answer["problems"].as_array().unwrap().iter();
    let found = problems
        .map(|p| {
            let cause = p["cause"].as_str().unwrap().to_owned();
            (cause, p["count"].as_u64().unwrap())
        })
        .collect();
    (output.status.code(), found)
}

#[test]
fn verify_finds_damage_in_any_service() {
    let objects = observed::path("objects.json");
    let objects = objects.to_str().unwrap();
    for mode in [Mode::Iptables, Mode::Nftables] {
        let host = node(mode);
        host.sh("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables");
        host.sh("echo 1 > /proc/sys/net/bridge/bridge-nf-call-ip6tables; ip -6 route add default dev eth0; ip addr add fd00:10:244:1::1/64 dev cbr0 nodad");
        let (status, before) = verified(&host, objects);
        assert_eq!((status, before), (Some(0), Vec::new()), "{mode}");
        host.sh("iptables-nft -A FORWARD -d 10.244.2.0/24 -j DROP");
        let (status, found) = verified(&host, objects);
        assert_eq!(status, Some(1), "{mode}");
        let is_it = |(cause, count): &(String, u64)| cause == "foreign-drop" && *count > 1;
        assert!(
            !found.is_empty() && found.iter().all(is_it),
            "{mode}: {found:?}"
        );
    }
}
