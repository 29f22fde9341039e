//! What packets cost: instructions per connection, request, packet and MB, directly to a pod and through
//! Services, with the rules of each variant: `make bench-path`.
//!
//! For a virtual machine that counts instructions: there, one nanosecond of the clock is one instruction.
//! A client, a node and pods are network namespaces. One thread drives both ends of each connection, so
//! that a call returns when the last packet that it caused has arrived: no time passes in scheduling or
//! idling. A copied byte counts as an instruction (`rep movsb`), which dominates the column MB. All variants are measured in turn, in many rounds.

mod check;
#[path = "../../tests/support/ipt.rs"]
mod ipt;
mod kube_proxy;
mod load;
#[path = "../../tests/support/nft.rs"]
mod nft;
mod rules;
mod stage;
#[path = "../../../kernel/tests/support/mod.rs"]
mod support;

use std::process::ExitCode;

use model::{IpFamily, NodePortAddresses};

use load::Column;
use stage::{Route, Stage};

/// The rules of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// No rules at all.
    None,
    /// A CNI's rule that masquerades traffic of pods to addresses outside of the cluster.
    Cni,
    /// That rule and sluice's table in nftables mode.
    Nftables,
    /// That rule and sluice's rules in iptables mode, which are kube-proxy's.
    Iptables,
    /// That rule and kube-proxy's table in nftables mode.
    KubeProxy,
}

impl Variant {
    const ALL: [Variant; 5] = [
        Variant::None,
        Variant::Cni,
        Variant::Nftables,
        Variant::Iptables,
        Variant::KubeProxy,
    ];

    fn name(self) -> &'static str {
        match self {
            Variant::None => "no rules",
            Variant::Cni => "CNI",
            Variant::Nftables => "nftables mode",
            Variant::Iptables => "iptables mode",
            Variant::KubeProxy => "kube-proxy, nftables",
        }
    }
}

/// One cell of the table in each round.
struct Cell {
    stage: usize,
    route: Route,
    column: Column,
    counted: Vec<f64>,
}

struct Arguments {
    rounds: usize,
    sizes: Vec<usize>,
    families: Vec<IpFamily>,
    /// Compare some figures with the recorded ones, and print nothing else.
    check: bool,
}

impl Arguments {
    fn parse() -> Self {
        let mut parsed = Arguments {
            rounds: 15,
            sizes: Vec::new(),
            families: Vec::new(),
            check: false,
        };
        for word in std::env::args().skip(1) {
            match word.split_once('=') {
                Some(("rounds", n)) => parsed.rounds = n.parse().expect("a number"),
                None if word == "check" => parsed.check = true,
                None if word == "ipv4" => parsed.families.push(IpFamily::V4),
                None if word == "ipv6" => parsed.families.push(IpFamily::V6),
                _ => parsed.sizes.extend(word.parse::<usize>()),
            }
        }
        if parsed.families.is_empty() {
            parsed.families = IpFamily::ALL.to_vec();
        }
        if parsed.sizes.is_empty() {
            parsed.sizes = vec![10, 1_000];
        }
        parsed
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.check {
        return check::run();
    }
    println!(
        "Thousands of instructions, median of {} rounds ± half of the interquartile range:",
        arguments.rounds
    );
    println!("| | Services | rules | route | connection | TCP_RR | UDP packet | MB |");
    println!("|---|---|---|---|---|---|---|---|");
    for family in &arguments.families {
        for size in &arguments.sizes {
            let (stages, cells) = measure(*family, *size, arguments.rounds, &Variant::ALL);
            for cells in cells.chunks(Column::ALL.len()) {
                let of = &cells[0];
                let rules = stages[of.stage].variant.name();
                let figures: Vec<String> = cells.iter().map(Cell::figure).collect();
                let (route, figures) = (of.route.name(), figures.join(" | "));
                println!("| {family} | {size} | {rules} | {route} | {figures} |");
            }
        }
    }
    ExitCode::SUCCESS
}

/// Build a stage for each variant, and measure all of them in turn.
fn measure(
    family: IpFamily,
    services: usize,
    rounds: usize,
    variants: &[Variant],
) -> (Vec<Stage>, Vec<Cell>) {
    let plan = rules::plan(family, services, NodePortAddresses::Primary);
    let plan_of_iptables = rules::plan(family, services, NodePortAddresses::All);
    let stages = variants.iter().map(|variant| match variant {
        Variant::Iptables => Stage::build(*variant, &plan_of_iptables),
        _ => Stage::build(*variant, &plan),
    });
    let stages: Vec<Stage> = stages.collect();
    let mut cells = Vec::new();
    for (index, stage) in stages.iter().enumerate() {
        for route in stage.routes() {
            for column in Column::ALL {
                cells.push(Cell {
                    stage: index,
                    route: *route,
                    column,
                    counted: Vec::new(),
                });
            }
        }
    }
    // The first round fills caches.
    for round in 0..=rounds {
        for cell in &mut cells {
            let counted = stages[cell.stage].count(cell.route, cell.column);
            if round > 0 {
                cell.counted.push(counted);
            }
        }
    }
    (stages, cells)
}

impl Cell {
    /// Return the first quartile, the median and the third quartile, in thousands.
    fn quartiles(&self) -> [f64; 3] {
        let mut sorted = self.counted.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        [1, 2, 3].map(|quarter| sorted[(sorted.len() - 1) * quarter / 4] / 1000.0)
    }

    fn figure(&self) -> String {
        let [low, median, high] = self.quartiles();
        let spread = (high - low) / median * 50.0;
        format!("{median:.2} ±{spread:.2} %")
    }
}
