//! Malicious content, and content damaged at random.

use super::*;

/// Read on a thread with a thread's stack, and return the problems.
fn survives(path: &'static str, content: String) -> Vec<String> {
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    let read = move || problems(&read_one(path, content.as_bytes()));
    thread
        .spawn(read)
        .expect("a thread")
        .join()
        .expect("no panic")
}

#[test]
fn documents_that_would_exhaust_time_memory_or_stack_are_errors() {
    let bound = "nested too deeply, or aliases expand too much";
    let laughs: String = (1..12)
        .map(|i| {
            format!(
                "a{i}: &a{i} [{}]\n",
                vec![format!("*a{}", i - 1); 10].join(",")
            )
        })
        .collect();
    let laughs = format!("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n{laughs}");
    let long = format!(
        "a: &a {}\nb: [{}]",
        "x".repeat(100_000),
        "*a,".repeat(10_000)
    );
    let stairs: String = (0..2000)
        .map(|i| format!("{}a:\n", " ".repeat(i)))
        .collect();
    for yaml in [
        "[".repeat(100_000),
        "{a: ".repeat(100_000),
        "- ".repeat(100_000),
        "? ".repeat(100_000),
        stairs,
        laughs,
        long,
    ] {
        let start: String = yaml.chars().take(20).collect();
        let said = survives("x.yaml", yaml);
        assert_eq!(said.len(), 1, "{start}");
        assert!(said[0].contains(bound), "{start}: {said:?}");
    }
    for json in ["[".repeat(100_000), "{\"a\":".repeat(100_000)] {
        assert_eq!(
            survives("x.json", json),
            ["x.json, document 1 (line 1): recursion limit exceeded"]
        );
    }
}

#[test]
fn nested_lists_are_read() {
    let list = |items: String| format!("{{apiVersion: v1, kind: List, items: [{items}]}}");
    let deep = (0..20).fold(String::new(), |inner, _| list(inner));
    assert_eq!(survives("x.yaml", deep), [] as [&str; 0]);
}

#[test]
fn legitimate_anchors_and_merge_keys_are_resolved() {
    let batch = read_one(
        "x.yaml",
        b"apiVersion: v1\nkind: List\nitems:\n\
          - {apiVersion: v1, kind: Service, metadata: {name: a}, spec: &s {clusterIP: 10.96.0.1, ports: [{port: 80}]}}\n\
          - {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {<<: *s, clusterIP: 10.96.0.2}}\n",
    );
    assert_eq!(problems(&batch), [] as [&str; 0]);
    assert_eq!(keys(&batch), ["Service default/a", "Service default/b"]);
}

/// A deterministic random number generator (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound.max(1) as u64).unwrap_or(0)
    }
}

/// Replace, remove, duplicate or move pieces.
fn damage(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    const TOKENS: [&[u8]; 14] = [
        b"\n---\n",
        b"[",
        b"{",
        b"}",
        b"&a ",
        b"*a",
        b": ",
        b"- ",
        b"\"",
        b"\xff",
        b"|\n",
        b"null",
        b"99999999999999999999",
        b"\n...\n",
    ];
    for _ in 0..=numbers.below(4) {
        let from = numbers.below(bytes.len());
        let to = (from + numbers.below(40)).min(bytes.len());
        let piece: Vec<u8> = match numbers.below(3) {
            0 => Vec::new(),
            1 => TOKENS[numbers.below(TOKENS.len())].to_vec(),
            _ => {
                let start = numbers.below(bytes.len());
                bytes[start..(start + 30).min(bytes.len())].to_vec()
            }
        };
        bytes.splice(from..to, piece);
    }
}

#[test]
fn damaged_manifests_neither_panic_nor_delete() {
    let yaml = observed::read("objects.yaml").into_bytes();
    let json = observed::read("objects.json").into_bytes();
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for (path, whole, rounds) in [("x.yaml", &yaml, 30), ("x.json", &json, 60)] {
        let mut manifests = Manifests::new();
        let mut set = |bytes: &[u8]| {
            manifests.update(&id(path), Content::Bytes(bytes));
            manifests.commit()
        };
        set(whole);
        for _ in 0..rounds {
            let mut bytes = whole.clone();
            damage(&mut bytes, &mut numbers);
            let batch = set(&bytes);
            let malformed = |p: &Problem| matches!(p.what, What::Malformed(_));
            let deleted = batch.events.iter().any(|e| *e == e.key().deleted());
            assert!(!deleted || !batch.problems.iter().any(malformed));
            // Restore the file.
            set(whole);
        }
        // An empty file deletes all remaining objects.
        let all: Vec<_> = set(b"").events.iter().map(Event::key).collect();
        let stated: Vec<_> = read_one(path, whole)
            .events
            .iter()
            .map(Event::key)
            .collect();
        assert_eq!(all, stated);
    }
}

/// Inputs found by fuzzing.
#[test]
fn recorded_inputs_that_panicked_are_handled() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/harmful");
    let mut read = 0;
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        let bytes = std::fs::read(&path).expect("a file");
        crate::manifests::read_bytes(Path::new("x.yaml"), &bytes);
        crate::manifests::read_bytes(Path::new("x.json"), &bytes);
        read += 1;
    }
    assert!(read > 0, "there is at least one");
}
