//! The messages of the netfilter subsystem `ipset` (`linux/netfilter/ipset/ip_set.h`) after the
//! netlink header, for sets of addresses, ranges and ports.
//!
//! Numbers are in network byte order, with the flag for it in the attribute's type, as the kernel
//! requires.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Element, Method, Op, Part, PartKind, PortProtocol, Set};

use crate::netlink::{
    Attribute, Attributes, DecodeError, NFGENMSG_LEN, NLA_F_NET_BYTEORDER, Writer, need, nfgenmsg,
};

/// The protocol version of all kernels since 2011.
const PROTOCOL: u8 = 6;
/// The version that lists the indices of sets, since Linux 4.20.
const PROTOCOL_INDEX: u8 = 7;
/// The number of elements in one message, within the 64 KiB of a nested attribute.
const ELEMENTS_PER_MESSAGE: usize = 400;

const CMD_CREATE: u8 = 2;
const CMD_DESTROY: u8 = 3;
const CMD_SWAP: u8 = 6;
const CMD_LIST: u8 = 7;
const CMD_ADD: u8 = 9;
const CMD_DEL: u8 = 10;
const CMD_TYPE: u8 = 13;

const ATTR_PROTOCOL: u16 = 1;
const ATTR_SETNAME: u16 = 2;
const ATTR_TYPENAME: u16 = 3;
const ATTR_SETNAME2: u16 = 3;
const ATTR_REVISION: u16 = 4;
const ATTR_FAMILY: u16 = 5;
const ATTR_FLAGS: u16 = 6;
const ATTR_DATA: u16 = 7;
const ATTR_ADT: u16 = 8;
const ATTR_LINENO: u16 = 9;
const ATTR_INDEX: u16 = 11;
/// `IPSET_FLAG_LIST_HEADER`: without elements.
const FLAG_LIST_HEADER: u32 = 1 << 2;

const CADT_IP: u16 = 1;
const CADT_CIDR: u16 = 3;
const CADT_PORT: u16 = 4;
const CADT_PORT_TO: u16 = 5;
const CADT_PROTO: u16 = 7;
const CADT_MARK: u16 = 10;
const ADT_ETHER: u16 = 17;
const ADT_NAME: u16 = 18;
const ADT_IFACE: u16 = 23;
/// `IPSET_FLAG_PHYSDEV`, in `IPSET_ATTR_CADT_FLAGS`.
const FLAG_PHYSDEV: u32 = 1 << 1;
const CADT_FLAGS: u16 = 8;
const CREATE_HASHSIZE: u16 = 18;
const CREATE_MAXELEM: u16 = 19;
const ADT_IP2: u16 = 20;
const ADT_CIDR2: u16 = 21;
/// `IPSET_FLAG_NOMATCH`, in `IPSET_ATTR_CADT_FLAGS`.
const FLAG_NOMATCH: u32 = 1 << 2;
const IPADDR_V4: u16 = 1;
const IPADDR_V6: u16 = 2;

/// The newest known revision of any type (`hash:ip,port,net` of Linux 6.1). Kernels with an older
/// one get that.
const REVISION: u8 = 8;

/// One message without its netlink header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The subsystem's command.
    pub command: u8,
    /// `struct nfgenmsg` and the attributes.
    pub payload: Vec<u8>,
    /// The number of elements.
    pub elements: usize,
}

impl Message {
    fn new(command: u8, family: u8) -> Self {
        Self::of_protocol(PROTOCOL, command, family)
    }

    fn of_protocol(protocol: u8, command: u8, family: u8) -> Self {
        let mut message = Self {
            command,
            payload: nfgenmsg(family, 0).to_vec(),
            elements: 0,
        };
        message.writer().bytes(ATTR_PROTOCOL, &[protocol]);
        message
    }

    fn writer(&mut self) -> Writer<'_> {
        Writer(&mut self.payload)
    }
}

impl Op {
    /// Return the set, or the first of two.
    pub fn set(&self) -> &str {
        match self {
            Op::Create(set) => &set.name,
            Op::Add { set, .. } | Op::Delete { set, .. } => set,
            Op::Swap(name, _) | Op::Destroy(name) => name,
        }
    }

    /// Return the messages in order; many elements take several. `revision` is that of the set's type, from
    /// [`decode_revision`], and only used by [`Op::Create`].
    pub fn encode(&self, revision: u8) -> Vec<Message> {
        match self {
            Op::Create(set) => vec![create(set, revision)],
            Op::Add { set, elements } => members(CMD_ADD, set, elements),
            Op::Delete { set, elements } => members(CMD_DEL, set, elements),
            Op::Swap(a, b) => {
                let mut message = Message::new(CMD_SWAP, 0);
                message.writer().string(ATTR_SETNAME, a);
                message.writer().string(ATTR_SETNAME2, b);
                vec![message]
            }
            Op::Destroy(name) => {
                let mut message = Message::new(CMD_DESTROY, 0);
                message.writer().string(ATTR_SETNAME, name);
                vec![message]
            }
        }
    }
}

/// Return the family of a set's addresses; unspecified without addresses.
fn family(set: &Set) -> u8 {
    match set.option("family") {
        Some("inet6") => 10,
        Some(_) => 2,
        None => 0,
    }
}

/// Return the request for the kernel's revisions of a set type.
pub fn type_request(set: &Set) -> Message {
    let mut message = Message::new(CMD_TYPE, family(set));
    let mut w = message.writer();
    w.string(ATTR_TYPENAME, &set.type_name());
    w.bytes(ATTR_FAMILY, &[family(set)]);
    message
}

/// Return the revision to use, from the reply to [`type_request`].
///
/// # Errors
/// [`DecodeError`] if the message is malformed.
pub fn decode_revision(message: &[u8]) -> Result<u8, DecodeError> {
    let mut newest = None;
    for attr in body(message)? {
        let attr = attr?;
        if attr.kind == ATTR_REVISION {
            newest = Some(attr.u8()?);
        }
    }
    Ok(need(newest, "IPSET_CMD_TYPE", ATTR_REVISION)?.min(REVISION))
}

/// Return the request for all sets with their elements, as a dump.
pub fn list_request() -> Message {
    Message::new(CMD_LIST, 0)
}

/// The request for the names and indices of all sets, as a dump.
pub fn index_request() -> Message {
    let mut message = Message::of_protocol(PROTOCOL_INDEX, CMD_LIST, 0);
    let flags = ATTR_FLAGS | NLA_F_NET_BYTEORDER;
    message.writer().be32(flags, FLAG_LIST_HEADER);
    message
}

/// Decode one reply to [`index_request`]: the index of a set and its name.
///
/// # Errors
/// [`DecodeError`] if the message is malformed or lacks the index.
pub fn decode_index(message: &[u8]) -> Result<(u16, Box<str>), DecodeError> {
    let (mut name, mut index) = (None, None);
    for attr in body(message)? {
        let attr = attr?;
        match attr.kind {
            ATTR_SETNAME => name = Some(attr.string()?.into()),
            ATTR_INDEX => index = Some(attr.be16()?),
            _ => {}
        }
    }
    let index = need(index, "IPSET_CMD_LIST", ATTR_INDEX)?;
    Ok((index, need(name, "IPSET_CMD_LIST", ATTR_SETNAME)?))
}

fn create(set: &Set, revision: u8) -> Message {
    let family = family(set);
    let mut message = Message::new(CMD_CREATE, family);
    let mut w = message.writer();
    w.string(ATTR_SETNAME, &set.name);
    w.string(ATTR_TYPENAME, &set.type_name());
    w.bytes(ATTR_REVISION, &[revision]);
    w.bytes(ATTR_FAMILY, &[family]);
    w.nest(ATTR_DATA, |w| {
        let number = |name: &str| set.option(name).and_then(|n| n.parse::<u32>().ok());
        if let Some(size) = number("hashsize") {
            w.be32(CREATE_HASHSIZE | NLA_F_NET_BYTEORDER, size);
        }
        if let Some(max) = number("maxelem") {
            w.be32(CREATE_MAXELEM | NLA_F_NET_BYTEORDER, max);
        }
        let range = set.option("range").and_then(|r| r.split_once('-'));
        let range = range.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        if let Some((from, to)) = range {
            put_port(w, CADT_PORT, from);
            put_port(w, CADT_PORT_TO, to);
        }
    });
    message
}

fn put_port(w: &mut Writer<'_>, kind: u16, port: u16) {
    w.be16(kind | NLA_F_NET_BYTEORDER, port);
}

fn put_ip(w: &mut Writer<'_>, kind: u16, ip: IpAddr) {
    w.nest(kind, |w| match ip {
        IpAddr::V4(ip) => w.bytes(IPADDR_V4 | NLA_F_NET_BYTEORDER, &ip.octets()),
        IpAddr::V6(ip) => w.bytes(IPADDR_V6 | NLA_F_NET_BYTEORDER, &ip.octets()),
    });
}

fn members(command: u8, set: &str, elements: &[Element]) -> Vec<Message> {
    let one = |chunk: &[Element]| {
        let mut message = Message::new(command, 0);
        message.elements = chunk.len();
        let mut w = message.writer();
        w.string(ATTR_SETNAME, set);
        // The kernel accepts several only with an attribute for the line of an invalid one.
        w.ne32(ATTR_LINENO, 1);
        w.nest(ATTR_ADT, |w| {
            for element in chunk {
                w.nest(ATTR_DATA, |w| put_element(w, element));
            }
        });
        message
    };
    elements.chunks(ELEMENTS_PER_MESSAGE).map(one).collect()
}

fn put_element(w: &mut Writer<'_>, element: &Element) {
    let mut first = true;
    for part in &element.parts {
        match part {
            Part::Ip(ip) => {
                put_ip(w, if first { CADT_IP } else { ADT_IP2 }, *ip);
                first = false;
            }
            Part::Net(net) => {
                let (ip, cidr) = if first {
                    (CADT_IP, CADT_CIDR)
                } else {
                    (ADT_IP2, ADT_CIDR2)
                };
                put_ip(w, ip, net.addr());
                w.bytes(cidr, &[net.prefix_len()]);
                first = false;
            }
            Part::Port {
                protocol,
                first,
                last,
            } => {
                put_port(w, CADT_PORT, *first);
                if last != first {
                    put_port(w, CADT_PORT_TO, *last);
                }
                if let Some(protocol) = protocol {
                    w.bytes(CADT_PROTO, &[protocol.0]);
                }
            }
            // Set types that are never written.
            Part::IpRange(..)
            | Part::Mark(_)
            | Part::Iface { .. }
            | Part::Mac(_)
            | Part::Set(_) => {}
        }
    }
    if element.nomatch {
        w.be32(CADT_FLAGS | NLA_F_NET_BYTEORDER, FLAG_NOMATCH);
    }
}

fn body(message: &[u8]) -> Result<Attributes<'_>, DecodeError> {
    let body = message.get(NFGENMSG_LEN..);
    let body = body.ok_or(DecodeError::Header(message.len()))?;
    Ok(Attributes::new(body, "IPSET_CMD"))
}

/// Decode one reply to [`list_request`]: a set, or further elements of the last one. Sets whose name
/// `wanted` rejects are skipped, whatever they contain.
///
/// # Errors
/// [`DecodeError`] if the message is malformed, or a wanted set has an unknown type.
pub fn decode_list(
    message: &[u8],
    sets: &mut Vec<Set>,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<(), DecodeError> {
    let (mut name, mut kind, mut family) = (None, None, 0);
    let (mut data, mut adt) = (None, None);
    for attr in body(message)? {
        let attr = attr?;
        match attr.kind {
            ATTR_SETNAME => name = Some(attr.string()?),
            ATTR_TYPENAME => kind = Some(attr.string()?),
            ATTR_FAMILY => family = attr.u8()?,
            ATTR_DATA => data = Some(attr),
            ATTR_ADT => adt = Some(attr),
            _ => {}
        }
    }
    let name = need(name, "IPSET_CMD_LIST", ATTR_SETNAME)?;
    if !wanted(name) {
        return Ok(());
    }
    if let Some(kind) = kind {
        let set = read_header(name, kind, family, data.as_ref())?;
        if sets.last().is_none_or(|last| *last.name != *name) {
            sets.push(set);
        }
    }
    let (Some(adt), Some(set)) = (adt, sets.last_mut()) else {
        return Ok(());
    };
    if *set.name != *name {
        let (within, attribute) = ("IPSET_CMD_LIST", ATTR_TYPENAME);
        return Err(DecodeError::Missing { within, attribute });
    }
    for attr in adt.nested("IPSET_ATTR_ADT") {
        let attr = attr?;
        if attr.kind == ATTR_DATA {
            let element = read_element(&set.parts, &attr)?;
            set.elements.push(element);
        }
    }
    Ok(())
}

fn unknown_type() -> DecodeError {
    DecodeError::Unknown {
        what: "IPSET_ATTR_TYPENAME",
        value: 0,
    }
}

fn read_header(
    name: &str,
    kind: &str,
    family: u8,
    data: Option<&Attribute<'_>>,
) -> Result<Set, DecodeError> {
    let (method, parts) = kind.split_once(':').ok_or_else(unknown_type)?;
    let method = match method {
        "hash" => Method::Hash,
        "bitmap" => Method::Bitmap,
        "list" => Method::List,
        _ => return Err(unknown_type()),
    };
    let parts: Option<Vec<PartKind>> = parts.split(',').map(PartKind::parse).collect();
    let parts = parts.ok_or_else(unknown_type)?;
    let text = |n: &dyn std::fmt::Display| Some(n.to_string().into());
    let mut options = Vec::new();
    match family {
        2 => options.push(("family".into(), Some("inet".into()))),
        10 => options.push(("family".into(), Some("inet6".into()))),
        _ => {}
    }
    let (mut from, mut to) = (None, None);
    let data = data.map(|d| d.nested("IPSET_ATTR_DATA"));
    for attr in data.into_iter().flatten() {
        let attr = attr?;
        match attr.kind {
            CREATE_HASHSIZE => options.push(("hashsize".into(), text(&attr.be32()?))),
            CREATE_MAXELEM => options.push(("maxelem".into(), text(&attr.be32()?))),
            CADT_PORT => from = Some(attr.be16()?),
            CADT_PORT_TO => to = Some(attr.be16()?),
            _ => {}
        }
    }
    if let (Some(from), Some(to)) = (from, to) {
        options.push(("range".into(), text(&format!("{from}-{to}"))));
    }
    Ok(Set {
        name: name.into(),
        method,
        parts,
        options,
        elements: Vec::new(),
    })
}

fn ip_of(attr: &Attribute<'_>) -> Result<IpAddr, DecodeError> {
    for inner in attr.nested("IPSET_ATTR_IP") {
        let inner = inner?;
        match inner.kind {
            IPADDR_V4 => return Ok(Ipv4Addr::from(inner.array::<4>()?).into()),
            IPADDR_V6 => return Ok(Ipv6Addr::from(inner.array::<16>()?).into()),
            _ => {}
        }
    }
    let (within, attribute) = ("IPSET_ATTR_IP", IPADDR_V4);
    Err(DecodeError::Missing { within, attribute })
}

fn read_element(kinds: &[PartKind], attr: &Attribute<'_>) -> Result<Element, DecodeError> {
    const WITHIN: &str = "IPSET_ATTR_ADT";
    let (mut ip, mut ip2, mut cidr, mut cidr2) = (None, None, None, None);
    let (mut port, mut port_to, mut protocol, mut flags) = (None, None, None, 0);
    let (mut mark, mut mac, mut member, mut interface) = (None, None, None, None);
    for attr in attr.nested(WITHIN) {
        let attr = attr?;
        match attr.kind {
            CADT_IP => ip = Some(ip_of(&attr)?),
            ADT_IP2 => ip2 = Some(ip_of(&attr)?),
            CADT_CIDR => cidr = Some(attr.u8()?),
            ADT_CIDR2 => cidr2 = Some(attr.u8()?),
            CADT_PORT => port = Some(attr.be16()?),
            CADT_PORT_TO => port_to = Some(attr.be16()?),
            CADT_PROTO => protocol = Some(PortProtocol(attr.u8()?)),
            CADT_FLAGS => flags = attr.be32()?,
            CADT_MARK => mark = Some(attr.be32()?),
            ADT_ETHER => mac = Some(attr.array::<6>()?),
            ADT_NAME => member = Some(attr.string()?.into()),
            ADT_IFACE => interface = Some(attr.string()?.into()),
            _ => {}
        }
    }
    let mut parts = Vec::with_capacity(kinds.len());
    let mut addresses = [(ip, cidr, CADT_IP), (ip2, cidr2, ADT_IP2)].into_iter();
    for kind in kinds {
        parts.push(match kind {
            PartKind::Ip | PartKind::Net => {
                let (ip, len, number) = addresses.next().ok_or_else(unknown_type)?;
                let ip = need(ip, WITHIN, number)?;
                match len {
                    Some(len) if *kind == PartKind::Net => {
                        let net = IpNet::new(ip, len).map_err(|_| attr.size_error())?;
                        // The kernel lists a range of one address as that address.
                        if len == net.max_prefix_len() {
                            Part::Ip(ip)
                        } else {
                            Part::Net(net.trunc())
                        }
                    }
                    _ => Part::Ip(ip),
                }
            }
            PartKind::Port => {
                let first = need(port, WITHIN, CADT_PORT)?;
                Part::Port {
                    protocol,
                    first,
                    last: port_to.unwrap_or(first),
                }
            }
            PartKind::Mark => Part::Mark(need(mark, WITHIN, CADT_MARK)?),
            PartKind::Mac => Part::Mac(need(mac, WITHIN, ADT_ETHER)?),
            PartKind::Set => Part::Set(need(member.take(), WITHIN, ADT_NAME)?),
            PartKind::Iface => Part::Iface {
                name: need(interface.take(), WITHIN, ADT_IFACE)?,
                physical: flags & FLAG_PHYSDEV != 0,
            },
        });
    }
    Ok(Element {
        parts,
        nomatch: flags & FLAG_NOMATCH != 0,
        options: Vec::new(),
    })
}
