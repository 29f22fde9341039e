//! Packets as bytes, with the checksums that hosts require, and the replies to them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SCTP: u8 = 132;

/// The number of the echo request that shows that all earlier packets have been processed.
pub(crate) const FENCE: u16 = 0xffff;

/// The original tuple of one packet. An echo request has no ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Packet {
    pub(crate) protocol: u8,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

/// How a connection is refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Refusal {
    /// An ICMP or `ICMPv6` message, by type and code.
    Icmp(u8, u8),
    /// A TCP reset.
    Reset,
    /// An SCTP abort.
    Abort,
}

/// The meaning of a captured packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Refused(Packet, Refusal),
    Fence,
}

fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// CRC32c, the checksum of SCTP.
fn crc(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (0_u32.wrapping_sub(crc & 1)))
        })
    });
    !crc
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

impl Packet {
    /// Return the bytes of the first packet of a flow. `number` is an echo request's identifier.
    pub(crate) fn bytes(&self, number: u16) -> Vec<u8> {
        let mut body = Vec::new();
        if !matches!(self.protocol, ICMP | ICMPV6) {
            body.extend(self.source.port().to_be_bytes());
            body.extend(self.destination.port().to_be_bytes());
        }
        let checksum_at = match self.protocol {
            TCP => {
                // Sequence and acknowledgement numbers, header of five words, SYN, window.
                body.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
                16
            }
            UDP => {
                body.extend([0, 12, 0, 0, b't', b'e', b's', b't']);
                6
            }
            SCTP => {
                // No tag and no checksum, then an INIT chunk of 20 bytes: tag, window, streams, number.
                body.extend([0; 8]);
                body.extend([
                    1, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1,
                ]);
                8
            }
            protocol => {
                body.extend([if protocol == ICMP { 8 } else { 128 }, 0, 0, 0]);
                body.extend(number.to_be_bytes());
                body.extend([0, 1]);
                2
            }
        };
        self.set_checksum(&mut body, checksum_at);
        self.header(body.len()).into_iter().chain(body).collect()
    }

    fn set_checksum(&self, body: &mut [u8], at: usize) {
        if self.protocol == SCTP {
            let crc = crc(body).to_le_bytes();
            body[at..at + 4].copy_from_slice(&crc);
            return;
        }
        let (source, destination) = (octets(self.source.ip()), octets(self.destination.ip()));
        let length = (body.len() as u16).to_be_bytes();
        let pseudo = [&source[..], &destination, &[0, self.protocol], &length];
        // IPv4's ICMP does not cover the addresses.
        let pseudo = if self.protocol == ICMP {
            &[][..]
        } else {
            &pseudo
        };
        let checksum = sum(&[pseudo, &[&*body]].concat());
        body[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }

    fn header(&self, body: usize) -> Vec<u8> {
        let mut header = match self.source {
            // Identification, flags, lifetime; the kernel fills in the checksum.
            SocketAddr::V4(_) => {
                let [high, low] = ((20 + body) as u16).to_be_bytes();
                vec![0x45, 0, high, low, 0, 0, 0, 0, 64, self.protocol, 0, 0]
            }
            SocketAddr::V6(_) => {
                let [high, low] = (body as u16).to_be_bytes();
                vec![0x60, 0, 0, 0, high, low, self.protocol, 64]
            }
        };
        header.extend(octets(self.source.ip()));
        header.extend(octets(self.destination.ip()));
        header
    }

    /// Return the packet with source and destination swapped.
    fn reversed(self) -> Self {
        Packet {
            source: self.destination,
            destination: self.source,
            ..self
        }
    }
}

/// Parse a packet; return it with the bytes after the addresses.
fn parse(bytes: &[u8]) -> Option<(Packet, &[u8])> {
    let (protocol, source, destination, at): (u8, IpAddr, IpAddr, usize) = match bytes.first()? >> 4
    {
        4 => {
            let ip = |at: usize| Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?));
            let length = usize::from(bytes.first()? & 15) * 4;
            (*bytes.get(9)?, ip(12)?.into(), ip(16)?.into(), length)
        }
        6 => {
            let ip = |at: usize| Some(Ipv6Addr::from(*bytes.get(at..)?.first_chunk::<16>()?));
            (*bytes.get(6)?, ip(8)?.into(), ip(24)?.into(), 40)
        }
        _ => return None,
    };
    let body = bytes.get(at..)?;
    let port = |at: usize| Some(u16::from_be_bytes(*body.get(at..)?.first_chunk()?));
    let (from, to) = match protocol {
        ICMP | ICMPV6 => (0, 0),
        _ => (port(0)?, port(2)?),
    };
    let packet = Packet {
        protocol,
        source: SocketAddr::new(source, from),
        destination: SocketAddr::new(destination, to),
    };
    Some((packet, body))
}

/// Interpret a captured packet as an answer to a packet that was sent.
pub(crate) fn answer(bytes: &[u8]) -> Option<Answer> {
    let (packet, body) = parse(bytes)?;
    match (packet.protocol, *body.first()?) {
        // Echo replies.
        (ICMP, 0) | (ICMPV6, 129) => {
            (body.get(4..6)? == FENCE.to_be_bytes()).then_some(Answer::Fence)
        }
        // Destination unreachable, time exceeded, parameter problem.
        (ICMP, 3 | 11 | 12) | (ICMPV6, 1 | 3 | 4) => {
            let (about, _) = parse(body.get(8..)?)?;
            let refusal = Refusal::Icmp(*body.first()?, *body.get(1)?);
            Some(Answer::Refused(about, refusal))
        }
        (TCP, _) if body.get(13)? & 4 != 0 => {
            Some(Answer::Refused(packet.reversed(), Refusal::Reset))
        }
        (SCTP, _) if *body.get(12)? == 6 => {
            Some(Answer::Refused(packet.reversed(), Refusal::Abort))
        }
        _ => None,
    }
}
