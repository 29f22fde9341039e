//! Experiments of one probe each, as a table: client, destination and expected outcome.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use model::{IpFamily, Protocol};

use super::stage::Stage;
use super::{Report, Verdict};
use crate::Host;
use crate::control::address::{CLIENT_HOSTS, OUTSIDE, nth, slot};
use crate::control::node_of_load_balancers;
use crate::probe::{How, Outcome, Probe};

/// One probe and its expected outcome.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shot {
    pub(super) name: &'static str,
    from: From,
    to: To,
    how: How,
    family: IpFamily,
    expect: Expect,
}

/// The client.
#[derive(Clone, Copy, Debug)]
enum From {
    /// A pod on another node than nginx.
    Pod,
    /// The nginx pod.
    Nginx,
    /// A node without the nginx pod.
    OtherNode,
    /// The outside client, from its first address (inside the source ranges) or its second.
    Client(usize),
}

/// The destination.
#[derive(Clone, Copy, Debug)]
enum To {
    ClusterIp(&'static str, u16),
    /// A port of the node that has the nginx pod.
    PodNode(u16),
    /// A port of a node without the nginx pod.
    OtherNode(u16),
    /// A port of the sending node, on its loopback address.
    Loopback(u16),
    LoadBalancer(&'static str, u16),
}

#[derive(Clone, Copy, Debug)]
enum Expect {
    /// A pod of this `app` answers and sees this source.
    Answer(&'static str, Source),
    /// Rejected immediately.
    Refused,
    /// No answer.
    Silence,
}

/// The source address that the pod must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The client's own.
    Sender,
    /// That of the node whose rules translate the packet: masqueraded.
    EntryNode,
    /// Either.
    Any,
}

const V4: IpFamily = IpFamily::V4;
const V6: IpFamily = IpFamily::V6;

const fn shot(
    name: &'static str,
    (from, to): (From, To),
    how: How,
    family: IpFamily,
    expect: Expect,
) -> Shot {
    Shot {
        name,
        from,
        to,
        how,
        family,
        expect,
    }
}

/// NodePorts of the example manifests.
const NODE_PORT: u16 = 30008;
const LOCAL_NODE_PORT: u16 = 30009;
const DNS_NODE_PORT: u16 = 30053;

use Expect::{Answer, Refused, Silence};
use How::{Http, Udp};

pub(super) const SHOTS: &[Shot] = &[
    shot(
        "ClusterIP from a pod",
        (From::Pod, To::ClusterIp("nginx", 80)),
        Http,
        V4,
        Answer("nginx", Source::Sender),
    ),
    shot(
        "ClusterIP from a pod, IPv6",
        (From::Pod, To::ClusterIp("nginx", 80)),
        Http,
        V6,
        Answer("nginx", Source::Sender),
    ),
    shot(
        "ClusterIP from a node",
        (From::OtherNode, To::ClusterIp("nginx", 80)),
        Http,
        V4,
        Answer("nginx", Source::EntryNode),
    ),
    shot(
        "ClusterIP from a node, IPv6",
        (From::OtherNode, To::ClusterIp("nginx", 80)),
        Http,
        V6,
        Answer("nginx", Source::EntryNode),
    ),
    shot(
        "hairpin: a pod reaches itself",
        (From::Nginx, To::ClusterIp("nginx", 80)),
        Http,
        V4,
        Answer("nginx", Source::EntryNode),
    ),
    shot(
        "hairpin, IPv6",
        (From::Nginx, To::ClusterIp("nginx", 80)),
        Http,
        V6,
        Answer("nginx", Source::EntryNode),
    ),
    shot(
        "NodePort from outside, pod's node",
        (From::Client(0), To::PodNode(NODE_PORT)),
        Http,
        V4,
        Answer("nginx", Source::EntryNode),
    ),
    shot(
        "NodePort from outside, other node",
        (From::Client(0), To::OtherNode(NODE_PORT)),
        Http,
        V4,
        Answer("nginx", Source::EntryNode),
    ),
    shot(
        "NodePort from outside, IPv6",
        (From::Client(0), To::OtherNode(NODE_PORT)),
        Http,
        V6,
        Answer("nginx", Source::EntryNode),
    ),
    shot(
        "NodePort from another node",
        (From::OtherNode, To::PodNode(NODE_PORT)),
        Http,
        V4,
        Answer("nginx", Source::EntryNode),
    ),
    shot(
        "NodePort of a node, from itself",
        (From::OtherNode, To::OtherNode(NODE_PORT)),
        Http,
        V4,
        Answer("nginx", Source::EntryNode),
    ),
    shot(
        "NodePort of a node, on its loopback",
        (From::OtherNode, To::Loopback(NODE_PORT)),
        Http,
        V4,
        Answer("nginx", Source::Any),
    ),
    shot(
        "UDP to a NodePort, on loopback",
        (From::OtherNode, To::Loopback(DNS_NODE_PORT)),
        Udp,
        V4,
        Answer("dns", Source::Any),
    ),
    shot(
        "NodePort from a pod",
        (From::Pod, To::PodNode(NODE_PORT)),
        Http,
        V4,
        Answer("nginx", Source::EntryNode),
    ),
    shot(
        "policy Local keeps the client's address",
        (From::Client(0), To::PodNode(LOCAL_NODE_PORT)),
        Http,
        V4,
        Answer("nginx", Source::Sender),
    ),
    shot(
        "policy Local, node without the pod",
        (From::Client(0), To::OtherNode(LOCAL_NODE_PORT)),
        Http,
        V4,
        Silence,
    ),
    shot(
        "LoadBalancer, inside source ranges",
        (From::Client(0), To::LoadBalancer("nginx-balanced", 80)),
        Http,
        V4,
        Answer("nginx", Source::EntryNode),
    ),
    shot(
        "LoadBalancer, inside, IPv6",
        (From::Client(0), To::LoadBalancer("nginx-balanced", 80)),
        Http,
        V6,
        Answer("nginx", Source::EntryNode),
    ),
    shot(
        "LoadBalancer, outside source ranges",
        (From::Client(1), To::LoadBalancer("nginx-balanced", 80)),
        Http,
        V4,
        Silence,
    ),
    shot(
        "LoadBalancer, outside, IPv6",
        (From::Client(1), To::LoadBalancer("nginx-balanced", 80)),
        Http,
        V6,
        Silence,
    ),
    shot(
        "UDP to a ClusterIP",
        (From::Pod, To::ClusterIp("dns", 53)),
        Udp,
        V4,
        Answer("dns", Source::Any),
    ),
    shot(
        "UDP to a ClusterIP, IPv6",
        (From::Pod, To::ClusterIp("dns", 53)),
        Udp,
        V6,
        Answer("dns", Source::Any),
    ),
    shot(
        "UDP to a NodePort from outside",
        (From::Client(0), To::PodNode(DNS_NODE_PORT)),
        Udp,
        V4,
        Answer("dns", Source::EntryNode),
    ),
    shot(
        "no endpoints: rejected at once, pod",
        (From::Pod, To::ClusterIp("empty", 80)),
        Http,
        V4,
        Refused,
    ),
    shot(
        "no endpoints: rejected at once, node",
        (From::OtherNode, To::ClusterIp("empty", 80)),
        Http,
        V4,
        Refused,
    ),
    shot(
        "no endpoints: rejected at once, IPv6",
        (From::Pod, To::ClusterIp("empty", 80)),
        Http,
        V6,
        Refused,
    ),
];

impl Shot {
    pub(super) fn run(&self, stage: &Stage) -> Result<Report> {
        if let Expect::Answer(_, Source::Sender) = self.expect
            && !stage.abilities.keeps_client_address
        {
            return Ok(Report::not_applicable(
                "the mode does not keep client addresses",
            ));
        }
        if let To::Loopback(_) = self.to
            && !stage.abilities.serves_loopback
        {
            return Ok(Report::not_applicable(
                "the mode has no NodePorts on loopback",
            ));
        }
        let (host, sender, sender_node) = self.sender(stage)?;
        let (to, entry) = self.target(stage, sender_node)?;
        let mut probe = match self.how {
            How::Udp => Probe::udp(to),
            how => Probe {
                how,
                ..Probe::http(to)
            },
        };
        if let From::Client(_) = self.from {
            probe = probe.from(sender);
        }
        probe = match self.expect {
            Expect::Silence => probe.timeout(Duration::from_secs(1)),
            Expect::Answer(..) | Expect::Refused => stage.patient(probe),
        };
        let outcome = host.probe(probe)?;
        let (passed, expected) = self.judge(stage, &outcome, sender, &entry)?;
        let protocol = if self.how == How::Udp {
            Protocol::Udp
        } else {
            Protocol::Tcp
        };
        Ok(Report {
            sent: format!("{} to {to}/{protocol}", host.name()),
            arrived: outcome.to_string(),
            source: outcome
                .answer()
                .map_or("-".to_owned(), |a| a.client.ip().to_string()),
            expected,
            verdict: Verdict::of(passed),
        })
    }

    /// Return the host, its address, and the node that its packets pass first, if any.
    fn sender(&self, stage: &Stage) -> Result<(Host, IpAddr, Option<String>)> {
        let family = slot(self.family);
        Ok(match self.from {
            From::Client(which) => {
                let address = nth(OUTSIDE[family], CLIENT_HOSTS[which.min(1)]);
                (stage.lab.client()?, address, None)
            }
            From::OtherNode => {
                let node = stage.other_node(&stage.nginx()?.node)?;
                (
                    stage.lab.host(&node)?,
                    stage.node_ip(&node, self.family)?,
                    Some(node),
                )
            }
            From::Pod | From::Nginx => {
                let pod = match self.from {
                    From::Nginx => stage.nginx()?,
                    _ => stage.client_pod()?,
                };
                (stage.pod_host(&pod)?, pod.ips[family], Some(pod.node))
            }
        })
    }

    /// Return the address, and the node whose rules translate the packet.
    fn target(&self, stage: &Stage, sender_node: Option<String>) -> Result<(SocketAddr, String)> {
        let pod_node = stage.nginx()?.node;
        let (ip, port, entry) = match self.to {
            To::ClusterIp(service, port) => (
                stage.cluster_ip(service, self.family)?,
                port,
                sender_node.unwrap_or_default(),
            ),
            To::PodNode(port) => (stage.node_ip(&pod_node, self.family)?, port, pod_node),
            To::OtherNode(port) => {
                let node = stage.other_node(&pod_node)?;
                (stage.node_ip(&node, self.family)?, port, node)
            }
            To::Loopback(port) => {
                let ip = match self.family {
                    IpFamily::V4 => Ipv4Addr::LOCALHOST.into(),
                    IpFamily::V6 => Ipv6Addr::LOCALHOST.into(),
                };
                (ip, port, sender_node.unwrap_or_default())
            }
            To::LoadBalancer(service, port) => {
                let ip = stage.load_balancer_ip(service, self.family)?;
                let entry = node_of_load_balancers(&stage.cluster()?).unwrap_or_default();
                (ip, port, entry)
            }
        };
        Ok((SocketAddr::new(ip, port), entry))
    }

    /// Return whether the outcome is right, and the expected outcome in words.
    fn judge(
        &self,
        stage: &Stage,
        outcome: &Outcome,
        sender: IpAddr,
        entry: &str,
    ) -> Result<(bool, String)> {
        Ok(match self.expect {
            Expect::Refused => (*outcome == Outcome::Refused, "refused".to_owned()),
            Expect::Silence => {
                let silent = matches!(
                    outcome,
                    Outcome::TimedOut | Outcome::Refused | Outcome::Unreachable
                );
                (silent, "no answer".to_owned())
            }
            Expect::Answer(app, source) => {
                let seen = match source {
                    Source::Sender => Some(sender),
                    // A relay may use any of its node's addresses.
                    Source::EntryNode if stage.abilities.keeps_client_address => {
                        Some(stage.node_ip(entry, self.family)?)
                    }
                    Source::EntryNode | Source::Any => None,
                };
                let pods = stage.pods(app)?;
                let right = outcome.answer().is_some_and(|answer| {
                    pods.iter()
                        .any(|pod| pod.name.name == answer.pod && pod.node == answer.node)
                        && seen.is_none_or(|ip| ip == answer.client.ip())
                });
                let from = seen.map_or(String::new(), |ip| format!(", from {ip}"));
                (right, format!("{app}{from}"))
            }
        })
    }
}
