//! The image's root file system, made from the steps of `deploy/Dockerfile`.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

use crate::support::{SLUICE, text};

/// The built program, as the Dockerfile names it. The tests copy the program under test instead.
const PROGRAM: &str = "target/static/sluice";

/// Folders on which the tests' containers mount something.
const MOUNTED_FOLDERS: [&str; 7] = [
    "proc",
    "dev",
    "sys",
    "etc/sluice",
    "var/lib/sluice",
    "run/sluice",
    "run/secrets/kubernetes.io/serviceaccount",
];
/// Likewise a file.
const MOUNTED_FILE: &str = "run/xtables.lock";

/// The steps of the Dockerfile.
#[derive(Debug, Default)]
struct Steps {
    /// Where the program is copied to.
    program: String,
    entrypoint: Vec<String>,
}

/// A root file system and its program.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) root: PathBuf,
    pub(crate) entrypoint: Vec<String>,
}

impl Image {
    /// Return the image with the program under test, built once for all tests below `target/tmp`.
    pub(crate) fn built() -> &'static Self {
        static IMAGE: OnceLock<Image> = OnceLock::new();
        IMAGE.get_or_init(|| build(&steps()))
    }
}

fn steps() -> Steps {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/Dockerfile");
    let mut steps = Steps::default();
    for line in fs::read_to_string(path).unwrap().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] | ["#", ..] | ["FROM", "scratch"] => {}
            ["COPY", PROGRAM, to] => steps.program = to.trim_start_matches('/').to_owned(),
            ["ENTRYPOINT", words] => steps.entrypoint = serde_json::from_str(words).unwrap(),
            _ => panic!("{line}: this builder does not know the step"),
        }
    }
    steps
}

fn build(steps: &Steps) -> Image {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("image");
    let program = fs::metadata(SLUICE).unwrap();
    let modified = program.modified().unwrap().duration_since(UNIX_EPOCH);
    let program = (modified.unwrap().as_secs(), program.len());
    let all = hash(&(&steps.program, program, MOUNTED_FOLDERS, MOUNTED_FILE));
    let (root, stamp) = (folder.join("root"), folder.join("root.built"));
    let image = Image {
        root: root.clone(),
        entrypoint: steps.entrypoint.clone(),
    };
    // A virtual machine sees what its test has built outside.
    if fs::read_to_string(&stamp).is_ok_and(|built| built == all) {
        return image;
    }
    fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join("root.lock")).unwrap();
    lock.lock().unwrap();
    let _ = fs::remove_file(&stamp);
    if root.exists() {
        fs::remove_dir_all(&root).unwrap();
    }
    put(SLUICE, &root.join(&steps.program));
    add_libraries(&root);
    add_mount_points(&root);
    fs::write(stamp, all).unwrap();
    image
}

fn hash(value: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn put(file: &str, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(file, to).unwrap();
}

/// Add the C library: unlike the released program, the tested one needs it.
fn add_libraries(root: &Path) {
    let output = Command::new("ldd").arg(SLUICE).output().unwrap();
    for word in text(&output.stdout).split_whitespace() {
        if word.starts_with('/') {
            put(word, &root.join(word.trim_start_matches('/')));
        }
    }
}

/// Create the targets of mounts, as the container runtime does in its writable layer: a virtual machine
/// sees this folder read-only.
fn add_mount_points(root: &Path) {
    for folder in MOUNTED_FOLDERS {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::create_dir_all(root.join(MOUNTED_FILE).parent().unwrap()).unwrap();
    fs::write(root.join(MOUNTED_FILE), "").unwrap();
    let run = root.join("var/run");
    if !run.is_symlink() {
        std::os::unix::fs::symlink("/run", run).unwrap();
    }
}
