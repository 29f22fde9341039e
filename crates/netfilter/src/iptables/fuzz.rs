//! The body of the fuzz target, also run over a corpus by the tests.

use super::{Family, Flush, Restore, TableSet};

/// Parse the bytes as restore input. Parsable input must be printed in a form that is parsed as the
/// same value, and must be applied or refused without a panic.
///
/// # Panics
/// A violation of these properties.
pub fn fuzz_one(family: Family, bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(mut restore) = Restore::parse(family, text) else {
        return;
    };
    let printed = restore.to_string();
    let mut again = match Restore::parse(family, &printed) {
        Ok(again) => again,
        Err(error) => panic!("{error}\n{printed}"),
    };
    // Comment lines are not printed, so line numbers differ.
    for restore in [&mut restore, &mut again] {
        let commands = restore.tables.iter_mut().flat_map(|t| &mut t.commands);
        commands.for_each(|(line, _)| *line = 0);
    }
    assert_eq!(restore, again, "{printed}");
    assert_eq!(again.to_string(), printed);
    let mut set = TableSet::new(family);
    if set.apply(restore, Flush::Nothing).is_ok() {
        let reread = TableSet::parse(family, &set.to_string());
        assert_eq!(reread, Ok(set));
    }
}
