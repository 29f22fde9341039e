//! Sends a packet, for a flow without traffic.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kernel::netns::NetNs;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use trace::{Packet, Proto};

/// Limit on waiting for a connection; its first packet is sent at once.
const PATIENCE: Duration = Duration::from_millis(300);

/// Send a packet of this kind, from a named network namespace or from the current one.
pub(super) fn send(packet: &Packet, sport: Option<u16>, netns: Option<&str>) -> anyhow::Result<()> {
    let from = SocketAddr::new(packet.src, sport.unwrap_or(0));
    let to = SocketAddr::new(packet.dst, packet.dport);
    let proto = packet.proto;
    match netns {
        None => from_here(proto, from, to),
        Some(name) => NetNs::open(name)?.run(|| from_here(proto, from, to))?,
    }
    .with_context(|| format!("cannot send a packet from {}", packet.src))
}

fn from_here(proto: Proto, from: SocketAddr, to: SocketAddr) -> anyhow::Result<()> {
    let (kind, protocol) = match proto {
        Proto::TCP => (Type::STREAM, Protocol::TCP),
        Proto::UDP => (Type::DGRAM, Protocol::UDP),
        other => bail!("--send supports tcp and udp, not {other}: send a packet by other means"),
    };
    let socket = Socket::new(Domain::for_address(to), kind, Some(protocol))?;
    socket.bind(&SockAddr::from(from))?;
    if proto == Proto::UDP {
        socket.send_to(b"sluice", &to.into())?;
        return Ok(());
    }
    // The packet was sent, whether or not it is answered.
    let _ = socket.connect_timeout(&to.into(), PATIENCE);
    Ok(())
}
