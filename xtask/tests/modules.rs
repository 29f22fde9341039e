//! No two top-level modules of a crate depend on each other, directly or through others.
//!
//! Reads `use` declarations and paths that start with `crate` or `super`. A name that the crate root
//! re-exports counts as its defining module, the root's own items as the module `lib`. Tests may use
//! everything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// For each module, the modules that it uses.
type Graph = BTreeMap<String, BTreeSet<String>>;

#[test]
fn modules_of_a_crate_have_no_import_cycle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut crates = 0;
    let mut cycles = BTreeSet::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let graph = graph(&path.join("src"));
        assert!(!graph.is_empty(), "{}", path.display());
        crates += 1;
        for module in graph.keys() {
            let back = |other: &String| reachable(&graph, other).contains(module);
            let cycle: Vec<_> = reachable(&graph, module).into_iter().filter(back).collect();
            if !cycle.is_empty() {
                cycles.insert(format!("{}: {cycle:?}", path.display()));
            }
        }
    }
    assert!(crates > 10, "{crates}");
    assert!(cycles.is_empty(), "{cycles:#?}");
}

#[test]
fn an_import_cycle_is_found() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cycle");
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    std::fs::create_dir_all(&folder).unwrap();
    write("lib.rs", "mod a;\nmod b;\npub use b::{\n    B, C,\n};\n");
    write("a.rs", "// crate::lib\nuse crate::{\n    C as D,\n};\n");
    write(
        "b.rs",
        "fn f() { super::a::f() }\n#[cfg(test)]\nmod tests {\nuse crate::X;\n}\n",
    );
    let found = graph(&folder);
    let uses = |module: &str| found[module].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(
        (uses("a"), uses("b"), uses("lib")),
        (vec!["b"], vec!["a"], vec![])
    );
    assert_eq!(reachable(&found, "a"), ["a", "b"].map(str::to_owned).into());
}

/// Return the modules that a module uses, directly or through others.
fn reachable(graph: &Graph, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(module) = open.pop() {
        for next in graph.get(module).into_iter().flatten() {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    seen
}

/// A source file.
struct File {
    /// Its module; the last segment of a crate root is `lib` or `main`.
    module: Vec<String>,
    /// Every `use` declaration: whether it is public, and its paths as segments.
    uses: Vec<(bool, Vec<String>)>,
    /// The paths in expressions and types.
    paths: Vec<Vec<String>>,
}

impl File {
    fn is_root(&self) -> bool {
        matches!(self.module.as_slice(), [name] if name == "lib" || name == "main")
    }
}

/// Return the dependencies among the modules in a `src` folder.
fn graph(src: &Path) -> Graph {
    let files = files(src);
    let modules: BTreeSet<&str> = files.iter().map(|file| file.module[0].as_str()).collect();
    let mut exports = BTreeMap::new();
    for (public, path) in files
        .iter()
        .filter(|file| file.is_root())
        .flat_map(|file| &file.uses)
    {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let path = path.strip_prefix(&["crate"]).unwrap_or(&path);
        if let (true, [module, .., name]) = (public, path)
            && modules.contains(module)
        {
            exports.insert(name.to_string(), module.to_string());
        }
    }
    let mut graph = Graph::new();
    for file in &files {
        let from = if file.is_root() {
            "lib"
        } else {
            &file.module[0]
        };
        let used = graph.entry(from.to_owned()).or_default();
        let uses = file
            .uses
            .iter()
            .filter(|(public, _)| !(*public && file.is_root()));
        for path in uses.map(|(_, path)| path).chain(&file.paths) {
            let to = match top_level(file, path) {
                None => continue,
                Some(name) if modules.contains(name) => name,
                // An item of the root; in the root itself perhaps another crate.
                Some(name) => exports.get(name).map_or("lib", String::as_str),
            };
            if to != from {
                used.insert(to.to_owned());
            }
        }
    }
    graph
}

/// Return the first segment of a path from the crate root on; `None` for a path into another crate.
fn top_level<'a>(file: &'a File, path: &'a [String]) -> Option<&'a str> {
    let up = path
        .iter()
        .take_while(|segment| *segment == "super")
        .count();
    let kept = file.module.len().saturating_sub(up);
    let absolute = match path.first()?.as_str() {
        "crate" => path.get(1),
        "super" if kept > 0 => file.module.first(),
        "super" => path.get(up),
        name if file.is_root() => return Some(name),
        _ => None,
    };
    absolute.map(String::as_str)
}

/// Read the files below a folder, except tests and programs.
fn files(src: &Path) -> Vec<File> {
    let mut paths = Vec::new();
    list(src, &mut paths);
    let mut files = Vec::new();
    for path in paths {
        let relative = path.strip_prefix(src).unwrap().with_extension("");
        let segments = relative.iter().map(|s| s.to_str().unwrap().to_owned());
        let module: Vec<String> = segments.filter(|segment| segment != "mod").collect();
        let is_test = |segment: &String| segment == "tests" || segment.ends_with("_tests");
        if module.iter().any(is_test) || module[0] == "bin" {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default();
        let lines = code.lines().filter_map(|line| line.split("//").next());
        let (mut uses, mut rest, mut open) = (Vec::new(), String::new(), None);
        for line in lines {
            let start = ["use ", "pub use ", "pub(crate) use ", "pub(super) use "];
            let tree = start
                .iter()
                .find_map(|start| line.trim_start().strip_prefix(start));
            match (&mut open, tree) {
                (None, None) => rest.extend([line, "\n"]),
                (None, Some(tree)) => open = Some((line.contains("pub"), tree.to_owned())),
                (Some((_, text)), _) => text.push_str(line),
            }
            if let Some((public, tree)) = open.take_if(|(_, tree)| tree.contains(';')) {
                let mut paths = Vec::new();
                expand(&mut Vec::new(), tree.trim_end_matches(';'), &mut paths);
                uses.extend(paths.into_iter().map(|path| (public, path)));
            }
        }
        files.push(File {
            module,
            uses,
            paths: inline_paths(&rest),
        });
    }
    files
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// Append the paths of a use tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(prefix: &mut Vec<String>, tree: &str, paths: &mut Vec<Vec<String>>) {
    let depth = prefix.len();
    let (head, body) = match tree.split_once('{') {
        Some((head, body)) => (head, body.rsplit_once('}').map(|(body, _)| body)),
        None => (tree, None),
    };
    let names = head
        .split("::")
        .map(|s| s.split(" as ").next().unwrap_or_default().trim());
    prefix.extend(names.filter(|s| !s.is_empty()).map(str::to_owned));
    if let Some(body) = body {
        let mut level = 0;
        let parts = body.split(|c: char| {
            level += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && level == 0
        });
        parts.for_each(|part| expand(prefix, part, paths));
    } else if prefix.len() > depth {
        paths.push(prefix.clone());
    }
    prefix.truncate(depth);
}

/// Return the paths in expressions and types.
fn inline_paths(text: &str) -> Vec<Vec<String>> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(|c| !is_path(c))
        .map(|word| {
            word.split("::")
                .filter(|s| !s.is_empty())
                .map(str::to_owned)
                .collect()
        })
        .filter(|path: &Vec<String>| path.len() > 1)
        .collect()
}
