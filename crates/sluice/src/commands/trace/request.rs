//! What the arguments of `sluice trace`, `explain` and `diagram` ask: which host, and which packet.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use diagnose::packet_between;
use netfilter::iptables::Family;
use trace::{Facts, Packet, Style, World};

use crate::cli::{ColorArg, HostArgs, TraceArgs};

/// Return the style of the output.
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

/// Return the facts that the arguments name, without the dumps that other files replace.
///
/// Without any file, the facts are this host's. With files of rules only, this host is not used unless
/// `--this-host` is given: they are most likely from another host.
pub(crate) fn facts(args: &HostArgs) -> anyhow::Result<Facts> {
    let mut facts = match &args.facts {
        Some(path) => {
            Facts::parse(&read(path)?).with_context(|| format!("in {}", path.display()))?
        }
        None if args.this_host || !args.has_rule_files() => diagnose::facts::collect()?,
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

/// Return the world that the arguments name.
pub(crate) fn world(args: &HostArgs) -> anyhow::Result<World> {
    world_of(&facts(args)?, args)
}

/// Return the world that the arguments name, from these facts.
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
    for ip in &args.local {
        world.host.assign(*ip);
    }
    Ok(world)
}

/// Return the packet that the arguments describe.
pub(crate) fn packet(args: &TraceArgs, world: &World) -> anyhow::Result<Packet> {
    let ends = (args.src, args.dst);
    let mut packet = packet_between(ends, (args.proto, args.dport), args.from.as_ref(), world)?;
    if let Some(sport) = args.sport {
        packet.sport = sport;
    }
    Ok(packet)
}
