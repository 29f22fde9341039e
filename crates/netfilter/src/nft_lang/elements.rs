//! The elements of a set or map, with an index for sets of any size.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::ops::Deref;
use std::sync::OnceLock;

use super::{ElementDecl, Item, Literal};

/// Elements in the order listed. Lookups build an index once.
#[derive(Clone, Debug, Default)]
pub struct Elements {
    list: Vec<ElementDecl>,
    index: OnceLock<Index>,
}

/// Positions of elements. Keys are not copied: a found position is compared with the key.
#[derive(Clone, Debug)]
struct Index {
    /// The hash of each key of single values, sorted, with the position.
    exact: Vec<(u64, usize)>,
    /// Elements with a range, a prefix or a wildcard.
    others: Vec<usize>,
    catch_all: Option<usize>,
}

impl Elements {
    /// Return the element that includes a key: the first such, otherwise the catch-all.
    pub(super) fn find(&self, key: &[Literal]) -> Option<&ElementDecl> {
        let index = self.index.get_or_init(|| Index::of(&self.list));
        let element = |at: &usize| self.list.get(*at);
        if key.is_empty() {
            return index.catch_all.as_ref().and_then(element);
        }
        let includes = |at: &usize| {
            element(at).is_some_and(|e| {
                e.key.len() == key.len()
                    && e.key
                        .iter()
                        .zip(key)
                        .all(|(item, value)| item.contains(value))
            })
        };
        let hash = hash(key.iter());
        let start = index.exact.partition_point(|(other, _)| *other < hash);
        let same_hash = index.exact.iter().skip(start);
        let same_hash = same_hash.take_while(|(other, _)| *other == hash);
        let exact = same_hash.map(|(_, at)| *at).find(includes);
        let other = index.others.iter().copied().find(includes);
        let first = exact.into_iter().chain(other).min();
        first.or(index.catch_all).as_ref().and_then(element)
    }

    /// Return the elements for changes.
    pub fn edit(&mut self) -> &mut Vec<ElementDecl> {
        self.index = OnceLock::new();
        &mut self.list
    }
}

impl Index {
    fn of(list: &[ElementDecl]) -> Self {
        let (mut exact, mut others) = (Vec::new(), Vec::new());
        let mut catch_all = None;
        for (at, element) in list.iter().enumerate() {
            let values: Option<Vec<&Literal>> = element.key.iter().map(single).collect();
            match values {
                Some(values) if values.is_empty() => catch_all = catch_all.or(Some(at)),
                Some(values) => exact.push((hash(values.into_iter()), at)),
                None => others.push(at),
            }
        }
        exact.sort_unstable();
        Self {
            exact,
            others,
            catch_all,
        }
    }
}

/// Return the value of an item that includes only that.
fn single(item: &Item) -> Option<&Literal> {
    match item {
        Item::Value(Literal::Wildcard(_)) | Item::Range(..) | Item::Prefix(_) => None,
        Item::Value(value) => Some(value),
    }
}

fn hash<'a>(key: impl Iterator<Item = &'a Literal>) -> u64 {
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    key.fold(0, |hash, value| hasher.hash_one((hash, value)))
}

impl Deref for Elements {
    type Target = [ElementDecl];

    fn deref(&self) -> &[ElementDecl] {
        &self.list
    }
}

impl PartialEq for Elements {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Eq for Elements {}

impl From<Vec<ElementDecl>> for Elements {
    fn from(list: Vec<ElementDecl>) -> Self {
        Self {
            list,
            index: OnceLock::new(),
        }
    }
}

impl<'a> IntoIterator for &'a Elements {
    type Item = &'a ElementDecl;
    type IntoIter = std::slice::Iter<'a, ElementDecl>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item() -> impl Strategy<Value = Item> {
        let name = prop::sample::select(vec!["e", "eth", "eth0", "eth1"]);
        prop_oneof![
            (0..4_u64).prop_map(|n| Item::Value(Literal::Int(n))),
            name.clone()
                .prop_map(|n| Item::Value(Literal::Text(n.into()))),
            name.prop_map(|n| Item::Value(Literal::Wildcard(n.into()))),
            (0..4_u64, 0..4_u64).prop_map(|(a, b)| Item::Range(Literal::Int(a), Literal::Int(b))),
            Just(Item::Prefix("10.0.0.0/8".parse().unwrap())),
        ]
    }

    fn value() -> impl Strategy<Value = Literal> {
        prop_oneof![
            (0..4_u64).prop_map(Literal::Int),
            prop::sample::select(vec!["eth", "eth0", "x"]).prop_map(|n| Literal::Text(n.into())),
            Just(Literal::Ip("10.1.2.3".parse().unwrap())),
        ]
    }

    proptest! {
        /// The index finds the element that a search of the list finds.
        #[test]
        fn index_finds_the_first_element_that_includes_the_key(
            keys in prop::collection::vec(prop::collection::vec(item(), 0..3), 0..20),
            wanted in prop::collection::vec(value(), 0..3),
        ) {
            let element = |(key, n): (Vec<Item>, usize)| ElementDecl {
                key: key.into(),
                data: None,
                comment: Some(n.to_string().into()),
            };
            let list: Vec<_> = keys.into_iter().zip(0..).map(element).collect();
            let includes = |e: &&ElementDecl| {
                e.key.len() == wanted.len()
                    && !wanted.is_empty()
                    && e.key.iter().zip(&wanted).all(|(item, value)| item.contains(value))
            };
            let found = list.iter().find(includes);
            let found = found.or_else(|| list.iter().find(|e| e.key.is_empty()));
            let elements = Elements::from(list.clone());
            prop_assert_eq!(elements.find(&wanted), found);
        }

        #[test]
        fn edited_elements_are_indexed_again(first in item(), second in item(), wanted in value()) {
            let element = |item| ElementDecl { key: [item].into(), data: None, comment: None };
            let mut elements = Elements::from(vec![element(first)]);
            elements.find(std::slice::from_ref(&wanted));
            *elements.edit() = vec![element(second.clone())];
            let found = elements.find(std::slice::from_ref(&wanted));
            prop_assert_eq!(found.is_some(), second.contains(&wanted));
        }
    }
}
