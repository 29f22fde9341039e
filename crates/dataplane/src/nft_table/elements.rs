//! Elements with their sets, and the difference between two lists of them.

use std::collections::BTreeMap;

use netfilter::nft::{Element, Op, Value};

use super::SetName;

type Elements<S> = Vec<(S, Element)>;

fn place<S: SetName>(e: &(S, Element)) -> (S, Value, bool) {
    (e.0, e.1.key, e.1.interval_end)
}

/// Return the elements to delete and those to add; a changed element is in both.
pub(crate) fn difference<S: SetName>(
    mut old: Elements<S>,
    mut new: Elements<S>,
) -> (Elements<S>, Elements<S>) {
    if old.is_empty() {
        return (old, new);
    }
    old.sort_unstable_by_key(place);
    old.dedup_by_key(|e| place(e));
    if new.is_empty() {
        return (old, new);
    }
    new.sort_unstable_by_key(place);
    new.dedup_by_key(|e| place(e));
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    let mut new = new.into_iter().peekable();
    for was in old {
        while let Some(next) = new.next_if(|next| place(next) < place(&was)) {
            added.push(next);
        }
        match new.next_if(|next| place(next) == place(&was)) {
            Some(is) if is == was => {}
            Some(is) => {
                removed.push(was);
                added.push(is);
            }
            None => removed.push(was),
        }
    }
    added.extend(new);
    (removed, added)
}

/// Split elements by set. Sets that refer to others are last.
fn by_set<S: SetName>(elements: Elements<S>) -> BTreeMap<S, Vec<Element>> {
    let mut counts: BTreeMap<S, usize> = BTreeMap::new();
    for (id, _) in &elements {
        *counts.entry(*id).or_default() += 1;
    }
    let sets = counts.into_iter();
    let mut sets: BTreeMap<_, _> = sets
        .map(|(id, count)| (id, Vec::with_capacity(count)))
        .collect();
    for (id, e) in elements {
        sets.entry(id).or_default().push(e);
    }
    sets
}

/// Append operations that add elements; sets that refer to others last.
pub(crate) fn add_elements<S: SetName>(elements: Elements<S>, ops: &mut Vec<Op>) {
    for (id, elements) in by_set(elements) {
        let set = id.set_name().to_owned();
        ops.push(Op::AddElements { set, elements });
    }
}

/// Append operations that delete elements; sets that refer to others first.
pub(crate) fn delete_elements<S: SetName>(elements: Elements<S>, ops: &mut Vec<Op>) {
    for (id, elements) in by_set(elements).into_iter().rev() {
        let set = id.set_name().to_owned();
        ops.push(Op::DeleteElements { set, elements });
    }
}
