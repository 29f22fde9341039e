//! Tests with real files and real inotify. Waits have generous bounds; times are not asserted.

use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn service(name: &str, ip: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{clusterIP: 10.96.0.{ip}, ports: [{{port: 80}}]}}\n"
    )
}

/// Watch paths without periodic scans, so that only inotify counts, and with long delays where a
/// test must finish within them on a busy machine.
fn follow(paths: &[&Path]) -> (Running, Receiver<Batch>) {
    let (sender, receiver) = channel();
    let timing = Timing {
        rescan: Duration::from_secs(3600),
        absence: Duration::from_secs(1),
        writing: Duration::from_secs(10),
        ..Timing::default()
    };
    let running = ManifestFiles::new(paths.iter().map(|p| p.to_path_buf()))
        .with_timing(timing)
        .start(move |batch| match sender.send(batch) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        })
        .expect("a thread");
    (running, receiver)
}

/// The next batch, as lines: `+ Service default/web`, `- ...`, `! problem`, `ok problem`.
fn next(batches: &Receiver<Batch>) -> Vec<String> {
    let batch = batches.recv_timeout(PATIENCE).expect("a batch");
    let mut lines = Vec::new();
    for event in &batch.events {
        let key = event.key();
        let sign = if *event == key.deleted() { '-' } else { '+' };
        lines.push(format!("{sign} {key}"));
    }
    lines.extend(batch.problems.iter().map(|p| format!("! {}", p.what)));
    lines.extend(batch.resolved.iter().map(|p| format!("ok {}", p.what)));
    lines
}

#[test]
fn changes_of_files_in_a_folder_are_delivered() {
    let dir = tempfile::tempdir().expect("a folder");
    let web = dir.path().join("web.yaml");
    fs::write(&web, service("web", 1)).expect("written");
    fs::write(dir.path().join("notes.txt"), "not a manifest").expect("written");
    fs::create_dir(dir.path().join("sub.yaml")).expect("made");
    let (_running, batches) = follow(&[dir.path()]);
    let first = batches.recv_timeout(PATIENCE).expect("a batch");
    assert!(first.initial_list_complete);
    assert_eq!((first.events.len(), first.problems.len()), (1, 0));

    // Written in place, replaced by rename, added, removed.
    fs::write(&web, service("web", 2)).expect("written");
    assert_eq!(next(&batches), ["+ Service default/web"]);
    let new = dir.path().join(".web.yaml.new");
    fs::write(&new, service("web", 3)).expect("written");
    fs::rename(&new, &web).expect("renamed");
    assert_eq!(next(&batches), ["+ Service default/web"]);
    fs::write(dir.path().join("api.yml"), service("api", 4)).expect("written");
    assert_eq!(next(&batches), ["+ Service default/api"]);
    fs::remove_file(&web).expect("removed");
    assert_eq!(next(&batches), ["- Service default/web"]);
}

#[test]
fn deleting_and_recreating_a_file_does_not_delete_its_objects() {
    let dir = tempfile::tempdir().expect("a folder");
    let web = dir.path().join("web.yaml");
    fs::write(&web, service("web", 1)).expect("written");
    let (_running, batches) = follow(&[dir.path()]);
    next(&batches);
    fs::remove_file(&web).expect("removed");
    std::thread::sleep(Duration::from_millis(40)); // Lets a scan run in between.
    fs::write(&web, service("web", 2)).expect("written");
    assert_eq!(next(&batches), ["+ Service default/web"]);
}

#[test]
fn a_file_is_not_read_while_it_is_being_written() {
    use std::io::Write;
    let dir = tempfile::tempdir().expect("a folder");
    let web = dir.path().join("web.yaml");
    fs::write(&web, service("web", 1)).expect("written");
    let (_running, batches) = follow(&[dir.path()]);
    next(&batches);
    let mut file = fs::File::create(&web).expect("truncated");
    file.write_all(service("api", 2).as_bytes())
        .expect("written");
    std::thread::sleep(Duration::from_millis(200)); // Several scans.
    file.write_all(format!("---\n{}", service("web", 1)).as_bytes())
        .expect("written");
    drop(file);
    // `web` was never deleted.
    assert_eq!(next(&batches), ["+ Service default/api"]);
}

#[test]
fn the_symlink_swap_of_a_config_map_mount_is_delivered() {
    let dir = tempfile::tempdir().expect("a folder");
    let link = |to: &str, at: &str| {
        std::os::unix::fs::symlink(to, dir.path().join(at)).expect("linked");
    };
    for (version, ip) in [("..v1", 1), ("..v2", 2)] {
        fs::create_dir(dir.path().join(version)).expect("made");
        let file = dir.path().join(version).join("web.yaml");
        fs::write(file, service("web", ip)).expect("written");
    }
    link("..v1", "..data");
    link("..data/web.yaml", "web.yaml");
    // By folder and by file name.
    let (_running, by_folder) = follow(&[dir.path()]);
    let (_running, by_file) = follow(&[&dir.path().join("web.yaml")]);
    assert_eq!(next(&by_folder), ["+ Service default/web"]);
    assert_eq!(next(&by_file), ["+ Service default/web"]);
    link("..v2", "..data_tmp");
    fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).expect("swapped");
    assert_eq!(next(&by_folder), ["+ Service default/web"]);
    assert_eq!(next(&by_file), ["+ Service default/web"]);
}

#[test]
fn a_missing_folder_is_read_once_it_exists() {
    let dir = tempfile::tempdir().expect("a folder");
    let later = dir.path().join("not/yet");
    let (_running, batches) = follow(&[&later]);
    let missing = "cannot be read: file not found";
    let first = batches.recv_timeout(PATIENCE).expect("a batch");
    assert!(!first.initial_list_complete);
    assert_eq!(first.problems.len(), 1);
    fs::create_dir_all(&later).expect("made");
    let mut lines = next(&batches);
    fs::write(later.join("web.yaml"), service("web", 1)).expect("written");
    lines.extend(next(&batches));
    assert_eq!(
        lines,
        [format!("ok {missing}"), "+ Service default/web".into()]
    );
}

#[test]
fn objects_of_a_vanished_path_are_kept() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("manifests");
    let write = |ip| {
        fs::create_dir(&folder).expect("made");
        fs::write(folder.join("web.yaml"), service("web", ip)).expect("written");
    };
    write(1);
    let (_running, batches) = follow(&[&folder]);
    next(&batches);
    fs::rename(&folder, dir.path().join("elsewhere")).expect("moved");
    let missing = "cannot be read: file not found";
    assert_eq!(next(&batches), [format!("! {missing}")]);
    write(2);
    let mut lines = next(&batches);
    if lines.len() < 2 {
        lines.extend(next(&batches)); // The folder was scanned before its file.
    }
    lines.sort();
    assert_eq!(
        lines,
        ["+ Service default/web".into(), format!("ok {missing}")]
    );
}

#[test]
fn dropping_ends_the_thread() {
    let dir = tempfile::tempdir().expect("a folder");
    let (running, batches) = follow(&[dir.path()]);
    next(&batches);
    drop(running);
    // The thread owned the sender.
    assert!(batches.recv().is_err());
}

#[test]
fn reading_once_equals_the_first_batch() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("web.yaml"), service("web", 1)).expect("written");
    let (_running, batches) = follow(&[dir.path()]);
    let followed = batches.recv_timeout(PATIENCE).expect("a batch");
    assert_eq!(read_once([dir.path().to_path_buf()]), followed);
    let missing = read_once([dir.path().join("x")]);
    assert!(!missing.initial_list_complete);
    assert_eq!(missing.problems.len(), 1);
}
