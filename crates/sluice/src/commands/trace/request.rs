//! What the arguments of `sluice trace`, `explain` and `diagram` ask: which host, and which packet.

use std::io::IsTerminal as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use diagnose::packet_between;
use model::{Change, Event, Protocol, ServicePort};
use netfilter::iptables::Family;
use trace::{Facts, Packet, Proto, Style, World};

use crate::cli::{ColorArg, Destination, HostArgs, TraceArgs};
use crate::socket::client::{self, Answer};
use crate::socket::protocol::Topic;

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

/// Return the destination address, protocol and port. Those of a Service come from the running proxy.
pub(crate) fn destination(args: &TraceArgs) -> anyhow::Result<(IpAddr, (Proto, Option<u16>))> {
    let text = match &args.dst {
        Destination::Address(ip) => return Ok((*ip, (args.proto, args.dport))),
        Destination::Service(text) => text,
    };
    let events = client::ask(None, Topic::Objects)
        .and_then(Answer::objects)
        .with_context(|| format!("cannot look up Service {text}; pass its address to --dst"))?;
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (&**text, None),
    };
    let mut services = events.iter().filter_map(|event| match event {
        Event::Service(Change::Applied(service)) => Some(service),
        _ => None,
    });
    let service = services
        .find(|service| service.name.to_string() == name)
        .with_context(|| format!("Service {name} does not exist"))?;
    let mut ips = service.cluster_ips.iter().copied();
    let ip = ips
        .find(|ip| ip.is_ipv4() == args.src.is_ipv4())
        .with_context(|| {
            format!(
                "Service {name} has no cluster IP of the family of {}",
                args.src
            )
        })?;
    let is_meant = |p: &&ServicePort| {
        port.is_none_or(|port| *p.name == *port || p.port.to_string() == port)
            && args.dport.is_none_or(|number| p.port.get() == number)
    };
    let mut ports = service.ports.iter().filter(is_meant);
    let (Some(port), None) = (ports.next(), ports.next()) else {
        let all = service.ports.iter();
        let all: Vec<String> = all.map(|p| format!("{} ({})", p.name, p.port)).collect();
        bail!(
            "name one port of Service {name}, which has {}",
            all.join(", ")
        );
    };
    let proto = match port.protocol {
        Protocol::Tcp => Proto::TCP,
        Protocol::Udp => Proto::UDP,
        Protocol::Sctp => Proto::SCTP,
    };
    Ok((ip, (proto, Some(port.port.get()))))
}

/// Return the packet that the arguments describe.
pub(crate) fn packet(args: &TraceArgs, world: &World) -> anyhow::Result<Packet> {
    let (dst, to) = destination(args)?;
    let mut packet = packet_between((args.src, dst), to, args.from.as_ref(), world)?;
    if let Some(sport) = args.sport {
        packet.sport = sport;
    }
    Ok(packet)
}
