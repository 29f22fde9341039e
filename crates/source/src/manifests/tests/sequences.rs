//! For any sequence of edits, the events applied to a map equal the objects of the files.

use proptest::prelude::*;

use super::*;

/// A document in a generated file.
#[derive(Clone, Debug)]
enum Doc {
    /// A Service of one of a few names, in one of a few versions.
    Good { name: u8, version: u8 },
    /// The same, but invalid.
    Bad { name: u8 },
    /// An object of another kind.
    Other,
    /// A syntax error.
    Broken,
    /// A Service without a name.
    Nameless,
}

impl Doc {
    fn text(&self) -> String {
        let service = |name: &str, spec: String| {
            format!("apiVersion: v1\nkind: Service\nmetadata: {{{name}}}\nspec: {{{spec}}}\n")
        };
        let spec =
            |version, port| format!("clusterIP: 10.96.0.{version}, ports: [{{port: {port}}}]");
        match self {
            Doc::Good { name, version } => service(&format!("name: s{name}"), spec(*version, 80)),
            Doc::Bad { name } => service(&format!("name: s{name}"), spec(1, 0)),
            Doc::Nameless => service("", spec(1, 80)),
            Doc::Other => "apiVersion: v1\nkind: Pod\n".into(),
            Doc::Broken => "kind: [\n".into(),
        }
    }

    fn is_clean(&self) -> bool {
        matches!(self, Doc::Good { .. } | Doc::Other)
    }
}

fn any_doc() -> impl Strategy<Value = Doc> {
    prop_oneof![
        6 => (0..4u8, 1..4u8).prop_map(|(name, version)| Doc::Good { name, version }),
        1 => (0..4u8).prop_map(|name| Doc::Bad { name }),
        1 => Just(Doc::Other),
        1 => Just(Doc::Broken),
        1 => Just(Doc::Nameless),
    ]
}

/// New content of a file, or its removal.
fn any_edit() -> impl Strategy<Value = (usize, Option<Vec<Doc>>)> {
    (
        0..3usize,
        proptest::option::weighted(0.9, proptest::collection::vec(any_doc(), 0..4)),
    )
}

struct World {
    manifests: Manifests,
    files: [Vec<Doc>; 3],
    /// The objects according to the events.
    delivered: BTreeMap<Key, Event>,
}

impl World {
    fn edit(&mut self, file: usize, content: Option<&[Doc]>) {
        let id = id(&format!("{file}.yaml"));
        let text: Vec<_> = content.unwrap_or_default().iter().map(Doc::text).collect();
        let text = text.join("---\n");
        self.manifests.update(
            &id,
            match content {
                Some(_) => Content::Bytes(text.as_bytes()),
                None => Content::Removed,
            },
        );
        self.files[file] = content.unwrap_or_default().to_vec();
    }

    fn commit(&mut self) {
        for event in self.manifests.commit().events {
            let key = event.key();
            let before = if event == key.deleted() {
                self.delivered.remove(&key)
            } else {
                self.delivered.insert(key.clone(), event.clone())
            };
            assert_ne!(before.as_ref(), Some(&event), "nothing changed");
            assert!(
                before.is_some() || event != key.deleted(),
                "{key} did not exist"
            );
        }
    }

    /// The objects of files without errors: the last definition of each.
    fn stated(&self) -> BTreeMap<Key, Event> {
        let mut stated = BTreeMap::new();
        for doc in self.files.iter().flatten() {
            for event in read_one("x.yaml", doc.text().as_bytes()).events {
                stated.insert(event.key(), event);
            }
        }
        stated
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn events_equal_the_objects_of_the_files(
        batches in proptest::collection::vec(proptest::collection::vec(any_edit(), 1..3), 1..12)
    ) {
        let mut world = World {
            manifests: Manifests::new(),
            files: Default::default(),
            delivered: BTreeMap::new(),
        };
        for batch in &batches {
            let before = world.delivered.clone();
            for (file, content) in batch {
                world.edit(*file, content.as_deref());
            }
            world.commit();
            if world.files.iter().flatten().all(Doc::is_clean) {
                prop_assert_eq!(&world.delivered, &world.stated());
            }
            // An error in a file deletes nothing.
            if let [(file, Some(content))] = batch.as_slice()
                && content.iter().any(|doc| matches!(doc, Doc::Broken | Doc::Nameless))
            {
                prop_assert!(before.keys().all(|key| world.delivered.contains_key(key)), "{file}");
            }
        }
        // Without errors, exactly the stated objects are delivered.
        for file in 0..3 {
            let corrected: Vec<_> = world.files[file].iter().filter(|d| d.is_clean()).cloned().collect();
            world.edit(file, Some(&corrected));
        }
        world.commit();
        prop_assert_eq!(&world.delivered, &world.stated());
    }
}

/// Found by the property above.
#[test]
fn an_object_kept_by_an_invalid_version_is_kept_after_a_syntax_error() {
    let mut world = World {
        manifests: Manifests::new(),
        files: Default::default(),
        delivered: BTreeMap::new(),
    };
    world.edit(
        2,
        Some(&[Doc::Good {
            name: 2,
            version: 1,
        }]),
    );
    world.commit();
    world.edit(2, None);
    world.edit(0, Some(&[Doc::Bad { name: 2 }]));
    world.commit();
    world.edit(0, Some(&[Doc::Broken]));
    world.commit();
    assert_eq!(world.delivered.len(), 1);
    world.edit(0, None);
    world.commit();
    assert!(world.delivered.is_empty());
}
