//! The image's root file system, made from the steps of `deploy/Dockerfile` with Debian's tools.

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
const MOUNTED_FOLDERS: [&str; 8] = [
    "proc",
    "dev",
    "sys",
    "etc/sluice",
    "lib/modules",
    "var/lib/sluice",
    "run/sluice",
    "run/secrets/kubernetes.io/serviceaccount",
];
/// Likewise files.
const MOUNTED_FILES: [&str; 2] = ["run/xtables.lock", "run/modprobe"];

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    Run(String),
    Copy(String, String),
    Entrypoint(Vec<String>),
}

/// One `FROM` and the steps after it.
#[derive(Debug)]
struct Stage {
    base: String,
    name: Option<String>,
    steps: Vec<Step>,
}

/// A root file system and its program.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) root: PathBuf,
    pub(crate) entrypoint: Vec<String>,
}

impl Image {
    /// Return the image of all modes.
    pub(crate) fn all_modes() -> &'static Self {
        static IMAGE: OnceLock<Image> = OnceLock::new();
        IMAGE.get_or_init(|| {
            let mut stages = stages();
            build(&stages.pop().unwrap())
        })
    }

    /// Return the image that contains only the program.
    pub(crate) fn scratch() -> &'static Self {
        static IMAGE: OnceLock<Image> = OnceLock::new();
        IMAGE.get_or_init(|| {
            let stages = stages();
            let is_scratch = |stage: &&Stage| stage.name.as_deref() == Some("scratch");
            build(stages.iter().find(is_scratch).unwrap())
        })
    }
}

fn stages() -> Vec<Stage> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/Dockerfile");
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let mut stages: Vec<Stage> = Vec::new();
    for line in joined.lines().filter(|line| !line.trim().is_empty()) {
        let (instruction, rest) = line.split_once(' ').unwrap();
        let words: Vec<&str> = rest.split_whitespace().collect();
        let step = match instruction {
            "FROM" => {
                stages.push(Stage {
                    base: words[0].to_owned(),
                    name: (words.len() == 3).then(|| words[2].to_owned()),
                    steps: Vec::new(),
                });
                continue;
            }
            "RUN" => Step::Run(words.join(" ")),
            "COPY" => {
                let [from, to] = words[..] else {
                    panic!("{line}: not one source and one target");
                };
                Step::Copy(from.to_owned(), to.to_owned())
            }
            "ENTRYPOINT" => Step::Entrypoint(serde_json::from_str(rest).unwrap()),
            _ => panic!("{line}: this builder does not know {instruction}"),
        };
        stages.last_mut().unwrap().steps.push(step);
    }
    stages
}

/// Build a stage below `target/tmp`. The part before the program is copied is kept for later runs, and the
/// rest until the program changes.
fn build(stage: &Stage) -> Image {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("image");
    let name = stage.name.as_deref().unwrap_or("all-modes");
    let copied = |step: &Step| matches!(step, Step::Copy(..));
    let first_copy = stage.steps.iter().position(copied).unwrap();
    let (slow, quick) = stage.steps.split_at(first_copy);
    let program = fs::metadata(SLUICE).unwrap();
    let modified = program.modified().unwrap().duration_since(UNIX_EPOCH);
    let layer = hash(&(&stage.base, slow));
    let program = (modified.unwrap().as_secs(), program.len());
    let all = hash(&(&layer, quick, program, MOUNTED_FOLDERS, MOUNTED_FILES));

    let (layer, root) = (folder.join(format!("{name}-{layer}")), folder.join(name));
    let stamp = folder.join(format!("{name}.built"));
    let entrypoint = stage.steps.iter().find_map(|step| match step {
        Step::Entrypoint(words) => Some(words.clone()),
        _ => None,
    });
    let image = Image {
        root: root.clone(),
        entrypoint: entrypoint.unwrap(),
    };
    // A virtual machine sees what its test has built outside.
    if fs::read_to_string(&stamp).is_ok_and(|built| built == all) {
        return image;
    }
    fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    if !layer.exists() {
        let new = folder.join(format!("{name}.new"));
        remove(&new);
        base(&stage.base, &new);
        apply(slow, &new);
        fs::rename(new, &layer).unwrap();
    }
    let _ = fs::remove_file(&stamp);
    remove(&root);
    let mut copy = Command::new("cp");
    run(copy.args(["-a", "--reflink=auto"]).args([&layer, &root]));
    apply(quick, &root);
    if stage.base == "scratch" {
        add_libraries(&root);
    }
    add_mount_points(&root);
    fs::write(stamp, all).unwrap();
    image
}

fn hash(value: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn remove(folder: &Path) {
    if folder.exists() {
        fs::remove_dir_all(folder).unwrap();
    }
}

/// Make the root of a base image: an empty one, or Debian with its essential packages and apt.
fn base(name: &str, root: &Path) {
    match name.split_once(':') {
        None if name == "scratch" => fs::create_dir(root).unwrap(),
        Some(("debian", "12-slim")) => {
            let mut command = Command::new("mmdebstrap");
            run(command
                .args(["--quiet", "--variant=minbase", "bookworm"])
                .arg(root));
        }
        _ => panic!("unknown base image {name}"),
    }
}

fn apply(steps: &[Step], root: &Path) {
    for step in steps {
        match step {
            Step::Run(line) => {
                let mut command = Command::new("chroot");
                command.arg(root).args(["/bin/sh", "-c", line]);
                run(command.env("DEBIAN_FRONTEND", "noninteractive"));
            }
            Step::Copy(from, to) => {
                assert_eq!(from, PROGRAM, "only the program is copied");
                let to = root.join(to.trim_start_matches('/'));
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::copy(SLUICE, to).unwrap();
            }
            Step::Entrypoint(_) => {}
        }
    }
}

/// Add the C library to a root without one: unlike the released program, the tested one needs it.
fn add_libraries(root: &Path) {
    let output = Command::new("ldd").arg(SLUICE).output().unwrap();
    for word in text(&output.stdout).split_whitespace() {
        if word.starts_with('/') {
            let to = root.join(word.trim_start_matches('/'));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(word, to).unwrap();
        }
    }
}

/// Create the targets of mounts, as the container runtime does in its writable layer: a virtual machine
/// sees this folder read-only.
fn add_mount_points(root: &Path) {
    for folder in MOUNTED_FOLDERS {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for file in MOUNTED_FILES {
        fs::write(root.join(file), "").unwrap();
    }
    let run = root.join("var/run");
    if !run.is_symlink() {
        std::os::unix::fs::symlink("/run", run).unwrap();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let log = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {log}");
}
