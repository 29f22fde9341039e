//! The body of the fuzz target, also run over damaged tables by the tests.

use super::{Info, Origin, RawTable};
use crate::iptables::{Family, TableSet};
use crate::iptables_nft::SetIndex;

/// Decode the bytes as a table: `struct ipt_getinfo`, then the blob. A table that can be decoded must be
/// written as the same bytes, except for fields that the kernel ignores, and be decoded as the same
/// table again; its rules must be printed as text that can be parsed.
///
/// # Panics
/// A violation of these properties.
pub fn fuzz_one(family: Family, bytes: &[u8]) {
    let Some((info, blob)) = bytes.split_at_checked(Info::LEN) else {
        return;
    };
    let Ok(info) = Info::decode(info) else { return };
    let Ok(table) = RawTable::decode(family, &info, blob) else {
        return;
    };
    let written = table.encode();
    assert_eq!(written.bytes.len(), blob.len());
    let kept = written.origins.iter().zip(0..);
    assert!(
        kept.into_iter()
            .all(|(origin, at)| *origin == Origin::Kept(at))
    );
    let again = RawTable::decode(family, &written.info, &written.bytes);
    let again = again.expect("a table that was written");
    assert_eq!(again.encode(), written);
    let sets = SetIndex::from_iter([(0, "zero".into()), (1, "one".into())]);
    let (state, _) = table.table_state(&sets);
    let mut set = TableSet::new(family);
    set.tables.insert(crate::iptables::Table::Filter, state);
    let _ = set.to_string();
    let mut less = table;
    less.remove_chains(&|name| name.starts_with(b"KUBE-"));
    let less = less.encode();
    RawTable::decode(family, &less.info, &less.bytes).expect("a table with fewer chains");
}
