//! Scans files and folders.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::Batch;
use crate::manifests::{Content, FileId, Manifests};

/// Upper bound on a manifest, to protect the node's memory from a path given by mistake.
const MAX_BYTES: u64 = 256 << 20;

/// Upper bound on symlinks followed to find folders to watch (the kernel's is 40).
const MAX_LINKS: usize = 16;

/// A file's device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileNumber(u64, u64);

impl FileNumber {
    /// Return the number of the file at a path.
    pub(super) fn of(path: &Path) -> Option<Self> {
        Some(Self::from(&path.metadata().ok()?))
    }

    fn from(metadata: &Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }
}

/// Return whether a new path is a file about to be written, not a link to a complete one.
pub(super) fn is_new_file(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.nlink() == 1
}

/// Identity, size and times of a file; equal if it has not changed (within the resolution of its
/// times).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Signature {
    file: FileNumber,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Signature {
    fn of(m: &Metadata) -> Self {
        Self {
            file: FileNumber::from(m),
            size: m.size(),
            modified: (m.mtime(), m.mtime_nsec()),
            changed: (m.ctime(), m.ctime_nsec()),
        }
    }
}

/// The state of the path arguments.
#[derive(Debug)]
pub(super) struct Scan {
    arguments: Vec<Argument>,
    /// Files to read even if unchanged.
    forced: HashSet<FileNumber>,
    force_all: bool,
}

#[derive(Debug)]
struct Argument {
    path: Arc<Path>,
    /// It was readable at least once.
    seen: bool,
    /// It is unreadable now.
    unavailable: bool,
    files: BTreeMap<Arc<Path>, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// `None` if the file is unreadable.
    signature: Option<Signature>,
    /// For a missing file, the time at which it counts as removed.
    removed_at: Option<Instant>,
}

impl Scan {
    pub(super) fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let argument = |path: PathBuf| Argument {
            path: path.into(),
            seen: false,
            unavailable: false,
            files: BTreeMap::new(),
        };
        Self {
            arguments: paths.into_iter().map(argument).collect(),
            forced: HashSet::new(),
            force_all: false,
        }
    }

    pub(super) fn force(&mut self, file: FileNumber) {
        self.forced.insert(file);
    }

    pub(super) fn force_all(&mut self) {
        self.force_all = true;
    }

    /// Return whether every path was readable at least once.
    pub(super) fn complete(&self) -> bool {
        self.arguments.iter().all(|a| a.seen)
    }

    /// Return whether a path is unreadable now.
    pub(super) fn unavailable(&self) -> bool {
        self.arguments.iter().any(|a| a.unavailable)
    }

    /// Return the time at which a missing file counts as removed.
    pub(super) fn next_run(&self) -> Option<Instant> {
        let entries = self.arguments.iter().flat_map(|a| a.files.values());
        entries.filter_map(|e| e.removed_at).min()
    }

    /// Read changed files into `manifests`, except files being written. A missing file counts as
    /// removed at the first scan from `removed_at` on.
    pub(super) fn run(
        &mut self,
        manifests: &mut Manifests,
        writing: &HashMap<FileNumber, Instant>,
        removed_at: Instant,
    ) {
        let forced = std::mem::take(&mut self.forced);
        let force_all = std::mem::take(&mut self.force_all);
        let mut postponed = HashSet::new();
        for (number, argument) in self.arguments.iter_mut().enumerate() {
            let mut pass = Pass {
                number,
                manifests: &mut *manifests,
                is_writing: &|file| writing.contains_key(&file),
                is_forced: &|file| force_all || forced.contains(&file),
                postponed: &mut postponed,
                removed_at,
            };
            pass.argument(argument);
        }
        self.forced = postponed;
    }

    /// Return the folders in which a change can affect the files.
    pub(super) fn to_watch(&self) -> BTreeSet<PathBuf> {
        let mut folders = BTreeSet::new();
        for argument in &self.arguments {
            add_folders(&argument.path, &mut folders);
            for file in argument.files.keys() {
                if **file != *argument.path && file.is_symlink() {
                    add_folders(file, &mut folders);
                }
            }
        }
        folders
    }
}

/// Add the folders that contain a path and the symlinks that it leads through, and the path itself
/// if it is a folder; for a missing path, its nearest existing ancestor.
fn add_folders(path: &Path, folders: &mut BTreeSet<PathBuf>) {
    if path.is_dir() {
        folders.insert(path.to_path_buf());
    }
    let mut path = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        let mut parents = path.ancestors().skip(1).map(|parent| match parent {
            empty if empty.as_os_str().is_empty() => Path::new("."),
            parent => parent,
        });
        let Some(parent) = parents.find(|parent| parent.is_dir()) else {
            return;
        };
        folders.insert(parent.to_path_buf());
        let Ok(target) = path.read_link() else {
            return;
        };
        path = parent.join(target);
    }
}

/// A scan of one argument.
struct Pass<'a> {
    number: usize,
    manifests: &'a mut Manifests,
    is_writing: &'a dyn Fn(FileNumber) -> bool,
    is_forced: &'a dyn Fn(FileNumber) -> bool,
    postponed: &'a mut HashSet<FileNumber>,
    removed_at: Instant,
}

impl Pass<'_> {
    fn id(&self, path: &Arc<Path>) -> FileId {
        FileId {
            argument: self.number,
            path: path.clone(),
        }
    }

    fn argument(&mut self, argument: &mut Argument) {
        let found = match list(&argument.path) {
            Ok(found) => found,
            Err(error) => {
                argument.unavailable = true;
                let id = self.id(&argument.path);
                self.manifests
                    .update(&id, Content::Unreadable(&reason(&error)));
                // Read again when available.
                argument.files.values_mut().for_each(|e| e.signature = None);
                return;
            }
        };
        let is_file = found.len() == 1 && found.contains(&argument.path);
        if std::mem::take(&mut argument.unavailable) && !is_file {
            let id = self.id(&argument.path);
            self.manifests.update(&id, Content::Removed); // The problem of the folder.
        }
        for path in &found {
            let entry = argument.files.entry(path.clone()).or_insert(Entry {
                signature: None,
                removed_at: None,
            });
            entry.removed_at = None;
            self.file(path, entry);
        }
        argument.seen = true;
        self.drop_removed(argument, &found);
    }

    fn drop_removed(&mut self, argument: &mut Argument, found: &BTreeSet<Arc<Path>>) {
        let mut removed = Vec::new();
        let now = Instant::now();
        argument.files.retain(|path, entry| {
            if found.contains(path) {
                return true;
            }
            let is_removed = entry.removed_at.is_some_and(|at| at <= now);
            if is_removed {
                removed.push(path.clone());
            } else {
                entry.removed_at.get_or_insert(self.removed_at);
            }
            !is_removed
        });
        for path in &removed {
            let id = self.id(path);
            self.manifests.update(&id, Content::Removed);
        }
    }

    fn file(&mut self, path: &Arc<Path>, entry: &mut Entry) {
        let id = self.id(path);
        let signature = path.metadata().map(|m| Signature::of(&m)).ok();
        if let Some(s) = signature {
            if (self.is_writing)(s.file) {
                self.postponed.insert(s.file);
                return;
            }
            if entry.signature == signature && !(self.is_forced)(s.file) {
                return;
            }
        }
        match read_file(path) {
            Ok((bytes, signature)) => {
                entry.signature = Some(signature);
                self.manifests.update(&id, Content::Bytes(&bytes));
            }
            Err(error) => {
                entry.signature = None;
                self.manifests
                    .update(&id, Content::Unreadable(&reason(&error)));
            }
        }
    }
}

/// List the manifest files of a path.
fn list(path: &Arc<Path>) -> io::Result<BTreeSet<Arc<Path>>> {
    if !path.metadata()?.is_dir() {
        return Ok(BTreeSet::from([path.clone()]));
    }
    let mut files = BTreeSet::new();
    for entry in path.read_dir()? {
        let file = path.join(entry?.file_name());
        let hidden = file
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let named = file
            .extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if !named || hidden {
            continue;
        }
        // A dangling link is a missing file; any other error is an unreadable one.
        let manifest = match file.metadata() {
            Ok(metadata) => metadata.is_file(),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        if manifest {
            files.insert(file.into());
        }
    }
    Ok(files)
}

/// Read a regular file; opening anything else could block forever.
fn read_file(path: &Path) -> io::Result<(Vec<u8>, Signature)> {
    if !path.metadata()?.is_file() {
        let why = "neither a file nor a folder";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    read(path)
}

fn read(path: &Path) -> io::Result<(Vec<u8>, Signature)> {
    let mut file = File::open(path)?;
    // Taken before reading: if the file changes meanwhile, the next scan reads it again.
    let signature = Signature::of(&file.metadata()?);
    let bytes = read_bounded(&mut file)?;
    Ok((bytes, signature))
}

fn read_bounded(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        let why = format!("larger than {} MiB", MAX_BYTES >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

/// Return the text of an error.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "file not found".into(),
        _ => error.to_string(),
    }
}

/// Read files and folders once, like the first batch of
/// [`ManifestFiles`](super::ManifestFiles). The path `-` stands for standard input. An unreadable
/// path is a problem and makes the list incomplete.
pub fn read_once(paths: impl IntoIterator<Item = PathBuf>) -> Batch {
    let mut manifests = Manifests::new();
    let mut complete = true;
    for (argument, path) in paths.into_iter().enumerate() {
        let path: Arc<Path> = path.into();
        let (files, stdin) = match &*path == Path::new("-") {
            true => (Ok(BTreeSet::from([path.clone()])), true),
            false => (list(&path), false),
        };
        let files = files.unwrap_or_else(|error| {
            complete = false;
            let id = FileId {
                argument,
                path: path.clone(),
            };
            manifests.update(&id, Content::Unreadable(&reason(&error)));
            BTreeSet::new()
        });
        for path in files {
            let bytes = match stdin {
                true => read_bounded(&mut io::stdin().lock()),
                false => read(&path).map(|(bytes, _)| bytes),
            };
            let id = FileId { argument, path };
            match bytes {
                Ok(bytes) => manifests.update(&id, Content::Bytes(&bytes)),
                Err(error) => {
                    complete = false;
                    manifests.update(&id, Content::Unreadable(&reason(&error)));
                }
            }
        }
    }
    let mut batch = manifests.commit();
    batch.initial_list_complete = complete;
    batch
}
