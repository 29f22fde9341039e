//! The whole message of every kind of error.

use super::*;

/// Compare the message after `document `.
#[track_caller]
fn malformed(path: &str, content: &str, says: &str) {
    let expected = format!("{path}, document {says}");
    assert_eq!(
        problems(&read_one(path, content.as_bytes())),
        [expected],
        "{content:?}"
    );
}

#[test]
fn messages_of_malformed_documents() {
    let yaml = [
        ("a: [1", "1 (line 1): unclosed bracket '['"),
        (
            "# comment\n---\na: b: c",
            "1 (line 3): mapping values are not allowed in this context",
        ),
        (
            "kind: Service\nkind: Node",
            "1 (line 2): duplicate key \"kind\"",
        ),
        (
            "a:\n\tb: 1",
            "1 (line 2): tabs disallowed within this context (block indentation)",
        ),
        ("a: 1\nb: \"abc", "1 (line 2): unclosed quote"),
        ("a: *b", "1 (line 1): alias references unknown anchor"),
        (
            "a: &a [*a]",
            "1 (line 1): an alias is within its own anchor",
        ),
        ("- a", "1 (line 1): is not an object"),
        ("--- 42", "1 (line 1): is not an object"),
        ("{}", "1 (line 1): kind: is required"),
        ("\n\nkind: Service", "1 (line 3): apiVersion: is required"),
        (
            "apiVersion: v1\nkind: 5",
            "1 (line 1): kind: is not a string",
        ),
        (
            "apiVersion: 1\nkind: Service",
            "1 (line 1): apiVersion: is not a string",
        ),
        (
            "apiVersion: v1\nkind: List\nitems: 5",
            "1 (line 1): items: is not a list",
        ),
        (
            "apiVersion: v1\nkind: List\nitems: [{kind: Service}]",
            "1 (line 1), items[0]: apiVersion: is required",
        ),
        (
            "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: List, items: [5]}]}",
            "1 (line 1), items[0].items[0]: is not an object",
        ),
    ];
    for (content, says) in yaml {
        malformed("x.yaml", content, says);
    }
    let json = [
        ("{", "1 (line 1): EOF while parsing an object"),
        ("{\"a\": 1,\n\"a\": 2}", "1 (line 2): duplicate key \"a\""),
        ("[1]", "1 (line 1): is not an object"),
        ("\n{\"kind\": \"Service\",}", "1 (line 2): trailing comma"),
        ("kind: Service", "1 (line 1): expected value"),
        (
            "{\"apiVersion\": \"v1\", \"kind\": \"Pod\"}\n\n  {}",
            "2 (line 3): kind: is required",
        ),
        (
            "{\"apiVersion\": \"v1\", \"kind\": \"List\",\n\"items\": [\n{},\n{\"a\": 1,\n\"a\": 2}]}",
            "1 (line 5): duplicate key \"a\"",
        ),
        (
            "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [],\n\"items\": []}",
            "1 (line 2): duplicate key \"items\"",
        ),
        (
            "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [\n{}, ]}",
            "1 (line 2): trailing comma",
        ),
    ];
    for (content, says) in json {
        malformed("x.json", content, says);
    }
    let bytes = read_one("x.yaml", b"apiVersion: v1\nkind: Pod\n---\n\na: \xff");
    assert_eq!(
        problems(&bytes),
        ["x.yaml, document 2 (line 5): is not UTF-8"]
    );
}

/// Compare a table of `testdata` (its head describes the format) with the messages.
#[track_caller]
fn compare_messages(table: &str) {
    let mut object = None;
    let mut compared = 0;
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let Some(says) = line.strip_prefix("    ") else {
            object = line.split_once(": ");
            continue;
        };
        let (kind, stated) = object.expect("an object before its message");
        let stated = stated.replace(" \\n ", "\n");
        let (version, named, body) = match kind {
            "Service" => ("v1", "Service demo/x", format!("spec: {stated}")),
            "EndpointSlice" => ("discovery.k8s.io/v1", "EndpointSlice demo/x", stated),
            "Node" => ("v1", "Node x", stated),
            _ => (
                "networking.k8s.io/v1",
                "ServiceCIDR x",
                format!("spec: {stated}"),
            ),
        };
        let content = format!(
            "# comment\n\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: x, namespace: demo}}\n{body}\n"
        );
        let expected = format!("x.yaml, document 1 (line 3): {named}: {says}");
        assert_eq!(
            problems(&read_one("x.yaml", content.as_bytes())),
            [expected],
            "{body}"
        );
        compared += 1;
    }
    assert!(compared > 20, "the table is not empty");
}

#[test]
fn messages_of_unusable_objects() {
    compare_messages(include_str!("../../../testdata/unusable.txt"));
}

#[test]
fn messages_of_ignored_parts() {
    compare_messages(include_str!("../../../testdata/ignored-parts.txt"));
}

#[test]
fn messages_of_invalid_names() {
    let with = |metadata: &str| {
        let content = format!("{{apiVersion: v1, kind: Service, metadata: {metadata}}}");
        problems(&read_one("x.yaml", content.as_bytes()))
    };
    let at = "x.yaml, document 1 (line 1): Service";
    let table = [
        ("{}", " without a name: metadata.name: is required"),
        (
            "{name: 5}",
            " without a name: metadata.name: 5 is not a string",
        ),
        (
            "[web]",
            " without a name: metadata: a list is not an object",
        ),
        (
            "{name: \"a\\nb\"}",
            " default/a\\nb: metadata.name: \"a\\nb\" is not a name for a Service",
        ),
        (
            "{name: web, namespace: A}",
            " A/web: metadata.namespace: \"A\" is not a name for a namespace",
        ),
        (
            "{name: web, labels: {a: 5}}",
            " default/web: metadata.labels.a: 5 is not a string",
        ),
    ];
    for (metadata, says) in table {
        assert_eq!(with(metadata), [format!("{at}{says}")], "{metadata}");
    }
}
