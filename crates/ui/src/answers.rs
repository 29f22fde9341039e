//! The answers to the page's questions.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, bail};
use diagnose::diagram::{self, Graph, Picture};
use diagnose::{Start, Traced, overview, packet_between, verify};
use serde_json::{Value, json};
use trace::{Packet, Proto, Trace, World};

use crate::nodes::{Node, Nodes, Origin};

/// Jumps and rules of a chain that a picture shows.
const DRAWN: usize = 4;
/// Answers that the picture of replies shows.
const REPLIES: usize = 4;
/// Steps of an answer. More make a page that no browser can show.
const MOST_STEPS: usize = 200_000;
/// Rules of a node whose chains can be drawn.
const MOST_RULES: usize = 200_000;

/// A question: its kind, and its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    kind: String,
    parameters: BTreeMap<String, String>,
}

impl Question {
    /// Create a question.
    pub fn new<'a>(kind: &str, parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self {
            kind: kind.to_owned(),
            parameters: parameters.into_iter().map(owned).collect(),
        }
    }

    pub(crate) fn of(kind: String, parameters: BTreeMap<String, String>) -> Self {
        Self { kind, parameters }
    }

    /// Parse the key of an answer, `["KIND",[["NAME","VALUE"],…]]`.
    pub(crate) fn of_key(key: &str) -> anyhow::Result<Self> {
        let (kind, parameters): (String, Vec<(String, String)>) =
            serde_json::from_str(key).context("not the key of an answer")?;
        Ok(Self::of(kind, parameters.into_iter().collect()))
    }

    /// Return the key of the answer; empty parameters are left out.
    pub(crate) fn key(&self) -> String {
        let given = self
            .parameters
            .iter()
            .filter(|(_, value)| !value.is_empty());
        let given: Vec<_> = given.collect();
        json!([self.kind, given]).to_string()
    }

    fn get(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }

    fn parsed<T: std::str::FromStr>(&self, name: &str) -> anyhow::Result<Option<T>> {
        let text = self.get(name).trim();
        if text.is_empty() {
            return Ok(None);
        }
        let parsed = text.parse().ok();
        parsed
            .with_context(|| format!("{name}: {text:?} is not valid"))
            .map(Some)
    }
}

impl Nodes {
    /// Answer a question.
    ///
    /// # Errors
    /// The question is malformed or names an unknown object, or the answer is too large for a page.
    pub fn answer(&self, question: &Question) -> anyhow::Result<Value> {
        if question.kind == "nodes" {
            return Ok(self.nodes());
        }
        let node = self.find(question.get("node"))?;
        match question.kind.as_str() {
            "services" => Ok(json!({
                "progress": node.progress(),
                "rows": overview::rows(&node.inspector, node.checked()),
            })),
            "progress" => Ok(json!({ "progress": node.progress() })),
            "service" => service(node, question),
            "trace" => traced(node, question),
            "problems" => Ok(json!({
                "progress": node.progress(),
                "answer": node.checked().map(|found| verify::grouped(&node.inspector, found)),
            })),
            "rules" => rules(node),
            kind => bail!("unknown question {kind:?}"),
        }
    }

    fn nodes(&self) -> Value {
        let one = |node: &std::sync::Arc<Node>| {
            let inspector = &node.inspector;
            json!({
                "name": node.name,
                "origin": match &node.origin {
                    Origin::Live => "this host",
                    Origin::File(path) => path,
                },
                "mode": inspector.mode.name(),
                "kernel": inspector.facts.kernel,
                "services": inspector.services(),
                "notes": inspector.world.warnings,
            })
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "nodes": self.all().iter().map(one).collect::<Vec<_>>(),
        })
    }

    /// Return the questions of an export: the lists, the problems, and at most `most` Services, those with
    /// problems first.
    pub fn questions(&self, named: &[String], most: usize) -> Vec<Question> {
        let mut all = vec![Question::new("nodes", [])];
        for node in self.all() {
            let name = &*node.name;
            let of_node = [("node", name)];
            all.push(Question::new("services", of_node));
            all.push(Question::new("problems", of_node));
            all.push(Question::new("rules", of_node));
            let mut rows = overview::rows(&node.inspector, node.checked());
            rows.retain(|row| named.is_empty() || named.contains(&row.name));
            rows.sort_by_key(|row| row.state == overview::State::Served);
            for row in rows.iter().take(most) {
                all.extend(self.about(name, &row.name));
            }
        }
        all
    }

    /// Return the questions about a Service: its explanation, and the path of each of its connections.
    fn about(&self, node: &str, service: &str) -> Vec<Question> {
        let question = Question::new("service", [("node", node), ("name", service)]);
        let answer = self.answer(&question).unwrap_or_default();
        let connections = answer["details"]["connections"].as_array();
        let traces = connections.into_iter().flatten().map(|connection| {
            let text = |name: &str| connection[name].as_str().unwrap_or_default();
            let dport = connection["dport"].to_string();
            let mut parameters = vec![("node", node), ("dport", &*dport), ("reply", "true")];
            parameters.extend(["src", "dst", "proto", "from"].map(|name| (name, text(name))));
            Question::new("trace", parameters)
        });
        std::iter::once(question).chain(traces).collect()
    }
}

/// Explain a Service as `sluice explain -o json` does.
fn service(node: &Node, question: &Question) -> anyhow::Result<Value> {
    let asked = node.inspector.ask(question.get("name"), node.client)?;
    let (flows, mut note) = match node.origin {
        Origin::Live => asked.known_flows(),
        Origin::File(_) => (Vec::new(), None),
    };
    let steps = steps(asked.probes.iter().map(|probe| &probe.trace));
    let answer = if steps > MOST_STEPS {
        note = Some(format!(
            "the walks of the connections have {steps} steps, too many for a page; sluice explain -o json \
             prints them"
        ));
        asked.explain_without_walks(&flows, false)
    } else {
        asked.explain(&flows, false)
    };
    Ok(json!({
        "details": overview::details(&asked, node.checked()),
        "answer": answer,
        "note": note,
    }))
}

/// Trace a packet as `sluice trace -o json` does, and draw its path.
fn traced(node: &Node, question: &Question) -> anyhow::Result<Value> {
    let world = &node.inspector.world;
    let packet = packet(question, world)?;
    let traced = Traced::walk(world, packet, question.get("reply") == "true")?;
    let replies = traced.replies.as_deref();
    let back = replies.iter().copied().flatten().map(|(_, trace)| trace);
    let steps = steps(std::iter::once(&traced.trace).chain(back));
    if steps > MOST_STEPS {
        bail!("the answer has {steps} steps, too many for a page; use sluice trace");
    }
    let forward = diagram::of_trace(world, &traced.packet, &traced.trace);
    let back = replies.map(|all| {
        let shown = all.get(..REPLIES).unwrap_or(all);
        json!({
            "picture": drawn(&diagram::of_packets(world, shown)),
            "more": all.len() - shown.len(),
        })
    });
    Ok(json!({
        "answer": traced.to_json(),
        "is_accepted": traced.is_accepted(),
        "text": trace::render_tree(&traced.packet, &traced.trace, trace::Style::Plain),
        "forward": {"picture": drawn(&forward)},
        "back": back,
    }))
}

fn drawn(graph: &Graph) -> Picture {
    Picture::of(&graph.folded(DRAWN))
}

fn packet(question: &Question, world: &World) -> anyhow::Result<Packet> {
    let address = |name: &str| -> anyhow::Result<IpAddr> {
        let given = question.parsed(name)?;
        given.with_context(|| format!("{name} is required: an IP address"))
    };
    let ends = (address("src")?, address("dst")?);
    if ends.0.is_ipv4() != ends.1.is_ipv4() {
        bail!("source and destination are of different address families");
    }
    let proto = match question.get("proto") {
        "" => Proto::TCP,
        text => Proto::parse(text).with_context(|| format!("proto: {text:?} is not a protocol"))?,
    };
    let from: Option<Start> = question.parsed("from")?;
    let to = (proto, question.parsed("dport")?);
    let mut packet = packet_between(ends, to, from.as_ref(), world)?;
    if let Some(sport) = question.parsed("sport")? {
        packet.sport = sport;
    }
    Ok(packet)
}

/// Return the number of steps of some walks.
fn steps<'t>(traces: impl Iterator<Item = &'t Trace>) -> usize {
    let outcomes = traces.flat_map(|trace| &trace.outcomes);
    outcomes.map(|outcome| outcome.path.len()).sum()
}

/// Draw all chains.
fn rules(node: &Node) -> anyhow::Result<Value> {
    let world = &node.inspector.world;
    let tables = world.all_iptables().flat_map(|set| set.tables.values());
    let chains = tables.flat_map(|table| table.chains.values());
    let of_nft = world.nft.tables.iter().flat_map(|table| &table.chains);
    let rules = chains.map(|chain| chain.rules.len()).sum::<usize>()
        + of_nft.map(|chain| chain.rules.len()).sum::<usize>();
    if rules > MOST_RULES {
        bail!("this node has {rules} rules, too many for a picture; trace a packet instead");
    }
    Ok(json!({ "picture": drawn(&diagram::of_world(world)), "rules": rules }))
}
