//! A picture as SVG.

use std::fmt::Write as _;

use super::graph::{Graph, Kind};
use super::picture::{DrawnArrow, DrawnBox, DrawnLane, Picture};

/// Distance from the upper edge of a box to the base line of its first text.
const BASE: f64 = 19.0;
const LINE: f64 = 16.0;
const PAD: f64 = 8.0;

/// Draw an SVG picture, with the hooks as lanes.
pub fn svg(graph: &Graph) -> String {
    let picture = Picture::of(graph);
    let (width, height) = (picture.width, picture.height);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"DejaVu Sans Mono, monospace\" font-size=\"12\">\n\
         <defs><marker id=\"a\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" \
         markerHeight=\"8\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#456\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for lane in &picture.lanes {
        draw_lane(&mut out, lane, width);
    }
    for arrow in &picture.arrows {
        draw_arrow(&mut out, arrow);
    }
    for b in &picture.boxes {
        draw_box(&mut out, b);
    }
    for arrow in picture.arrows.iter().filter(|a| !a.label.is_empty()) {
        let (x, y) = arrow.label_at;
        let text = escaped(&arrow.label);
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"{y}\" dy=\"4\" text-anchor=\"middle\" fill=\"#05a\" stroke=\"#fff\" \
             stroke-width=\"4\" paint-order=\"stroke\">{text}</text>"
        );
    }
    out.push_str("</svg>\n");
    out
}

fn draw_lane(out: &mut String, lane: &DrawnLane, width: f64) {
    if lane.name.is_empty() {
        return;
    }
    let (fill, ink) = match (lane.is_hook, lane.is_used) {
        (true, true) => ("#eef3fb", "#123"),
        (_, false) => ("#f7f8fa", "#999"),
        (false, true) => ("#fff", "#678"),
    };
    let (y, height) = (lane.y + 2.0, lane.height - 4.0);
    let _ = writeln!(
        out,
        "<rect x=\"4\" y=\"{y}\" width=\"{}\" height=\"{height}\" rx=\"6\" fill=\"{fill}\"/>\n\
         <text x=\"14\" y=\"{}\" font-weight=\"bold\" fill=\"{ink}\">{}</text>",
        width - 8.0,
        y + 17.0,
        escaped(&lane.name)
    );
}

/// Return the line of an arrow as a path.
fn path(points: &[(f64, f64)]) -> String {
    let mut text = String::new();
    let mut before = None;
    for (x, y) in points {
        let _ = match before {
            None => write!(text, "M{x} {y}"),
            Some((from, top)) if from != *x => {
                let middle = f64::midpoint(top, *y);
                write!(text, "C{from} {middle} {x} {middle} {x} {y}")
            }
            Some(_) => write!(text, "V{y}"),
        };
        before = Some((*x, *y));
    }
    text
}

fn draw_arrow(out: &mut String, arrow: &DrawnArrow) {
    let _ = writeln!(
        out,
        "<path d=\"{}\" fill=\"none\" stroke=\"#456\" marker-end=\"url(#a)\"/>",
        path(&arrow.points)
    );
}

fn draw_box(out: &mut String, b: &DrawnBox) {
    let (fill, stroke, round) = match b.kind {
        Kind::Hook => ("#e3edff", "#36c", 10),
        Kind::Chain => ("#fff", "#345", 3),
        Kind::Arrives => ("#e3f5e8", "#080", 4),
        Kind::Lost => ("#fce6e4", "#c00", 4),
        Kind::Folded => ("#f4f4f4", "#999", 3),
    };
    let _ = writeln!(
        out,
        "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"{round}\" fill=\"{fill}\" \
         stroke=\"{stroke}\"/>",
        b.x, b.y, b.width, b.height
    );
    let table = (!b.table.is_empty()).then_some((&b.table, " fill=\"#678\""));
    let names = b.name.iter().map(|text| (text, " font-weight=\"bold\""));
    let lines = b.lines.iter().map(|text| (text, ""));
    let mut y = b.y + BASE;
    for (text, style) in table.into_iter().chain(names).chain(lines) {
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{y}\" xml:space=\"preserve\"{style}>{}</text>",
            b.x + PAD,
            escaped(text)
        );
        y += LINE;
    }
}

fn escaped(text: &str) -> String {
    // XML cannot contain control characters.
    let text = text.replace(char::is_control, "?");
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
