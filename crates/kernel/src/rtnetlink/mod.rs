//! Constants of rtnetlink (linux/rtnetlink.h, if_link.h, if_addr.h, neighbour.h, fib_rules.h), and
//! readers for links and addresses.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netfilter::netlink::{
    Attribute, Builder, DecodeError, Message, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST,
};
use nix::errno::Errno;
use nix::libc;

use crate::netlink::{Error, Socket};

pub(crate) const RTM_NEWLINK: u16 = libc::RTM_NEWLINK;
pub(crate) const RTM_DELLINK: u16 = libc::RTM_DELLINK;
pub(crate) const RTM_GETLINK: u16 = libc::RTM_GETLINK;
pub(crate) const RTM_SETLINK: u16 = libc::RTM_SETLINK;
pub(crate) const RTM_NEWADDR: u16 = libc::RTM_NEWADDR;
pub(crate) const RTM_DELADDR: u16 = libc::RTM_DELADDR;
pub(crate) const RTM_GETADDR: u16 = libc::RTM_GETADDR;
pub(crate) const RTM_NEWROUTE: u16 = libc::RTM_NEWROUTE;
pub(crate) const RTM_GETROUTE: u16 = libc::RTM_GETROUTE;
pub(crate) const RTM_NEWNEIGH: u16 = libc::RTM_NEWNEIGH;
pub(crate) const RTM_GETRULE: u16 = libc::RTM_GETRULE;

/// The size of `struct ifinfomsg`.
pub(crate) const IFINFOMSG: usize = 16;
/// The size of `struct ifaddrmsg`.
pub(crate) const IFADDRMSG: usize = 8;
/// The size of `struct rtmsg`.
pub(crate) const RTMSG: usize = 12;
/// The size of `struct fib_rule_hdr`.
pub(crate) const FIB_RULE_HDR: usize = 12;

pub(crate) const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
pub(crate) const IFLA_MASTER: u16 = 10;
pub(crate) const IFLA_LINKINFO: u16 = 18;
pub(crate) const IFLA_INFO_KIND: u16 = 1;
pub(crate) const IFLA_INFO_DATA: u16 = 2;
pub(crate) const IFLA_NET_NS_FD: u16 = 28;
pub(crate) const VETH_INFO_PEER: u16 = 1;

pub(crate) const IFA_ADDRESS: u16 = 1;
pub(crate) const IFA_LOCAL: u16 = 2;
pub(crate) const IFA_CACHEINFO: u16 = 6;
pub(crate) const IFA_FLAGS: u16 = 8;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_TENTATIVE: u32 = 0x40;

pub(crate) const RTA_DST: u16 = 1;
pub(crate) const RTA_OIF: u16 = 4;
pub(crate) const RTA_GATEWAY: u16 = 5;
pub(crate) const RTA_PRIORITY: u16 = 6;
pub(crate) const RTA_PREFSRC: u16 = 7;
pub(crate) const RTA_MULTIPATH: u16 = 9;
pub(crate) const RTA_TABLE: u16 = 15;
pub(crate) const RTA_VIA: u16 = 18;

pub(crate) const RT_SCOPE_LINK: u8 = libc::RT_SCOPE_LINK;
const RT_SCOPE_HOST: u8 = libc::RT_SCOPE_HOST;
pub(crate) const IFF_UP: u32 = libc::IFF_UP as u32;
pub(crate) const AF_INET: u8 = libc::AF_INET as u8;
pub(crate) const AF_INET6: u8 = libc::AF_INET6 as u8;

/// How many times an interrupted dump is repeated.
const ATTEMPTS: u32 = 10;

/// The scope of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Global.
    Global,
    /// On one link: `fe80::/10`, and usually `169.254.0.0/16`.
    Link,
    /// Inside this host: `127.0.0.1` and `::1`.
    Host,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface's name.
    pub interface: String,
    /// The interface's index.
    pub index: u32,
    /// Whether the interface is up.
    pub up: bool,
    /// The address, with the prefix length of its network.
    pub address: IpNet,
    /// The scope.
    pub scope: Scope,
    /// Whether it cannot be used (yet): duplicate address detection is running or has failed.
    pub tentative: bool,
}

/// A link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Whether it is administratively up (`IFF_UP`).
    pub up: bool,
    /// The index of the bridge (or bond, or VRF) that it is a port of.
    pub controller: Option<u32>,
    /// Its kind as `ip -d link` prints it (`bridge`, `veth`, …); `None` for hardware and for the
    /// loopback interface.
    pub kind: Option<String>,
}

impl Link {
    /// Read an `RTM_NEWLINK` message.
    pub(crate) fn read(message: &Message<'_>) -> Result<Self, DecodeError> {
        let head = message.payload.first_chunk::<IFINFOMSG>();
        let head = head.ok_or(DecodeError::Malformed("a link without its header"))?;
        let &[_, _, _, _, a, b, c, d, e, f, g, h, ..] = head;
        let (mut name, mut controller, mut kind) = (None, None, None);
        for attribute in message.attributes(IFINFOMSG, "IFLA") {
            let attribute = attribute?;
            match attribute.kind {
                IFLA_IFNAME => name = Some(attribute.string_lossy()),
                IFLA_MASTER => controller = Some(attribute.ne32()?),
                IFLA_LINKINFO => {
                    for info in attribute.nested("IFLA_INFO") {
                        let info = info?;
                        if info.kind == IFLA_INFO_KIND {
                            kind = Some(info.string_lossy());
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(Link {
            index: u32::from_ne_bytes([a, b, c, d]),
            name: name.ok_or(DecodeError::Malformed("a link without a name"))?,
            up: u32::from_ne_bytes([e, f, g, h]) & IFF_UP != 0,
            controller,
            kind,
        })
    }
}

impl InterfaceAddress {
    /// Read an `RTM_NEWADDR` message, which contains only the interface's index. `None` for a family
    /// other than IPv4 and IPv6.
    pub(crate) fn read(message: &Message<'_>) -> Result<Option<Self>, DecodeError> {
        let head = message.payload.first_chunk::<IFADDRMSG>();
        let head = head.ok_or(DecodeError::Malformed("an address without its header"))?;
        let &[family, prefix, flags, scope, a, b, c, d] = head;
        let mut flags = u32::from(flags);
        let (mut local, mut remote) = (None, None);
        for attribute in message.attributes(IFADDRMSG, "IFA") {
            let attribute = attribute?;
            match attribute.kind {
                // On a point-to-point link IFA_ADDRESS is the other end.
                IFA_LOCAL => local = ip(family, &attribute)?,
                IFA_ADDRESS => remote = ip(family, &attribute)?,
                IFA_FLAGS => flags = attribute.ne32()?,
                _ => {}
            }
        }
        let Some(address) = local.or(remote) else {
            return Ok(None);
        };
        let address = IpNet::new(address, prefix)
            .map_err(|_| DecodeError::Malformed("an address with an invalid prefix length"))?;
        Ok(Some(InterfaceAddress {
            interface: String::new(),
            index: u32::from_ne_bytes([a, b, c, d]),
            up: false,
            address,
            scope: match scope {
                RT_SCOPE_HOST => Scope::Host,
                RT_SCOPE_LINK => Scope::Link,
                _ => Scope::Global,
            },
            tentative: flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED) != 0,
        }))
    }
}

/// Return the index of the interface in an `RTM_NEWADDR` or `RTM_DELADDR` message.
pub(crate) fn interface_of_address(message: &Message<'_>) -> Option<u32> {
    let &[.., a, b, c, d] = message.payload.first_chunk::<IFADDRMSG>()?;
    Some(u32::from_ne_bytes([a, b, c, d]))
}

/// Read an address of a family (`AF_INET`, `AF_INET6`); `None` for other families.
pub(crate) fn ip(family: u8, attribute: &Attribute<'_>) -> Result<Option<IpAddr>, DecodeError> {
    Ok(match family {
        AF_INET => Some(Ipv4Addr::from(attribute.array::<4>()?).into()),
        AF_INET6 => Some(Ipv6Addr::from(attribute.array::<16>()?).into()),
        _ => None,
    })
}

/// Return an address's family and its bytes.
pub(crate) fn octets(ip: IpAddr) -> (u8, Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => (AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (AF_INET6, ip.octets().to_vec()),
    }
}

/// Return a consistent dump of objects of a kind: an interrupted dump is repeated.
pub(crate) fn dump<T>(
    socket: &mut Socket,
    what: &'static str,
    kind: u16,
    header: &[u8],
    read: impl Fn(&Message<'_>) -> Result<Option<T>, DecodeError>,
) -> Result<Vec<T>, Error> {
    let mut attempt = 1;
    loop {
        let mut found = Vec::new();
        let request = Builder::new(kind, NLM_F_REQUEST | NLM_F_DUMP).fixed(header);
        let result = socket.exchange(what, request.finish(), |message| {
            found.extend(read(message)?);
            Ok(())
        });
        match result {
            Err(Error::Interrupted { .. }) if attempt < ATTEMPTS => attempt += 1,
            result => return result.map(|()| found),
        }
    }
}

/// List all links.
pub(crate) fn links(socket: &mut Socket) -> Result<Vec<Link>, Error> {
    dump(socket, "listing links", RTM_GETLINK, &[0; IFINFOMSG], |m| {
        Link::read(m).map(Some)
    })
}

/// List the addresses of all interfaces, of both families, whether the interface is up or not.
pub(crate) fn addresses(socket: &mut Socket) -> Result<Vec<InterfaceAddress>, Error> {
    let links = links(socket)?;
    let links: HashMap<u32, Link> = links.into_iter().map(|l| (l.index, l)).collect();
    let what = "listing addresses";
    let mut addresses = dump(
        socket,
        what,
        RTM_GETADDR,
        &[0; IFADDRMSG],
        InterfaceAddress::read,
    )?;
    // An address of a link that was removed or added between the two dumps is left out.
    addresses.retain_mut(|address| match links.get(&address.index) {
        Some(link) => {
            address.interface.clone_from(&link.name);
            address.up = link.up;
            true
        }
        None => false,
    });
    Ok(addresses)
}

/// Return the index of the interface of a name, if it exists.
pub(crate) fn link_index(socket: &mut Socket, name: &str) -> Result<Option<u32>, Error> {
    let request = Builder::new(RTM_GETLINK, NLM_F_REQUEST | NLM_F_ACK)
        .fixed(&[0; IFINFOMSG])
        .string(IFLA_IFNAME, name);
    let mut found = None;
    let result = socket.exchange("reading a link", request.finish(), |message| {
        found = Some(Link::read(message)?.index);
        Ok(())
    });
    match result {
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
        result => result.map(|()| found),
    }
}
