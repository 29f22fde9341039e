//! Randomly damaged files: decoding never panics, and a decoded file can be encoded.

use proptest::prelude::*;

const WHOLE: [&str; 2] = [
    include_str!("../../testdata/everything.yaml"),
    include_str!("../../testdata/defaults.yaml"),
];

/// Values and pieces of syntax that a file could have in an odd place.
const TOKENS: [&str; 14] = [
    "null",
    "[]",
    "{}",
    "-1",
    "99999999999999999999",
    "1e400",
    ".nan",
    "\"\"",
    "- ",
    ": ",
    "&a *a",
    "\n---\n",
    "\u{1}",
    "9223372036854775807ns",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn damaged_files_never_panic(
        whole in 0..WHOLE.len(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), 0..TOKENS.len(), any::<bool>()), 1..4),
    ) {
        let mut lines: Vec<String> = WHOLE[whole].lines().map(str::to_owned).collect();
        for (at, token, value) in damage {
            let line = at.get_mut(&mut lines);
            // In place of a value, or after it.
            *line = match line.split_once(": ") {
                Some((field, _)) if value => format!("{field}: {}", TOKENS[token]),
                _ => format!("{line}{}", TOKENS[token]),
            };
        }
        crate::read_and_write(lines.join("\n").as_bytes());
    }
}

#[test]
fn undamaged_files_are_accepted() {
    for text in WHOLE {
        assert!(crate::KubeProxyConfiguration::from_yaml(text).is_ok());
    }
}
