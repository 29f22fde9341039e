//! The ipsets of this mode.

use std::net::IpAddr;

use ipnet::IpNet;
use model::{IpFamily, Protocol};
use netfilter::ipset::{Element, Method, Part, PartKind, PortProtocol, Set};

use crate::{Feature, Needed};

/// The number of sets.
pub(super) const COUNT: usize = 17;

/// kube-proxy's capacity of a hash set (ipset's default). A set that needs more gets more, while
/// kube-proxy would lose Services.
pub(super) const MAX_ELEMENTS: usize = 65_536;

/// The temporary name of a set that replaces one that has become too small.
pub(super) const SPARE: &str = "KUBE-SLUICE-SPARE";

/// A set, for both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum SetKind {
    LoopBack,
    ClusterIp,
    ExternalIp,
    ExternalIpLocal,
    LoadBalancer,
    LoadBalancerFw,
    LoadBalancerLocal,
    LoadBalancerSourceIp,
    LoadBalancerSourceCidr,
    NodePortTcp,
    NodePortLocalTcp,
    NodePortUdp,
    NodePortLocalUdp,
    NodePortSctp,
    NodePortLocalSctp,
    HealthCheckNodePort,
    IpvsIps,
}

use PartKind::{Ip, Net, Port};
use SetKind as K;

/// The definition of a set: kind, names in IPv4 and in IPv6 (truncated to 31 bytes, the kernel's
/// limit), parts of an element, and the comment of kube-proxy's rules about it.
struct Definition(
    SetKind,
    &'static str,
    &'static str,
    &'static [PartKind],
    &'static str,
);

const IP_PORT: &[PartKind] = &[Ip, Port];
const IP_PORT_IP: &[PartKind] = &[Ip, Port, Ip];

#[rustfmt::skip]
const DEFINITIONS: [Definition; COUNT] = [
    Definition(K::LoopBack, "KUBE-LOOP-BACK", "KUBE-6-LOOP-BACK", IP_PORT_IP,
        "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose"),
    Definition(K::ClusterIp, "KUBE-CLUSTER-IP", "KUBE-6-CLUSTER-IP", IP_PORT,
        "Kubernetes service cluster ip + port for masquerade purpose"),
    Definition(K::ExternalIp, "KUBE-EXTERNAL-IP", "KUBE-6-EXTERNAL-IP", IP_PORT,
        "Kubernetes service external ip + port for masquerade and filter purpose"),
    Definition(K::ExternalIpLocal, "KUBE-EXTERNAL-IP-LOCAL", "KUBE-6-EXTERNAL-IP-LOCAL", IP_PORT,
        "Kubernetes service external ip + port with externalTrafficPolicy=local"),
    Definition(K::LoadBalancer, "KUBE-LOAD-BALANCER", "KUBE-6-LOAD-BALANCER", IP_PORT,
        "Kubernetes service lb portal"),
    Definition(K::LoadBalancerFw, "KUBE-LOAD-BALANCER-FW", "KUBE-6-LOAD-BALANCER-FW", IP_PORT,
        "Kubernetes service load balancer ip + port for load balancer with sourceRange"),
    Definition(K::LoadBalancerLocal, "KUBE-LOAD-BALANCER-LOCAL", "KUBE-6-LOAD-BALANCER-LOCAL", IP_PORT,
        "Kubernetes service load balancer ip + port with externalTrafficPolicy=local"),
    Definition(K::LoadBalancerSourceIp, "KUBE-LOAD-BALANCER-SOURCE-IP", "KUBE-6-LOAD-BALANCER-SOURCE-IP", IP_PORT_IP,
        "Kubernetes service load balancer ip + port + source IP for packet filter purpose"),
    Definition(K::LoadBalancerSourceCidr, "KUBE-LOAD-BALANCER-SOURCE-CIDR", "KUBE-6-LOAD-BALANCER-SOURCE-CID", &[Ip, Port, Net],
        "Kubernetes service load balancer ip + port + source cidr for packet filter purpose"),
    Definition(K::NodePortTcp, "KUBE-NODE-PORT-TCP", "KUBE-6-NODE-PORT-TCP", &[Port],
        "Kubernetes nodeport TCP port for masquerade purpose"),
    Definition(K::NodePortLocalTcp, "KUBE-NODE-PORT-LOCAL-TCP", "KUBE-6-NODE-PORT-LOCAL-TCP", &[Port],
        "Kubernetes nodeport TCP port with externalTrafficPolicy=local"),
    Definition(K::NodePortUdp, "KUBE-NODE-PORT-UDP", "KUBE-6-NODE-PORT-UDP", &[Port],
        "Kubernetes nodeport UDP port for masquerade purpose"),
    Definition(K::NodePortLocalUdp, "KUBE-NODE-PORT-LOCAL-UDP", "KUBE-6-NODE-PORT-LOCAL-UDP", &[Port],
        "Kubernetes nodeport UDP port with externalTrafficPolicy=local"),
    Definition(K::NodePortSctp, "KUBE-NODE-PORT-SCTP-HASH", "KUBE-6-NODE-PORT-SCTP-HASH", IP_PORT,
        "Kubernetes nodeport SCTP port for masquerade purpose with type 'hash ip:port'"),
    Definition(K::NodePortLocalSctp, "KUBE-NODE-PORT-LOCAL-SCTP-HASH", "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS", IP_PORT,
        "Kubernetes nodeport SCTP port with externalTrafficPolicy=local with type 'hash ip:port'"),
    Definition(K::HealthCheckNodePort, "KUBE-HEALTH-CHECK-NODE-PORT", "KUBE-6-HEALTH-CHECK-NODE-PORT", &[Port],
        "Kubernetes health check node port"),
    Definition(K::IpvsIps, "KUBE-IPVS-IPS", "KUBE-6-IPVS-IPS", &[Ip],
        "Addresses on the ipvs interface"),
];

impl SetKind {
    pub(super) fn all() -> impl Iterator<Item = SetKind> {
        DEFINITIONS.iter().map(|d| d.0)
    }

    pub(super) fn index(self) -> usize {
        self as usize
    }

    fn definition(self) -> &'static Definition {
        &DEFINITIONS[self.index()]
    }

    pub(super) fn name(self, family: IpFamily) -> &'static str {
        let Definition(_, v4, v6, ..) = self.definition();
        match family {
            IpFamily::V4 => v4,
            IpFamily::V6 => v6,
        }
    }

    pub(super) fn comment(self) -> &'static str {
        self.definition().4
    }

    /// Return the number of directions in a rule.
    pub(super) fn parts(self) -> &'static [PartKind] {
        self.definition().3
    }

    /// Return the rules about sets of this type.
    pub(super) fn needed(self) -> Needed {
        match self.parts() {
            [Ip] | [Ip, Port, Net] => Needed::Filter,
            _ => Needed::Always,
        }
    }

    pub(super) fn of_name(family: IpFamily, name: &str) -> Option<SetKind> {
        Self::all().find(|kind| kind.name(family) == name)
    }

    /// Return the set without elements, with this capacity.
    pub(super) fn create(self, family: IpFamily, name: &str, room: usize) -> Set {
        let option = |name: &str, value: &str| (name.into(), Some(value.into()));
        let parts = self.parts();
        if parts == [Port] {
            return Set {
                name: name.into(),
                method: Method::Bitmap,
                parts: parts.to_vec(),
                options: vec![option("range", "0-65535")],
                elements: Vec::new(),
            };
        }
        let word = match family {
            IpFamily::V4 => "inet",
            IpFamily::V6 => "inet6",
        };
        Set {
            name: name.into(),
            method: Method::Hash,
            parts: parts.to_vec(),
            options: vec![
                option("family", word),
                option("hashsize", "1024"),
                option("maxelem", &room.to_string()),
            ],
            elements: Vec::new(),
        }
    }
}

/// A type of sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetType {
    /// The type and its module.
    pub feature: Feature,
    /// The rules about sets of this type.
    pub needed: Needed,
    /// A set of this type.
    pub example: Set,
}

/// Return the types of all sets.
pub(super) fn types(family: IpFamily) -> Vec<SetType> {
    let mut types: Vec<SetType> = Vec::new();
    for kind in SetKind::all() {
        let feature = type_of(kind.parts());
        if !types.iter().any(|known| known.feature == feature) {
            types.push(SetType {
                feature,
                needed: kind.needed(),
                example: kind.create(family, kind.name(family), 1),
            });
        }
    }
    types
}

fn type_of(parts: &[PartKind]) -> Feature {
    match parts {
        [Port] => Feature::new(
            "ipset type bitmap:port",
            "ip_set_bitmap_port",
            "CONFIG_IP_SET_BITMAP_PORT",
        ),
        [Ip] => Feature::new(
            "ipset type hash:ip",
            "ip_set_hash_ip",
            "CONFIG_IP_SET_HASH_IP",
        ),
        [Ip, Port, Ip] => Feature::new(
            "ipset type hash:ip,port,ip",
            "ip_set_hash_ipportip",
            "CONFIG_IP_SET_HASH_IPPORTIP",
        ),
        [Ip, Port, Net] => Feature::new(
            "ipset type hash:ip,port,net",
            "ip_set_hash_ipportnet",
            "CONFIG_IP_SET_HASH_IPPORTNET",
        ),
        _ => Feature::new(
            "ipset type hash:ip,port",
            "ip_set_hash_ipport",
            "CONFIG_IP_SET_HASH_IPPORT",
        ),
    }
}

/// Return whether a set of this name belongs to this mode, in either family.
pub fn is_ours(name: &str) -> bool {
    name == SPARE || DEFINITIONS.iter().any(|d| d.1 == name || d.2 == name)
}

/// An element of one of the sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Member {
    Port(u16),
    Ip(IpAddr),
    IpPort(IpAddr, Protocol, u16),
    IpPortIp(IpAddr, Protocol, u16, IpAddr),
    IpPortNet(IpAddr, Protocol, u16, IpNet),
}

impl Member {
    pub(super) fn element(self) -> Element {
        let port = |protocol: Protocol, port| Part::Port {
            protocol: Some(PortProtocol(protocol.number())),
            first: port,
            last: port,
        };
        Element::new(match self {
            Member::Port(port) => vec![Part::Port {
                protocol: None,
                first: port,
                last: port,
            }],
            Member::Ip(ip) => vec![Part::Ip(ip)],
            Member::IpPort(ip, p, n) => vec![Part::Ip(ip), port(p, n)],
            Member::IpPortIp(ip, p, n, other) => vec![Part::Ip(ip), port(p, n), Part::Ip(other)],
            Member::IpPortNet(ip, p, n, net) => {
                // The kernel lists a range of one address as that address.
                let host = net.prefix_len() == net.max_prefix_len();
                let net = if host {
                    Part::Ip(net.addr())
                } else {
                    Part::Net(net.trunc())
                };
                vec![Part::Ip(ip), port(p, n), net]
            }
        })
    }

    /// Interpret an element; `None` for a form that this mode never writes (a port range, an
    /// exception).
    pub(super) fn of(element: &Element) -> Option<Self> {
        if element.nomatch {
            return None;
        }
        let port = |part: &Part| match part {
            Part::Port {
                protocol: Some(number),
                first,
                last,
            } if first == last => {
                let protocol = Protocol::ALL.into_iter().find(|p| p.number() == number.0)?;
                Some((protocol, *first))
            }
            _ => None,
        };
        Some(match element.parts.as_slice() {
            [Part::Ip(ip)] => Member::Ip(*ip),
            [Part::Port { first, last, .. }] if first == last => Member::Port(*first),
            [Part::Ip(ip), p] => port(p).map(|(p, n)| Member::IpPort(*ip, p, n))?,
            [Part::Ip(ip), p, Part::Net(net)] => {
                port(p).map(|(p, n)| Member::IpPortNet(*ip, p, n, *net))?
            }
            [Part::Ip(ip), p, Part::Ip(other)] => {
                port(p).map(|(p, n)| Member::IpPortIp(*ip, p, n, *other))?
            }
            _ => return None,
        })
    }

    /// Return the form in a set of this kind, in which a single address may be a range of one.
    pub(super) fn in_set(self, kind: SetKind) -> Self {
        match (kind, self) {
            (SetKind::LoadBalancerSourceCidr, Member::IpPortIp(ip, p, n, other)) => {
                Member::IpPortNet(ip, p, n, IpNet::from(other))
            }
            (_, member) => member,
        }
    }
}
