//! A graph as Mermaid, DOT, or boxes in the terminal.

use std::fmt::Write as _;

use super::graph::{Box, Graph, Kind};

/// Longest line of a box.
const WIDTH: usize = 100;

/// Cut a text to a number of characters, with `…` if it was longer.
pub(crate) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most.saturating_sub(1)).collect();
    short.push('…');
    short
}

fn texts(b: &Box) -> impl Iterator<Item = String> {
    std::iter::once(&b.title)
        .chain(&b.lines)
        .map(|t| cut(t, WIDTH))
}

/// Draw a Mermaid flowchart.
pub fn mermaid(graph: &Graph) -> String {
    // Quotes end a text, `#` starts an entity, and angle brackets are HTML.
    let escaped = |text: String| {
        text.replace('#', "#35;")
            .replace('"', "#quot;")
            .replace('<', "#lt;")
            .replace('>', "#gt;")
    };
    let mut out = String::from("flowchart TD\n");
    for (i, b) in graph.boxes.iter().enumerate() {
        let text: Vec<String> = texts(b).map(escaped).collect();
        let text = text.join("<br/>");
        let (open, close) = match b.kind {
            Kind::Hook => ("([", "])"),
            Kind::Chain => ("[", "]"),
            Kind::Arrives => ("((", "))"),
            Kind::Lost => ("{{", "}}"),
            Kind::Folded => ("[/", "/]"),
        };
        let _ = writeln!(out, "  n{i}{open}\"{text}\"{close}");
    }
    for a in &graph.arrows {
        let label = if a.label.is_empty() {
            String::new()
        } else {
            format!("|\"{}\"|", escaped(a.label.clone()))
        };
        let _ = writeln!(out, "  n{} -->{label} n{}", a.from, a.to);
    }
    out
}

/// Draw a Graphviz digraph.
pub fn dot(graph: &Graph) -> String {
    let escaped = |text: String| text.replace('\\', "\\\\").replace('"', "\\\"");
    let mut out = String::from("digraph sluice {\n  node [shape=box, fontname=monospace];\n");
    for (i, b) in graph.boxes.iter().enumerate() {
        let text: Vec<String> = texts(b).map(escaped).collect();
        let style = match b.kind {
            Kind::Hook => "style=rounded",
            Kind::Chain => "style=solid",
            Kind::Arrives => "style=bold, color=darkgreen",
            Kind::Lost => "style=bold, color=red",
            Kind::Folded => "style=dashed",
        };
        // \l: lines start at the left.
        let _ = writeln!(out, "  n{i} [label=\"{}\\l\", {style}];", text.join("\\l"));
    }
    for a in &graph.arrows {
        let label = escaped(a.label.clone());
        let _ = writeln!(out, "  n{} -> n{} [label=\"{label}\"];", a.from, a.to);
    }
    out.push_str("}\n");
    out
}

/// Draw boxes for a terminal, one below the other, each with its arrows.
pub fn boxes(graph: &Graph) -> String {
    let mut out = String::new();
    for (i, b) in graph.boxes.iter().enumerate() {
        let lines: Vec<String> = texts(b).collect();
        let width = lines.iter().map(|l| l.chars().count()).max().unwrap_or(0);
        let [tl, tr, bl, br] = match b.kind {
            Kind::Hook => ["╭", "╮", "╰", "╯"],
            Kind::Arrives | Kind::Lost => ["┏", "┓", "┗", "┛"],
            Kind::Chain | Kind::Folded => ["┌", "┐", "└", "┘"],
        };
        let bar = "─".repeat(width + 2);
        let _ = writeln!(out, "{tl}{bar}{tr} {}", i + 1);
        for line in &lines {
            let pad = " ".repeat(width - line.chars().count());
            let _ = writeln!(out, "│ {line}{pad} │");
        }
        let _ = writeln!(out, "{bl}{bar}{br}");
        for a in graph.arrows.iter().filter(|a| a.from == i) {
            let title = graph.boxes.get(a.to).map_or("", |b| &b.title);
            let label = if a.label.is_empty() {
                String::new()
            } else {
                format!("{} ", a.label)
            };
            let _ = writeln!(out, "  └─> {label}{} {}", a.to + 1, cut(title, WIDTH));
        }
    }
    out
}
