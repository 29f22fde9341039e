//! `sluice diagram`: the way of a packet, or all chains, as a picture.

mod draw;
mod graph;
mod structure;
mod svg;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use trace::{Origin, Packet, Trace, Verdict};

use crate::cli::{DiagramArgs, DiagramFormat, FromArg};
use graph::{Builder, Graph, Kind};

/// Carries out `sluice diagram`.
pub(crate) fn command(args: &DiagramArgs) -> anyhow::Result<()> {
    let world = crate::walk::world(&args.host)?;
    let graph = match (args.src, args.dst) {
        (Some(src), Some(dst)) => {
            let from = match &args.from {
                Some(FromArg::Pod) => Origin::Pod,
                Some(FromArg::Node) => Origin::Node,
                Some(FromArg::Outside) => Origin::Outside,
                Some(FromArg::Interface(_)) | None => world.host.guess_origin(src),
            };
            let mut packet = Packet::new(from, src, dst, args.proto, args.dport.unwrap_or(0));
            if let Some(FromArg::Interface(name)) = &args.from {
                packet.in_iface = Some(name.clone());
            }
            of_trace(&packet, &trace::walk(&world, &packet)?)
        }
        _ => structure::of_world(&world),
    };
    let graph = graph.folded(args.most);
    print!(
        "{}",
        match args.output {
            DiagramFormat::Boxes => draw::boxes(&graph),
            DiagramFormat::Mermaid => draw::mermaid(&graph),
            DiagramFormat::Dot => draw::dot(&graph),
            DiagramFormat::Svg => svg::svg(&graph),
        }
    );
    Ok(())
}

/// The chains that a packet goes through, with the rules that it meets there, to every end.
pub(crate) fn of_trace(packet: &Packet, trace: &Trace) -> Graph {
    let mut builder = Builder::default();
    let start = format!("{} from {} ({})", packet.proto, packet.src, packet.from);
    let start = builder.place(Kind::Hook, &start);
    for outcome in &trace.outcomes {
        let mut at = start;
        let mut seen: HashMap<String, u32> = HashMap::new();
        let (mut here, mut again) = (String::new(), 1);
        // That it leaves is what the end says.
        for step in outcome.path.iter().filter(|s| s.hook != "wire") {
            let mut title = match step.chain.as_str() {
                "" => format!("{}: {}", step.hook, step.rule),
                chain => format!("{}: {} {} {chain}", step.hook, step.family, step.table),
            };
            // A packet that comes back to a chain goes on in another box: arrows only go down.
            if title != here {
                let times = seen.entry(title.clone()).or_insert(0_u32);
                *times += 1;
                here.clone_from(&title);
                again = *times;
            }
            if again > 1 {
                title = format!("{title} ({again})");
            }
            let kind = if step.chain.is_empty() {
                Kind::Hook
            } else {
                Kind::Chain
            };
            let place = builder.place(kind, &title);
            builder.line_once(place, format!("{} => {}", step.rule, step.effect));
            if place != at {
                builder.arrow(at, place, String::new());
            }
            at = place;
        }
        let kind = match outcome.verdict {
            Verdict::Accept => Kind::Arrives,
            Verdict::Drop | Verdict::Reject => Kind::Lost,
        };
        let to = outcome.dnat.map_or(String::new(), |to| format!(" {to}"));
        let end = builder.place(kind, &format!("{}{to}", outcome.verdict));
        let percent = format!("{:.2}", outcome.probability.to_f64() * 100.0);
        let percent = percent.trim_end_matches('0').trim_end_matches('.');
        builder.arrow(at, end, format!("{percent}%"));
    }
    builder.done()
}
