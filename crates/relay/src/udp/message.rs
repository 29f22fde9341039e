//! Datagrams together with the local address that they were sent to.

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

/// The sender of a datagram, and the local address it was sent to if the socket is bound to all
/// addresses: clients ignore replies from another address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    local: Option<IpAddr>,
}

/// Request the destination address of each datagram from the kernel.
pub(super) fn request_addresses(socket: &Socket, v6: bool) -> io::Result<()> {
    if v6 {
        setsockopt(socket, Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(socket, Ipv4PacketInfo, &true)?;
    }
    Ok(())
}

/// Buffer for the control messages of a datagram.
pub(super) struct ControlBuffer(Vec<u8>);

impl ControlBuffer {
    pub(super) fn new() -> Self {
        Self(cmsg_space!(in6_pktinfo))
    }
}

/// Receive a datagram. Returns its sender and length.
///
/// # Errors
/// `WouldBlock` without a datagram, or the error of an earlier reply.
pub(super) fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
    control: &mut ControlBuffer,
) -> io::Result<(Client, usize)> {
    let fd = socket.as_raw_fd();
    socket.try_io(Interest::READABLE, || {
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::empty();
        let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control.0), flags)?;
        let address = message.address.as_ref().and_then(address);
        let address =
            address.ok_or_else(|| io::Error::other("datagram without a source address"))?;
        let local = message.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let octets = info.ipi_spec_dst.s_addr.to_ne_bytes();
                Some(Ipv4Addr::from(octets).into())
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into())
            }
            _ => None,
        });
        Ok((Client { address, local }, message.bytes))
    })
}

/// Send a reply to a client if the buffer has room.
pub(super) fn send(socket: &UdpSocket, client: Client, datagram: &[u8]) -> io::Result<()> {
    let Client { address, local } = client;
    let parts = [IoSlice::new(datagram)];
    let to = SockaddrStorage::from(address);
    let send = |control: &[ControlMessage<'_>]| {
        let flags = MsgFlags::empty();
        sendmsg(socket.as_raw_fd(), &parts, control, flags, Some(&to))
    };
    match local {
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
            // The client's address determines the interface.
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
