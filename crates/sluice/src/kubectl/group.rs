//! Groups of nodes with equal answers.

use std::fmt::Write as _;

use super::answers::View;
use super::pods::Pod;

/// Upper bound on the number of nodes that are named.
const MOST: usize = 10;

/// Nodes with equal answers.
pub(super) struct Group<'a> {
    nodes: Vec<&'a str>,
    view: &'a View,
}

impl<'a> Group<'a> {
    /// Group answers; the order is that of the first node of each group.
    pub(super) fn of(all: impl Iterator<Item = (&'a Pod, &'a View)>) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for (pod, view) in all {
            match groups.iter_mut().find(|g| g.view.common == view.common) {
                Some(group) => group.nodes.push(&pod.node),
                None => groups.push(Group {
                    nodes: vec![&pod.node],
                    view,
                }),
            }
        }
        groups
    }

    /// `node1, node2: no problems found`, with what follows on further lines.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        let more = self.nodes.len().saturating_sub(MOST);
        let shown: Vec<&str> = self.nodes.iter().take(MOST).copied().collect();
        // Writing to a String cannot fail.
        let _ = write!(out, "{}", shown.join(", "));
        if more > 0 {
            let _ = write!(out, " and {more} more");
        }
        let text = match self.nodes.len() {
            1 => &self.view.own,
            _ => &self.view.common,
        };
        let _ = writeln!(out, ": {}", text.trim_end());
        out
    }
}

/// Replace the differences between nodes with equal answers: the node's name and addresses, and the
/// address of the client that was chosen on this node.
pub(super) fn common(text: &str, pod: &Pod) -> String {
    let mut out = replaced(text, &pod.node, "this node");
    for address in &pod.addresses {
        out = replaced(&out, address, "NODE-IP");
    }
    for client in ["a pod of this node (", "this node (", "outside ("] {
        out = without_address(&out, client);
    }
    out
}

/// Replace a name where it is not a part of a longer one.
fn replaced(text: &str, name: &str, with: &str) -> String {
    let is_part =
        |c: char| c.is_ascii_alphanumeric() || c == '-' || (c == ':' && name.contains(':'));
    let mut out = String::new();
    let mut rest = text;
    let mut before = None;
    while let Some(at) = rest.find(name).filter(|_| !name.is_empty()) {
        let (head, tail) = rest.split_at(at);
        let after = &tail[name.len()..];
        let previous = head.chars().next_back().or(before);
        let mut next = after.chars();
        let ends = match (next.next(), next.next()) {
            // `node1.` may end a sentence, `node1.example` does not.
            (Some('.'), Some(c)) => !is_part(c),
            (Some(c), _) => !is_part(c),
            (None, _) => true,
        };
        let starts = previous.is_none_or(|c| !is_part(c) && c != '.');
        out.push_str(head);
        out.push_str(if starts && ends { with } else { name });
        before = name.chars().next_back();
        rest = after;
    }
    out + rest
}

/// Remove the address behind a kind of client: `outside (198.51.100.7)`.
fn without_address(text: &str, client: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(client) {
        let (head, tail) = rest.split_at(at + client.len());
        let Some((_, after)) = tail.split_once(')') else {
            break;
        };
        out.push_str(head.trim_end_matches('(').trim_end());
        rest = after;
    }
    out + rest
}
