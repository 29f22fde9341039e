//! Every extension's file agrees with its row in the table.

use std::collections::BTreeSet;

use super::*;
use crate::iptables::{matches, targets};

/// Check the examples of one row: each is parsed as this extension and read back from its own
/// text, and together they use every name and every option.
fn check(
    flag: &str,
    names: &[&str],
    options: &[(&str, u8)],
    examples: &[&str],
    is_kept: impl Fn(&Rule) -> bool,
) {
    let mut unused: BTreeSet<&str> = options.iter().map(|(option, _)| *option).collect();
    unused.extend(names);
    let mut modelled = 0;
    for example in examples {
        let family = if example.contains("icmp6") || example.contains("icmpv6") {
            Family::Ipv6
        } else {
            Family::Ipv4
        };
        let parse = |text: &str| {
            Rule::parse(family, text).unwrap_or_else(|error| panic!("{text}: {error}"))
        };
        let rule = parse(example);
        let printed = rule.to_string();
        assert_eq!(parse(&printed), rule, "{example}");
        assert_eq!(
            rule.matches.len() + usize::from(rule.target.is_some()),
            1,
            "{example}"
        );
        let mut words = example.split(' ').skip_while(|word| *word != flag).skip(1);
        let name = words.next().unwrap_or_default();
        assert!(names.contains(&name), "{example}: another extension's");
        unused.remove(name);
        for word in words.filter(|word| word.starts_with("--")) {
            let known = options.iter().any(|(option, _)| *option == word);
            assert!(known, "{example}: {word} is not in OPTIONS");
            unused.remove(word);
        }
        if is_kept(&rule) {
            assert_eq!(printed, *example, "an extension kept word for word");
        } else {
            modelled += 1;
        }
    }
    assert!(unused.is_empty(), "{names:?}: no example has {unused:?}");
    assert!(modelled > 0, "{names:?}: no example is modelled");
}

#[test]
fn examples_of_matches_cover_names_and_options() {
    for row in matches::ROWS {
        check("-m", row.names, row.options, row.examples, |rule| {
            matches!(rule.matches[..], [Match::Unknown(_)])
        });
    }
}

#[test]
fn examples_of_targets_cover_names_and_options() {
    for row in targets::ROWS {
        check("-j", row.names, row.options, row.examples, |rule| {
            matches!(rule.target, Some(Target::Unknown(_)))
        });
    }
}

#[test]
fn names_of_extensions_are_unique() {
    let rows = matches::ROWS.iter().flat_map(|row| row.names);
    let names: Vec<_> = rows.collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    let rows = targets::ROWS.iter().flat_map(|row| row.names);
    let names: Vec<_> = rows.collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
}
