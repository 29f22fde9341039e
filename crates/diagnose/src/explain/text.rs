//! An explanation as text.

use std::fmt::Write as _;

use trace::{Snat, Summary, Verdict};

use super::expect::Expected;
use super::finding::{Finding, Weight, listed};
use super::probe::Probe;
use super::subject::Subject;

/// How many endpoints or ends a list shows.
const MOST: usize = 8;

/// Return the explanation as text.
pub(crate) fn text(
    subject: &Subject<'_>,
    probes: &[Probe],
    findings: &[Finding],
    notes: &[String],
) -> String {
    let mut out = String::new();
    verdict(&mut out, subject, findings);
    objects(&mut out, subject);
    plan(&mut out, subject);
    connections(&mut out, probes);
    for note in notes {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

/// Write the problems before anything else.
fn verdict(out: &mut String, subject: &Subject<'_>, findings: &[Finding]) {
    let wrong: Vec<&Finding> = findings
        .iter()
        .filter(|f| f.weight != Weight::Note)
        .collect();
    let name = &subject.service.name;
    if wrong.is_empty() {
        let _ = writeln!(
            out,
            "{name}: no problems found on {}",
            subject.cluster.node_name
        );
    } else {
        let _ = writeln!(
            out,
            "{name}: problems found on {}",
            subject.cluster.node_name
        );
    }
    for (number, finding) in (1..).zip(wrong) {
        let partly = if finding.weight == Weight::Partly {
            " (in part)"
        } else {
            ""
        };
        let _ = writeln!(
            out,
            "  {number}. {}{partly}: {}",
            finding.cause, finding.what
        );
        if !finding.change.is_empty() {
            let _ = writeln!(out, "     fix: {}", finding.change);
        }
    }
    for finding in findings.iter().filter(|f| f.weight == Weight::Note) {
        let _ = writeln!(out, "  - {}: {}", finding.cause, finding.what);
    }
}

fn objects(out: &mut String, subject: &Subject<'_>) {
    let s = &subject.service;
    let _ = writeln!(out, "\nthe objects");
    let ips = listed(&s.cluster_ips, MOST);
    let _ = writeln!(
        out,
        "  Service {}: {}, cluster IP {}, policies: internal {:?}, external {:?}",
        s.name,
        s.service_type.name(),
        if ips.is_empty() { "none" } else { &ips },
        s.internal_policy,
        s.external_policy
    );
    for port in &subject.ports {
        let node_port = port
            .node_port
            .map_or(String::new(), |n| format!(", NodePort {n}"));
        let name = named(&port.name);
        let _ = writeln!(
            out,
            "    port {name} {}/{}{node_port}",
            port.port, port.protocol
        );
    }
    for slice in &subject.slices {
        let ports = slice.ports.iter().map(|p| {
            let number = p.port.map_or("?".to_owned(), |n| n.to_string());
            format!("{} {number}/{}", named(&p.name), p.protocol)
        });
        let ready = slice
            .endpoints
            .iter()
            .filter(|e| e.conditions.ready)
            .count();
        let _ = writeln!(
            out,
            "  EndpointSlice {}: {ready} of {} endpoints ready, ports: {}",
            slice.name,
            slice.endpoints.len(),
            listed(ports, MOST)
        );
    }
}

fn named(port: &str) -> &str {
    if port.is_empty() { "(unnamed)" } else { port }
}

fn plan(out: &mut String, subject: &Subject<'_>) {
    let _ = writeln!(out, "\nthe plan on {}", subject.cluster.node_name);
    for (plan, _) in &subject.plans {
        for frontend in plan.frontends() {
            let port = frontend.port.get();
            let address = match frontend.ip {
                Some(ip) => trace::Endpoint { ip, port }.to_string(),
                None if plan.cluster_ip.is_ipv4() => format!("NodePort {port}"),
                None => format!("NodePort {port} (IPv6)"),
            };
            let to = match frontend.traffic {
                plan::Traffic::Cluster => listed(plan.cluster.iter(), MOST),
                plan::Traffic::Local => {
                    format!("{} (on this node)", listed(plan.local.iter(), MOST))
                }
                plan::Traffic::Reject => "refused: no endpoint".to_owned(),
                plan::Traffic::Drop => "dropped: no endpoint on this node".to_owned(),
            };
            let _ = writeln!(out, "  {} {address}/{} -> {to}", plan.name, plan.protocol);
        }
    }
}

fn connections(out: &mut String, probes: &[Probe]) {
    let _ = writeln!(out, "\nwhere connections go, by the rules in the kernel");
    for probe in probes {
        let _ = writeln!(out, "  from {}", probe.question());
        if let (true, Expected::To(all)) = (probe.is_relayed(), &probe.expected.to) {
            let all = all.iter().map(|(ip, port)| trace::Endpoint {
                ip: *ip,
                port: *port,
            });
            let all = listed(all, MOST);
            let _ = writeln!(
                out,
                "    to this node's relay, which connects to one of {all}"
            );
            continue;
        }
        let ends = ends(&probe.trace.summary());
        for end in ends.iter().take(MOST) {
            let _ = writeln!(out, "    {end}");
        }
        if ends.len() > MOST {
            let _ = writeln!(out, "    … and {} more", ends.len() - MOST);
        }
    }
}

/// Return a line for each end; endpoints that differ in nothing else share one.
fn ends(all: &[Summary]) -> Vec<String> {
    let mut groups: Vec<Vec<&Summary>> = Vec::new();
    for end in all {
        let is_alike = |group: &&mut Vec<&Summary>| {
            let key = |s: &Summary| {
                (
                    s.verdict,
                    s.probability,
                    s.snat,
                    s.hairpin,
                    s.dnat.is_some(),
                )
            };
            group.first().is_some_and(|first| key(first) == key(end))
        };
        match groups.iter_mut().find(is_alike) {
            Some(group) => group.push(end),
            None => groups.push(vec![end]),
        }
    }
    groups.iter().filter_map(|group| shown(group)).collect()
}

/// `50% each: to 10.244.1.11:8080, 10.244.2.11:8080, which see 10.200.1.2 as the client`.
fn shown(group: &[&Summary]) -> Option<String> {
    let end = group.first()?;
    let percent = format!("{:.2}", end.probability.to_f64() * 100.0);
    let percent = percent.trim_end_matches('0').trim_end_matches('.');
    let (each, sees) = if group.len() > 1 {
        (" each", "see")
    } else {
        ("", "sees")
    };
    let mut text = format!("{percent}%{each}: ");
    text += match (end.verdict, end.dnat) {
        (Verdict::Accept, Some(_)) => "to",
        (Verdict::Accept, None) => "arrives, its destination unchanged",
        (Verdict::Drop, _) => "dropped",
        (Verdict::Reject, _) => "refused",
    };
    if end.dnat.is_some() {
        if end.verdict != Verdict::Accept {
            text.push_str(" on the path to");
        }
        let _ = write!(
            text,
            " {}",
            listed(group.iter().filter_map(|s| s.dnat), MOST)
        );
    }
    match end.snat {
        Some(Snat::Masquerade(Some(ip)) | Snat::To(ip)) => {
            let _ = write!(text, ", which {sees} {ip} as the client");
        }
        Some(Snat::Masquerade(None)) => {
            let _ = write!(text, ", which {sees} this node as the client");
        }
        None => {}
    }
    Some(text)
}
