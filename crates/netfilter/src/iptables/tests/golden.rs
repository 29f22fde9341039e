//! Recorded outputs of real programs are parsed and printed byte for byte.

use super::*;

fn observed() -> Vec<(String, Family, String)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(observed::path("")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let family = if name.ends_with(".v4.iptables-save") {
            Family::Ipv4
        } else if name.ends_with(".v6.iptables-save") {
            Family::Ipv6
        } else {
            continue;
        };
        all.push((name, family, std::fs::read_to_string(path).unwrap()));
    }
    assert_eq!(all.len(), 22);
    all
}

#[test]
fn observations_are_printed_unchanged() {
    for (name, family, text) in observed() {
        let restore = Restore::parse(family, &text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(restore.to_string(), text, "{name}");
    }
}

#[test]
fn observations_are_fully_modelled() {
    for (name, family, text) in observed() {
        let set = TableSet::parse(family, &text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let chains = set.tables.values().flat_map(|t| t.chains.values());
        for rule in chains.flat_map(|c| &c.rules) {
            let known = rule.matches.iter().all(|m| !matches!(m, Match::Unknown(_)));
            assert!(known, "{name}: {rule}");
            assert!(
                !matches!(rule.target, Some(Target::Unknown(_))),
                "{name}: {rule}"
            );
        }
    }
}

#[test]
fn table_sets_round_trip() {
    for (name, family, text) in observed() {
        let set = TableSet::parse(family, &text).unwrap();
        let again = TableSet::parse(family, &set.to_string()).unwrap();
        assert_eq!(set, again, "{name}");
        // Only the order of tables can differ.
        let mut lines: Vec<_> = text.lines().collect();
        let printed = set.to_string();
        let mut printed: Vec<_> = printed.lines().collect();
        lines.sort_unstable();
        printed.sort_unstable();
        assert_eq!(lines, printed, "{name}");
    }
}
