//! `sluice diagram`: the path of a packet, or all chains, as a picture.

use anyhow::bail;
use diagnose::diagram::{self, Graph};
use diagnose::packet_between;

use super::explain;
use super::trace::request;
use crate::cli::{DiagramArgs, DiagramFormat};

/// Run `sluice diagram`.
pub(crate) fn command(args: &DiagramArgs) -> anyhow::Result<()> {
    let graph = match &args.service {
        Some(service) => {
            let inspector = explain::inspector(&args.objects, &args.host)?;
            let asked = inspector.ask(service, args.objects.client)?;
            diagram::of_service(&inspector.world, &asked.probes)
        }
        None => of_rules(args)?,
    };
    let graph = graph.folded(args.most);
    let text = match args.output {
        DiagramFormat::Boxes => diagram::boxes(&graph),
        DiagramFormat::Mermaid => diagram::mermaid(&graph),
        DiagramFormat::Dot => diagram::dot(&graph),
        DiagramFormat::Svg => diagram::svg(&graph),
        DiagramFormat::Json => serde_json::to_string_pretty(&graph)? + "\n",
    };
    print!("{text}");
    Ok(())
}

/// Return the path of the packet in the arguments, or all chains.
fn of_rules(args: &DiagramArgs) -> anyhow::Result<Graph> {
    let world = request::world(&args.host)?;
    for warning in &world.warnings {
        eprintln!("sluice: {warning}");
    }
    if world.all_iptables().next().is_none() && world.nft.tables.is_empty() {
        bail!("found no rules to draw: run this on the node, as root, or name files with rules");
    }
    Ok(match (args.src, args.dst) {
        (Some(src), Some(dst)) => {
            let to = (args.proto, args.dport);
            let packet = packet_between((src, dst), to, args.from.as_ref(), &world)?;
            diagram::of_trace(&world, &packet, &trace::walk(&world, &packet)?)
        }
        _ => diagram::of_world(&world),
    })
}
