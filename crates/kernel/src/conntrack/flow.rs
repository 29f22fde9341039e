//! One flow, and its netlink form (`linux/netfilter/nfnetlink_conntrack.h`).

use netfilter::netlink::{Attribute, DecodeError, Message, NFGENMSG_LEN, Writer};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const CTA_TUPLE_ORIG: u16 = 1;
pub(super) const CTA_TUPLE_REPLY: u16 = 2;
pub(super) const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
pub(super) const CTA_TIMEOUT: u16 = 7;
pub(super) const CTA_MARK: u16 = 8;
pub(super) const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;

const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
/// `TCP_CONNTRACK_SYN_SENT` (linux/netfilter/nf_conntrack_tcp.h).
const SYN_SENT: u8 = 1;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;

const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;

const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// An IP protocol, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpProtocol(pub u8);

impl IpProtocol {
    /// TCP.
    pub const TCP: IpProtocol = IpProtocol(6);
    /// UDP.
    pub const UDP: IpProtocol = IpProtocol(17);
    /// SCTP.
    pub const SCTP: IpProtocol = IpProtocol(132);
}

impl fmt::Display for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            IpProtocol::TCP => f.write_str("TCP"),
            IpProtocol::UDP => f.write_str("UDP"),
            IpProtocol::SCTP => f.write_str("SCTP"),
            IpProtocol(number) => write!(f, "protocol {number}"),
        }
    }
}

/// Addresses, ports and protocol of a flow's packets in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// The protocol.
    pub protocol: IpProtocol,
    /// Their source address.
    pub source: IpAddr,
    /// Their source port; 0 for protocols without ports.
    pub source_port: u16,
    /// Their destination address.
    pub destination: IpAddr,
    /// Their destination port; 0 for protocols without ports.
    pub destination_port: u16,
}

impl Tuple {
    /// Return source address and port.
    pub fn source(&self) -> SocketAddr {
        SocketAddr::new(self.source, self.source_port)
    }

    /// Return destination address and port.
    pub fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.destination, self.destination_port)
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} > {}",
            self.protocol,
            self.source(),
            self.destination()
        )
    }
}

/// The `IPS_*` bits of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Status(pub u32);

impl Status {
    /// `IPS_SEEN_REPLY`.
    pub(super) const SEEN_REPLY: u32 = 1 << 1;

    /// Packets were seen in both directions.
    pub fn seen_reply(self) -> bool {
        self.0 & Self::SEEN_REPLY != 0
    }

    /// Return whether the flow is exempt from early removal when the table is full.
    pub fn assured(self) -> bool {
        self.0 & 1 << 2 != 0
    }

    /// Its destination is rewritten.
    pub fn dnat(self) -> bool {
        self.0 & 1 << 5 != 0
    }

    /// Its source is rewritten.
    pub fn snat(self) -> bool {
        self.0 & 1 << 4 != 0
    }
}

/// The part of the flow table that a flow is in: separate tables for overlapping addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Zone {
    /// Of the flow (`CTA_ZONE`).
    pub both: u16,
    /// Of the original direction only (`CTA_TUPLE_ZONE`).
    pub original: u16,
    /// Of the reply direction only.
    pub reply: u16,
}

/// A tracked flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Packets from the client, before NAT: the destination is the Service's address.
    pub original: Tuple,
    /// Packets in the reply direction, before NAT: the source is the endpoint.
    pub reply: Tuple,
    /// Its state.
    pub status: Status,
    /// The state of a TCP connection (`enum tcp_conntrack`).
    pub tcp_state: Option<u8>,
    /// Seconds until it expires.
    pub timeout: Option<u32>,
    /// Its connection mark.
    pub mark: u32,
    /// Its zone.
    pub zone: Zone,
    /// Identifier, which distinguishes the flow from a later one with the same addresses.
    pub id: Option<u32>,
}

impl Flow {
    /// Read an `IPCTNL_MSG_CT_NEW` message; `None` for a flow of another family than IPv4 and IPv6.
    ///
    /// # Errors
    /// [`DecodeError`] if a tuple is missing or an attribute has the wrong size.
    pub fn read(message: &Message<'_>) -> Result<Option<Self>, DecodeError> {
        if !matches!(message.payload.first(), Some(2 | 10)) {
            return Ok(None);
        }
        let (mut original, mut reply) = (None, None);
        let mut status = Status::default();
        let (mut timeout, mut mark, mut id) = (None, 0, None);
        let mut tcp_state = None;
        let mut zone = Zone::default();
        for attribute in message.attributes(NFGENMSG_LEN, "ctattr_type") {
            let attribute = attribute?;
            match attribute.kind {
                CTA_TUPLE_ORIG => original = Some(read_tuple(&attribute, &mut zone.original)?),
                CTA_TUPLE_REPLY => reply = Some(read_tuple(&attribute, &mut zone.reply)?),
                CTA_STATUS => status = Status(attribute.be32()?),
                CTA_PROTOINFO => tcp_state = read_tcp_state(&attribute)?,
                CTA_TIMEOUT => timeout = Some(attribute.be32()?),
                CTA_MARK => mark = attribute.be32()?,
                CTA_ID => id = Some(attribute.be32()?),
                CTA_ZONE => zone.both = attribute.be16()?,
                _ => {}
            }
        }
        match (original, reply) {
            (Some(original), Some(reply)) => Ok(Some(Flow {
                original,
                reply,
                status,
                tcp_state,
                timeout,
                mark,
                zone,
                id,
            })),
            _ => Err(DecodeError::Malformed("a flow without its two tuples")),
        }
    }

    /// Return whether this is a TCP connection of which only SYNs have been seen.
    pub fn is_half_open(&self) -> bool {
        self.tcp_state == Some(SYN_SENT) && !self.status.seen_reply()
    }

    /// Write the attributes that identify this flow.
    pub(super) fn write_key(&self, w: &mut Writer<'_>) {
        w.nest(CTA_TUPLE_ORIG, |w| {
            write_tuple(w, &self.original);
            if self.zone.original != 0 {
                w.be16(CTA_TUPLE_ZONE, self.zone.original);
            }
        });
        if self.zone.both != 0 {
            w.be16(CTA_ZONE, self.zone.both);
        }
        if let Some(id) = self.id {
            w.be32(CTA_ID, id);
        }
    }
}

fn read_tcp_state(protocol: &Attribute<'_>) -> Result<Option<u8>, DecodeError> {
    for info in protocol.nested("ctattr_protoinfo") {
        let info = info?;
        if info.kind != CTA_PROTOINFO_TCP {
            continue;
        }
        for field in info.nested("ctattr_protoinfo_tcp") {
            let field = field?;
            if field.kind == CTA_PROTOINFO_TCP_STATE {
                return Ok(Some(field.u8()?));
            }
        }
    }
    Ok(None)
}

fn read_tuple(tuple: &Attribute<'_>, zone: &mut u16) -> Result<Tuple, DecodeError> {
    let (mut source, mut destination, mut protocol) = (None, None, None);
    let (mut source_port, mut destination_port) = (0, 0);
    for part in tuple.nested("ctattr_tuple") {
        let part = part?;
        match part.kind {
            CTA_TUPLE_IP => {
                for address in part.nested("ctattr_ip") {
                    let address = address?;
                    match address.kind {
                        CTA_IP_V4_SRC => {
                            source = Some(Ipv4Addr::from(address.array::<4>()?).into())
                        }
                        CTA_IP_V4_DST => {
                            destination = Some(Ipv4Addr::from(address.array::<4>()?).into())
                        }
                        CTA_IP_V6_SRC => {
                            source = Some(Ipv6Addr::from(address.array::<16>()?).into())
                        }
                        CTA_IP_V6_DST => {
                            destination = Some(Ipv6Addr::from(address.array::<16>()?).into())
                        }
                        _ => {}
                    }
                }
            }
            CTA_TUPLE_PROTO => {
                for field in part.nested("ctattr_l4proto") {
                    let field = field?;
                    match field.kind {
                        CTA_PROTO_NUM => protocol = Some(IpProtocol(field.u8()?)),
                        CTA_PROTO_SRC_PORT => source_port = field.be16()?,
                        CTA_PROTO_DST_PORT => destination_port = field.be16()?,
                        _ => {}
                    }
                }
            }
            CTA_TUPLE_ZONE => *zone = part.be16()?,
            _ => {}
        }
    }
    match (source, destination, protocol) {
        (Some(source), Some(destination), Some(protocol)) => Ok(Tuple {
            protocol,
            source,
            source_port,
            destination,
            destination_port,
        }),
        _ => Err(DecodeError::Malformed(
            "a tuple without addresses or protocol",
        )),
    }
}

fn write_tuple(w: &mut Writer<'_>, tuple: &Tuple) {
    w.nest(CTA_TUPLE_IP, |w| {
        write_address(w, tuple.source, CTA_IP_V4_SRC, CTA_IP_V6_SRC);
        write_address(w, tuple.destination, CTA_IP_V4_DST, CTA_IP_V6_DST);
    });
    w.nest(CTA_TUPLE_PROTO, |w| {
        w.bytes(CTA_PROTO_NUM, &[tuple.protocol.0]);
        w.be16(CTA_PROTO_SRC_PORT, tuple.source_port);
        w.be16(CTA_PROTO_DST_PORT, tuple.destination_port);
    });
}

fn write_address(w: &mut Writer<'_>, address: IpAddr, v4: u16, v6: u16) {
    match address {
        IpAddr::V4(address) => w.bytes(v4, &address.octets()),
        IpAddr::V6(address) => w.bytes(v6, &address.octets()),
    }
}

/// Write the parts of an original tuple that filter a dump.
pub(super) fn write_filter(
    w: &mut Writer<'_>,
    protocol: Option<IpProtocol>,
    destination: Option<IpAddr>,
    port: Option<u16>,
) {
    w.nest(CTA_TUPLE_ORIG, |w| {
        if let Some(address) = destination {
            w.nest(CTA_TUPLE_IP, |w| {
                write_address(w, address, CTA_IP_V4_DST, CTA_IP_V6_DST);
            });
        }
        if let Some(protocol) = protocol {
            w.nest(CTA_TUPLE_PROTO, |w| {
                w.bytes(CTA_PROTO_NUM, &[protocol.0]);
                if let Some(port) = port {
                    w.be16(CTA_PROTO_DST_PORT, port);
                }
            });
        }
    });
}
