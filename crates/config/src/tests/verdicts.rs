//! Configurations that kube-proxy v1.36.2 was given, and its verdict on each.

use super::{file, resolve};

/// What kube-proxy was seen to do, by the headings of the table.
const REFUSES: &str = "## kube-proxy refuses";
const TAKES: &str = "## kube-proxy takes";
const DIFFERS: &str = "## kube-proxy decides otherwise";

const TABLE: &str = include_str!("../../testdata/verdicts.txt");

/// `taken`, or why not.
fn verdict(stated: &str) -> String {
    let taken = |args: &[&str]| match resolve(args) {
        Ok(_) => "taken".to_owned(),
        // clap's advice follows on further lines.
        Err(said) => {
            let first = said.lines().next().unwrap_or_default();
            first.trim_start_matches("error: ").to_owned()
        }
    };
    if stated.starts_with("--") || stated == "argument" {
        let mut flags = stated.split(" --");
        let first = flags.next().unwrap_or_default().to_owned();
        let others = flags.map(|flag| format!("--{flag}"));
        let flags: Vec<String> = std::iter::once(first).chain(others).collect();
        return taken(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let text = stated.replace("\\n", "\n").replace("\\t", "\t");
    let text = match text.strip_prefix('!') {
        Some(whole) => whole.to_owned(),
        None => file(&text),
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, text).expect("written");
    let path = path.to_str().expect("a plain path");
    let said = taken(&[&format!("--config={path}")]);
    said.replace(&format!("{path}: "), "")
}

/// `stated => what is said`, line by line. `UPDATE=1` rewrites what is said.
#[test]
fn kube_proxys_verdicts_are_kept() {
    let (mut heading, mut rewritten, mut wrong) = ("", String::new(), Vec::new());
    for line in TABLE.lines() {
        if line.starts_with('#') {
            heading = if line.starts_with("##") {
                line
            } else {
                heading
            };
            rewritten += &format!("{line}\n");
            continue;
        }
        let (stated, says) = line
            .split_once(" => ")
            .expect("a statement and what is said");
        let said = verdict(stated);
        rewritten += &format!("{stated} => {said}\n");
        if said != says {
            wrong.push(format!("{stated}\n  expected: {says}\n  said:     {said}"));
        }
        let as_upstream = match heading {
            REFUSES => said != "taken",
            TAKES => said == "taken",
            DIFFERS => true,
            other => panic!("{other:?} is no heading"),
        };
        assert!(
            as_upstream,
            "{heading}, sluice does not: {stated} => {said}"
        );
    }
    if std::env::var_os("UPDATE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/verdicts.txt");
        std::fs::write(path, rewritten).expect("written");
        return;
    }
    assert!(wrong.is_empty(), "UPDATE=1 rewrites:\n{}", wrong.join("\n"));
}
