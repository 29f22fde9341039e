//! Warnings about objects that remain usable.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use model::{Cidr, IpFamily, Key, NamespacedName, Protocol, ServicePortName};

/// A part of an object that the plan ignores, or that clashes with another object. Reported once per
/// version of the object; a clash that is planned nevertheless is reported once while it lasts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// The object.
    pub object: Key,
    /// Path of the field: `spec.externalIPs[1]`.
    pub field: String,
    /// The reason and the consequence.
    pub reason: Reason,
}

/// Reason of a warning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// An address of a family in which the Service has no cluster IP.
    NoClusterIp(IpAddr),
    /// `loadBalancerSourceRanges` lacks ranges of a family with load-balancer addresses: that
    /// family is unrestricted.
    NoSourceRange(IpFamily),
    /// A range of length 0 among others: it admits every client, so the others have no effect.
    EveryClientAllowed(Cidr),
    /// The external policy of a LoadBalancer is Local without a health check port: the load
    /// balancer cannot find the endpoints.
    NoHealthCheckPort,
    /// Two ports with one name and protocol; the first counts.
    DuplicatePort(ServicePortName, Protocol),
    /// Another Service port owns the address and port.
    Taken {
        /// The address; `None` for a NodePort.
        ip: Option<IpAddr>,
        /// The port.
        port: NonZeroU16,
        /// The protocol.
        protocol: Protocol,
        /// The owner.
        by: ServicePortName,
    },
    /// An address that is also a Node's.
    NodeAddress {
        /// The address.
        ip: IpAddr,
        /// The Node.
        node: Arc<str>,
    },
    /// A health check node port that is also a NodePort.
    HealthCheckNodePort {
        /// The port.
        port: NonZeroU16,
        /// The Service port with the NodePort.
        of: ServicePortName,
    },
    /// A health check node port that another Service has too.
    SharedHealthCheckNodePort {
        /// The port.
        port: NonZeroU16,
        /// The first of the other Services by name.
        of: NamespacedName,
    },
    /// A slice port without a number ("all ports"), which no Service port can use.
    NoPortNumber,
    /// An endpoint address of the other family than the slice's `addressType`.
    WrongFamily(IpAddr),
}

/// `Service demo/web: spec.externalIPs[1]: ...`.
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.field, self.reason)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NoClusterIp(ip) => {
                let family = IpFamily::of(*ip);
                write!(
                    f,
                    "{ip} is ignored: the Service has no {family} cluster IP; give it one with \
                     ipFamilyPolicy, or remove the address"
                )
            }
            Reason::NoSourceRange(family) => write!(
                f,
                "no {family} range is given, so {family} clients are not restricted; add a \
                 {family} range to restrict them"
            ),
            Reason::EveryClientAllowed(range) => write!(
                f,
                "{range} allows every client, so the other ranges of its family have no effect"
            ),
            Reason::NoHealthCheckPort => f.write_str(
                "externalTrafficPolicy is Local but there is no health check port, so the load \
                 balancer cannot tell which nodes have endpoints",
            ),
            Reason::DuplicatePort(name, protocol) => {
                write!(
                    f,
                    "{name}/{protocol} is a duplicate; only the first one is used"
                )
            }
            Reason::Taken {
                ip: Some(ip),
                port,
                protocol,
                by,
            } => write!(
                f,
                "{ip} port {port}/{protocol} is ignored: {by} already uses it"
            ),
            Reason::Taken {
                ip: None,
                port,
                protocol,
                by,
            } => write!(
                f,
                "NodePort {port}/{protocol} is ignored: {by} already uses it"
            ),
            Reason::NodeAddress { ip, node } => write!(
                f,
                "{ip} is an address of Node {node}: connections to the Service's ports on it reach \
                 the Service instead of the node, and in ipvs mode other nodes cannot reach the \
                 node at this address at all; use an address that no node has, or a NodePort"
            ),
            Reason::HealthCheckNodePort { port, of } => write!(
                f,
                "{port} is also the NodePort of {of}: health checks of load balancers reach that \
                 Service instead of the proxy; give one of the two another port"
            ),
            Reason::SharedHealthCheckNodePort { port, of } => write!(
                f,
                "{port} is also the healthCheckNodePort of {of}: the proxy answers health checks for \
                 only one of the two; give one of them another port"
            ),
            Reason::NoPortNumber => f.write_str("a port without a number is ignored"),
            Reason::WrongFamily(ip) => write!(
                f,
                "{ip} is ignored: it does not have the slice's addressType"
            ),
        }
    }
}
