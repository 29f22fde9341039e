//! Links, addresses, routes and neighbours over rtnetlink (rtnetlink(7)).
//!
//! The part of `ip link`, `ip address`, `ip route` and `ip neighbour` that sluice and its lab need.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use ipnet::IpNet;
use netfilter::netlink::{
    Builder, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, Writer,
};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::SockProtocol;

use crate::netlink::{self, Refusal, Socket};
use crate::netns::{NetNs, NetNsError};
use crate::rtnetlink::{
    self, AF_INET6, IFA_ADDRESS, IFA_FLAGS, IFA_LOCAL, IFF_UP, IFINFOMSG, IFLA_ADDRESS,
    IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MASTER, IFLA_NET_NS_FD,
    RT_SCOPE_LINK, RTA_DST, RTA_GATEWAY, RTA_OIF, RTA_PREFSRC, RTM_DELLINK, RTM_NEWADDR,
    RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWROUTE, RTM_SETLINK, VETH_INFO_PEER, octets,
};

pub mod routing;
#[cfg(test)]
mod tests;

pub use crate::rtnetlink::{InterfaceAddress, Link, Scope};

const IFA_F_NODAD: u32 = 0x02;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const RTPROT_STATIC: u8 = 4;
const RTNH_F_ONLINK: u32 = 4;

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The kernel refused a request.
    #[error("{request}: {refusal}")]
    Refused {
        /// The request, as `ip` spells it.
        request: String,
        /// The kernel's reason.
        refusal: Refusal,
    },
    /// The exchange with the kernel failed.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The namespace could not be entered.
    #[error(transparent)]
    NetNs(#[from] NetNsError),
}

impl LinkError {
    /// Return the errno, if the kernel returned one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            LinkError::Refused { refusal, .. } => Some(refusal.errno),
            LinkError::Netlink(error) => error.errno(),
            LinkError::NetNs(_) => None,
        }
    }
}

type Result<T> = std::result::Result<T, LinkError>;

/// A hardware (Ethernet) address.
pub type MacAddress = [u8; 6];

/// One end of a new veth pair.
#[derive(Clone, Copy, Debug)]
pub struct VethEnd<'a> {
    /// Interface name, at most 15 bytes (`IFNAMSIZ`).
    pub name: &'a str,
    /// Its namespace; by default that of the socket.
    pub netns: Option<&'a NetNs>,
    /// Its hardware address; by default the kernel chooses one.
    pub mac: Option<MacAddress>,
}

impl VethEnd<'_> {
    fn write(&self, w: &mut Writer<'_>) {
        w.fixed(&[0; IFINFOMSG]);
        w.string(IFLA_IFNAME, self.name);
        if let Some(netns) = self.netns {
            let fd = netns.as_fd().as_raw_fd();
            w.bytes(IFLA_NET_NS_FD, &fd.to_ne_bytes());
        }
        if let Some(mac) = self.mac {
            w.bytes(IFLA_ADDRESS, &mac);
        }
    }
}

/// A route in the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destination; `0.0.0.0/0` or `::/0` for the default route.
    pub destination: IpNet,
    /// The next hop; `None` for a destination on the link.
    pub via: Option<IpAddr>,
    /// The interface; by default the one that leads to `via`.
    pub interface: Option<u32>,
    /// The next hop is on the link although it is in no network of the link's addresses.
    pub onlink: bool,
    /// The source address of local sockets that use this route.
    pub source: Option<IpAddr>,
    /// What happens to packets.
    pub kind: RouteKind,
}

/// The kind of a route (`RTN_*`, `linux/rtnetlink.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Packets are forwarded.
    Unicast,
    /// Packets are answered with "host unreachable".
    Unreachable,
    /// Packets are dropped without an answer.
    Blackhole,
}

impl RouteKind {
    fn number(self) -> u8 {
        match self {
            RouteKind::Unicast => libc::RTN_UNICAST,
            RouteKind::Unreachable => libc::RTN_UNREACHABLE,
            RouteKind::Blackhole => libc::RTN_BLACKHOLE,
        }
    }

    /// The keyword of `ip route`, with a space.
    fn spelled(self) -> &'static str {
        match self {
            RouteKind::Unicast => "",
            RouteKind::Unreachable => "unreachable ",
            RouteKind::Blackhole => "blackhole ",
        }
    }
}

impl Route {
    fn to(destination: IpNet) -> Self {
        Self {
            destination,
            via: None,
            interface: None,
            onlink: false,
            source: None,
            kind: RouteKind::Unicast,
        }
    }

    /// Return a route through a next hop.
    pub fn via(destination: IpNet, next_hop: IpAddr) -> Self {
        Self {
            via: Some(next_hop),
            ..Self::to(destination)
        }
    }

    /// Return a route that answers packets with "host unreachable".
    pub fn unreachable(destination: IpNet) -> Self {
        Self {
            kind: RouteKind::Unreachable,
            ..Self::to(destination)
        }
    }

    /// A route that drops packets without an answer.
    pub fn blackhole(destination: IpNet) -> Self {
        Self {
            kind: RouteKind::Blackhole,
            ..Self::to(destination)
        }
    }

    /// Return a route to a network on a link.
    pub fn on_link(destination: IpNet, interface: u32) -> Self {
        Self {
            interface: Some(interface),
            ..Self::to(destination)
        }
    }

    fn write(&self, message: Builder) -> Builder {
        let (family, address) = octets(self.destination.addr());
        let forwards = self.kind == RouteKind::Unicast;
        let on_link = forwards && self.via.is_none() && family != AF_INET6;
        let mut head = vec![
            family,
            self.destination.prefix_len(),
            0,
            0,
            libc::RT_TABLE_MAIN,
            RTPROT_STATIC,
            if on_link { RT_SCOPE_LINK } else { 0 },
            self.kind.number(),
        ];
        let flags = if self.onlink { RTNH_F_ONLINK } else { 0 };
        head.extend_from_slice(&flags.to_ne_bytes());
        let mut message = message.fixed(&head);
        if self.destination.prefix_len() > 0 {
            message = message.bytes(RTA_DST, &address);
        }
        if let Some(via) = self.via {
            message = message.bytes(RTA_GATEWAY, &octets(via).1);
        }
        if let Some(interface) = self.interface {
            message = message.bytes(RTA_OIF, &interface.to_ne_bytes());
        }
        if let Some(source) = self.source {
            message = message.bytes(RTA_PREFSRC, &octets(source).1);
        }
        message
    }

    /// Return the route as `ip` spells it.
    fn spelled(&self) -> String {
        let mut text = format!("{}{}", self.kind.spelled(), self.destination);
        if let Some(via) = self.via {
            text += &format!(" via {via}");
        }
        if let Some(interface) = self.interface {
            text += &format!(" dev {interface}");
        }
        text
    }
}

/// An rtnetlink socket: it acts in the namespace in which it was opened, whichever thread uses it.
#[derive(Debug)]
pub struct RtNetlink {
    socket: Socket,
}

impl RtNetlink {
    /// Open a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// [`LinkError::Netlink`].
    pub fn open() -> Result<Self> {
        let socket = Socket::open(SockProtocol::NetlinkRoute)?;
        Ok(Self { socket })
    }

    /// Open a socket in a namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered, or [`LinkError::Netlink`].
    pub fn open_in(netns: &NetNs) -> Result<Self> {
        netns.run(Self::open)?
    }

    /// List all links.
    ///
    /// # Errors
    /// [`LinkError::Netlink`].
    pub fn links(&mut self) -> Result<Vec<Link>> {
        Ok(rtnetlink::links(&mut self.socket)?)
    }

    /// Return the link of a name, if it exists.
    ///
    /// # Errors
    /// [`LinkError::Netlink`].
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// Return the index of the link of a name.
    ///
    /// # Errors
    /// `ENODEV` if it does not exist.
    pub fn index(&mut self, name: &str) -> Result<u32> {
        rtnetlink::link_index(&mut self.socket, name)?.ok_or_else(|| LinkError::Refused {
            request: format!("ip link show {name}"),
            refusal: Refusal::of(Errno::ENODEV),
        })
    }

    /// Add a veth pair. Both ends are down.
    ///
    /// # Errors
    /// A name is taken (`EEXIST`) or too long (`ERANGE`); not permitted.
    pub fn add_veth(&mut self, end: VethEnd<'_>, peer: VethEnd<'_>) -> Result<()> {
        let message = creating(RTM_NEWLINK, NLM_F_EXCL).attributes(|w| {
            end.write(w);
            w.nest(IFLA_LINKINFO, |w| {
                w.string(IFLA_INFO_KIND, "veth");
                w.nest(IFLA_INFO_DATA, |w| {
                    w.nest(VETH_INFO_PEER, |w| peer.write(w))
                });
            });
        });
        self.request(message, || {
            format!("ip link add {} type veth peer {}", end.name, peer.name)
        })
    }

    /// Add a bridge. It is down.
    ///
    /// # Errors
    /// As [`RtNetlink::add_veth`].
    pub fn add_bridge(&mut self, name: &str) -> Result<()> {
        let message = creating(RTM_NEWLINK, NLM_F_EXCL)
            .fixed(&[0; IFINFOMSG])
            .string(IFLA_IFNAME, name)
            .attributes(|w| w.nest(IFLA_LINKINFO, |w| w.string(IFLA_INFO_KIND, "bridge")));
        self.request(message, || format!("ip link add {name} type bridge"))
    }

    /// Set a link up or down.
    ///
    /// # Errors
    /// The link does not exist; not permitted.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<()> {
        let flags = if up { IFF_UP } else { 0 };
        let message = changing(RTM_SETLINK).fixed(&ifinfomsg(index, flags, IFF_UP));
        let word = if up { "up" } else { "down" };
        self.request(message, || format!("ip link set {index} {word}"))
    }

    /// Make a link a port of a bridge.
    ///
    /// # Errors
    /// The link or the bridge does not exist; not permitted.
    pub fn set_controller(&mut self, index: u32, bridge: u32) -> Result<()> {
        let message = changing(RTM_SETLINK)
            .fixed(&ifinfomsg(index, 0, 0))
            .bytes(IFLA_MASTER, &bridge.to_ne_bytes());
        self.request(message, || format!("ip link set {index} master {bridge}"))
    }

    /// Delete a link, and with it the other end of a veth pair.
    ///
    /// # Errors
    /// The link does not exist; not permitted.
    pub fn delete_link(&mut self, index: u32) -> Result<()> {
        let message = changing(RTM_DELLINK).fixed(&ifinfomsg(index, 0, 0));
        self.request(message, || format!("ip link delete {index}"))
    }

    /// Add an address to a link. IPv6 addresses are usable at once: duplicate address detection is
    /// left out (`IFA_F_NODAD`).
    ///
    /// # Errors
    /// The link has the address already (`EEXIST`) or does not exist; not permitted.
    pub fn add_address(&mut self, index: u32, address: IpNet) -> Result<()> {
        let (family, octets) = octets(address.addr());
        let mut head = vec![family, address.prefix_len(), 0, 0];
        head.extend_from_slice(&index.to_ne_bytes());
        let mut message = creating(RTM_NEWADDR, NLM_F_EXCL)
            .fixed(&head)
            .bytes(IFA_LOCAL, &octets)
            .bytes(IFA_ADDRESS, &octets);
        if family == AF_INET6 {
            message = message.bytes(IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes());
        }
        self.request(message, || format!("ip address add {address} dev {index}"))
    }

    /// List the addresses of all links.
    ///
    /// # Errors
    /// [`LinkError::Netlink`].
    pub fn addresses(&mut self) -> Result<Vec<InterfaceAddress>> {
        Ok(rtnetlink::addresses(&mut self.socket)?)
    }

    /// Add a route, or replace the one to the same destination.
    ///
    /// # Errors
    /// The next hop cannot be reached (`ENETUNREACH`, `EHOSTUNREACH`); not permitted.
    pub fn replace_route(&mut self, route: Route) -> Result<()> {
        let message = route.write(creating(RTM_NEWROUTE, NLM_F_REPLACE));
        self.request(message, || format!("ip route replace {}", route.spelled()))
    }

    /// Add a permanent neighbour entry, or replace the existing one.
    ///
    /// # Errors
    /// The link does not exist; not permitted.
    pub fn replace_neighbour(&mut self, index: u32, ip: IpAddr, mac: MacAddress) -> Result<()> {
        let (family, octets) = octets(ip);
        // `struct ndmsg`.
        let mut head = vec![family, 0, 0, 0];
        head.extend_from_slice(&index.to_ne_bytes());
        head.extend_from_slice(&NUD_PERMANENT.to_ne_bytes());
        head.extend_from_slice(&[0, 0]);
        let message = creating(RTM_NEWNEIGH, NLM_F_REPLACE)
            .fixed(&head)
            .bytes(NDA_DST, &octets)
            .bytes(NDA_LLADDR, &mac);
        self.request(message, || format!("ip neighbour replace {ip} dev {index}"))
    }

    fn request(&mut self, message: Builder, spelled: impl Fn() -> String) -> Result<()> {
        let result = self
            .socket
            .exchange("rtnetlink request", message.finish(), |_| Ok(()));
        result.map_err(|error| match error {
            netlink::Error::Refused { refusal, .. } => LinkError::Refused {
                request: spelled(),
                refusal,
            },
            other => other.into(),
        })
    }
}

fn changing(kind: u16) -> Builder {
    Builder::new(kind, NLM_F_REQUEST | NLM_F_ACK)
}

fn creating(kind: u16, flag: u16) -> Builder {
    Builder::new(kind, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | flag)
}

fn ifinfomsg(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut head = vec![0; 4];
    for word in [index, flags, change] {
        head.extend_from_slice(&word.to_ne_bytes());
    }
    head
}
