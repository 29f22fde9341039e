//! `docs/reference.md` contains sluice's own flags and its metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use model::Mode;
use observe::Metrics;

const PAGE: &str = include_str!("../../../docs/reference.md");

/// Return the table rows of a section whose first cell is code, split into cells.
fn rows(section: &str) -> Vec<Vec<String>> {
    let (_, text) = PAGE.split_once(section).expect("the section");
    let text = text.split("\n## ").next().unwrap_or_default();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells = row.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().to_owned()).collect()
    })
    .collect()
}

fn code(cell: &str) -> String {
    cell.trim_matches('`').to_owned()
}

#[test]
fn own_flags_are_documented() {
    let help = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["proxy", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let words = help.lines().filter_map(|line| {
        let line = line.trim_start();
        let flag = line
            .strip_prefix("--")
            .or_else(|| line.split_once(", --").map(|(_, f)| f))?;
        let name = flag
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .next()?;
        line.starts_with('-').then(|| name.to_owned())
    });
    let own: BTreeSet<String> = words
        .filter(|name| name != "help" && !config::FLAGS.iter().any(|flag| flag.name == name))
        .map(|name| format!("--{name}"))
        .collect();
    assert!(own.contains("--manifests"), "{own:?}");
    let documented: BTreeSet<_> = rows("## Flags of")
        .iter()
        .map(|row| code(&row[0]))
        .collect();
    assert_eq!(documented, own);
}

#[test]
fn metrics_are_documented() {
    let mut modes: BTreeMap<String, Vec<Mode>> = BTreeMap::new();
    for mode in Mode::ALL {
        for name in Metrics::new(mode).unwrap().names() {
            modes.entry(name.to_owned()).or_default().push(mode);
        }
    }
    let expected: BTreeMap<_, _> = modes
        .into_iter()
        .map(|(name, modes)| {
            let text = match modes.len() == Mode::ALL.len() {
                true => "all".to_owned(),
                false => modes
                    .iter()
                    .map(|m| m.name())
                    .collect::<Vec<_>>()
                    .join(", "),
            };
            (name, text)
        })
        .collect();
    let documented: BTreeMap<_, _> = rows("## Metrics")
        .iter()
        .map(|row| (code(&row[0]), row[1].clone()))
        .collect();
    assert_eq!(documented, expected);
}
