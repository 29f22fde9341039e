//! A client, a node and pods, each a network namespace.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use kernel::netns::NetNs;
use model::IpFamily;
use plan::Plan;

use crate::Variant;
use crate::load::{Column, Path, Server};
use crate::rules::{self, Targets, address};
use crate::support::run;

/// The destination of the client's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// A pod.
    Direct,
    ClusterIp,
    /// A NodePort with policy Cluster, so that the connection is masqueraded.
    NodePort,
}

impl Route {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Route::Direct => "direct",
            Route::ClusterIp => "cluster IP",
            Route::NodePort => "NodePort",
        }
    }
}

/// A node with the rules of a variant, and open connections to each destination.
pub(crate) struct Stage {
    pub(crate) variant: Variant,
    client: NetNs,
    node: NetNs,
    pods: NetNs,
    server: Server,
    paths: Vec<Path>,
}

impl Stage {
    pub(crate) fn build(variant: Variant, plan: &Plan) -> Self {
        let make = |role| {
            let name = format!("path-{variant:?}-{role}-{}", std::process::id());
            NetNs::create(&name).expect("a new network namespace (run as root)")
        };
        let family = plan.family;
        let pods = make("pods");
        let any = SocketAddr::new(rules::any(family), rules::POD_PORT);
        let server = pods.run(|| Server::listen(any)).expect("the pods");
        let mut stage = Self {
            variant,
            client: make("client"),
            node: make("node"),
            pods,
            server,
            paths: Vec::new(),
        };
        stage.wire(family);
        stage
            .node
            .run(|| rules::load(variant, plan))
            .expect("the node");
        let targets = Targets::of(plan);
        for route in stage.routes() {
            let (tcp, udp) = match route {
                Route::Direct => (&targets.pods[..], targets.pods[0]),
                Route::ClusterIp => (&targets.cluster_ip[..1], targets.cluster_ip[1]),
                Route::NodePort => (&targets.node_port[..1], targets.node_port[1]),
            };
            let open = || Path::open(&stage.server, tcp.to_vec(), udp);
            let path = stage.client.run(open).expect("the client");
            stage.paths.push(path);
        }
        stage
    }

    /// Return the routes that the rules offer.
    pub(crate) fn routes(&self) -> &'static [Route] {
        match self.variant {
            Variant::None | Variant::Cni => &[Route::Direct],
            _ => &[Route::Direct, Route::ClusterIp, Route::NodePort],
        }
    }

    /// Return the instructions of one unit.
    pub(crate) fn count(&self, route: Route, column: Column) -> f64 {
        let routes = self.routes();
        let index = routes.iter().position(|r| *r == route).expect("a route");
        let _client = self.client.enter().expect("the client");
        self.paths[index].count(&self.server, column)
    }

    /// Connect the namespaces. Neighbours are permanent, so that no packet looks for them.
    fn wire(&self, family: IpFamily) {
        let (client, pods) = (self.client.name(), self.pods.name());
        let ip = |v4: [u8; 4]| address(family, Ipv4Addr::from(v4));
        let [at_client, of_client] = [ip([169, 254, 1, 1]), ip(rules::CLIENT)];
        let [at_pods, of_pods] = [ip([169, 254, 2, 1]), ip([169, 254, 2, 2])];
        let node_ip = ip(rules::NODE);
        let range = rules::pod_range(family);
        let (whole, single) = match family {
            IpFamily::V4 => ("", 32),
            IpFamily::V6 => ("nodad", 128),
        };
        let add = |ip: IpAddr, link: &str| format!("ip addr add {ip}/{single} dev {link} {whole}");
        let neighbour = |ip: IpAddr, mac: u8, link: &str| {
            format!("ip neigh replace {ip} lladdr 02:00:00:00:00:0{mac} dev {link} nud permanent")
        };
        let node = [
            "set -e".to_owned(),
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1".to_owned(),
            format!(
                "ip link add client0 address 02:00:00:00:00:01 type veth peer name eth0 address 02:00:00:00:00:02 netns {client}"
            ),
            format!(
                "ip link add pods0 address 02:00:00:00:00:03 type veth peer name eth0 address 02:00:00:00:00:04 netns {pods}"
            ),
            "ip link set lo up; ip link set client0 up; ip link set pods0 up".to_owned(),
            add(at_client, "client0"),
            add(node_ip, "client0"),
            add(at_pods, "pods0"),
            format!("ip route add {of_client} dev client0"),
            format!("ip route add {of_pods} dev pods0"),
            format!("ip route add {range} via {of_pods} dev pods0"),
            neighbour(of_client, 2, "client0"),
            neighbour(of_pods, 4, "pods0"),
        ];
        let client = [
            "set -e; ip link set lo up; ip link set eth0 up".to_owned(),
            add(of_client, "eth0"),
            format!("ip route add {at_client} dev eth0"),
            format!("ip route add default via {at_client} dev eth0"),
            neighbour(at_client, 1, "eth0"),
        ];
        let pods = [
            "set -e; ip link set lo up; ip link set eth0 up".to_owned(),
            add(of_pods, "eth0"),
            format!("ip route add local {range} dev lo"),
            format!("ip route add {at_pods} dev eth0"),
            format!("ip route add {of_client} via {at_pods} dev eth0"),
            neighbour(at_pods, 3, "eth0"),
        ];
        self.node.run(|| run(&node.join("\n"))).expect("the node");
        self.client
            .run(|| run(&client.join("\n")))
            .expect("the client");
        self.pods.run(|| run(&pods.join("\n"))).expect("the pods");
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for netns in [&self.node, &self.client, &self.pods] {
            let _ = NetNs::delete(netns.name());
        }
    }
}
