//! Datagrams with the address of this host that they were sent to.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd as _;

use nix::cmsg_space;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
};
use socket2::Socket;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Who sent a datagram, and to which address where the socket has all of this host's: answers must
/// come from there, or the client takes them for somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    asked: Option<IpAddr>,
}

/// Has the kernel say which address datagrams were sent to.
pub(super) fn tell_addresses(socket: &Socket, v6: bool) -> io::Result<()> {
    if v6 {
        setsockopt(socket, Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(socket, Ipv4PacketInfo, &true)?;
    }
    Ok(())
}

/// Room for what the kernel says beside a datagram.
pub(super) struct Beside(Vec<u8>);

impl Beside {
    pub(super) fn new() -> Self {
        Self(cmsg_space!(in6_pktinfo))
    }
}

/// Receives a datagram, if there is one; returns its length.
pub(super) fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
    beside: &mut Beside,
) -> io::Result<(Client, usize)> {
    let fd = socket.as_raw_fd();
    socket.try_io(Interest::READABLE, || {
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::empty();
        let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut beside.0), flags)?;
        let address = message.address.as_ref().and_then(address);
        let address = address.ok_or_else(|| io::Error::other("from nobody"))?;
        let asked = message.cmsgs()?.find_map(|said| match said {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let octets = info.ipi_spec_dst.s_addr.to_ne_bytes();
                Some(Ipv4Addr::from(octets).into())
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into())
            }
            _ => None,
        });
        Ok((Client { address, asked }, message.bytes))
    })
}

/// Sends a client an answer, if there is room.
pub(super) fn send(socket: &UdpSocket, client: Client, datagram: &[u8]) -> io::Result<()> {
    let Client { address, asked } = client;
    let parts = [IoSlice::new(datagram)];
    let to = SockaddrStorage::from(address);
    let send = |beside: &[ControlMessage<'_>]| {
        let flags = MsgFlags::empty();
        sendmsg(socket.as_raw_fd(), &parts, beside, flags, Some(&to))
    };
    match asked {
        None => send(&[]),
        Some(IpAddr::V4(ip)) => send(&[ControlMessage::Ipv4PacketInfo(&in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: in_addr {
                s_addr: u32::from_ne_bytes(ip.octets()),
            },
            ipi_addr: in_addr { s_addr: 0 },
        })]),
        Some(IpAddr::V6(ip)) => send(&[ControlMessage::Ipv6PacketInfo(&in6_pktinfo {
            ipi6_addr: in6_addr {
                s6_addr: ip.octets(),
            },
            // Where the address alone does not say it, the client's does.
            ipi6_ifindex: 0,
        })]),
    }?;
    Ok(())
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().copied();
    let v6 = storage.as_sockaddr_in6().copied();
    let v4 = v4.map(|v4| SocketAddr::V4(SocketAddrV4::from(v4)));
    v4.or_else(|| v6.map(|v6| SocketAddr::V6(SocketAddrV6::from(v6))))
}
