//! The objects, and the rules of each variant for them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

use dataplane::{iptables, nftables};
use model::{Change, EndpointPort, Event, IpFamily, NodePortAddresses, Protocol, ServicePort};
use plan::testing::{Applied as _, big_cluster_of, big_cluster_settings};
use plan::{Plan, Planner, PortPlan, Settings};

use crate::Variant;
use crate::kube_proxy;
use crate::support::run;
use crate::{ipt, nft};

/// Endpoints of a Service.
const ENDPOINTS: usize = 10;
pub(crate) const POD_PORT: u16 = 8080;
/// The Service that is measured: the first with a NodePort. It gets a UDP port too.
const SERVICE: &str = "service-8";
const UDP_NODE_PORT: u16 = 32_000;
/// A pod of the node.
pub(crate) const CLIENT: [u8; 4] = [10, 255, 0, 2];
pub(crate) const NODE: [u8; 4] = [10, 0, 0, 1];
const CNI_TABLE: &str = "cni";

/// Return the address of a family that has this role; IPv6 addresses end in the IPv4 address.
pub(crate) fn address(family: IpFamily, v4: Ipv4Addr) -> IpAddr {
    match family {
        IpFamily::V4 => v4.into(),
        IpFamily::V6 => Ipv6Addr::from(0xfd00 << 112 | u128::from(u32::from(v4))).into(),
    }
}

pub(crate) fn any(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::UNSPECIFIED.into(),
        IpFamily::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The addresses of all pods.
pub(crate) fn pod_range(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "10.128.0.0/9",
        IpFamily::V6 => "fd00::a80:0/105",
    }
}

/// The measured Service.
pub(crate) struct Targets {
    pub(crate) pods: Vec<SocketAddr>,
    /// TCP and UDP.
    pub(crate) cluster_ip: [SocketAddr; 2],
    /// TCP and UDP.
    pub(crate) node_port: [SocketAddr; 2],
}

impl Targets {
    pub(crate) fn of(plan: &Plan) -> Self {
        let port = |protocol| -> &PortPlan {
            let is = |port: &&std::sync::Arc<PortPlan>| {
                &*port.name.service.name == SERVICE && port.protocol == protocol
            };
            plan.ports.values().find(is).expect("the Service")
        };
        let ports = [port(Protocol::Tcp), port(Protocol::Udp)];
        let node = address(plan.family, NODE.into());
        let node_port = |port: &PortPlan| port.node_port.expect("a NodePort").get();
        let pods = ports[0].cluster.iter();
        Targets {
            pods: pods.map(|e| SocketAddr::new(e.ip, e.port)).collect(),
            cluster_ip: ports.map(|port| SocketAddr::new(port.cluster_ip, port.port.get())),
            node_port: ports.map(|port| SocketAddr::new(node, node_port(port))),
        }
    }
}

/// Return the objects: those of a big cluster, with one more port.
fn objects(family: IpFamily, services: usize) -> Vec<Event> {
    let mut events = big_cluster_of(family, services, ENDPOINTS);
    for event in &mut events {
        match event {
            Event::Service(Change::Applied(service)) if &*service.name.name == SERVICE => {
                let mut service = (**service).clone();
                service.ports.push(ServicePort {
                    name: "udp".into(),
                    protocol: Protocol::Udp,
                    node_port: NonZeroU16::new(UDP_NODE_PORT),
                    ..service.ports[0].clone()
                });
                *event = service.applied();
            }
            Event::EndpointSlice(Change::Applied(slice))
                if slice.service.as_ref().is_some_and(|s| &*s.name == SERVICE) =>
            {
                let mut slice = (**slice).clone();
                slice.ports.push(EndpointPort {
                    name: "udp".into(),
                    protocol: Protocol::Udp,
                    ..slice.ports[0].clone()
                });
                *event = slice.applied();
            }
            _ => {}
        }
    }
    events
}

/// Return the plan for a mode's default NodePort addresses.
pub(crate) fn plan(family: IpFamily, services: usize, addresses: NodePortAddresses) -> Plan {
    let mut planner = Planner::new(Settings {
        node_port_addresses: addresses,
        ..big_cluster_settings()
    });
    planner.set_host_addresses(vec![address(family, NODE.into())]);
    planner.apply_all(objects(family, services));
    planner.take_diff();
    planner.plan(family).clone()
}

/// Load a variant's rules in the calling thread's namespace.
pub(crate) fn load(variant: Variant, plan: &Plan) {
    if variant == Variant::None {
        return;
    }
    load_text(&cni(plan.family));
    match variant {
        Variant::None | Variant::Cni => {}
        Variant::Nftables => {
            let mut sync = nftables::Sync::new(nftables::Options::default());
            sync.run(plan, &mut nft::Live::open(plan.family), 10_000)
                .expect("a table");
        }
        Variant::Iptables => {
            let options = iptables::Options::default();
            let mut sync = iptables::Sync::new(plan.family, options);
            let mut transport = ipt::Live::transport(plan.family);
            sync.resync(plan, &mut transport).expect("the rules");
        }
        Variant::KubeProxy => load_text(&kube_proxy::table(plan)),
    }
}

/// A CNI's rule: traffic of pods that leaves the cluster is masqueraded.
fn cni(family: IpFamily) -> String {
    let ip = match family {
        IpFamily::V4 => "ip",
        IpFamily::V6 => "ip6",
    };
    let pods = pod_range(family);
    format!(
        "table {ip} {CNI_TABLE} {{
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                {ip} saddr {pods} {ip} daddr != {pods} masquerade
            }}
        }}"
    )
}

fn load_text(rules: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rules.nft");
    std::fs::write(&file, rules).expect("room");
    run(&format!("nft -f {}", file.display()));
}
