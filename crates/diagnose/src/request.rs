//! The packet that a question is about.

use std::convert::Infallible;
use std::net::IpAddr;
use std::str::FromStr;

use anyhow::bail;
use trace::{Origin, Packet, Proto, World};

/// Where a packet starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// A pod on this node.
    Pod,
    /// A process on this node.
    Node,
    /// A host outside this node.
    Outside,
    /// Behind this interface.
    Interface(String),
}

impl FromStr for Start {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "pod" => Start::Pod,
            "node" => Start::Node,
            "outside" => Start::Outside,
            name => Start::Interface(name.to_owned()),
        })
    }
}

/// Return the first packet of a connection between two addresses. Without `from`, its start is guessed
/// from the source address.
///
/// # Errors
/// The protocol has ports and none is given, or the interface does not exist.
pub fn packet_between(
    (src, dst): (IpAddr, IpAddr),
    (proto, dport): (Proto, Option<u16>),
    from: Option<&Start>,
    world: &World,
) -> anyhow::Result<Packet> {
    let proto = match proto {
        Proto::ICMP if dst.is_ipv6() => Proto::ICMPV6,
        proto => proto,
    };
    if proto.has_ports() && dport.is_none() {
        bail!("--dport is required: {proto} has ports");
    }
    let guessed = world.host.guess_origin(src);
    let (from, in_iface) = match from {
        None => (guessed, None),
        Some(Start::Pod) => (Origin::Pod, None),
        Some(Start::Node) => (Origin::Node, None),
        Some(Start::Outside) => (Origin::Outside, None),
        Some(Start::Interface(name)) => {
            known_interface(world, name)?;
            // No rule depends on whether this is a pod; it names the start in the output.
            let from = match guessed {
                Origin::Pod => Origin::Pod,
                _ => Origin::Outside,
            };
            (from, Some(name.clone()))
        }
    };
    let mut packet = Packet::new(from, src, dst, proto, dport.unwrap_or_default());
    packet.in_iface = in_iface;
    Ok(packet)
}

/// Refuse an interface that the host lacks, if its interfaces are known.
fn known_interface(world: &World, name: &str) -> anyhow::Result<()> {
    let all: Vec<&str> = world.host.interface_names().collect();
    if all.is_empty() || all.contains(&name) {
        return Ok(());
    }
    bail!(
        "--from {name}: neither pod, node, outside nor one of the interfaces: {}",
        all.join(", ")
    )
}
