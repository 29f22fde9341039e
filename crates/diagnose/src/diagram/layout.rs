//! Where boxes and arrows are drawn.
//!
//! Lanes and longest paths determine the rank of each box, from top to bottom. dagre orders the boxes of
//! each rank and places them from left to right. An arrow passes a rank beside its boxes, and changes its
//! column only between ranks, so that it crosses no box.

use std::collections::{BTreeMap, BTreeSet};

use dagre::graph::{Graph as Dagre, GraphOptions};
use dagre::{EdgeLabel, LayoutOptions, NodeLabel};

use super::graph::Graph;
use super::lane::Lane;

/// Distance between boxes of a rank.
const GAP: f64 = 28.0;
/// Distance between an arrow and a box that it passes.
const PASS: f64 = 16.0;
/// Distance between parts of a picture that no arrow connects.
const PART_GAP: f64 = 48.0;
/// How many boxes without arrows are in a row.
const ROW: usize = 4;

/// The columns and ranks of a graph.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    /// The rank of each box, from 0.
    pub(crate) ranks: Vec<usize>,
    /// The middle of each box.
    pub(crate) middles: Vec<f64>,
    /// The arrows, from top to bottom.
    pub(crate) arrows: Vec<Downward>,
    /// The columns of each arrow at the ranks between its ends, from top to bottom. Arrows from a box to
    /// itself have none.
    pub(crate) bends: Vec<Vec<f64>>,
    /// The first rank of each lane, and the rank after its last.
    pub(crate) lanes: BTreeMap<Lane, (usize, usize)>,
}

/// Lay out a graph whose boxes have these widths.
pub(crate) fn layout(graph: &Graph, widths: &[f64]) -> Layout {
    let arrows = downward(graph);
    let mut inner = inner_ranks(graph, &arrows);
    let parts = parts(graph.boxes.len(), &arrows);
    let alone: Vec<usize> = parts
        .iter()
        .filter_map(|part| <[usize; 1]>::try_from(part.as_slice()).ok())
        .map(|[only]| only)
        .collect();
    let mut rows: BTreeMap<Lane, usize> = BTreeMap::new();
    for at in &alone {
        let count = rows.entry(graph.boxes[*at].lane).or_default();
        inner[*at] = *count / ROW;
        *count += 1;
    }
    let mut laid = Layout {
        middles: vec![0.0; graph.boxes.len()],
        bends: vec![Vec::new(); arrows.len()],
        ..Layout::default()
    };
    laid.rank(graph, &inner);
    let mut left = 0.0;
    for part in parts.iter().filter(|part| part.len() > 1) {
        left = laid.place(part, &arrows, widths, left) + PART_GAP;
    }
    laid.place_alone(graph, &alone, widths, left);
    laid.separate(&arrows, widths);
    laid.arrows = arrows;
    laid
}

/// An arrow as the layout sees it: from the upper to the lower box.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Downward {
    pub(crate) top: usize,
    pub(crate) bottom: usize,
    /// The arrow itself leads upwards.
    pub(crate) is_reversed: bool,
}

/// Reverse the arrows that lead to an earlier lane, or back to a box on the path within a lane.
fn downward(graph: &Graph) -> Vec<Downward> {
    let lane = |at: usize| graph.boxes[at].lane;
    let mut outs: Vec<Vec<(usize, usize)>> = vec![Vec::new(); graph.boxes.len()];
    for (number, arrow) in graph.arrows.iter().enumerate() {
        if lane(arrow.from) == lane(arrow.to) && arrow.from != arrow.to {
            outs[arrow.from].push((number, arrow.to));
        }
    }
    let mut is_back = vec![false; graph.arrows.len()];
    // 0: not visited, 1: on the path, 2: done.
    let mut state = vec![0_u8; graph.boxes.len()];
    for start in 0..graph.boxes.len() {
        if state[start] != 0 {
            continue;
        }
        state[start] = 1;
        let mut path = vec![(start, 0)];
        while let Some((at, next)) = path.last_mut() {
            let Some((number, to)) = outs[*at].get(*next).copied() else {
                state[*at] = 2;
                path.pop();
                continue;
            };
            *next += 1;
            match state[to] {
                0 => {
                    state[to] = 1;
                    path.push((to, 0));
                }
                1 => is_back[number] = true,
                _ => {}
            }
        }
    }
    let arrows = graph.arrows.iter().zip(is_back);
    arrows
        .map(|(arrow, is_back)| {
            let is_reversed = is_back || lane(arrow.to) < lane(arrow.from);
            let (top, bottom) = if is_reversed {
                (arrow.to, arrow.from)
            } else {
                (arrow.from, arrow.to)
            };
            Downward {
                top,
                bottom,
                is_reversed,
            }
        })
        .collect()
}

/// Return the rank of each box in its lane: one below the lowest box of the lane that leads to it.
fn inner_ranks(graph: &Graph, arrows: &[Downward]) -> Vec<usize> {
    let lane = |at: usize| graph.boxes[at].lane;
    let mut outs: Vec<Vec<usize>> = vec![Vec::new(); graph.boxes.len()];
    let mut waiting = vec![0_usize; graph.boxes.len()];
    for arrow in arrows {
        if lane(arrow.top) == lane(arrow.bottom) && arrow.top != arrow.bottom {
            outs[arrow.top].push(arrow.bottom);
            waiting[arrow.bottom] += 1;
        }
    }
    let mut ranks = vec![0_usize; graph.boxes.len()];
    let mut ready: Vec<usize> = (0..waiting.len()).filter(|at| waiting[*at] == 0).collect();
    while let Some(at) = ready.pop() {
        for to in &outs[at] {
            ranks[*to] = ranks[*to].max(ranks[at] + 1);
            waiting[*to] -= 1;
            if waiting[*to] == 0 {
                ready.push(*to);
            }
        }
    }
    ranks
}

/// Return the boxes that arrows connect, in the order of their first box.
fn parts(boxes: usize, arrows: &[Downward]) -> Vec<Vec<usize>> {
    let mut beside: Vec<Vec<usize>> = vec![Vec::new(); boxes];
    for arrow in arrows {
        beside[arrow.top].push(arrow.bottom);
        beside[arrow.bottom].push(arrow.top);
    }
    let mut is_known = vec![false; boxes];
    let mut parts = Vec::new();
    for start in 0..boxes {
        let mut part = Vec::new();
        let mut todo = vec![start];
        while let Some(at) = todo.pop() {
            if !std::mem::replace(&mut is_known[at], true) {
                part.push(at);
                todo.extend(&beside[at]);
            }
        }
        if !part.is_empty() {
            part.sort_unstable();
            parts.push(part);
        }
    }
    parts
}

impl Layout {
    /// Number the ranks of all lanes.
    fn rank(&mut self, graph: &Graph, inner: &[usize]) {
        let mut depths: BTreeMap<Lane, usize> = BTreeMap::new();
        for (b, rank) in graph.boxes.iter().zip(inner) {
            let depth = depths.entry(b.lane).or_default();
            *depth = (*depth).max(rank + 1);
        }
        let mut next = 0;
        for (lane, depth) in depths {
            self.lanes.insert(lane, (next, next + depth));
            next += depth;
        }
        let of = |(b, rank): (&super::graph::Box, &usize)| {
            self.lanes.get(&b.lane).map_or(0, |(first, _)| first + rank)
        };
        self.ranks = graph.boxes.iter().zip(inner).map(of).collect();
    }

    /// Place the boxes of one part from `left` on, and return where it ends.
    fn place(&mut self, part: &[usize], arrows: &[Downward], widths: &[f64], left: f64) -> f64 {
        // dagre's ranks are those that this part uses.
        let used: BTreeSet<usize> = part.iter().map(|at| self.ranks[*at]).collect();
        let used: Vec<usize> = used.into_iter().collect();
        let number = |rank: usize| used.binary_search(&rank).unwrap_or(0);
        let mut dagre = Dagre::with_options(GraphOptions {
            directed: true,
            multigraph: true,
            compound: false,
        });
        for at in part {
            let node = NodeLabel {
                width: widths[*at],
                height: 10.0,
                ..NodeLabel::default()
            };
            dagre.set_node(at.to_string(), Some(node));
        }
        let own = arrows.iter().enumerate();
        let own = own.filter(|(_, a)| a.top != a.bottom && part.binary_search(&a.top).is_ok());
        for (name, arrow) in own.clone() {
            let span = number(self.ranks[arrow.bottom]) - number(self.ranks[arrow.top]);
            let edge = EdgeLabel {
                minlen: i32::try_from(span).unwrap_or(1),
                ..EdgeLabel::default()
            };
            let (top, bottom) = (arrow.top.to_string(), arrow.bottom.to_string());
            dagre.set_edge(top, bottom, Some(edge), Some(&name.to_string()));
        }
        let options = LayoutOptions {
            nodesep: GAP,
            edgesep: PASS,
            ..LayoutOptions::default()
        };
        dagre::layout(&mut dagre, Some(options));
        let mut heights = vec![0.0; used.len()];
        let mut right = left;
        for at in part {
            let node = dagre.node(&at.to_string());
            let (x, y) = node.map_or((0.0, 0.0), |n| (n.x.unwrap_or(0.0), n.y.unwrap_or(0.0)));
            self.middles[*at] = left + x;
            heights[number(self.ranks[*at])] = y;
            right = f64::max(right, left + x + widths[*at] / 2.0);
        }
        for (name, arrow) in own {
            let (top, bottom) = (arrow.top.to_string(), arrow.bottom.to_string());
            let edge = dagre.edge(&top, &bottom, Some(&name.to_string()));
            let points: Vec<(f64, f64)> = edge
                .iter()
                .flat_map(|edge| &edge.points)
                .map(|p| (left + p.x, p.y))
                .collect();
            let (first, last) = (self.ranks[arrow.top], self.ranks[arrow.bottom]);
            let mut bends = Vec::new();
            for rank in first + 1..last {
                // A rank that this part does not use is passed in the column of the next one.
                let used_at = used.partition_point(|used| *used < rank);
                let end = (self.middles[arrow.bottom], f64::INFINITY);
                let y = heights.get(used_at).copied().unwrap_or(f64::INFINITY);
                bends.push(column(&points, y).unwrap_or(end.0));
            }
            right = bends.iter().copied().fold(right, f64::max);
            self.bends[name] = bends;
        }
        right
    }

    /// Place the boxes without arrows in rows.
    fn place_alone(&mut self, graph: &Graph, alone: &[usize], widths: &[f64], left: f64) {
        let width = alone.iter().map(|at| widths[*at]).fold(0.0, f64::max);
        let mut counts: BTreeMap<Lane, usize> = BTreeMap::new();
        for at in alone {
            let count = counts.entry(graph.boxes[*at].lane).or_default();
            #[allow(clippy::cast_precision_loss)] // Less than ROW.
            let column = (*count % ROW) as f64;
            self.middles[*at] = left + column * (width + GAP) + widths[*at] / 2.0;
            *count += 1;
        }
    }

    /// Move whatever is too close to its neighbour in a rank to the right. dagre separates all of them; this
    /// makes sure that no rounding and no rank that only other parts use lets an arrow touch a box.
    fn separate(&mut self, arrows: &[Downward], widths: &[f64]) {
        /// A box, or an arrow with the index of its bend.
        enum Item {
            Box(usize),
            Bend(usize, usize),
        }
        let ranks = self.ranks.iter().max().map_or(0, |last| last + 1);
        let mut items: Vec<Vec<(f64, f64, Item)>> = (0..ranks).map(|_| Vec::new()).collect();
        for (at, rank) in self.ranks.iter().enumerate() {
            items[*rank].push((self.middles[at], widths[at] / 2.0, Item::Box(at)));
        }
        for (number, bends) in self.bends.iter().enumerate() {
            let first = self.ranks[arrows[number].top] + 1;
            for (bend, x) in bends.iter().enumerate() {
                items[first + bend].push((*x, 0.0, Item::Bend(number, bend)));
            }
        }
        for rank in &mut items {
            rank.sort_by(|a, b| a.0.total_cmp(&b.0));
            let mut free = f64::NEG_INFINITY;
            for (middle, half, item) in rank {
                let gap = if *half > 0.0 { GAP / 2.0 } else { PASS / 2.0 };
                let x = middle.max(free + gap + *half);
                free = x + *half + gap;
                match item {
                    Item::Box(at) => self.middles[*at] = x,
                    Item::Bend(number, bend) => self.bends[*number][*bend] = x,
                }
            }
        }
    }
}

/// Return the column of a line at a height.
fn column(points: &[(f64, f64)], y: f64) -> Option<f64> {
    points.windows(2).find_map(|pair| {
        let [(x1, y1), (x2, y2)] = pair else {
            return None;
        };
        let (low, high) = (y1.min(*y2), y1.max(*y2));
        let share = if high > low {
            (y - y1) / (y2 - y1)
        } else {
            0.0
        };
        (low <= y && y <= high).then_some(x1 + (x2 - x1) * share)
    })
}
