//! Looking at files and folders.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::Batch;
use crate::manifests::{Content, FileId, Manifests};

/// No manifest is that long; a file that is was named by mistake, and must not eat the node's
/// memory.
const MAX_BYTES: u64 = 256 << 20;

/// How many symlinks are followed in search of what to watch (the kernel's own bound is 40).
const MAX_LINKS: usize = 16;

/// A file's device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileNumber(u64, u64);

impl FileNumber {
    /// The number of the file that a path leads to.
    pub(super) fn of(path: &Path) -> Option<Self> {
        Some(Self::from(&path.metadata().ok()?))
    }

    fn from(metadata: &Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }
}

/// Whether a path that has just come up is a new file that will yet be written, and not a link to
/// something that is complete.
pub(super) fn is_new_file(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.nlink() == 1
}

/// Two equal ones mean that a file has not changed (as far as its times are fine enough).
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

/// What is known of the paths asked for.
#[derive(Debug)]
pub(super) struct Scan {
    arguments: Vec<Argument>,
    /// Files to be read again even if they look unchanged.
    forced: HashSet<FileNumber>,
    force_all: bool,
}

#[derive(Debug)]
struct Argument {
    path: Arc<Path>,
    /// Whether it could be read at least once.
    seen: bool,
    /// Whether it cannot be read now.
    away: bool,
    files: BTreeMap<Arc<Path>, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// `None` if the file could not be read.
    signature: Option<Signature>,
    /// If it is not there any more: when to believe that.
    gone_at: Option<Instant>,
}

impl Scan {
    pub(super) fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let argument = |path: PathBuf| Argument {
            path: path.into(),
            seen: false,
            away: false,
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

    /// Whether every path has been there once.
    pub(super) fn complete(&self) -> bool {
        self.arguments.iter().all(|a| a.seen)
    }

    /// Whether a path is not there now.
    pub(super) fn away(&self) -> bool {
        self.arguments.iter().any(|a| a.away)
    }

    /// When a file that is gone is to be believed gone.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let entries = self.arguments.iter().flat_map(|a| a.files.values());
        entries.filter_map(|e| e.gone_at).min()
    }

    /// Reads what has changed into `manifests`, except what is being written. A file that is
    /// found gone is believed so at the first look from `gone_at` on.
    pub(super) fn look(
        &mut self,
        manifests: &mut Manifests,
        writing: &HashMap<FileNumber, Instant>,
        gone_at: Instant,
    ) {
        let forced = std::mem::take(&mut self.forced);
        let force_all = std::mem::take(&mut self.force_all);
        let mut postponed = HashSet::new();
        for (number, argument) in self.arguments.iter_mut().enumerate() {
            let mut look = Look {
                argument: number,
                manifests: &mut *manifests,
                is_writing: &|file| writing.contains_key(&file),
                is_forced: &|file| force_all || forced.contains(&file),
                postponed: &mut postponed,
                gone_at,
            };
            look.at(argument);
        }
        self.forced = postponed;
    }

    /// The folders in which a change can bear on what the paths lead to.
    pub(super) fn to_watch(&self) -> BTreeSet<PathBuf> {
        let mut folders = BTreeSet::new();
        for argument in &self.arguments {
            way_to(&argument.path, &mut folders);
            for file in argument.files.keys() {
                if **file != *argument.path && file.is_symlink() {
                    way_to(file, &mut folders);
                }
            }
        }
        folders
    }
}

/// Adds the folders that hold a path and the symlinks on the way to what it leads to, and that
/// itself if it is a folder. Of a path that does not exist, the nearest folder that does.
fn way_to(path: &Path, folders: &mut BTreeSet<PathBuf>) {
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

/// One look at one argument.
struct Look<'a> {
    argument: usize,
    manifests: &'a mut Manifests,
    is_writing: &'a dyn Fn(FileNumber) -> bool,
    is_forced: &'a dyn Fn(FileNumber) -> bool,
    postponed: &'a mut HashSet<FileNumber>,
    gone_at: Instant,
}

impl Look<'_> {
    fn id(&self, path: &Arc<Path>) -> FileId {
        FileId {
            argument: self.argument,
            path: path.clone(),
        }
    }

    fn at(&mut self, argument: &mut Argument) {
        let there = match list(&argument.path) {
            Ok(there) => there,
            Err(error) => {
                argument.away = true;
                let id = self.id(&argument.path);
                self.manifests
                    .update(&id, Content::Unreadable(&reason(&error)));
                // Read anew once it is back.
                argument.files.values_mut().for_each(|e| e.signature = None);
                return;
            }
        };
        let is_file = there.len() == 1 && there.contains(&argument.path);
        if std::mem::take(&mut argument.away) && !is_file {
            let id = self.id(&argument.path);
            self.manifests.update(&id, Content::Gone); // Of a folder: the complaint.
        }
        for path in &there {
            let entry = argument.files.entry(path.clone()).or_insert(Entry {
                signature: None,
                gone_at: None,
            });
            entry.gone_at = None;
            self.file(path, entry);
        }
        argument.seen = true;
        self.drop_gone(argument, &there);
    }

    fn drop_gone(&mut self, argument: &mut Argument, there: &BTreeSet<Arc<Path>>) {
        let mut gone = Vec::new();
        let now = Instant::now();
        argument.files.retain(|path, entry| {
            if there.contains(path) {
                return true;
            }
            let believe = entry.gone_at.is_some_and(|at| at <= now);
            if believe {
                gone.push(path.clone());
            } else {
                entry.gone_at.get_or_insert(self.gone_at);
            }
            !believe
        });
        for path in &gone {
            let id = self.id(path);
            self.manifests.update(&id, Content::Gone);
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

/// The manifest files that a path stands for.
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
        // A link that leads nowhere is a file that is gone; one that cannot be asked is not.
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

/// Reads a plain file; to open anything else could block for ever.
fn read_file(path: &Path) -> io::Result<(Vec<u8>, Signature)> {
    if !path.metadata()?.is_file() {
        let why = "it is neither a file nor a folder";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    read(path)
}

fn read(path: &Path) -> io::Result<(Vec<u8>, Signature)> {
    let mut file = File::open(path)?;
    // From before the reading: if the file changes meanwhile, the next look reads it again.
    let signature = Signature::of(&file.metadata()?);
    let bytes = read_bounded(&mut file)?;
    Ok((bytes, signature))
}

fn read_bounded(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        let why = format!("is longer than {} MiB", MAX_BYTES >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

/// The error's text; what the operating system has to say without its number.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it does not exist".into(),
        _ => error.to_string(),
    }
}

/// Reads files and folders once: what a [`ManifestFiles`](super::ManifestFiles) would deliver
/// first. The path `-` stands for standard input. A path that cannot be read is among the
/// problems, and the list then not complete.
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
