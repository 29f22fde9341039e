//! Comparison with the recorded figures.

use std::process::ExitCode;

use model::IpFamily;

use crate::load::Column;
use crate::{Variant, measure};

/// Lines `RULES, ROUTE, COLUMN: THOUSANDS OF INSTRUCTIONS`.
const RECORDED: &str = include_str!("recorded.txt");
const SERVICES: usize = 10;
const ROUNDS: usize = 7;
/// The factor by which a figure may exceed the recorded one.
const LIMIT: f64 = 1.02;

/// Measure the recorded figures; print those that grew, and all of them in the form of the file.
pub(crate) fn run() -> ExitCode {
    let variants = [Variant::Cni, Variant::Nftables];
    let (stages, cells) = measure(IpFamily::V4, SERVICES, ROUNDS, &variants);
    let checked = cells.iter().filter(|cell| cell.column != Column::Bulk);
    let measured: Vec<(String, f64)> = checked
        .map(|cell| {
            let rules = stages[cell.stage].variant.name();
            let (route, column) = (cell.route.name(), cell.column.name());
            (format!("{rules}, {route}, {column}"), cell.quartiles()[1])
        })
        .collect();
    let mut failed = false;
    for (name, thousands) in &measured {
        match recorded(name) {
            Some(before) if *thousands <= before * LIMIT => {}
            Some(before) => {
                failed = true;
                println!("{name}: {thousands:.2} thousand instructions, recorded: {before:.2}");
            }
            None => {
                failed = true;
                println!("{name}: not in recorded.txt");
            }
        }
    }
    if failed {
        println!(
            "if this cost is intended, record it in crates/dataplane/benches/path/recorded.txt:"
        );
    }
    for (name, thousands) in &measured {
        println!("{name}: {thousands:.2}");
    }
    ExitCode::from(u8::from(failed))
}

fn recorded(name: &str) -> Option<f64> {
    let mut lines = RECORDED.lines().filter_map(|line| line.split_once(": "));
    let figure = lines.find_map(|(of, figure)| (of == name).then_some(figure));
    figure.and_then(|figure| figure.parse().ok())
}
