//! A graph as SVG, in layers: each box is below all boxes that lead to it.

use std::fmt::Write as _;

use super::draw::cut;
use super::graph::{Graph, Kind};
use super::order::ordered;

/// Longest line of a box, in characters.
const CHARS: usize = 90;
/// Size of a character in a monospaced font of 12 pixels.
const CHAR_WIDTH: usize = 8;
const LINE: usize = 16;
const PAD: usize = 8;
/// Distance between boxes of a layer, and between layers.
const GAP: usize = 24;
const LAYER_GAP: usize = 48;
/// Widest row; the rest of a layer goes into another row below it.
const ROW: usize = 2300;

struct Placed {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
    lines: Vec<String>,
}

/// Draw an SVG picture.
pub fn svg(graph: &Graph) -> String {
    let placed = place(graph);
    let right = placed.iter().map(|p| p.x + p.width).max().unwrap_or(0) + GAP;
    let bottom = placed.iter().map(|p| p.y + p.height).max().unwrap_or(0) + GAP;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {right} {bottom}\" \
         width=\"{right}\" height=\"{bottom}\" font-family=\"monospace\" font-size=\"12\">\n\
         <defs><marker id=\"a\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" \
         markerHeight=\"8\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for arrow in &graph.arrows {
        let (Some(from), Some(to)) = (placed.get(arrow.from), placed.get(arrow.to)) else {
            continue;
        };
        let (x1, y1) = (from.x + from.width / 2, from.y + from.height);
        let (x2, y2) = (to.x + to.width / 2, to.y);
        let bend = LAYER_GAP / 2;
        let _ = writeln!(
            out,
            "<path d=\"M{x1} {y1}C{x1} {} {x2} {} {x2} {y2}\" fill=\"none\" stroke=\"#555\" stroke-opacity=\"0.6\" \
             marker-end=\"url(#a)\"/>",
            y1 + bend,
            y2.saturating_sub(bend)
        );
        if !arrow.label.is_empty() {
            // Above the tip of the arrow, away from other labels.
            let (x, y) = (x2 + 6, y2.saturating_sub(8));
            let text = escaped(&arrow.label);
            let _ = writeln!(out, "<text x=\"{x}\" y=\"{y}\" fill=\"#06c\">{text}</text>");
        }
    }
    for (b, p) in graph.boxes.iter().zip(&placed) {
        let (fill, stroke, round) = match b.kind {
            Kind::Hook => ("#e8f0fe", "#36c", 10),
            Kind::Chain => ("#fff", "#333", 0),
            Kind::Arrives => ("#e6f4ea", "#080", 4),
            Kind::Lost => ("#fce8e6", "#c00", 4),
            Kind::Folded => ("#f4f4f4", "#999", 0),
        };
        let _ = writeln!(
            out,
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"{round}\" fill=\"{fill}\" \
             stroke=\"{stroke}\"/>",
            p.x, p.y, p.width, p.height
        );
        for (i, line) in p.lines.iter().enumerate() {
            let weight = if i == 0 { " font-weight=\"bold\"" } else { "" };
            let _ = writeln!(
                out,
                "<text x=\"{}\" y=\"{}\"{weight}>{}</text>",
                p.x + PAD,
                p.y + PAD + LINE * (i + 1) - 4,
                escaped(line)
            );
        }
    }
    out.push_str("</svg>\n");
    out
}

/// Left, top, width and height of a box.
#[cfg(test)]
pub(crate) fn places(graph: &Graph) -> Vec<(usize, usize, usize, usize)> {
    let placed = place(graph);
    let of = |p: &Placed| (p.x, p.y, p.width, p.height);
    placed.iter().map(of).collect()
}

fn escaped(text: &str) -> String {
    // XML cannot contain control characters.
    let text = text.replace(char::is_control, "?");
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Return the layer of each box: one below the lowest box that leads to it.
pub(crate) fn layers(graph: &Graph) -> Vec<usize> {
    let mut layer = vec![0; graph.boxes.len()];
    // A path has at most as many steps as there are boxes; this also ends cycles.
    for _ in 0..graph.boxes.len() {
        let mut changed = false;
        for a in &graph.arrows {
            let wanted = layer.get(a.from).map_or(0, |l| l + 1);
            if let Some(l) = layer.get_mut(a.to)
                && *l < wanted
                && wanted < graph.boxes.len()
            {
                *l = wanted;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    layer
}

fn place(graph: &Graph) -> Vec<Placed> {
    let layer = layers(graph);
    let mut placed: Vec<Placed> = graph
        .boxes
        .iter()
        .map(|b| {
            let texts = std::iter::once(&b.title).chain(&b.lines);
            let lines: Vec<String> = texts.map(|t| cut(t, CHARS)).collect();
            let chars = lines.iter().map(|l| l.chars().count()).max().unwrap_or(0);
            Placed {
                x: 0,
                y: 0,
                width: chars * CHAR_WIDTH + 2 * PAD,
                height: lines.len() * LINE + 2 * PAD,
                lines,
            }
        })
        .collect();
    let part = parts(graph);
    let rows = ordered(graph, &layer);
    let mut y = GAP;
    for number in 0..=part.iter().copied().max().unwrap_or(0) {
        for row in &rows {
            let row = row.iter().filter(|at| part[**at] == number);
            y = place_row(&mut placed, row, y);
        }
    }
    placed
}

/// Place the boxes of a row, in as many lines as needed, and return where the next row begins.
fn place_row<'a>(
    placed: &mut [Placed],
    row: impl Iterator<Item = &'a usize>,
    mut y: usize,
) -> usize {
    let (mut x, mut height) = (GAP, 0);
    for at in row {
        let Some(p) = placed.get_mut(*at) else {
            continue;
        };
        if x > GAP && x + p.width > ROW {
            y += height + GAP;
            (x, height) = (GAP, 0);
        }
        (p.x, p.y) = (x, y);
        x += p.width + GAP;
        height = height.max(p.height);
    }
    if height == 0 {
        y
    } else {
        y + height + LAYER_GAP
    }
}

/// Return the part of the picture for each box. Parts without arrows between them, mostly tables, are
/// placed below each other; unconnected boxes form one part.
fn parts(graph: &Graph) -> Vec<usize> {
    let mut part: Vec<usize> = (1..=graph.boxes.len()).collect();
    let mut alone = vec![true; graph.boxes.len()];
    loop {
        let mut changed = false;
        for a in &graph.arrows {
            (alone[a.from], alone[a.to]) = (false, false);
            let least = part[a.from].min(part[a.to]);
            changed |= part[a.from] != part[a.to];
            (part[a.from], part[a.to]) = (least, least);
        }
        if !changed {
            break;
        }
    }
    let all = part.into_iter().zip(alone);
    all.map(|(part, alone)| if alone { 0 } else { part })
        .collect()
}
