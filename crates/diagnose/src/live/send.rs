//! A packet of one's own, for a flow that nobody uses just now.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kernel::netns::NetNs;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use trace::{Packet, Proto};

/// For how long a connection is waited for; the packet that matters is sent at once.
const PATIENCE: Duration = Duration::from_millis(300);

/// Sends a packet of this kind, from a named network namespace or from here.
pub(super) fn send(packet: &Packet, sport: Option<u16>, netns: Option<&str>) -> anyhow::Result<()> {
    let from = SocketAddr::new(packet.src, sport.unwrap_or(0));
    let to = SocketAddr::new(packet.dst, packet.dport);
    let proto = packet.proto;
    match netns {
        None => from_here(proto, from, to),
        Some(name) => NetNs::open(name)?.run(|| from_here(proto, from, to))?,
    }
    .with_context(|| format!("sending a packet from {}", packet.src))
}

fn from_here(proto: Proto, from: SocketAddr, to: SocketAddr) -> anyhow::Result<()> {
    let (kind, protocol) = match proto {
        Proto::TCP => (Type::STREAM, Protocol::TCP),
        Proto::UDP => (Type::DGRAM, Protocol::UDP),
        other => bail!("--send knows tcp and udp, not {other}: send one by other means"),
    };
    let socket = Socket::new(Domain::for_address(to), kind, Some(protocol))?;
    socket.bind(&SockAddr::from(from))?;
    if proto == Proto::UDP {
        socket.send_to(b"sluice", &to.into())?;
        return Ok(());
    }
    // Refused, or nobody answers: the packet is on its way all the same.
    let _ = socket.connect_timeout(&to.into(), PATIENCE);
    Ok(())
}
