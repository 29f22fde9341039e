//! The messages of the generic netlink family `IPVS` (`linux/ip_vs.h`) after the netlink header.
//!
//! Numbers are in host byte order except ports and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Destination, Method, Netmask, Op, Protocol, Service, ServiceId};

use crate::netlink::{Attribute, Attributes, DecodeError, Writer, need};

/// The name of the family, from which the kernel resolves its number.
pub const FAMILY: &str = "IPVS";
/// `IPVS_GENL_VERSION`.
const VERSION: u8 = 1;
/// The size of `struct genlmsghdr`.
const HEADER: usize = 4;

const NEW_SERVICE: u8 = 1;
const SET_SERVICE: u8 = 2;
const DEL_SERVICE: u8 = 3;
const GET_SERVICE: u8 = 4;
const NEW_DEST: u8 = 5;
const SET_DEST: u8 = 6;
const DEL_DEST: u8 = 7;
const GET_DEST: u8 = 8;
const SET_CONFIG: u8 = 12;
const GET_CONFIG: u8 = 13;

const CMD_SERVICE: u16 = 1;
const CMD_DEST: u16 = 2;
const CMD_TIMEOUT_TCP: u16 = 4;
const CMD_TIMEOUT_TCP_FIN: u16 = 5;
const CMD_TIMEOUT_UDP: u16 = 6;

const SVC_AF: u16 = 1;
const SVC_PROTOCOL: u16 = 2;
const SVC_ADDR: u16 = 3;
const SVC_PORT: u16 = 4;
const SVC_FWMARK: u16 = 5;
const SVC_SCHED_NAME: u16 = 6;
const SVC_FLAGS: u16 = 7;
const SVC_TIMEOUT: u16 = 8;
const SVC_NETMASK: u16 = 9;
const SVC_PE_NAME: u16 = 11;

const DEST_ADDR: u16 = 1;
const DEST_PORT: u16 = 2;
const DEST_FWD_METHOD: u16 = 3;
const DEST_WEIGHT: u16 = 4;
const DEST_U_THRESH: u16 = 5;
const DEST_L_THRESH: u16 = 6;
const DEST_ACTIVE_CONNS: u16 = 7;
const DEST_INACT_CONNS: u16 = 8;
const DEST_ADDR_FAMILY: u16 = 11;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

const FLAG_PERSISTENT: u32 = 0x01;
const FLAG_ONE_PACKET: u32 = 0x04;
/// The flags of schedulers: the bit, and ipvsadm's names for it with `sh`, with `mh`, and with any
/// other scheduler.
const SCHED_FLAGS: [(u32, [&str; 3]); 3] = [
    (0x08, ["sh-fallback", "mh-fallback", "flag-1"]),
    (0x10, ["sh-port", "mh-port", "flag-2"]),
    (0x20, ["flag-3", "flag-3", "flag-3"]),
];

const METHODS: [(u32, Method); 3] = [
    (0, Method::Masquerade),
    (2, Method::Tunnel),
    (3, Method::Route),
];

/// The connections of a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// For TCP, the established connections.
    pub active: u32,
    /// All other connections with an entry in the kernel.
    pub inactive: u32,
}

impl Connections {
    /// Return the number of all connections.
    pub fn total(self) -> u64 {
        u64::from(self.active) + u64::from(self.inactive)
    }
}

/// The idle timeouts of connections in seconds; 0 leaves a timeout unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP.
    pub tcp: u32,
    /// TCP after a FIN.
    pub tcp_fin: u32,
    /// UDP.
    pub udp: u32,
}

impl Op {
    /// Return the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        let command = match self {
            Op::AddService(_) => NEW_SERVICE,
            Op::SetService(_) => SET_SERVICE,
            Op::DeleteService(_) => DEL_SERVICE,
            Op::AddDestination(..) => NEW_DEST,
            Op::SetDestination(..) => SET_DEST,
            Op::DeleteDestination(..) => DEL_DEST,
        };
        header(&mut out, command);
        let mut w = Writer(&mut out);
        match self {
            Op::AddService(service) | Op::SetService(service) => {
                w.nest(CMD_SERVICE, |w| put_service(w, service));
            }
            Op::DeleteService(id) => w.nest(CMD_SERVICE, |w| put_id(w, id)),
            Op::AddDestination(id, destination) | Op::SetDestination(id, destination) => {
                w.nest(CMD_SERVICE, |w| put_id(w, id));
                w.nest(CMD_DEST, |w| put_destination(w, destination));
            }
            Op::DeleteDestination(id, address) => {
                w.nest(CMD_SERVICE, |w| put_id(w, id));
                w.nest(CMD_DEST, |w| put_socket(w, *address));
            }
        }
        out
    }
}

/// Return the request for all virtual servers, as a dump.
pub fn list_services() -> Vec<u8> {
    let mut out = Vec::new();
    header(&mut out, GET_SERVICE);
    out
}

/// Return the request for one virtual server.
pub fn get_service(id: &ServiceId) -> Vec<u8> {
    let mut out = Vec::new();
    header(&mut out, GET_SERVICE);
    Writer(&mut out).nest(CMD_SERVICE, |w| put_id(w, id));
    out
}

/// Return the request for the destinations of a virtual server, as a dump.
pub fn list_destinations(id: &ServiceId) -> Vec<u8> {
    let mut out = Vec::new();
    header(&mut out, GET_DEST);
    Writer(&mut out).nest(CMD_SERVICE, |w| put_id(w, id));
    out
}

/// Return the request for the timeouts.
pub fn get_timeouts() -> Vec<u8> {
    let mut out = Vec::new();
    header(&mut out, GET_CONFIG);
    out
}

/// Return the request that sets the timeouts.
pub fn set_timeouts(timeouts: Timeouts) -> Vec<u8> {
    let mut out = Vec::new();
    header(&mut out, SET_CONFIG);
    let mut w = Writer(&mut out);
    w.ne32(CMD_TIMEOUT_TCP, timeouts.tcp);
    w.ne32(CMD_TIMEOUT_TCP_FIN, timeouts.tcp_fin);
    w.ne32(CMD_TIMEOUT_UDP, timeouts.udp);
    out
}

/// Decode a virtual server without destinations from a reply to [`list_services`] or from
/// [`Op::encode`]; `None` for an unknown protocol or family.
///
/// # Errors
/// [`DecodeError`] if the message is malformed.
pub fn decode_service(message: &[u8]) -> Result<Option<Service>, DecodeError> {
    for attr in body(message)? {
        let attr = attr?;
        if attr.kind == CMD_SERVICE {
            return read_service(attr.nested("IPVS_CMD_ATTR_SERVICE"));
        }
    }
    let (within, attribute) = ("IPVS_CMD", CMD_SERVICE);
    Err(DecodeError::Missing { within, attribute })
}

/// Decode a destination of a virtual server of this family with its connections, from a reply to
/// [`list_destinations`] or from [`Op::encode`]. Tunnel options are skipped.
///
/// # Errors
/// See [`decode_service`].
pub fn decode_destination(
    message: &[u8],
    v6: bool,
) -> Result<(Destination, Connections), DecodeError> {
    for attr in body(message)? {
        let attr = attr?;
        if attr.kind == CMD_DEST {
            return read_destination(attr.nested("IPVS_CMD_ATTR_DEST"), v6);
        }
    }
    let (within, attribute) = ("IPVS_CMD", CMD_DEST);
    Err(DecodeError::Missing { within, attribute })
}

/// Decode the reply to [`get_timeouts`].
///
/// # Errors
/// See [`decode_service`].
pub fn decode_timeouts(message: &[u8]) -> Result<Timeouts, DecodeError> {
    let mut timeouts = Timeouts::default();
    for attr in body(message)? {
        let attr = attr?;
        match attr.kind {
            CMD_TIMEOUT_TCP => timeouts.tcp = attr.ne32()?,
            CMD_TIMEOUT_TCP_FIN => timeouts.tcp_fin = attr.ne32()?,
            CMD_TIMEOUT_UDP => timeouts.udp = attr.ne32()?,
            _ => {}
        }
    }
    Ok(timeouts)
}

fn header(out: &mut Vec<u8>, command: u8) {
    out.extend_from_slice(&[command, VERSION, 0, 0]);
}

fn body(message: &[u8]) -> Result<Attributes<'_>, DecodeError> {
    let body = message.get(HEADER..);
    let body = body.ok_or(DecodeError::Header(message.len()))?;
    Ok(Attributes::new(body, "IPVS_CMD"))
}

/// `union nf_inet_addr`.
fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            bytes
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn family(ip: IpAddr) -> u16 {
    match ip {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

fn put_id(w: &mut Writer<'_>, id: &ServiceId) {
    match id {
        ServiceId::Address { protocol, address } => {
            w.ne16(SVC_AF, family(address.ip()));
            w.ne16(SVC_PROTOCOL, protocol.number().into());
            w.bytes(SVC_ADDR, &self::address(address.ip()));
            w.be16(SVC_PORT, address.port());
        }
        ServiceId::Mark { mark, v6 } => {
            w.ne16(SVC_AF, if *v6 { AF_INET6 } else { AF_INET });
            w.ne32(SVC_FWMARK, *mark);
        }
    }
}

fn is_v6(id: &ServiceId) -> bool {
    match id {
        ServiceId::Address { address, .. } => address.is_ipv6(),
        ServiceId::Mark { v6, .. } => *v6,
    }
}

/// Return the index of the names of a scheduler's flags.
fn dialect(scheduler: &str) -> usize {
    match scheduler {
        "sh" => 0,
        "mh" => 1,
        _ => 2,
    }
}

fn put_service(w: &mut Writer<'_>, service: &Service) {
    put_id(w, &service.id);
    w.string(SVC_SCHED_NAME, &service.scheduler);
    let mut flags = 0;
    if service.persistent.is_some() {
        flags |= FLAG_PERSISTENT;
    }
    if service.one_packet {
        flags |= FLAG_ONE_PACKET;
    }
    for word in service.flags.iter().flat_map(|f| f.split(',')) {
        let bits = SCHED_FLAGS.iter().filter(|(_, w)| w.contains(&word));
        flags |= bits.fold(0, |all, (bit, _)| all | bit);
    }
    let mut both = [0; 8];
    both[..4].copy_from_slice(&flags.to_ne_bytes());
    both[4..].copy_from_slice(&u32::MAX.to_ne_bytes());
    w.bytes(SVC_FLAGS, &both);
    w.ne32(SVC_TIMEOUT, service.persistent.unwrap_or(0));
    let netmask = match (service.netmask, is_v6(&service.id)) {
        (Some(Netmask::V4(mask)), _) => mask.octets(),
        (Some(Netmask::V6(len)), _) => u32::from(len).to_ne_bytes(),
        (None, false) => [255; 4],
        (None, true) => 128_u32.to_ne_bytes(),
    };
    w.bytes(SVC_NETMASK, &netmask);
    if let Some(engine) = &service.engine {
        w.string(SVC_PE_NAME, engine);
    }
}

fn put_socket(w: &mut Writer<'_>, at: SocketAddr) {
    w.bytes(DEST_ADDR, &address(at.ip()));
    w.be16(DEST_PORT, at.port());
    w.ne16(DEST_ADDR_FAMILY, family(at.ip()));
}

fn put_destination(w: &mut Writer<'_>, destination: &Destination) {
    put_socket(w, destination.address);
    let method = METHODS.iter().find(|(_, m)| *m == destination.method);
    w.ne32(DEST_FWD_METHOD, method.map_or(0, |(n, _)| *n));
    w.ne32(DEST_WEIGHT, destination.weight);
    w.ne32(DEST_U_THRESH, destination.upper);
    w.ne32(DEST_L_THRESH, destination.lower);
}

fn ip_of(attr: &Attribute<'_>, v6: bool) -> Result<IpAddr, DecodeError> {
    let octets = attr.value.first_chunk::<16>();
    let octets = octets.ok_or_else(|| attr.size_error())?;
    let [a, b, c, d, ..] = *octets;
    Ok(if v6 {
        Ipv6Addr::from(*octets).into()
    } else {
        Ipv4Addr::new(a, b, c, d).into()
    })
}

fn read_service(attrs: Attributes<'_>) -> Result<Option<Service>, DecodeError> {
    const WITHIN: &str = "IPVS_CMD_ATTR_SERVICE";
    let (mut af, mut protocol, mut ip, mut port, mut mark) = (None, None, None, None, None);
    let (mut scheduler, mut flags, mut timeout) = ("", 0, 0);
    let (mut netmask, mut engine) = (None, None);
    for attr in attrs {
        let attr = attr?;
        match attr.kind {
            SVC_AF => af = Some(attr.ne16()?),
            SVC_PROTOCOL => protocol = Some(attr.ne16()?),
            SVC_ADDR => ip = Some(attr),
            SVC_PORT => port = Some(attr.be16()?),
            SVC_FWMARK => mark = Some(attr.ne32()?),
            SVC_SCHED_NAME => scheduler = attr.string()?,
            SVC_FLAGS => {
                let bytes = attr.value.first_chunk::<4>();
                flags = u32::from_ne_bytes(*bytes.ok_or_else(|| attr.size_error())?);
            }
            SVC_TIMEOUT => timeout = attr.ne32()?,
            SVC_NETMASK => netmask = Some(attr.ne32()?),
            SVC_PE_NAME => engine = Some(attr.string()?.into()),
            _ => {}
        }
    }
    let v6 = match need(af, WITHIN, SVC_AF)? {
        AF_INET => false,
        AF_INET6 => true,
        _ => return Ok(None),
    };
    let id = if let Some(mark) = mark {
        ServiceId::Mark { mark, v6 }
    } else {
        let number = need(protocol, WITHIN, SVC_PROTOCOL)?;
        let known = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let protocol = known.into_iter().find(|p| u16::from(p.number()) == number);
        let Some(protocol) = protocol else {
            return Ok(None);
        };
        let ip = ip_of(&need(ip, WITHIN, SVC_ADDR)?, v6)?;
        let address = SocketAddr::new(ip, need(port, WITHIN, SVC_PORT)?);
        ServiceId::Address { protocol, address }
    };
    let words = SCHED_FLAGS.iter().filter(|(bit, _)| flags & bit != 0);
    let words: Vec<&str> = words.map(|(_, w)| w[dialect(scheduler)]).collect();
    Ok(Some(Service {
        persistent: (flags & FLAG_PERSISTENT != 0).then_some(timeout),
        netmask: netmask.and_then(|raw| read_netmask(raw, v6)),
        flags: (!words.is_empty()).then(|| words.join(",").into()),
        one_packet: flags & FLAG_ONE_PACKET != 0,
        engine,
        ..Service::new(id, scheduler)
    }))
}

/// `None` if all bits of the address are significant.
fn read_netmask(raw: u32, v6: bool) -> Option<Netmask> {
    if v6 {
        let len = u8::try_from(raw).ok()?;
        (len < 128).then_some(Netmask::V6(len))
    } else {
        (raw != u32::MAX).then(|| Netmask::V4(Ipv4Addr::from(raw.to_ne_bytes())))
    }
}

fn read_destination(
    attrs: Attributes<'_>,
    v6: bool,
) -> Result<(Destination, Connections), DecodeError> {
    const WITHIN: &str = "IPVS_CMD_ATTR_DEST";
    let (mut ip, mut port, mut method, mut v6) = (None, None, Method::Masquerade, v6);
    let mut read = Destination::new(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0), 0);
    let mut connections = Connections::default();
    for attr in attrs {
        let attr = attr?;
        match attr.kind {
            DEST_ADDR => ip = Some(attr),
            DEST_PORT => port = Some(attr.be16()?),
            DEST_FWD_METHOD => {
                let number = attr.ne32()?;
                let known = METHODS.iter().find(|(n, _)| *n == number);
                // The kernel reports a destination on this node as local.
                method = known.map_or(Method::Route, |(_, m)| *m);
            }
            DEST_WEIGHT => read.weight = attr.ne32()?,
            DEST_U_THRESH => read.upper = attr.ne32()?,
            DEST_L_THRESH => read.lower = attr.ne32()?,
            DEST_ACTIVE_CONNS => connections.active = attr.ne32()?,
            DEST_INACT_CONNS => connections.inactive = attr.ne32()?,
            // A tunnel may have a destination of the other family.
            DEST_ADDR_FAMILY => v6 = attr.ne16()? == AF_INET6,
            _ => {}
        }
    }
    let ip = ip_of(&need(ip, WITHIN, DEST_ADDR)?, v6)?;
    read.address = SocketAddr::new(ip, need(port, WITHIN, DEST_PORT)?);
    read.method = method;
    Ok((read, connections))
}
