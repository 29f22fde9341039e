use super::*;

const WEB: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n";
const API: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: api}\nspec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}\n";
const WEB_BAD: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 70000}]}\n";

fn set(manifests: &mut Manifests, path: &str, content: &str) -> Batch {
    manifests.update(&id(path), Content::Bytes(content.as_bytes()));
    manifests.commit()
}

fn deleted(batch: &Batch) -> Vec<String> {
    let deleted = |e: &&Event| **e == e.key().deleted();
    batch
        .events
        .iter()
        .filter(deleted)
        .map(|e| e.key().to_string())
        .collect()
}

#[test]
fn an_unchanged_object_yields_no_event() {
    let mut m = Manifests::new();
    assert_eq!(set(&mut m, "a.yaml", WEB).events.len(), 1);
    assert_eq!(
        set(&mut m, "a.yaml", &format!("# moved down\n---\n{WEB}")),
        Batch::default()
    );
}

#[test]
fn removed_objects_are_deleted_and_new_ones_applied() {
    let mut m = Manifests::new();
    set(&mut m, "a.yaml", WEB);
    let batch = set(&mut m, "a.yaml", API);
    assert_eq!(keys(&batch), ["Service default/web", "Service default/api"]);
    assert_eq!(deleted(&batch), ["Service default/web"]);
    m.update(&id("a.yaml"), Content::Removed);
    assert_eq!(deleted(&m.commit()), ["Service default/api"]);
    assert_eq!(m.files().count(), 0);
}

#[test]
fn an_invalid_object_keeps_its_last_valid_version() {
    let mut m = Manifests::new();
    set(&mut m, "a.yaml", WEB);
    let batch = set(&mut m, "a.yaml", &format!("{WEB_BAD}---\n{API}"));
    assert_eq!(keys(&batch), ["Service default/api"]);
    assert_eq!(batch.problems.len(), 1);
    let batch = set(&mut m, "a.yaml", &format!("{WEB}---\n{API}"));
    assert_eq!(keys(&batch), [] as [&str; 0]);
    assert_eq!(batch.resolved.len(), 1);
}

#[test]
fn an_invalid_object_survives_a_move_to_another_file() {
    let mut m = Manifests::new();
    set(&mut m, "a.yaml", WEB);
    m.update(&id("a.yaml"), Content::Bytes(b""));
    m.update(&id("b.yaml"), Content::Bytes(WEB_BAD.as_bytes()));
    assert_eq!(keys(&m.commit()), [] as [&str; 0]);
    // Removing it from the second file deletes it.
    assert_eq!(deleted(&set(&mut m, "b.yaml", "")), ["Service default/web"]);
}

#[test]
fn a_syntax_error_deletes_nothing_and_affects_no_other_document() {
    let mut m = Manifests::new();
    set(&mut m, "a.yaml", &format!("{WEB}---\n{API}"));
    let changed = API.replace("10.96.0.2", "10.96.0.3");
    let batch = set(&mut m, "a.yaml", &format!("kind: [Service\n---\n{changed}"));
    assert_eq!(keys(&batch), ["Service default/api"]);
    assert_eq!(deleted(&batch), [] as [&str; 0]);
    // After a correction without `web`, it is deleted.
    assert_eq!(deleted(&set(&mut m, "a.yaml", "\"")), [] as [&str; 0]);
    assert_eq!(
        deleted(&set(&mut m, "a.yaml", &changed)),
        ["Service default/web"]
    );
}

#[test]
fn objects_of_an_unreadable_file_are_kept() {
    let mut m = Manifests::new();
    set(&mut m, "a.yaml", WEB);
    m.update(&id("a.yaml"), Content::Unreadable("permission denied"));
    let batch = m.commit();
    assert_eq!(
        problems(&batch),
        ["a.yaml: cannot be read: permission denied"]
    );
    assert_eq!(batch.events, []);
    let batch = set(&mut m, "a.yaml", API);
    assert_eq!(deleted(&batch), ["Service default/web"]);
    assert_eq!(batch.resolved.len(), 1);
}

#[test]
fn the_last_of_two_files_wins_and_the_first_replaces_it() {
    let mut m = Manifests::new();
    let other = WEB.replace("10.96.0.1", "10.96.0.9");
    set(&mut m, "b.yaml", &other);
    let batch = set(&mut m, "a.yaml", WEB);
    assert_eq!(batch.events, []);
    assert_eq!(
        problems(&batch),
        [
            "b.yaml, document 1 (line 1): Service default/web is also defined in a.yaml, document 1 \
             (line 1), which is ignored"
        ]
    );
    m.update(&id("b.yaml"), Content::Removed);
    let batch = m.commit();
    assert_eq!(keys(&batch), ["Service default/web"]);
    assert_eq!(deleted(&batch), [] as [&str; 0]);
    assert_eq!(batch.resolved.len(), 1);
}

#[test]
fn a_problem_is_reported_once_even_as_its_line_moves() {
    let mut m = Manifests::new();
    assert_eq!(set(&mut m, "a.yaml", WEB_BAD).problems.len(), 1);
    assert_eq!(
        set(&mut m, "a.yaml", &format!("# one line more\n{WEB_BAD}")),
        Batch::default()
    );
}

#[test]
fn an_object_moves_between_files_without_a_gap() {
    let mut m = Manifests::new();
    set(&mut m, "a.yaml", WEB);
    m.update(&id("a.yaml"), Content::Removed);
    m.update(&id("b.yaml"), Content::Bytes(WEB.as_bytes()));
    assert_eq!(m.commit(), Batch::default());
}
