//! The table of kube-proxy v1.36.2 in nftables mode, as `testdata/observed` has it, with the Services of a
//! plan: the constant chains are the observed ones, the other chains have the observed form.

use std::fmt::Write as _;
use std::net::IpAddr;

use model::IpFamily;
use plan::{FrontendKind, NodeFacts, Plan, PortPlan, Traffic};

use crate::rules;

/// The elements of the maps, and the chains of Services.
#[derive(Default)]
struct Parts {
    cluster_ips: Vec<String>,
    service_ips: Vec<String>,
    node_ports: Vec<String>,
    hairpin: Vec<String>,
    chains: String,
}

/// Return the table for `nft -f`.
pub(crate) fn table(plan: &Plan) -> String {
    let observed = observed::configuration("default").nft(plan.family);
    let mut parts = Parts::default();
    for port in plan.ports.values() {
        parts.add(port);
    }
    let (ip, address) = match plan.family {
        IpFamily::V4 => ("ip", "ipv4_addr"),
        IpFamily::V6 => ("ip6", "ipv6_addr"),
    };
    let mut text = format!("table {ip} kube-proxy {{\n");
    let mut set = |head: &str, elements: &[String]| {
        let elements = match elements {
            [] => String::new(),
            some => format!("elements = {{ {} }}", some.join(", ")),
        };
        let _ = writeln!(text, "{head}; {elements}\n}}");
    };
    let frontend = format!("{address} . inet_proto . inet_service");
    let node_port = "inet_proto . inet_service";
    set(
        &format!("set hairpin-connections {{ type {address} . {frontend}"),
        &parts.hairpin,
    );
    set(
        &format!("set cluster-ips {{ type {address}"),
        &parts.cluster_ips,
    );
    set(
        &format!("set nodeport-ips {{ type {address}"),
        &node_ips(&plan.node),
    );
    set(
        &format!("map no-endpoint-services {{ type {frontend} : verdict"),
        &[],
    );
    set(
        &format!("map no-endpoint-nodeports {{ type {node_port} : verdict"),
        &[],
    );
    set(
        &format!("map firewall-ips {{ type {frontend} : verdict"),
        &[],
    );
    set(
        &format!("map service-ips {{ type {frontend} : verdict"),
        &parts.service_ips,
    );
    set(
        &format!("map service-nodeports {{ type {node_port} : verdict"),
        &parts.node_ports,
    );
    // The chains come first: nft resolves the verdicts of elements in any order.
    text += &constant_chains(&observed, plan.family);
    text += &parts.chains;
    text + "}\n"
}

fn node_ips(node: &NodeFacts) -> Vec<String> {
    node.node_port_ips
        .iter()
        .flatten()
        .map(IpAddr::to_string)
        .collect()
}

/// Return the observed chains that every such table has, with the ranges of the bench's cluster.
fn constant_chains(observed: &str, family: IpFamily) -> String {
    let start = observed
        .find("\tchain filter-prerouting-pre-dnat")
        .expect("the first");
    let rest = &observed[start..];
    let end = rest.find("\tchain reject-chain").expect("the last");
    let end = end + rest[end..].find('}').expect("its end") + 2;
    let (pods, services) = match family {
        IpFamily::V4 => ("10.244.0.0/16", ("10.96.0.0/12", "10.96.0.0/12")),
        IpFamily::V6 => ("fd00:10:244::/56", ("fd00:10:96::/112", "fd00::a60:0/108")),
    };
    assert!(
        rest[..end].contains(pods) && rest[..end].contains(services.0),
        "{rest}"
    );
    rest[..end]
        .replace(pods, rules::pod_range(family))
        .replace(services.0, services.1)
}

impl Parts {
    fn add(&mut self, port: &PortPlan) {
        let name = format!(
            "AAAAAAAA-{}/{}/{}/{}",
            port.name.service.namespace,
            port.name.service.name,
            port.protocol.lower(),
            port.name.port
        );
        let protocol = port.protocol.lower();
        let ip = match port.cluster_ip {
            IpAddr::V4(_) => "ip",
            IpAddr::V6(_) => "ip6",
        };
        let cluster_ip = port.cluster_ip.to_string();
        if !self.cluster_ips.contains(&cluster_ip) {
            self.cluster_ips.push(cluster_ip);
        }
        let mut chain = |kind: &str, rules: &str| {
            let _ = writeln!(self.chains, "chain {kind}-{name} {{\n{rules}\n}}");
        };
        let endpoints = |list: &[plan::Endpoint]| {
            let list: Vec<String> = list
                .iter()
                .enumerate()
                .map(|(n, e)| format!("{n} : {} . {}", e.ip, e.port))
                .collect();
            format!(
                "meta l4proto {protocol} dnat {ip} to numgen random mod {} map {{ {} }}",
                list.len(),
                list.join(", ")
            )
        };
        chain("service", &endpoints(&port.cluster));
        if !port.local.is_empty() {
            chain("local", &endpoints(&port.local));
        }
        let mut external = false;
        for frontend in port.frontends() {
            let kind = match frontend.kind {
                FrontendKind::ClusterIp => "service",
                _ => {
                    if !external {
                        external = true;
                        let local = format!("fib saddr type local goto service-{name}");
                        let rules = match frontend.traffic {
                            Traffic::Cluster => format!(
                                "meta mark set meta mark | 0x00004000 comment \"masquerade\"\ngoto service-{name}"
                            ),
                            Traffic::Local => format!(
                                "{ip} saddr {} goto service-{name}\nfib saddr type local meta mark set meta mark | 0x00004000\n{local}\ngoto local-{name}",
                                rules::pod_range(plan_family(frontend.ip, port))
                            ),
                            _ => format!(
                                "{ip} saddr {} goto service-{name}\nfib saddr type local meta mark set meta mark | 0x00004000\n{local}",
                                rules::pod_range(plan_family(frontend.ip, port))
                            ),
                        };
                        chain("external", &rules);
                    }
                    "external"
                }
            };
            match frontend.ip {
                Some(at) => self.service_ips.push(format!(
                    "{at} . {protocol} . {} : goto {kind}-{name}",
                    frontend.port
                )),
                None => self.node_ports.push(format!(
                    "{protocol} . {} : goto {kind}-{name}",
                    frontend.port
                )),
            }
        }
        for e in port.cluster.iter().filter(|e| e.is_local) {
            self.hairpin
                .push(format!("{0} . {0} . {protocol} . {1}", e.ip, e.port));
        }
    }
}

fn plan_family(_: Option<IpAddr>, port: &PortPlan) -> IpFamily {
    match port.cluster_ip {
        IpAddr::V4(_) => IpFamily::V4,
        IpAddr::V6(_) => IpFamily::V6,
    }
}
