//! One flow, and its netlink form (`linux/netfilter/nfnetlink_conntrack.h`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::netlink::{Attribute, Builder, Malformed, Message};
use crate::nfnetlink::NFGENMSG;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_TIMEOUT: u16 = 7;
const CTA_MARK: u16 = 8;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;

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

/// What tells a flow's packets of one direction from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// The protocol.
    pub protocol: IpProtocol,
    /// Where they come from.
    pub source: IpAddr,
    /// Their source port; 0 for protocols without ports.
    pub source_port: u16,
    /// Where they go.
    pub destination: IpAddr,
    /// Their destination port; 0 for protocols without ports.
    pub destination_port: u16,
}

impl Tuple {
    /// Where the packets come from, as one.
    pub fn source(&self) -> SocketAddr {
        SocketAddr::new(self.source, self.source_port)
    }

    /// Where the packets go, as one.
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
    /// Packets were seen in both directions.
    pub fn seen_reply(self) -> bool {
        self.0 & 1 << 1 != 0
    }

    /// It is not removed early when the table is full.
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

/// A flow that the kernel keeps track of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The packets of the one who started it, before any rewriting: the destination is the
    /// Service's address.
    pub original: Tuple,
    /// The packets that come back, before any rewriting: the source is the endpoint.
    pub reply: Tuple,
    /// Its state.
    pub status: Status,
    /// Seconds until it is forgotten.
    pub timeout: Option<u32>,
    /// Its connection mark.
    pub mark: u32,
    /// Its zone.
    pub zone: Zone,
    /// What tells it from a later flow with the same addresses.
    pub id: Option<u32>,
}

impl Flow {
    /// Reads an `IPCTNL_MSG_CT_NEW` message; `None` for a flow that is of neither IP family.
    ///
    /// # Errors
    /// [`Malformed`] when it has not both tuples, or an attribute of the wrong size.
    pub fn read(message: &Message<'_>) -> Result<Option<Self>, Malformed> {
        if !matches!(message.payload.first(), Some(2 | 10)) {
            return Ok(None);
        }
        let (mut original, mut reply) = (None, None);
        let mut status = Status::default();
        let (mut timeout, mut mark, mut id) = (None, 0, None);
        let mut zone = Zone::default();
        for attribute in message.attributes(NFGENMSG) {
            let attribute = attribute?;
            match attribute.kind {
                CTA_TUPLE_ORIG => original = Some(read_tuple(&attribute, &mut zone.original)?),
                CTA_TUPLE_REPLY => reply = Some(read_tuple(&attribute, &mut zone.reply)?),
                CTA_STATUS => status = Status(attribute.be32()?),
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
                timeout,
                mark,
                zone,
                id,
            })),
            _ => Err(Malformed("a flow without its two tuples")),
        }
    }

    /// Writes what names this flow and no other.
    pub(super) fn write_key(&self, message: Builder) -> Builder {
        let mut message = message.nested(CTA_TUPLE_ORIG, |tuple| {
            let tuple = write_tuple(tuple, &self.original);
            match self.zone.original {
                0 => tuple,
                zone => tuple.attribute(CTA_TUPLE_ZONE, &zone.to_be_bytes()),
            }
        });
        if self.zone.both != 0 {
            message = message.attribute(CTA_ZONE, &self.zone.both.to_be_bytes());
        }
        match self.id {
            Some(id) => message.attribute(CTA_ID, &id.to_be_bytes()),
            None => message,
        }
    }
}

fn read_tuple(tuple: &Attribute<'_>, zone: &mut u16) -> Result<Tuple, Malformed> {
    let (mut source, mut destination, mut protocol) = (None, None, None);
    let (mut source_port, mut destination_port) = (0, 0);
    for part in tuple.nested() {
        let part = part?;
        match part.kind {
            CTA_TUPLE_IP => {
                for address in part.nested() {
                    let address = address?;
                    match address.kind {
                        CTA_IP_V4_SRC => source = Some(v4(&address)?),
                        CTA_IP_V4_DST => destination = Some(v4(&address)?),
                        CTA_IP_V6_SRC => source = Some(v6(&address)?),
                        CTA_IP_V6_DST => destination = Some(v6(&address)?),
                        _ => {}
                    }
                }
            }
            CTA_TUPLE_PROTO => {
                for field in part.nested() {
                    let field = field?;
                    match field.kind {
                        CTA_PROTO_NUM => {
                            let [number] = field.bytes()?;
                            protocol = Some(IpProtocol(number));
                        }
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
        _ => Err(Malformed("a tuple without addresses or protocol")),
    }
}

fn v4(attribute: &Attribute<'_>) -> Result<IpAddr, Malformed> {
    attribute
        .bytes::<4>()
        .map(|bytes| Ipv4Addr::from(bytes).into())
}

fn v6(attribute: &Attribute<'_>) -> Result<IpAddr, Malformed> {
    attribute
        .bytes::<16>()
        .map(|bytes| Ipv6Addr::from(bytes).into())
}

fn write_tuple(message: Builder, tuple: &Tuple) -> Builder {
    let message = message.nested(CTA_TUPLE_IP, |ip| {
        let ip = write_address(ip, tuple.source, CTA_IP_V4_SRC, CTA_IP_V6_SRC);
        write_address(ip, tuple.destination, CTA_IP_V4_DST, CTA_IP_V6_DST)
    });
    message.nested(CTA_TUPLE_PROTO, |proto| {
        proto
            .attribute(CTA_PROTO_NUM, &[tuple.protocol.0])
            .attribute(CTA_PROTO_SRC_PORT, &tuple.source_port.to_be_bytes())
            .attribute(CTA_PROTO_DST_PORT, &tuple.destination_port.to_be_bytes())
    })
}

fn write_address(message: Builder, address: IpAddr, v4: u16, v6: u16) -> Builder {
    match address {
        IpAddr::V4(address) => message.attribute(v4, &address.octets()),
        IpAddr::V6(address) => message.attribute(v6, &address.octets()),
    }
}

/// Writes the parts of an original tuple that a dump is to be filtered by.
pub(super) fn write_filter(
    message: Builder,
    protocol: Option<IpProtocol>,
    destination: Option<IpAddr>,
    port: Option<u16>,
) -> Builder {
    message.nested(CTA_TUPLE_ORIG, |mut tuple| {
        if let Some(address) = destination {
            tuple = tuple.nested(CTA_TUPLE_IP, |ip| {
                write_address(ip, address, CTA_IP_V4_DST, CTA_IP_V6_DST)
            });
        }
        let Some(protocol) = protocol else {
            return tuple;
        };
        tuple.nested(CTA_TUPLE_PROTO, |proto| {
            let proto = proto.attribute(CTA_PROTO_NUM, &[protocol.0]);
            match port {
                Some(port) => proto.attribute(CTA_PROTO_DST_PORT, &port.to_be_bytes()),
                None => proto,
            }
        })
    })
}
