//! Packets as bytes, and what is seen of them on a link.

use std::net::Ipv4Addr;

/// One packet to send, told from others by its source port, which is the IP header's identification
/// too: that stays when the port is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub proto: u8,
    pub sport: u16,
    pub dport: u16,
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// The packet itself, by addresses and destination port.
    Forwarded {
        /// No router has had it yet.
        fresh: bool,
        src: Ipv4Addr,
        dst: Ipv4Addr,
        dport: u16,
    },
    /// An ICMP error about a packet with this source port.
    Icmp,
    /// A TCP reset to this port: it reached a host without a listener.
    Reset,
}

const TTL: u8 = 64;

fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
            sum += u32::from(word);
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

impl Probe {
    /// A TCP SYN, or a UDP datagram, with its IP header; the kernel fills in that one's checksum.
    pub fn bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(self.sport.to_be_bytes());
        body.extend(self.dport.to_be_bytes());
        if self.proto == 6 {
            body.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 2, 0xff, 0xff, 0, 0, 0, 0]);
            let len = u16::try_from(body.len()).unwrap().to_be_bytes();
            let sum = checksum(&[&self.src.octets(), &self.dst.octets(), &[0, 6], &len, &body]);
            body[16..18].copy_from_slice(&sum.to_be_bytes());
        } else {
            body.extend([0, 8, 0, 0]);
        }
        let total = u16::try_from(20 + body.len()).unwrap().to_be_bytes();
        let id = self.sport.to_be_bytes();
        let mut packet = vec![
            0x45, 0, total[0], total[1], id[0], id[1], 0x40, 0, TTL, self.proto, 0, 0,
        ];
        packet.extend(self.src.octets());
        packet.extend(self.dst.octets());
        packet.extend(body);
        packet
    }
}

fn addr(b: &[u8]) -> Ipv4Addr {
    Ipv4Addr::new(b[0], b[1], b[2], b[3])
}

fn port(b: &[u8]) -> u16 {
    u16::from_be_bytes([b[0], b[1]])
}

/// What a packet on the link says of a probe, and of which; `None` for other traffic.
pub fn sight(packet: &[u8]) -> Option<(u16, Sight)> {
    if packet.len() < 28 || packet[0] != 0x45 {
        return None;
    }
    let body = &packet[20..];
    match packet[9] {
        1 if body[0] == 3 && body.len() >= 8 + 24 => Some((port(&body[12..]), Sight::Icmp)),
        6 if body[13] & 4 != 0 => Some((port(&body[2..]), Sight::Reset)),
        6 | 17 if packet[8] >= TTL - 1 => Some((
            port(&packet[4..]),
            Sight::Forwarded {
                fresh: packet[8] == TTL,
                src: addr(&packet[12..]),
                dst: addr(&packet[16..]),
                dport: port(&body[2..]),
            },
        )),
        _ => None,
    }
}
