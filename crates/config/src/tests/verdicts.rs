//! Configurations with the verdicts of kube-proxy v1.36.2 and of sluice.

use super::{file, resolve};

/// kube-proxy's recorded verdicts: the headings of the table.
const REFUSED: &str = "## refused";
const ACCEPTED: &str = "## accepted";
const WARNED: &str = "## accepted with warning";
/// Intended differences; a comment gives the reason.
const ACCEPTED_BY_KUBE_PROXY: &str = "## differs: accepted by kube-proxy";
const REFUSED_BY_KUBE_PROXY: &str = "## differs: refused by kube-proxy";

const TABLE: &str = include_str!("../../testdata/verdicts.txt");

/// Return `accepted`, `accepted with warning: …` or the reason of the refusal.
fn verdict(stated: &str) -> String {
    let judge = |args: &[&str]| match resolve(args) {
        Ok(resolved) if resolved.ignored.is_empty() => "accepted".to_owned(),
        Ok(resolved) => {
            let ignored: Vec<_> = resolved.ignored.iter().map(ToString::to_string).collect();
            format!("accepted with warning: {}", ignored.join(", "))
        }
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
        return judge(&flags.iter().map(String::as_str).collect::<Vec<_>>());
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
    let said = judge(&[&format!("--config={path}")]);
    said.replace(&format!("{path}: "), "")
}

/// Each line is `stated => verdict of sluice`. `UPDATE=1` rewrites the verdicts.
#[test]
fn configurations_are_accepted_and_refused_as_by_kube_proxy() {
    let (mut heading, mut rewritten) = ("", String::new());
    let (mut wrong, mut unlike) = (Vec::new(), Vec::new());
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
        let (stated, says) = line.split_once(" => ").expect("a statement and a verdict");
        let said = verdict(stated);
        rewritten += &format!("{stated} => {said}\n");
        if said != says {
            wrong.push(format!("{stated}\n  expected: {says}\n  said:     {said}"));
        }
        let as_upstream = match heading {
            REFUSED => !said.starts_with("accepted"),
            ACCEPTED => said == "accepted",
            WARNED => said.starts_with("accepted with warning: "),
            ACCEPTED_BY_KUBE_PROXY => !said.starts_with("accepted"),
            REFUSED_BY_KUBE_PROXY => said.starts_with("accepted"),
            other => panic!("{other:?} is not a heading"),
        };
        if !as_upstream {
            unlike.push(format!("kube-proxy: {heading}; sluice: {stated} => {said}"));
        }
    }
    assert!(unlike.is_empty(), "{}", unlike.join("\n"));
    if std::env::var_os("UPDATE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/verdicts.txt");
        std::fs::write(path, rewritten).expect("written");
        return;
    }
    assert!(wrong.is_empty(), "UPDATE=1 rewrites:\n{}", wrong.join("\n"));
}
