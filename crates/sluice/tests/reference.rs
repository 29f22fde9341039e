//! `docs/reference.md` contains sluice's own flags, its metrics, and log messages of the code; README,
//! ARCHITECTURE and the chart's schema contain every mode.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use model::Mode;
use observe::Metrics;

const PAGE: &str = include_str!("../../../docs/reference.md");

/// Return the table rows of a section whose first cell is code, split into cells.
fn rows(page: &str, section: &str) -> Vec<Vec<String>> {
    let (_, text) = page.split_once(section).expect("the section");
    let text = text.split("\n## ").next().unwrap_or_default();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells = row.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().to_owned()).collect()
    })
    .collect()
}

fn code_of_cell(cell: &str) -> String {
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
    let documented: BTreeSet<_> = rows(PAGE, "## Flags of")
        .iter()
        .map(|row| code_of_cell(&row[0]))
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
    let documented: BTreeMap<_, _> = rows(PAGE, "## Metrics")
        .iter()
        .map(|row| (code_of_cell(&row[0]), row[1].clone()))
        .collect();
    assert_eq!(documented, expected);
}

/// Return the text of all Rust files in a folder, with string literals on one line.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let file = fs::read_to_string(&path).unwrap();
            let mut parts = file.split("\\\n");
            text += parts.next().unwrap();
            for part in parts {
                text += part.trim_start();
            }
        }
    }
    text
}

#[test]
fn documented_log_messages_are_in_the_code() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let code = sources(&crates);
    let rows = rows(PAGE, "## Log messages");
    assert!(rows.len() > 5);
    for row in rows {
        let message = code_of_cell(&row[0]);
        assert!(code.contains(&format!("\"{message}\"")), "{message}");
    }
}

#[test]
fn every_mode_is_documented() {
    let modes: BTreeSet<_> = Mode::ALL.map(|mode| mode.name().to_owned()).into();
    let readme = include_str!("../../../README.md");
    let rows = rows(readme, "\n## Modes\n");
    let in_readme: BTreeSet<_> = rows.iter().map(|row| code_of_cell(&row[0])).collect();
    assert_eq!(in_readme, modes);
    let architecture = include_str!("../../../ARCHITECTURE.md");
    for mode in &modes {
        let paragraph = format!("\n**{mode}.** ");
        assert!(architecture.contains(&paragraph), "ARCHITECTURE.md: {mode}");
    }
    let schema = include_str!("../../../deploy/helm/sluice/values.schema.json");
    let schema: serde_json::Value = serde_json::from_str(schema).unwrap();
    let allowed = schema.pointer("/properties/config/properties/mode/enum");
    let allowed = allowed.unwrap().as_array().unwrap().iter();
    let allowed = allowed.map(|mode| mode.as_str().unwrap().to_owned());
    let allowed: BTreeSet<_> = allowed.filter(|mode| !mode.is_empty()).collect();
    assert_eq!(allowed, modes, "values.schema.json");
}
