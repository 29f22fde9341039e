//! The content of a diagram.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::lane::Lane;
use super::why::Detail;

/// How many boxes a folded box names.
const NAMED: usize = 4;
/// How many steps a folded graph keeps of a box.
const STEPS: usize = 100;

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
    /// The part of the path in which packets pass it.
    pub lane: Lane,
    /// The table, such as `ip nat`; empty outside of rules.
    pub table: String,
    /// The name without lane and table.
    pub name: String,
    /// Its lines.
    pub lines: Vec<String>,
    /// What happens to a packet here, step by step; empty in pictures without a packet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Detail>,
}

impl Box {
    /// Return a box without lines that has no table.
    pub(crate) fn new(kind: Kind, lane: Lane, title: &str) -> Self {
        Self {
            kind,
            title: title.to_owned(),
            lane,
            table: String::new(),
            name: title.to_owned(),
            lines: Vec::new(),
            steps: Vec::new(),
        }
    }
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
    places: HashMap<(Kind, Lane, String), usize>,
    arrows: HashSet<(usize, usize)>,
    /// The lines and steps of boxes that have each once.
    lines: HashSet<(usize, String)>,
    steps: HashSet<(usize, Detail)>,
}

impl Builder {
    /// Return the index of the box with this kind, lane and title, which is added if it does not exist.
    pub(crate) fn place(&mut self, new: Box) -> usize {
        let boxes = &mut self.graph.boxes;
        let key = (new.kind, new.lane, new.title.clone());
        *self.places.entry(key).or_insert_with(|| {
            boxes.push(new);
            boxes.len() - 1
        })
    }

    /// Add a step to a box that lacks it.
    pub(crate) fn step_once(&mut self, place: usize, step: Detail) {
        if let Some(b) = self.graph.boxes.get_mut(place)
            && self.steps.insert((place, step.clone()))
        {
            b.steps.push(step);
        }
    }

    /// Add a line to a box.
    pub(crate) fn line(&mut self, place: usize, line: String) {
        if let Some(b) = self.graph.boxes.get_mut(place) {
            b.lines.push(line);
        }
    }

    /// Add a line to a box that lacks it.
    pub(crate) fn line_once(&mut self, place: usize, line: String) {
        if self.lines.insert((place, line.clone())) {
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

    /// Return the box that stands for the targets of some arrows from `b`.
    fn fold(&self, b: &Box, rest: &[&Arrow]) -> Box {
        let targets = rest.iter().filter_map(|arrow| self.boxes.get(arrow.to));
        let lane = targets.clone().map(|target| target.lane).min();
        let title = format!("… and {} more of {}", rest.len(), b.title);
        Box {
            name: format!("… and {} more", rest.len()),
            lines: targets
                .take(NAMED)
                .map(|target| target.name.clone())
                .collect(),
            ..Box::new(Kind::Folded, lane.unwrap_or(b.lane), &title)
        }
    }

    /// Return the graph with the first `most` boxes. One folded box stands for the rest.
    pub fn limited(&self, most: usize) -> Graph {
        let mut graph = self.clone();
        let more = graph.boxes.len().saturating_sub(most);
        if more > 0 {
            graph.boxes.truncate(most);
            graph.arrows.retain(|a| a.from < most && a.to < most);
            let title = format!("{more} more boxes are not drawn");
            graph
                .boxes
                .push(Box::new(Kind::Folded, Lane::ARRIVAL, &title));
        }
        graph
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
                let folded = self.fold(b, &out[shown..]);
                let to = builder.place(folded);
                builder.arrow(from, to, String::new());
            }
        }
        builder.done()
    }
}

fn copy(builder: &mut Builder, b: &Box, most: usize) -> usize {
    let mut steps: Vec<Detail> = b.steps.iter().take(STEPS).cloned().collect();
    if b.steps.len() > steps.len() {
        steps.push(Detail {
            rule: format!("… and {} more rules", b.steps.len() - steps.len()),
            conditions: Vec::new(),
            effect: "not shown".to_owned(),
            counters: None,
        });
    }
    let place = builder.place(Box {
        table: b.table.clone(),
        name: b.name.clone(),
        steps,
        ..Box::new(b.kind, b.lane, &b.title)
    });
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
