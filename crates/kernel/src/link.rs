//! Links, addresses, routes and neighbours over rtnetlink (rtnetlink(7)).
//!
//! What `ip link`, `ip address`, `ip route` and `ip neighbour` do, as far as sluice and its lab
//! need it. Synchronous: one request, then its answers.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netns::{NetNs, NetNsError};

pub mod routing;
mod socket;
#[cfg(test)]
mod tests;

use socket::Socket;

/// The longest interface name: `IFNAMSIZ` less its NUL (linux/if.h).
pub const MAX_NAME_LEN: usize = 15;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The kernel refused a request.
    #[error("{request}: {source}")]
    Refused {
        /// The request, as `ip` would spell it.
        request: String,
        /// The errno.
        source: io::Error,
    },
    /// The netlink socket failed.
    #[error("rtnetlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel's answer could not be read.
    #[error("rtnetlink answer to {request}: {reason}")]
    Garbled {
        /// The request, as `ip` would spell it.
        request: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The namespace could not be entered.
    #[error(transparent)]
    NetNs(#[from] NetNsError),
}

impl LinkError {
    /// The errno, where the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            LinkError::Refused { source, .. } | LinkError::Socket(source) => source.raw_os_error(),
            LinkError::Garbled { .. } | LinkError::NetNs(_) => None,
        }
    }
}

type Result<T> = std::result::Result<T, LinkError>;

/// A hardware (Ethernet) address.
pub type MacAddress = [u8; 6];

/// A link, as far as sluice cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Whether it is administratively up (`IFF_UP`).
    pub up: bool,
    /// The index of the bridge it is a port of.
    pub controller: Option<u32>,
    /// Its kind as `ip -d link` names it (`bridge`, `veth`, …); `None` for a device of hardware and
    /// for the loopback.
    pub kind: Option<String>,
}

/// One end of a veth pair to be made.
#[derive(Clone, Copy, Debug)]
pub struct VethEnd<'a> {
    /// Interface name, at most [`MAX_NAME_LEN`] bytes.
    pub name: &'a str,
    /// Its namespace; that of the socket where `None`.
    pub netns: Option<&'a NetNs>,
    /// Its hardware address; the kernel picks one where `None`.
    pub mac: Option<MacAddress>,
}

/// A route in the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destination; `0.0.0.0/0` or `::/0` for the default route.
    pub destination: IpNet,
    /// The next hop; `None` for a destination on the link.
    pub via: Option<IpAddr>,
    /// The interface; found from `via` where `None`.
    pub interface: Option<u32>,
    /// The next hop is on the link although no address of the link says so.
    pub onlink: bool,
    /// The source address that local sockets get by this route.
    pub source: Option<IpAddr>,
    /// Whether packets are answered with "host unreachable" instead of being sent on.
    pub unreachable: bool,
}

impl Route {
    /// A route by way of a next hop.
    pub fn via(destination: IpNet, next_hop: IpAddr) -> Self {
        Self {
            destination,
            via: Some(next_hop),
            interface: None,
            onlink: false,
            source: None,
            unreachable: false,
        }
    }

    /// A route that says that nobody is there.
    pub fn unreachable(destination: IpNet) -> Self {
        Self {
            destination,
            via: None,
            interface: None,
            onlink: false,
            source: None,
            unreachable: true,
        }
    }

    /// A route to what is on a link.
    pub fn on_link(destination: IpNet, interface: u32) -> Self {
        Self {
            destination,
            via: None,
            interface: Some(interface),
            onlink: false,
            source: None,
            unreachable: false,
        }
    }
}

/// An rtnetlink socket: it acts in the namespace that it was opened in, whichever thread uses it.
#[derive(Debug)]
pub struct RtNetlink {
    socket: Socket,
}

impl RtNetlink {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// No socket to be had.
    pub fn open() -> Result<Self> {
        Ok(Self {
            socket: Socket::open().map_err(LinkError::Socket)?,
        })
    }

    /// Opens a socket in a namespace.
    ///
    /// # Errors
    /// Not permitted to enter it, or no socket to be had.
    pub fn open_in(netns: &NetNs) -> Result<Self> {
        netns.run(Self::open)?
    }

    /// All links.
    ///
    /// # Errors
    /// As the socket fails.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let answers = self.socket.dump(
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
            "ip link show",
        )?;
        Ok(answers
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => link_of(link),
                _ => None,
            })
            .collect())
    }

    /// The link of a name, if there is one.
    ///
    /// # Errors
    /// As the socket fails.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// The index of the link of a name.
    ///
    /// # Errors
    /// `ENODEV` where there is none.
    pub fn index(&mut self, name: &str) -> Result<u32> {
        match self.link(name)? {
            Some(link) => Ok(link.index),
            None => Err(LinkError::Refused {
                request: format!("ip link show {name}"),
                source: nix::errno::Errno::ENODEV.into(),
            }),
        }
    }

    /// Makes a pair of veth links, down.
    ///
    /// # Errors
    /// A name is taken (`EEXIST`) or too long (`ERANGE`); not permitted.
    pub fn add_veth(&mut self, end: VethEnd<'_>, peer: VethEnd<'_>) -> Result<()> {
        let mut message = end_of(end);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end_of(peer)))),
        ]));
        self.socket.request(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
            || format!("ip link add {} type veth peer {}", end.name, peer.name),
        )
    }

    /// Makes a bridge, down.
    ///
    /// # Errors
    /// As [`RtNetlink::add_veth`].
    pub fn add_bridge(&mut self, name: &str) -> Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        self.socket.request(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
            || format!("ip link add {name} type bridge"),
        )
    }

    /// Sets a link up or down.
    ///
    /// # Errors
    /// There is no such link; not permitted.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.change_mask = LinkFlags::Up;
        message.header.flags = if up {
            LinkFlags::Up
        } else {
            LinkFlags::empty()
        };
        let word = if up { "up" } else { "down" };
        self.set(message, || format!("ip link set {index} {word}"))
    }

    /// Makes a link a port of a bridge.
    ///
    /// # Errors
    /// There is no such link or bridge; not permitted.
    pub fn set_controller(&mut self, index: u32, bridge: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![LinkAttribute::Controller(bridge)];
        self.set(message, || format!("ip link set {index} master {bridge}"))
    }

    /// Deletes a link; the other end of a veth pair goes with it.
    ///
    /// # Errors
    /// There is no such link; not permitted.
    pub fn delete_link(&mut self, index: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.socket
            .request(RouteNetlinkMessage::DelLink(message), 0, || {
                format!("ip link delete {index}")
            })
    }

    /// Adds an address to a link. IPv6 addresses are usable at once: no duplicate address
    /// detection (`IFA_F_NODAD`).
    ///
    /// # Errors
    /// It has the address already (`EEXIST`); there is no such link; not permitted.
    pub fn add_address(&mut self, index: u32, address: IpNet) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family_of(address.addr());
        message.header.prefix_len = address.prefix_len();
        message.header.index = index;
        message.header.scope = AddressScope::Universe;
        // For IPv4 the kernel wants IFA_LOCAL; for both families IFA_ADDRESS is then the same.
        message.attributes = vec![
            AddressAttribute::Local(address.addr()),
            AddressAttribute::Address(address.addr()),
        ];
        if address.addr().is_ipv6() {
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.socket.request(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_EXCL,
            || format!("ip address add {address} dev {index}"),
        )
    }

    /// The addresses of all links: link index and address with its prefix length.
    ///
    /// # Errors
    /// As the socket fails.
    pub fn addresses(&mut self) -> Result<Vec<(u32, IpNet)>> {
        let answers = self.socket.dump(
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            "ip address show",
        )?;
        Ok(answers
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(address) => address_of(&address),
                _ => None,
            })
            .collect())
    }

    /// Adds a route, or replaces the one to the same destination.
    ///
    /// # Errors
    /// The next hop cannot be reached (`ENETUNREACH`, `EHOSTUNREACH`); not permitted.
    pub fn replace_route(&mut self, route: Route) -> Result<()> {
        self.socket.request(
            RouteNetlinkMessage::NewRoute(message_of(route)),
            NLM_F_CREATE | NLM_F_REPLACE,
            || format!("ip route replace {}", spelled(route)),
        )
    }

    /// Adds a permanent neighbour entry, or replaces what is there.
    ///
    /// # Errors
    /// There is no such link; not permitted.
    pub fn replace_neighbour(&mut self, index: u32, ip: IpAddr, mac: MacAddress) -> Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family_of(ip);
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(match ip {
                IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
                IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
            }),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        self.socket.request(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            || format!("ip neighbour replace {ip} dev {index}"),
        )
    }

    fn set(&mut self, message: LinkMessage, request: impl Fn() -> String) -> Result<()> {
        self.socket
            .request(RouteNetlinkMessage::SetLink(message), 0, request)
    }
}

fn link_of(message: LinkMessage) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        controller: None,
        kind: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Controller(index) => link.controller = Some(index),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

/// A link's own address: `IFA_LOCAL` where there is one (IPv4), else `IFA_ADDRESS`.
fn address_of(message: &AddressMessage) -> Option<(u32, IpNet)> {
    let attributes = &message.attributes;
    let local = attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let address = attributes.iter().find_map(|a| match a {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
    Some((message.header.index, net))
}

fn end_of(end: VethEnd<'_>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(end.name.to_owned())];
    if let Some(netns) = end.netns {
        message
            .attributes
            .push(LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()));
    }
    if let Some(mac) = end.mac {
        message
            .attributes
            .push(LinkAttribute::Address(mac.to_vec()));
    }
    message
}

fn message_of(route: Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(route.destination.addr());
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = if route.unreachable {
        RouteType::Unreachable
    } else {
        RouteType::Unicast
    };
    message.header.scope =
        if !route.unreachable && route.via.is_none() && route.destination.addr().is_ipv4() {
            RouteScope::Link
        } else {
            RouteScope::Universe
        };
    if route.onlink {
        message.header.flags = RouteFlags::Onlink;
    }
    let attributes = &mut message.attributes;
    if route.destination.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(route.destination.addr().into()));
    }
    attributes.extend(route.via.map(|ip| RouteAttribute::Gateway(ip.into())));
    attributes.extend(route.interface.map(RouteAttribute::Oif));
    attributes.extend(route.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
    message
}

fn spelled(route: Route) -> String {
    let kind = if route.unreachable {
        "unreachable "
    } else {
        ""
    };
    let mut text = format!("{kind}{}", route.destination);
    if let Some(via) = route.via {
        text += &format!(" via {via}");
    }
    if let Some(interface) = route.interface {
        text += &format!(" dev {interface}");
    }
    text
}

fn family_of(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
