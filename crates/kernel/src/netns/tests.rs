use std::process::Stdio;

use super::*;

/// A namespace for one test, deleted on drop.
struct Scratch(String);

impl Scratch {
    fn new(what: &str) -> (Self, NetNs) {
        let name = format!("sluice-test-{what}-{}", std::process::id());
        let ns = NetNs::create(&name).expect("needs root");
        (Self(name), ns)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = NetNs::delete(&self.0);
    }
}

fn inode_of_this_thread() -> u64 {
    fs::metadata("/proc/thread-self/ns/net").unwrap().ino()
}

#[test]
fn a_named_namespace_is_listed_until_deleted() {
    let (scratch, _ns) = Scratch::new("list");
    assert!(NetNs::list().unwrap().contains(&scratch.0));
    NetNs::delete(&scratch.0).unwrap();
    assert!(!NetNs::list().unwrap().contains(&scratch.0));
    let gone = NetNs::open(&scratch.0).unwrap_err().to_string();
    assert!(gone.contains(&scratch.0), "{gone}");
}

#[test]
fn a_taken_name_is_refused_and_stays() {
    let (scratch, _ns) = Scratch::new("taken");
    assert!(NetNs::create(&scratch.0).is_err());
    NetNs::open(&scratch.0).unwrap();
}

#[test]
fn namespace_names_that_are_not_file_names_are_refused() {
    for name in ["", ".", "..", "a/b", "a\0b", &"x".repeat(256)] {
        assert!(matches!(NetNs::create(name), Err(NetNsError::BadName(_))));
    }
}

#[test]
fn entering_changes_the_thread_and_dropping_brings_it_back() {
    let (_scratch, ns) = Scratch::new("enter");
    let home = inode_of_this_thread();
    let guard = ns.enter().unwrap();
    let inside = inode_of_this_thread();
    assert_eq!(inside, ns.file.metadata().unwrap().ino());
    assert_ne!(inside, home);
    drop(guard);
    assert_eq!(inode_of_this_thread(), home);
    assert_eq!(ns.run(inode_of_this_thread).unwrap(), inside);
    assert_eq!(inode_of_this_thread(), home);
}

#[test]
fn a_command_runs_inside_and_is_found_there() {
    let (_scratch, ns) = Scratch::new("command");
    let mut child = ns
        .command("sleep")
        .unwrap()
        .arg("60")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    assert_eq!(ns.processes().unwrap(), [pid]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(ns.processes().unwrap().is_empty());
}

/// A regression test: the first `ip netns add` on a machine mounts `/run/netns` on itself, with
/// everything below it, after which a lab could not be removed.
#[test]
fn a_name_can_be_deleted_after_ip_netns_was_used_for_the_first_time() {
    let none = None::<&str>;
    let ip = |arguments: &[&str]| {
        let status = Command::new("ip").args(arguments).status().unwrap();
        assert!(status.success(), "ip {arguments:?}");
    };
    // In the thread's own mount namespace, with an empty /run.
    let alone = || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
        mount(Some("none"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        NetNs::create("ours").unwrap();
        ip(&["netns", "add", "theirs"]);
        assert_eq!(NetNs::list().unwrap(), ["ours", "theirs"]);
        NetNs::delete("ours").unwrap();
        NetNs::delete("theirs").unwrap();
        assert!(NetNs::list().unwrap().is_empty());
        NetNs::create("ours").unwrap();
        ip(&["netns", "delete", "ours"]);
    };
    thread::scope(|scope| scope.spawn(alone).join()).unwrap();
}
