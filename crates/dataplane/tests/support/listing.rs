//! Tables as `nft` lists them.

use std::collections::{BTreeMap, BTreeSet};

/// Lines by chain and set.
pub(crate) type Blocks = BTreeMap<String, Vec<String>>;

/// Split a listing into chains and sets. Elements and chains are sorted, because their order differs
/// between kernels.
pub(crate) fn blocks(listing: &str) -> Blocks {
    let mut blocks = BTreeMap::new();
    let mut lines = listing.lines();
    while let Some(line) = lines.next() {
        let line = line.trim();
        let is_block = ["set ", "map ", "chain "]
            .iter()
            .any(|word| line.starts_with(word));
        if !is_block {
            continue;
        }
        let mut body = Vec::new();
        let mut elements = Vec::new();
        let mut in_elements = false;
        for line in lines.by_ref() {
            let mut line = line.trim();
            if line == "}" {
                break;
            }
            if let Some(rest) = line.strip_prefix("elements = {") {
                in_elements = true;
                line = rest;
            }
            if in_elements {
                let rest = line.strip_suffix('}').unwrap_or(line);
                elements.extend(rest.split(',').map(|e| e.trim().to_owned()));
                in_elements = rest == line;
            } else {
                body.push(line.to_owned());
            }
        }
        elements.retain(|e| !e.is_empty());
        elements.sort();
        body.extend(elements);
        blocks.insert(line.to_owned(), body);
    }
    blocks
}

/// Check that two listings are equal; show only the differences.
pub(crate) fn same(left: &Blocks, right: &Blocks) {
    let names: BTreeSet<_> = left.keys().chain(right.keys()).collect();
    for name in names {
        assert_eq!(left.get(name), right.get(name), "{name}");
    }
}
