//! Asking why: what the running host says of a packet, and what a file taken from it says.

mod support;

use std::process::Output;

use serde_json::Value;
use support::{Host, observed, text};

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}{}", text(&output.stdout), text(&output.stderr)))
}

/// The observed node with pods behind a bridge, and the observed cluster's rules in a mode.
fn node(mode: &str) -> Host {
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
    let objects = observed("objects.json");
    let output = host.sluice(&[
        "proxy",
        "--once",
        &format!("--proxy-mode={mode}"),
        "--iptables-backend=nft",
        "--hostname-override=node1",
        "--cluster-cidr=10.244.0.0/16,fd00:10:244::/56",
        "--manifests",
        objects.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    host
}

const QUESTIONS: [&[&str]; 4] = [
    &["--src=10.244.1.50", "--dst=10.96.10.1", "--dport=80"],
    &["--src=198.51.100.9", "--dst=10.200.1.2", "--dport=30008"],
    &["--src=10.200.1.2", "--dst=10.96.10.1", "--dport=80"],
    &["--src=10.244.1.50", "--dst=8.8.8.8", "--proto=icmp"],
];

#[test]
fn a_file_of_facts_gives_the_answers_of_its_host() {
    for mode in ["iptables", "nftables"] {
        let host = node(mode);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bug.json");
        let facts = host.sluice(&["facts"]);
        assert!(facts.status.success(), "{}", text(&facts.stderr));
        std::fs::write(&file, &facts.stdout).unwrap();
        // Another host, with nothing on it.
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
fn every_mode_of_the_same_cluster_gives_the_same_ends() {
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
    let (iptables, nftables) = (node("iptables"), node("nftables"));
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
fn the_exit_status_tells_whether_the_packet_arrives() {
    let host = node("iptables");
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
}

#[test]
fn a_dump_alone_is_taken_to_be_of_another_host() {
    let host = Host::new();
    let dump = observed("iptables-default.v4.iptables-save");
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
fn a_bad_dump_is_named_with_line_and_column() {
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
