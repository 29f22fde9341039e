//! The content of a diagram.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

/// Boxes and the arrows between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Graph {
    /// In the order of their first use. The ends of arrows are indices of this list.
    pub boxes: Vec<Box>,
    /// In the order of their first use.
    pub arrows: Vec<Arrow>,
}

/// A chain, a decision or an end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Box {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub title: String,
    /// Its lines.
    pub lines: Vec<String>,
}

/// The kind of a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A chain that the kernel calls from a hook, or where a packet starts.
    Hook,
    /// Any other chain.
    Chain,
    /// Where packets arrive.
    Arrives,
    /// Where packets are lost.
    Lost,
    /// Several boxes that are not drawn.
    Folded,
}

/// An arrow from one box to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Arrow {
    /// The box where it begins.
    pub from: usize,
    /// The box where it ends.
    pub to: usize,
    /// `25%`, or empty.
    pub label: String,
}

/// Builds a graph, each box and arrow once.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    graph: Graph,
    places: HashMap<(Kind, String), usize>,
    arrows: HashSet<(usize, usize)>,
}

impl Builder {
    /// Return the index of a box, which is added if it does not exist.
    pub(crate) fn place(&mut self, kind: Kind, title: &str) -> usize {
        let boxes = &mut self.graph.boxes;
        *self
            .places
            .entry((kind, title.to_owned()))
            .or_insert_with(|| {
                boxes.push(Box {
                    kind,
                    title: title.to_owned(),
                    lines: Vec::new(),
                });
                boxes.len() - 1
            })
    }

    /// Add a line to a box.
    pub(crate) fn line(&mut self, place: usize, line: String) {
        if let Some(b) = self.graph.boxes.get_mut(place) {
            b.lines.push(line);
        }
    }

    /// Add a line to a box that lacks it.
    pub(crate) fn line_once(&mut self, place: usize, line: String) {
        let boxes = &self.graph.boxes;
        if boxes.get(place).is_some_and(|b| !b.lines.contains(&line)) {
            self.line(place, line);
        }
    }

    /// Add an arrow, once.
    pub(crate) fn arrow(&mut self, from: usize, to: usize, label: String) {
        if self.arrows.insert((from, to)) {
            self.graph.arrows.push(Arrow { from, to, label });
        }
    }

    pub(crate) fn done(self) -> Graph {
        self.graph
    }
}

impl Graph {
    /// Return the graph with at most `most` arrows from each box. One folded box stands for the rest,
    /// and boxes that only the rest leads to are left out. A final chain with more arrows to it
    /// states their number instead.
    pub fn folded(&self, most: usize) -> Graph {
        self.without_hubs(most).fold_fan_out(most)
    }

    fn without_hubs(&self, most: usize) -> Graph {
        let mut graph = self.clone();
        let (mut into, mut out) = (vec![0; self.boxes.len()], vec![0; self.boxes.len()]);
        for arrow in &self.arrows {
            into[arrow.to] += 1;
            out[arrow.from] += 1;
        }
        let is_hub =
            |at: usize| self.boxes[at].kind == Kind::Chain && out[at] == 0 && into[at] > most + 1;
        graph.arrows.retain(|arrow| !is_hub(arrow.to));
        for (at, b) in graph
            .boxes
            .iter_mut()
            .enumerate()
            .filter(|(at, _)| is_hub(*at))
        {
            b.lines
                .insert(0, format!("({} chains jump here)", into[at]));
        }
        graph
    }

    fn fold_fan_out(&self, most: usize) -> Graph {
        let mut builder = Builder::default();
        let mut places: HashMap<usize, usize> = HashMap::new();
        let mut pointed = vec![false; self.boxes.len()];
        let mut outs: Vec<Vec<&Arrow>> = vec![Vec::new(); self.boxes.len()];
        for arrow in &self.arrows {
            if let (Some(out), Some(to)) = (outs.get_mut(arrow.from), pointed.get_mut(arrow.to)) {
                out.push(arrow);
                *to = true;
            }
        }
        // Reversed: the last entry is handled first.
        let mut todo: Vec<usize> = (0..self.boxes.len())
            .rev()
            .filter(|i| !pointed[*i])
            .collect();
        while let Some(at) = todo.pop() {
            let Some(b) = self.boxes.get(at) else {
                continue;
            };
            let from = *places
                .entry(at)
                .or_insert_with(|| copy(&mut builder, b, most));
            let out = &outs[at];
            let shown = if out.len() > most + 1 {
                most
            } else {
                out.len()
            };
            let mut next = Vec::new();
            for arrow in &out[..shown] {
                let Some(target) = self.boxes.get(arrow.to) else {
                    continue;
                };
                if !places.contains_key(&arrow.to) {
                    next.push(arrow.to);
                }
                let to = *places
                    .entry(arrow.to)
                    .or_insert_with(|| copy(&mut builder, target, most));
                builder.arrow(from, to, arrow.label.clone());
            }
            todo.extend(next.into_iter().rev());
            if out.len() > shown {
                let title = format!("… and {} more of {}", out.len() - shown, b.title);
                let to = builder.place(Kind::Folded, &title);
                builder.arrow(from, to, String::new());
            }
        }
        builder.done()
    }
}

fn copy(builder: &mut Builder, b: &Box, most: usize) -> usize {
    let place = builder.place(b.kind, &b.title);
    let shown = if b.lines.len() > most + 1 {
        most
    } else {
        b.lines.len()
    };
    for line in &b.lines[..shown] {
        builder.line(place, line.clone());
    }
    if b.lines.len() > shown {
        builder.line(place, format!("… and {} more", b.lines.len() - shown));
    }
    place
}
