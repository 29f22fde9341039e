//! The page as one document: markup, style, program and, in an export, the answers.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::answers::Question;
use crate::nodes::Nodes;

const MARKUP: &str = include_str!("../assets/index.html");
const STYLE: &str = include_str!("../assets/style.css");

/// The modules of the program; each imports only from those before it.
pub(crate) const MODULES: [(&str, &str); 7] = [
    ("dom.js", include_str!("../assets/dom.js")),
    ("source.js", include_str!("../assets/source.js")),
    ("list.js", include_str!("../assets/list.js")),
    ("picture.js", include_str!("../assets/picture.js")),
    ("service.js", include_str!("../assets/service.js")),
    ("trace.js", include_str!("../assets/trace.js")),
    ("app.js", include_str!("../assets/app.js")),
];

/// A document with its policy.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) html: String,
    /// The Content-Security-Policy.
    pub(crate) policy: String,
}

/// Return the modules as one, without their imports and exports.
pub(crate) fn program() -> String {
    let mut program = String::new();
    for (name, text) in MODULES {
        program += &format!("// {name}\n");
        for line in text.lines().filter(|line| !line.starts_with("import ")) {
            program += line.strip_prefix("export ").unwrap_or(line);
            program.push('\n');
        }
    }
    program
}

/// Return the page; with answers by their keys, for use without a server.
pub(crate) fn document(answers: Option<&BTreeMap<String, Value>>) -> Document {
    let program = program();
    let hash = |text: &str| format!("'sha256-{}'", BASE64.encode(&Sha256::digest(text)));
    let connect = if answers.is_none() {
        "'self'"
    } else {
        "'none'"
    };
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src {connect}; img-src data:; \
         base-uri 'none'; form-action 'none'",
        hash(&program),
        hash(STYLE)
    );
    let data = json!({ "answers": answers });
    // The only text that comes from a node. Within JSON, `<` occurs only in strings.
    let data = data.to_string().replace('<', "\\u003c");
    let parts = [
        ("/*policy*/", policy.as_str()),
        ("/*style*/", STYLE),
        ("/*data*/", &data),
        ("/*program*/", &program),
    ];
    let mut html = String::with_capacity(MARKUP.len() + STYLE.len() + data.len() + program.len());
    let mut rest = MARKUP;
    for (place, text) in parts {
        if let Some((before, after)) = rest.split_once(place) {
            html += before;
            html += text;
            rest = after;
        }
    }
    html += rest;
    Document { html, policy }
}

/// Return the page with the answers to some questions, as one HTML document that needs no server. Questions
/// without an answer are left out.
pub fn export(nodes: &Nodes, questions: &[Question]) -> String {
    let answered = questions
        .iter()
        .filter_map(|question| Some((question.key(), nodes.answer(question).ok()?)));
    document(Some(&answered.collect())).html
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exported program is the concatenation of the modules, so that they need one form of import, and
    /// different names.
    #[test]
    fn modules_import_from_earlier_modules_only_and_share_no_name() {
        let mut names = std::collections::BTreeSet::new();
        for (at, (module, text)) in MODULES.iter().enumerate() {
            for line in text.lines().filter(|line| line.starts_with("import ")) {
                let (_, from) = line.split_once(" from './").expect("an import in one line");
                let from = from.strip_suffix("';").expect("a path in single quotes");
                let earlier = MODULES[..at].iter().any(|(name, _)| *name == from);
                assert!(earlier, "{module}: {line}");
            }
            for line in text.lines() {
                let line = line.strip_prefix("export ").unwrap_or(line);
                let line = line.strip_prefix("async ").unwrap_or(line);
                let mut words = line.split(' ');
                if let Some("function" | "const" | "let" | "class") = words.next() {
                    let name = words.next().unwrap_or_default();
                    let name = name.split(['(', '=', ';']).next().unwrap_or_default();
                    assert!(names.insert(name), "{module}: {name} is defined twice");
                }
            }
        }
    }

    /// Data reaches the document through text nodes and attributes only.
    #[test]
    fn program_interprets_no_text_as_markup() {
        let program = program();
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "DOMParser",
            "srcdoc",
        ] {
            assert!(!program.contains(word), "{word}");
        }
        assert!(!program.contains("</script"));
        assert!(!STYLE.contains("</style") && !STYLE.contains("url(http"));
    }

    #[test]
    fn data_cannot_end_its_element() {
        let hostile = "</script><script>alert(1)</script><!--";
        let answers = BTreeMap::from([("k".to_owned(), json!(hostile))]);
        let html = document(Some(&answers)).html;
        assert!(!html.contains("alert(1)</script>"));
        assert!(html.contains("\\u003c/script>\\u003cscript>alert(1)\\u003c/script>\\u003c!--"));
        let (_, data) = html.split_once("id=\"data\">").unwrap();
        let (data, _) = data.split_once("</script>").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["answers"]["k"], hostile);
    }
}
