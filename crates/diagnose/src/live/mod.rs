//! Traces a packet in the kernel.
//!
//! A table of our own makes nf_tables trace the packets that open connections of one flow, and no
//! others. The first one is compared with the prediction.

mod compare;
mod follow;
mod observe;
mod send;
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use kernel::nfnetlink::{
    Generation, ListedChain, NfTables, TableId, TraceEvents, Tracing, TransactionError,
};
use kernel::process::Termination;
use netfilter::nft::Op;
use serde_json::{Value, json};
use trace::{Backend, Facts, Packet, Proto, Step, Style, Trace, Verdict, World};

use crate::request::{Start, packet_between};
use compare::{Comparison, compare};
use follow::{End, Event, Follower};
use observe::{Observation, Rules};

/// Time without an event after which a packet's path counts as ended.
const QUIET: Duration = Duration::from_millis(500);
/// How many times the rules are read again because another program changes them.
const ATTEMPTS: u32 = 10;

/// The rules, routes and sysctls of this host at one moment.
struct Snapshot {
    facts: Facts,
    world: World,
    chains: Vec<ListedChain>,
    generation: Generation,
}

/// The events of a packet, to its end.
struct Caught {
    events: Vec<Event>,
    end: End,
    /// The rules have changed since tracing began.
    changed: bool,
}

/// The flow to trace.
#[derive(Clone, Debug)]
pub struct Request {
    /// Source and destination address.
    pub ends: (IpAddr, IpAddr),
    /// The protocol, and the destination port if it has ports.
    pub to: (Proto, Option<u16>),
    /// The source port; `None` for any.
    pub sport: Option<u16>,
    /// The start of the packet's path; `None` to guess it from the source address.
    pub from: Option<Start>,
    /// Whether to send a packet, and the network namespace to send it from; the inner `None` is the
    /// current one.
    pub send: Option<Option<String>>,
    /// How long to wait for a packet.
    pub timeout: Duration,
}

/// The kernel's path of a packet, and the prediction.
#[derive(Debug)]
pub struct Report {
    seen: Observation,
    predicted: Trace,
    comparison: Comparison,
}

/// Have the kernel trace a packet and compare the result with the prediction. `tell` receives progress
/// messages.
///
/// # Errors
/// Tracing cannot be set up, or no packet arrives in time.
pub fn run(request: &Request, tell: impl Fn(&str)) -> anyhow::Result<Report> {
    let termination = Termination::take_over()?;
    let mut nft = NfTables::open()?;
    if let Err(error) = nft.generation()
        && error.errno() == Some(kernel::Errno::EPERM)
    {
        bail!("--live needs root (CAP_NET_ADMIN) in the node's network namespace");
    }
    let mut snapshot = Snapshot::take(&mut nft)?;
    let world = &snapshot.world;
    let mut asked = packet_between(request.ends, request.to, request.from.as_ref(), world)?;
    asked.sport = request.sport.unwrap_or(asked.sport);
    remove_leftovers(&mut nft, &snapshot.chains, &tell);
    let (tracing, own) = start(&mut nft, &mut snapshot, &asked, request.sport)?;
    let caught = catch(
        request,
        tracing,
        &own,
        &snapshot,
        &asked,
        &termination,
        &tell,
    )?;
    if caught.changed {
        snapshot = Snapshot::take(&mut nft)?;
    }
    let seen = observe::observe(&snapshot.rules(&own), &asked, &caught.events, caught.end)
        .context("missed the start of this packet's kernel trace; try again")?;
    let mut predicted = trace::walk(&snapshot.world, &seen.packet)?;
    if caught.changed {
        predicted.warnings.push(
            "the rules changed while waiting for the packet: the prediction uses those read after it"
                .to_owned(),
        );
    }
    let silent = snapshot.silent_tables();
    if predicted
        .outcomes
        .iter()
        .any(|o| o.path.iter().any(&silent))
    {
        predicted.warnings.push(
            "legacy iptables does not report single rules (`dmesg | grep TRACE:` may): for its \
             tables only the result is compared"
                .to_owned(),
        );
    }
    let comparison = compare(&predicted, &seen, silent);
    Ok(Report {
        seen,
        predicted,
        comparison,
    })
}

impl Snapshot {
    /// Read everything; repeat if the rules change meanwhile.
    fn take(nft: &mut NfTables) -> anyhow::Result<Self> {
        for _ in 0..ATTEMPTS {
            let (chains, generation) = nft.chains()?;
            let facts = crate::facts::collect()?;
            if nft.generation()?.generation == generation {
                let world = World::from_facts(&facts)?;
                return Ok(Self {
                    facts,
                    world,
                    chains,
                    generation,
                });
            }
        }
        bail!("the rules of nf_tables change faster than they can be read")
    }

    fn rules<'a>(&'a self, own: &'a TableId) -> Rules<'a> {
        let key = |c: &ListedChain| (c.table.clone(), c.name.clone());
        let interfaces = self.facts.interfaces.iter();
        Rules {
            world: &self.world,
            chains: self.chains.iter().map(|c| (key(c), c.clone())).collect(),
            interfaces: interfaces.map(|i| (i.index, i.name.clone())).collect(),
            own: &own.name,
        }
    }

    /// Return a test for steps that cause no event: those of iptables-legacy.
    fn silent_tables(&self) -> impl Fn(&Step) -> bool + use<> {
        let traced: HashSet<(&'static str, String, String)> = self
            .chains
            .iter()
            .map(|c| {
                let family = c.table.family.word();
                (family, c.table.name.clone(), c.name.clone())
            })
            .collect();
        move |step| {
            if step.chain.is_empty() {
                return false;
            }
            step.backend == Some(Backend::Legacy)
                || !traced.contains(&(step.family, step.table.clone(), step.chain.clone()))
        }
    }
}

/// Start to trace the flow.
fn start(
    nft: &mut NfTables,
    snapshot: &mut Snapshot,
    asked: &Packet,
    sport: Option<u16>,
) -> anyhow::Result<(Tracing, TableId)> {
    let name = format!("{}{}", table::PREFIX, std::process::id());
    let own = TableId::new(table::family(asked.dst), name);
    let comment = "sluice trace --live; removed when it ends";
    let ops = table::ops(asked, sport);
    for _ in 0..ATTEMPTS {
        match Tracing::start(own.clone(), comment, &ops, Some(snapshot.generation)) {
            Ok(tracing) => return Ok((tracing, own)),
            Err(TransactionError::GenerationChanged) => *snapshot = Snapshot::take(nft)?,
            Err(error) => return Err(error).context("cannot make nf_tables trace the flow"),
        }
    }
    bail!("the rules of nf_tables change faster than they can be read")
}

/// Remove the tables of killed runs, which older kernels do not remove themselves.
fn remove_leftovers(nft: &mut NfTables, chains: &[ListedChain], tell: &impl Fn(&str)) {
    let mut tables: Vec<&TableId> = chains.iter().map(|c| &c.table).collect();
    tables.dedup();
    for table in tables {
        let Some(process) = table.name.strip_prefix(table::PREFIX) else {
            continue;
        };
        if std::path::Path::new("/proc").join(process).exists() {
            continue;
        }
        match nft.commit(table, &[Op::DeleteTable], None) {
            Ok(()) => {
                tell(&format!(
                    "removed table {table}, left by a run that was killed"
                ));
            }
            Err(error) => tell(&format!(
                "cannot remove table {table} of an earlier run: {error}"
            )),
        }
    }
}

/// Wait for a packet and follow it to its end. Tracing has ended when this returns.
fn catch(
    args: &Request,
    mut tracing: Tracing,
    own: &TableId,
    snapshot: &Snapshot,
    asked: &Packet,
    termination: &Termination,
    tell: &impl Fn(&str),
) -> anyhow::Result<Caught> {
    let loopback = snapshot.facts.interfaces.iter().find(|i| i.name == "lo");
    let mut follower = Follower::new(&own.name, loopback.map(|i| i.index));
    match &args.send {
        Some(netns) => send::send(asked, args.sport, netns.as_deref())?,
        None => tell(&invitation(args, asked)),
    }
    let limit = args.timeout;
    let begun = Instant::now();
    let mut last = begun;
    let (events, end) = loop {
        if termination.wait(Duration::ZERO)?.is_some() {
            bail!("interrupted before a matching packet arrived; tracing is disabled again");
        }
        match tracing.receive(Duration::from_millis(100))? {
            TraceEvents::Events(events) => {
                last = Instant::now();
                for event in events {
                    follower.take(event);
                }
            }
            TraceEvents::Nothing => {}
            // The events of packets so far have gaps: wait for another packet.
            TraceEvents::Overrun => follower = Follower::new(&own.name, loopback.map(|i| i.index)),
        }
        if let Some(done) = follower.done(last.elapsed() > QUIET) {
            break done;
        }
        if begun.elapsed() > limit && !follower.has_any() {
            bail!("{}", timed_out(args, asked, follower.known));
        }
    };
    let changed = tracing.generation()?.generation != snapshot.generation.next();
    Ok(Caught {
        events,
        end,
        changed,
    })
}

fn flow(asked: &Packet) -> String {
    let to = trace::Endpoint {
        ip: asked.dst,
        port: asked.dport,
    };
    format!("{} {} -> {to}", asked.proto, asked.src)
}

/// Return a command that sends such a packet.
fn provoke(asked: &Packet) -> String {
    let Packet { dst, dport, .. } = asked;
    match asked.proto {
        Proto::TCP if dst.is_ipv6() => format!("curl -m 2 http://[{dst}]:{dport}/"),
        Proto::TCP => format!("curl -m 2 http://{dst}:{dport}/"),
        Proto::UDP => format!("echo | nc -u -w 1 {dst} {dport}"),
        Proto::ICMP | Proto::ICMPV6 => format!("ping -c 1 {dst}"),
        other => format!("a packet of {other} to {dst}"),
    }
}

fn invitation(args: &Request, asked: &Packet) -> String {
    format!(
        "waiting up to {} s for a packet that opens a connection {}; to send one, on {}: {}",
        args.timeout.as_secs(),
        flow(asked),
        asked.src,
        provoke(asked)
    )
}

fn timed_out(args: &Request, asked: &Packet, known: usize) -> String {
    let others = match known {
        0 => String::new(),
        n => format!(
            " ({n} packets of known connections did; they take the path of their first packet)"
        ),
    };
    format!(
        "no packet that opens a connection {} arrived within {} s{others}; check that one is sent, \
         from that address: tcpdump -ni any host {} and host {}. To send one: {}, or pass --send",
        flow(asked),
        args.timeout.as_secs(),
        asked.src,
        asked.dst,
        provoke(asked)
    )
}

impl Report {
    /// Return whether the packet arrived, as predicted.
    pub fn is_fine(&self) -> bool {
        let outcomes = &self.seen.trace.outcomes;
        let arrived = outcomes.iter().all(|o| o.verdict == Verdict::Accept);
        arrived && !matches!(self.comparison, Comparison::Differs(_))
    }

    /// Return the report as JSON: the prediction as [`trace::to_json`] returns it, with a field `live`.
    pub fn to_json(&self) -> Value {
        let mut value = trace::to_json(&self.predicted);
        let kernel = trace::to_json(&self.seen.trace);
        let (agrees, odds, difference) = match &self.comparison {
            Comparison::Agrees(odds) => (true, Some(odds.to_f64()), None),
            Comparison::OtherPath(odds, d) => (true, Some(odds.to_f64()), Some(d)),
            Comparison::Differs(d) => (false, None, Some(d)),
        };
        value["live"] = json!({
            "outcome": kernel["outcomes"][0],
            "agrees": agrees,
            "predictedProbability": odds,
            "difference": difference.map(|d| json!({
                "what": d.what,
                "predicted": d.predicted.as_ref().map(trace::step_to_json),
                "kernel": d.kernel.as_ref().map(trace::step_to_json),
            })),
        });
        value
    }

    /// Return the report as text.
    pub fn text(&self, style: Style) -> String {
        let packet = &self.seen.packet;
        let predicted = trace::render_tree(packet, &self.predicted, style);
        let seen = trace::render_tree(packet, &self.seen.trace, style);
        let mut out = format!("predicted:\n{predicted}\nwhat the kernel did:\n{seen}\n");
        let _ = match &self.comparison {
            Comparison::Agrees(odds) => writeln!(
                out,
                "The kernel did what was predicted; odds: {}.",
                trace::percent(*odds)
            ),
            Comparison::OtherPath(odds, difference) => writeln!(
                out,
                "The packet ended as predicted (odds: {}), but on another path: {}.",
                trace::percent(*odds),
                difference.what
            ),
            Comparison::Differs(difference) => {
                writeln!(out, "The kernel did something else: {}.", difference.what)
            }
        };
        out
    }
}
