//! The server: the same answers as the commands, and only for its own page.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::node::{Files, with_firewall};
use crate::page::Page;
use crate::support::{SLUICE, eventually, text};

/// Run a command of sluice with `-o json`.
fn printed(files: &Files, facts: &Path, words: &[&str]) -> Value {
    let mut command = Command::new(SLUICE);
    command.args(words).arg("--output=json");
    command.arg("--facts").arg(facts);
    if words[0] != "trace" {
        command.args(files.words());
    }
    let output = command.output().unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{words:?}: {e}: {}", text(&output.stderr)))
}

/// The rules of a node on which `demo/web` lost an endpoint, and another program drops packets.
fn damaged(rules: &str) -> String {
    let lost = rules
        .lines()
        .filter(|line| !(line.contains("KUBE-SVC-") && line.contains("10.244.2.11:8080")));
    with_firewall(&lost.map(|line| format!("{line}\n")).collect::<String>())
}

#[test]
fn page_shows_the_answers_of_trace_explain_and_verify() {
    let files = Files::observed();
    let iptables = files.rules("iptables");
    let nodes = [
        ("healthy", files.node("node1", "iptables", &iptables)),
        (
            "nftables",
            files.node("node1", "nftables", &files.rules("nftables")),
        ),
        ("damaged", {
            let separate = Files::observed();
            let path = separate.node("node1", "iptables", &damaged(&iptables));
            let kept = files.path("damaged.json");
            std::fs::copy(path, &kept).unwrap();
            kept
        }),
    ];
    for (name, facts) in &nodes {
        let page = Page::start(&files, &[facts]);
        for service in [
            "demo/web",
            "demo/nodeport",
            "demo/lb-local",
            "10.96.10.1",
            "30008",
        ] {
            let shown = page.ask(&format!("service?node=node1&name={service}"));
            let expected = printed(&files, facts, &["explain", service]);
            assert_eq!(shown["answer"], expected, "{name}: {service}");
        }
        for words in [
            "--src=10.244.1.50 --dst=10.96.10.1 --dport=80",
            "--src=10.244.1.50 --dst=10.96.10.1 --dport=80 --reply",
            "--src=10.200.1.2 --dst=10.96.10.1 --dport=80 --from=node",
            "--src=198.51.100.9 --dst=10.200.1.2 --dport=30008 --from=outside --reply",
            "--src=198.51.100.9 --dst=10.200.1.2 --proto=icmp --sport=8",
            "--src=10.244.1.50 --dst=10.96.0.10 --proto=udp --dport=53 --from=eth0",
        ] {
            let query: Vec<String> = words
                .split(' ')
                .map(|word| match word.trim_start_matches("--") {
                    "reply" => "reply=true".to_owned(),
                    word => word.to_owned(),
                })
                .collect();
            let shown = page.ask(&format!("trace?node=node1&{}", query.join("&")));
            let words: Vec<&str> = std::iter::once("trace").chain(words.split(' ')).collect();
            assert_eq!(
                shown["answer"],
                printed(&files, facts, &words),
                "{name}: {words:?}"
            );
        }
        eventually("the check of all Services", || {
            page.ask("problems?node=node1")["progress"]["finished"] == true
        });
        let shown = page.ask("problems?node=node1");
        assert_eq!(
            shown["answer"],
            printed(&files, facts, &["verify"]),
            "{name}"
        );
        let problems = shown["answer"]["problems"].to_string();
        assert_eq!(
            problems.contains("foreign-drop"),
            *name == "damaged",
            "{name}: {problems}"
        );
        let rows = page.ask("services?node=node1")["rows"].clone();
        let web = rows
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["name"] == "demo/web");
        let state = if *name == "damaged" {
            "differs"
        } else {
            "served"
        };
        assert_eq!(web.unwrap()["state"], state, "{name}: {web:?}");
    }
}

#[test]
fn questions_without_an_answer_get_the_reason() {
    let files = Files::observed();
    let facts = files.node("node1", "nftables", &files.rules("nftables"));
    let page = Page::start(&files, &[&facts]);
    for (question, reason) in [
        (
            "service?name=demo/nothing",
            "Service demo/nothing does not exist",
        ),
        (
            "service?node=node9&name=demo/web",
            "node \\\"node9\\\" is not on this page",
        ),
        ("trace?src=10.0.0.1", "dst is required"),
        ("trace?src=x&dst=10.0.0.1", "src: \\\"x\\\" is not valid"),
        (
            "trace?src=10.0.0.1&dst=fd00::1&dport=80",
            "different address families",
        ),
        ("trace?src=10.0.0.1&dst=10.0.0.2", "--dport is required"),
        (
            "trace?src=10.0.0.1&dst=10.0.0.2&dport=99999",
            "dport: \\\"99999\\\" is not valid",
        ),
        ("anything", "unknown question"),
    ] {
        let answer = page.get(question);
        assert_eq!(answer.status, 400, "{question}: {answer:?}");
        assert!(answer.body.contains(reason), "{question}: {}", answer.body);
    }
}

#[test]
fn requests_without_token_of_other_hosts_and_of_other_sites_are_refused() {
    let files = Files::observed();
    let facts = files.node("node1", "nftables", &files.rules("nftables"));
    let page = Page::start(&files, &[&facts]);
    let (address, path) = page.parts();
    let port = address.rsplit(':').next().unwrap();
    let own = format!("Host: {address}");
    let get = format!("GET {path}");
    let answer = page.request(&get, &[&own], "");
    assert_eq!(answer.status, 200);
    assert!(
        answer
            .head
            .contains("content-security-policy: default-src 'none'; script-src 'sha256-")
    );
    assert!(
        answer.head.contains("frame-ancestors 'none'"),
        "{}",
        answer.head
    );
    assert!(answer.head.contains("referrer-policy: no-referrer"));
    assert_eq!(
        page.request(&get, &[&format!("Host: localhost:{port}")], "")
            .status,
        200
    );
    let wrong = path.replace(|c: char| c.is_ascii_hexdigit(), "0");
    for (line, headers, status) in [
        ("GET /", vec![own.clone()], 403),
        (&*format!("GET {wrong}"), vec![own.clone()], 403),
        (&*format!("GET {wrong}api/nodes"), vec![own.clone()], 403),
        (&*format!("GET {path}../api/nodes"), vec![own.clone()], 404),
        (&*get, vec!["Host: rebound.example".to_owned()], 421),
        (&*get, vec![format!("Host: rebound.example:{port}")], 421),
        (
            &*format!("GET {path}api/nodes"),
            vec![own.clone(), "Sec-Fetch-Site: cross-site".to_owned()],
            403,
        ),
        (
            &*format!("POST {path}refresh"),
            vec![own.clone(), "Sec-Fetch-Site: same-site".to_owned()],
            403,
        ),
    ] {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let answer = page.request(line, &headers, "");
        assert_eq!(answer.status, status, "{line} {headers:?}: {answer:?}");
        assert!(!answer.body.contains("10.96"), "{answer:?}");
    }
    // Any address of this host but loopback.
    let output = Command::new(SLUICE)
        .args(["ui", "--listen=0.0.0.0:0", "--facts"])
        .arg(&facts)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("0.0.0.0 is not a loopback address"));
}
