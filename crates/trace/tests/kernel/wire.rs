//! Packets as bytes, and as seen on a link.

use std::net::IpAddr;

/// Which packet of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first: a SYN, an INIT, an echo request.
    Open = 1,
    /// The answer to the first.
    Answer,
    /// What follows the answer.
    Next,
    /// A packet that belongs to no connection and opens none.
    Stray,
}

/// A packet to send. `id` is the identification in the IPv4 header, the flow label in the IPv6 header,
/// and in the last bytes; NAT changes none of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub proto: u8,
    /// For ICMP the echo's identifier.
    pub sport: u16,
    pub dport: u16,
    pub id: u16,
    pub kind: Kind,
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// The packet itself on a link.
    Sent {
        /// It has passed no router.
        fresh: bool,
        src: IpAddr,
        dst: IpAddr,
        sport: u16,
        dport: u16,
    },
    /// The packet itself, delivered to the host.
    Delivered { src: IpAddr, sport: u16, dport: u16 },
    /// An ICMP error about it.
    Icmp {
        /// Made by [`Probe::error`]; otherwise by some host's kernel.
        ours: bool,
        /// It has passed no router.
        fresh: bool,
        kind: u8,
        code: u8,
        src: IpAddr,
        dst: IpAddr,
    },
    /// A TCP reset between these ports.
    Reset { sport: u16, dport: u16 },
}

/// Different from the kernel's initial value, to recognise the kernel's own packets.
const TTL: u8 = 60;

/// In a field that errors do not use.
const OURS: u8 = 0x5e;

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn sum_up(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for pair in parts.iter().flat_map(|p| p.chunks(2)) {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        sum += u32::from(word);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// CRC-32C, SCTP's checksum.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// A packet with this header around a body.
fn around(src: IpAddr, dst: IpAddr, proto: u8, id: u16, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap();
    let [a, b] = id.to_be_bytes();
    let mut packet = if src.is_ipv4() {
        let [x, y] = (length + 20).to_be_bytes();
        vec![0x45, 0, x, y, a, b, 0x40, 0, TTL, proto, 0, 0]
    } else {
        let [x, y] = length.to_be_bytes();
        vec![0x60, 0, a, b, x, y, proto, TTL]
    };
    packet.extend(octets(src));
    packet.extend(octets(dst));
    if src.is_ipv4() {
        let sum = sum_up(&[&packet]).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
    }
    packet.extend(body);
    packet
}

/// The pseudo header for the checksums of TCP, UDP and ICMPv6.
fn pseudo(src: IpAddr, dst: IpAddr, proto: u8, body: &[u8]) -> Vec<u8> {
    let mut all = octets(src);
    all.extend(octets(dst));
    all.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    all.extend([0, 0, 0, proto]);
    all
}

impl Probe {
    /// The whole packet.
    pub fn bytes(&self) -> Vec<u8> {
        around(self.src, self.dst, self.proto, self.id, &self.body())
    }

    fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(self.sport.to_be_bytes());
        body.extend(self.dport.to_be_bytes());
        let summed = |mut body: Vec<u8>, at: usize| {
            let before = pseudo(self.src, self.dst, self.proto, &body);
            // ICMP has no pseudo header.
            let before = if self.proto == 1 { vec![] } else { before };
            let sum = sum_up(&[&before, &body]).to_be_bytes();
            body[at..at + 2].copy_from_slice(&sum);
            body
        };
        match self.proto {
            6 => {
                let flags = match self.kind {
                    Kind::Open => 2,
                    Kind::Answer => 18,
                    Kind::Next | Kind::Stray => 16,
                };
                let (seq, ack) = match self.kind {
                    Kind::Open => (1, 0),
                    Kind::Answer => (1, 2),
                    Kind::Next | Kind::Stray => (2, 2),
                };
                body.extend([0, 0, 0, seq, 0, 0, 0, ack]);
                body.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
                body.extend(self.signature());
                summed(body, 16)
            }
            17 => {
                body.extend([0, 12, 0, 0]);
                body.extend(self.signature());
                summed(body, 6)
            }
            132 => self.sctp(body),
            _ => {
                let reply = matches!(self.kind, Kind::Answer | Kind::Stray);
                let kind = match (self.proto, reply) {
                    (1, false) => 8,
                    (1, true) => 0,
                    (_, false) => 128,
                    (_, true) => 129,
                };
                let [a, b] = self.sport.to_be_bytes();
                let mut body = vec![kind, 0, 0, 0, a, b, 0, 1];
                body.extend(self.signature());
                summed(body, 2)
            }
        }
    }

    /// The last bytes of every packet.
    fn signature(&self) -> [u8; 4] {
        let [a, b] = self.id.to_be_bytes();
        [OURS, self.kind as u8, a, b]
    }

    /// Both sides' verification tag is 1.
    fn sctp(&self, mut body: Vec<u8>) -> Vec<u8> {
        let (tag, chunk) = match self.kind {
            Kind::Open => (0, 1),
            Kind::Answer => (1, 2),
            Kind::Next => (1, 10),
            Kind::Stray => (1, 0),
        };
        body.extend([0, 0, 0, tag, 0, 0, 0, 0]);
        body.extend([chunk, 3, 0, 20]);
        body.extend([0, 0, 0, 1, 0, 0, 0xff, 0xff, 0, 1, 0, 1]);
        body.extend(self.signature());
        let sum = crc32c(&body).to_le_bytes();
        body[8..12].copy_from_slice(&sum);
        body
    }

    /// An ICMP error from `from` to its sender: port unreachable.
    pub fn error(&self, from: IpAddr) -> Vec<u8> {
        let inner = self.bytes();
        let v4 = self.src.is_ipv4();
        let (proto, kind, code) = if v4 { (1, 3, 3) } else { (58, 1, 4) };
        let mut body = vec![kind, code, 0, 0, OURS, OURS, 0, 0];
        body.extend(inner);
        let before = if v4 {
            vec![]
        } else {
            pseudo(from, self.src, proto, &body)
        };
        let sum = sum_up(&[&before, &body]).to_be_bytes();
        body[2..4].copy_from_slice(&sum);
        around(from, self.src, proto, self.id, &body)
    }
}

fn number(b: &[u8]) -> u16 {
    u16::from_be_bytes([b[0], b[1]])
}

/// An IP header taken apart.
struct Header<'a> {
    src: IpAddr,
    dst: IpAddr,
    proto: u8,
    ttl: u8,
    id: u16,
    body: &'a [u8],
}

fn header(packet: &[u8]) -> Option<Header<'_>> {
    let array = |at: usize| <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok();
    let short = |at: usize| <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok();
    match packet.first()? >> 4 {
        4 => Some(Header {
            src: short(12)?.into(),
            dst: short(16)?.into(),
            proto: packet[9],
            ttl: packet[8],
            id: number(&packet[4..]),
            body: packet.get(usize::from(packet[0] & 15) * 4..)?,
        }),
        6 => Some(Header {
            src: array(8)?.into(),
            dst: array(24)?.into(),
            proto: packet[6],
            ttl: packet[7],
            id: number(&packet[2..]),
            body: packet.get(40..)?,
        }),
        _ => None,
    }
}

/// Source and destination port; an echo's identifier and 0.
fn ports(proto: u8, body: &[u8]) -> (u16, u16) {
    match proto {
        1 | 58 => (number(&body[4..]), 0),
        _ => (number(body), number(&body[2..])),
    }
}

/// Return what a packet on a link shows about a probe, and which probe; `None` for other traffic. A
/// reset names no probe.
pub fn sight(packet: &[u8]) -> Option<(u16, Sight)> {
    let h = header(packet)?;
    if h.body.len() < 8 {
        return None;
    }
    if let (1, 3..) | (58, 1..=4) = (h.proto, h.body[0])
        && let Some(inner) = header(&h.body[8..])
        && h.body[0] != 8
    {
        let (kind, code) = (h.body[0], h.body[1]);
        let (src, dst) = (h.src, h.dst);
        let what = Sight::Icmp {
            ours: h.body[4..6] == [OURS; 2],
            fresh: h.ttl == TTL,
            kind,
            code,
            src,
            dst,
        };
        return Some((inner.id, what));
    }
    if h.proto == 6 && h.body[13] & 4 != 0 {
        let (sport, dport) = ports(6, h.body);
        return Some((0, Sight::Reset { sport, dport }));
    }
    let ours = matches!(h.proto, 1 | 6 | 17 | 58 | 132) && matches!(h.ttl, TTL | 59);
    ours.then(|| {
        let (sport, dport) = ports(h.proto, h.body);
        let what = Sight::Sent {
            fresh: h.ttl == TTL,
            src: h.src,
            dst: h.dst,
            sport,
            dport,
        };
        (h.id, what)
    })
}

/// Parse a packet from a raw socket: IPv4 has its header, IPv6 has none.
pub fn delivered(proto: u8, from: IpAddr, packet: &[u8]) -> Option<(u16, Sight)> {
    let body = match from {
        IpAddr::V4(_) => header(packet)?.body,
        IpAddr::V6(_) => packet,
    };
    let [.., OURS, kind, a, b] = *body else {
        return None;
    };
    let asks = kind == Kind::Open as u8 || kind == Kind::Next as u8;
    let wrong = match (proto, body[0]) {
        // The kernel's own answer to an echo has the echo's words; errors are about others.
        (1, 0) | (58, 129) => asks,
        (1, 8) | (58, 128) => false,
        (1 | 58, _) => body[4..6] != [OURS; 2],
        // A reset or abort is not a probe.
        _ => false,
    };
    let (sport, dport) = ports(proto, body);
    let what = Sight::Delivered {
        src: from,
        sport,
        dport,
    };
    (!wrong).then(|| (u16::from_be_bytes([a, b]), what))
}
