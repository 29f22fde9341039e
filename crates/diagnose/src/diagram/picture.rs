//! A graph with the place of each box and arrow, for the page of `sluice ui` and for SVG.

use std::collections::BTreeMap;

use serde::Serialize;

use super::draw::cut;
use super::graph::{Box, Graph, Kind};
use super::lane::{Lane, Place};
use super::layout::{Downward, Layout, layout};
use super::why::Detail;

/// Characters in a line of a box. Longer texts continue in the next line.
const CHARS: usize = 46;
/// Lines of one text.
const LINES: usize = 3;
/// Width of a character in a monospaced font of 12 pixels, rounded up.
const CHAR_WIDTH: f64 = 7.4;
const LINE: f64 = 16.0;
const PAD: f64 = 8.0;
/// Distance between ranks.
const RANK_GAP: f64 = 40.0;
/// Space above and below the boxes of a lane.
const LANE_PAD: f64 = 18.0;
/// Height of a hook that no packet passes.
const EMPTY_LANE: f64 = 30.0;
/// Width of the names of the lanes.
const NAMES: f64 = 120.0;
const MARGIN: f64 = 16.0;
/// Boxes of a picture. More are not readable, and take too long to place.
const MOST: usize = 250;

/// A picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs)] // Pixels.
pub struct Picture {
    pub width: f64,
    pub height: f64,
    /// From top to bottom.
    pub lanes: Vec<DrawnLane>,
    pub boxes: Vec<DrawnBox>,
    pub arrows: Vec<DrawnArrow>,
}

/// A lane of a picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DrawnLane {
    /// Its name; empty for start and end.
    pub name: String,
    /// Its upper edge.
    pub y: f64,
    /// Its height.
    pub height: f64,
    /// Whether it contains boxes.
    pub is_used: bool,
    /// Whether it is one of the five hooks.
    pub is_hook: bool,
}

/// A box of a picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs)] // Pixels.
pub struct DrawnBox {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
    pub kind: Kind,
    /// The title: lane, table and name.
    pub title: String,
    /// The table; may be empty.
    pub table: String,
    /// The lines of the name, then those of the rules.
    pub name: Vec<String>,
    pub lines: Vec<String>,
    /// What happens to a packet here.
    pub steps: Vec<Detail>,
}

/// An arrow of a picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DrawnArrow {
    /// The index of the box where it begins.
    pub from: usize,
    /// The index of the box where it ends.
    pub to: usize,
    /// Its line. Between two points of different columns it is a cubic curve that is vertical at both.
    pub points: Vec<(f64, f64)>,
    /// `25%`, or empty.
    pub label: String,
    /// The middle of the label.
    pub label_at: (f64, f64),
}

impl Picture {
    /// Lay out a graph. Of more than 250 boxes, the first are drawn.
    pub fn of(graph: &Graph) -> Self {
        let graph = &graph.limited(MOST);
        let mut boxes: Vec<DrawnBox> = graph.boxes.iter().map(drawn).collect();
        let widths: Vec<f64> = boxes.iter().map(|b| b.width).collect();
        let laid = layout(graph, &widths);
        let leftmost = leftmost(&laid, &widths);
        let offset = NAMES + MARGIN - leftmost;
        let rows = Rows::new(graph, &boxes, &laid);
        for (at, b) in boxes.iter_mut().enumerate() {
            b.x = (laid.middles[at] + offset - b.width / 2.0).round();
            b.y = rows.tops[laid.ranks[at]];
        }
        let arrows: Vec<DrawnArrow> = laid
            .arrows
            .iter()
            .enumerate()
            .filter(|(_, arrow)| arrow.top != arrow.bottom)
            .map(|(number, arrow)| {
                let bends = laid.bends[number].iter().map(|x| (x + offset).round());
                let bends: Vec<f64> = bends.collect();
                arrow_of(graph, number, *arrow, &bends, &boxes, &laid, &rows)
            })
            .collect();
        let right = boxes.iter().map(|b| b.x + b.width);
        let bends = arrows.iter().flat_map(|a| &a.points).map(|(x, _)| *x);
        Self {
            width: right.chain(bends).fold(NAMES, f64::max) + MARGIN,
            height: rows.bottom,
            lanes: rows.lanes,
            boxes,
            arrows,
        }
    }
}

fn leftmost(laid: &Layout, widths: &[f64]) -> f64 {
    let boxes = laid.middles.iter().zip(widths).map(|(x, w)| x - w / 2.0);
    let all = boxes.chain(laid.bends.iter().flatten().copied());
    let least = all.fold(f64::INFINITY, f64::min);
    if least.is_finite() { least } else { 0.0 }
}

/// Return the box at the origin, with its size.
fn drawn(b: &Box) -> DrawnBox {
    let name = wrapped(&b.name);
    let lines: Vec<String> = b.lines.iter().flat_map(|line| wrapped(line)).collect();
    let texts = name.iter().chain(&lines).chain(std::iter::once(&b.table));
    let chars = texts.map(|text| text.chars().count()).max().unwrap_or(0);
    let rows = name.len() + lines.len() + usize::from(!b.table.is_empty());
    #[allow(clippy::cast_precision_loss)] // Some hundred lines.
    let (width, height) = (
        (chars as f64 * CHAR_WIDTH + 2.0 * PAD).ceil(),
        rows as f64 * LINE + 2.0 * PAD - 2.0,
    );
    DrawnBox {
        x: 0.0,
        y: 0.0,
        width,
        height,
        kind: b.kind,
        title: b.title.clone(),
        table: cut(&b.table, CHARS),
        name,
        lines,
        steps: b.steps.clone(),
    }
}

/// Divide a text into lines, between words where possible; the end of a very long text is cut off.
fn wrapped(text: &str) -> Vec<String> {
    // XML cannot contain control characters.
    let text = text.replace(char::is_control, "?");
    let mut lines = vec![String::new()];
    let mut length = 0;
    for word in cut(&text, CHARS * LINES).split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        if length > 0 && length + 1 + word.len() > CHARS {
            lines.push("  ".to_owned());
            length = 2;
        } else if length > 0 {
            lines.last_mut().into_iter().for_each(|line| line.push(' '));
            length += 1;
        }
        while length + word.len() > CHARS {
            let rest = word.split_off(CHARS - length);
            lines
                .last_mut()
                .into_iter()
                .for_each(|line| line.extend(&word));
            lines.push("  ".to_owned());
            (word, length) = (rest, 2);
        }
        length += word.len();
        lines
            .last_mut()
            .into_iter()
            .for_each(|line| line.extend(&word));
    }
    lines
}

/// The vertical part of the layout.
struct Rows {
    /// The upper edge of each rank.
    tops: Vec<f64>,
    /// The lower edge of each rank.
    bottoms: Vec<f64>,
    lanes: Vec<DrawnLane>,
    /// The height of the picture.
    bottom: f64,
}

impl Rows {
    fn new(graph: &Graph, boxes: &[DrawnBox], laid: &Layout) -> Self {
        let ranks = laid.ranks.iter().max().map_or(0, |last| last + 1);
        let mut heights = vec![0.0_f64; ranks];
        for (b, rank) in boxes.iter().zip(&laid.ranks) {
            heights[*rank] = heights[*rank].max(b.height);
        }
        let mut lanes: BTreeMap<Lane, (usize, usize)> = laid.lanes.clone();
        let has_hooks = graph
            .boxes
            .iter()
            .any(|b| Place::HOOKS.contains(&b.lane.place));
        for hook in Place::HOOKS.iter().filter(|_| has_hooks) {
            lanes.entry(Lane::of(*hook)).or_insert((0, 0));
        }
        let mut rows = Self {
            tops: vec![0.0; ranks],
            bottoms: vec![0.0; ranks],
            lanes: Vec::new(),
            bottom: 0.0,
        };
        let mut y = MARGIN / 2.0;
        for (lane, (first, end)) in lanes {
            let top = y;
            if first == end {
                y += EMPTY_LANE;
            } else {
                y += LANE_PAD;
                for (rank, height) in heights.iter().enumerate().take(end).skip(first) {
                    rows.tops[rank] = y;
                    rows.bottoms[rank] = y + height;
                    y += height + RANK_GAP;
                }
                y += LANE_PAD - RANK_GAP;
            }
            rows.lanes.push(DrawnLane {
                name: match lane.place {
                    Place::Start | Place::Arrival => String::new(),
                    _ => lane.to_string(),
                },
                y: top,
                height: y - top,
                is_used: first < end,
                is_hook: Place::HOOKS.contains(&lane.place),
            });
        }
        rows.bottom = y + MARGIN / 2.0;
        rows
    }
}

/// Return an arrow from box to box: beside the boxes of each rank, and across between ranks.
fn arrow_of(
    graph: &Graph,
    number: usize,
    arrow: Downward,
    bends: &[f64],
    boxes: &[DrawnBox],
    laid: &Layout,
    rows: &Rows,
) -> DrawnArrow {
    let (top, bottom) = (&boxes[arrow.top], &boxes[arrow.bottom]);
    let middle = |b: &DrawnBox| (b.x + b.width / 2.0).round();
    let (first, last) = (laid.ranks[arrow.top], laid.ranks[arrow.bottom]);
    let mut points = vec![
        (middle(top), top.y + top.height),
        (middle(top), rows.bottoms[first]),
    ];
    for (rank, x) in (first + 1..last).zip(bends) {
        points.push((*x, rows.tops[rank]));
        points.push((*x, rows.bottoms[rank]));
    }
    points.push((middle(bottom), rows.tops[last]));
    points.push((middle(bottom), bottom.y));
    points.dedup();
    let is_slanted = |pair: &&[(f64, f64)]| matches!(pair, [a, b] if a.1 < b.1);
    // Between the ranks below the upper box.
    let gap = points.windows(2).filter(is_slanted);
    let mut gap = gap.filter(|pair| matches!(pair, [a, _] if a.1 >= rows.bottoms[first]));
    let label_at = gap.next().map_or((0.0, 0.0), |pair| match pair {
        [a, b] => (f64::midpoint(a.0, b.0), f64::midpoint(a.1, b.1)),
        _ => (0.0, 0.0),
    });
    if arrow.is_reversed {
        points.reverse();
    }
    let original = &graph.arrows[number];
    DrawnArrow {
        from: original.from,
        to: original.to,
        points,
        label: original.label.clone(),
        label_at,
    }
}
