//! Connections to the endpoints from this node.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::finding::{Cause, Finding, Weight, listed};
use super::subject::Subject;

/// Maximum number of names in a sentence.
const MOST: usize = 5;
/// Upper bound on the endpoints tried for each port.
const ASKED: usize = 20;
/// Time limit for a connection.
const PATIENCE: Duration = Duration::from_secs(1);

/// The result of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Accepts,
    /// The host answers, and nothing listens on that port.
    Refuses,
    /// No answer, and the error.
    Silent(String),
}

/// Connect to an endpoint and close the connection at once.
pub(crate) fn tcp(to: SocketAddr) -> Answer {
    match TcpStream::connect_timeout(&to, PATIENCE) {
        Ok(_) => Answer::Accepts,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Answer::Refuses,
        Err(error) => Answer::Silent(error.to_string()),
    }
}

/// Try the endpoints of each TCP port.
pub(crate) fn findings(subject: &Subject<'_>, ask: impl Fn(SocketAddr) -> Answer) -> Vec<Finding> {
    let mut found = Vec::new();
    for (plan, _) in &subject.plans {
        if plan.protocol != model::Protocol::Tcp {
            continue;
        }
        let endpoints = plan.reachable();
        let asked = endpoints.iter().take(ASKED);
        let all: Vec<(SocketAddr, Answer)> = asked
            .map(|e| SocketAddr::new(e.ip, e.port))
            .map(|to| (to, ask(to)))
            .collect();
        let of = |wanted: fn(&Answer) -> bool| {
            let those = all.iter().filter(|(_, answer)| wanted(answer));
            those.map(|(to, _)| *to).collect::<Vec<_>>()
        };
        let weight = |count: usize| {
            if count == all.len() {
                Weight::Broken
            } else {
                Weight::Partly
            }
        };
        let refuse = of(|a| *a == Answer::Refuses);
        if let Some(first) = refuse.first() {
            found.push(Finding::new(
                weight(refuse.len()),
                Cause::NobodyListens,
                format!(
                    "{}: nothing listens on port {} of these endpoints, which refuse connections: {}",
                    plan.name,
                    first.port(),
                    listed(&refuse, MOST)
                ),
                "compare the Service's targetPort with the port on which the program in the pod \
                 listens (ss -ltn in the pod), and check that it listens on more than 127.0.0.1",
            ));
        }
        let silent = of(|a| matches!(a, Answer::Silent(_)));
        if !silent.is_empty() {
            let why = all.iter().find_map(|(_, a)| match a {
                Answer::Silent(why) => Some(why.as_str()),
                _ => None,
            });
            found.push(Finding::new(
                weight(silent.len()),
                Cause::NoAnswer,
                format!(
                    "{}: these endpoints do not answer this node ({}): {}",
                    plan.name,
                    why.unwrap_or_default(),
                    listed(&silent, MOST)
                ),
                "try the same on the pod's node: if it answers there, check the network between the \
                 nodes and NetworkPolicies; if not, check the pod",
            ));
        }
    }
    found
}
