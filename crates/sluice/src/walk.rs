//! `sluice trace`: what becomes of one packet, and why.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use netfilter::iptables::Family;
use serde_json::json;
use trace::{Facts, Origin, Packet, Proto, Style, Trace, Verdict, World};

use crate::cli::{ColorArg, FromArg, HostArgs, TraceArgs, TraceOutput};

/// What the exit status tells of a question that could not be answered.
const NO_ANSWER: u8 = 2;

/// Carries out `sluice trace`: 0 when every possibility is accepted, 1 when not, 2 when the
/// question cannot be answered.
pub(crate) fn command(args: &TraceArgs) -> ExitCode {
    let answer = if args.live {
        crate::live::command(args)
    } else {
        run(args).map(|accepted| ExitCode::from(u8::from(!accepted)))
    };
    match answer {
        Ok(status) => status,
        Err(error) => {
            eprintln!("sluice: {error:#}");
            ExitCode::from(NO_ANSWER)
        }
    }
}

fn run(args: &TraceArgs) -> anyhow::Result<bool> {
    let world = world(&args.host)?;
    let packet = packet(args, &world)?;
    let walked = trace::walk(&world, &packet)?;
    let mut accepted = is_accepted(&walked);
    let mut replies = Vec::new();
    if args.reply {
        for outcome in &walked.outcomes {
            let Some(reply) = trace::reply_to(&world.host, &packet, outcome) else {
                continue;
            };
            let back = trace::walk(&world, &reply)?;
            accepted &= is_accepted(&back);
            replies.push((reply, back));
        }
    }
    match args.output {
        TraceOutput::Tree => {
            let style = style(args.color);
            print!("{}", trace::render_tree(&packet, &walked, style));
            for (reply, back) in &replies {
                println!("\nthe answer:");
                print!("{}", trace::render_tree(reply, back, style));
            }
        }
        TraceOutput::Json => {
            let mut value = trace::to_json(&walked);
            if args.reply {
                value["replies"] = replies.iter().map(|(_, t)| trace::to_json(t)).collect();
            }
            println!("{}", serde_json::to_string_pretty(&json!(value))?);
        }
    }
    Ok(accepted)
}

fn is_accepted(trace: &Trace) -> bool {
    trace.outcomes.iter().all(|o| o.verdict == Verdict::Accept)
}

/// Colours where they are asked for, or where somebody looks on.
pub(crate) fn style(color: ColorArg) -> Style {
    match color {
        ColorArg::Always => Style::Ansi,
        ColorArg::Never => Style::Plain,
        ColorArg::Auto if std::io::stdout().is_terminal() => Style::Ansi,
        ColorArg::Auto => Style::Plain,
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The facts that the arguments ask for, with the dumps that other files replace taken out.
///
/// Without any file: this host's. With files of rules alone, nothing is taken from this host unless
/// `--this-host` says so: they are most likely another's.
pub(crate) fn facts(args: &HostArgs) -> anyhow::Result<Facts> {
    let mut facts = match &args.facts {
        Some(path) => {
            Facts::parse(&read(path)?).with_context(|| format!("in {}", path.display()))?
        }
        None if args.this_host || !args.has_rule_files() => crate::facts::collect()?,
        None => Facts::default(),
    };
    let dumps = &mut facts.dumps;
    if !args.iptables_save.is_empty() {
        (dumps.iptables_save, dumps.iptables_legacy_save) = (None, None);
    }
    if !args.ip6tables_save.is_empty() {
        (dumps.ip6tables_save, dumps.ip6tables_legacy_save) = (None, None);
    }
    if !args.nft.is_empty() {
        dumps.nft_ruleset = None;
    }
    if let Some(path) = &args.ipset_save {
        dumps.ipset_save = Some(read(path)?);
    }
    if let Some(path) = &args.ipvsadm_save {
        dumps.ipvsadm_save = Some(read(path)?);
    }
    Ok(facts)
}

/// Everything that the arguments name, put together.
pub(crate) fn world(args: &HostArgs) -> anyhow::Result<World> {
    world_of(&facts(args)?, args)
}

/// The same over facts that are there already.
pub(crate) fn world_of(facts: &Facts, args: &HostArgs) -> anyhow::Result<World> {
    let mut world = World::from_facts(facts)?;
    type Add = fn(&mut World, &str) -> Result<(), trace::WorldError>;
    let kinds: [(&[PathBuf], Add); 3] = [
        (&args.iptables_save, |w, t| w.add_iptables(Family::Ipv4, t)),
        (&args.ip6tables_save, |w, t| w.add_iptables(Family::Ipv6, t)),
        (&args.nft, World::add_nft),
    ];
    for (files, add) in kinds {
        for path in files {
            add(&mut world, &read(path)?).with_context(|| format!("in {}", path.display()))?;
        }
    }
    Ok(world)
}

pub(crate) fn packet(args: &TraceArgs, world: &World) -> anyhow::Result<Packet> {
    let proto = match args.proto {
        Proto::ICMP if args.dst.is_ipv6() => Proto::ICMPV6,
        proto => proto,
    };
    if proto.has_ports() && args.dport.is_none() {
        bail!("--dport is needed: {proto} has ports");
    }
    let guessed = world.host.guess_origin(args.src);
    let (from, in_iface) = match &args.from {
        None => (guessed, None),
        Some(FromArg::Pod) => (Origin::Pod, None),
        Some(FromArg::Node) => (Origin::Node, None),
        Some(FromArg::Outside) => (Origin::Outside, None),
        // Whether it is a pod's does not matter to any rule; it names the start to the reader.
        Some(FromArg::Interface(name)) => match guessed {
            Origin::Pod => (Origin::Pod, Some(name.clone())),
            _ => (Origin::Outside, Some(name.clone())),
        },
    };
    let dport = args.dport.unwrap_or_default();
    let mut packet = Packet::new(from, args.src, args.dst, proto, dport);
    packet.in_iface = in_iface;
    if let Some(sport) = args.sport {
        packet.sport = sport;
    }
    Ok(packet)
}
