//! The body of the fuzz target, also run over a corpus by the tests.

use super::{Family, Flush, Restore, TableSet};

/// Reads the bytes as restore input. What can be read must be printed so that it is read as the
/// same, and must be applied or refused without a panic.
///
/// # Panics
/// Where that does not hold: the purpose of the function.
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
    // Comment lines are not printed, so lines have other numbers.
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
