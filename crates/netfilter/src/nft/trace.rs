//! What the kernel tells of a traced packet (`NFT_MSG_TRACE`, `enum nft_trace_attributes`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::consts::*;
use super::decode_expr;
use super::object::{Policy, Verdict};
use crate::netlink::{Attribute, Attributes, DecodeError, need};

/// One thing that a traced packet met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceEvent {
    /// Tells packets apart. A packet that comes back in through `lo` gets another.
    pub id: u32,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// What it met.
    pub kind: TraceKind,
    /// The packet as it came to a base chain: with that chain's first event only.
    pub packet: Option<TracedPacket>,
    /// The packet's mark after this.
    pub mark: u32,
}

/// What a packet met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceKind {
    /// A rule of which all conditions held.
    Rule {
        /// Its handle.
        handle: u64,
        /// What it said; `None` for what ends the way through the chains otherwise (queued, stolen).
        verdict: Option<Verdict>,
    },
    /// The end of the chain's rules: kernels since 5.17 tell of a rule without a handle there.
    ChainEnd,
    /// The end of a chain that was jumped to.
    Return,
    /// The end of a base chain.
    Policy(Policy),
}

/// Where a packet is, and what its header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TracedPacket {
    /// Source and destination address, where the header is whole.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// The first four bytes of the transport header: source and destination port, or an ICMP type
    /// with its code, and the checksum.
    pub ports: Option<(u16, u16)>,
    /// The index of the interface that it came in through.
    pub iif: Option<u32>,
    /// The index of the interface that it leaves through.
    pub oif: Option<u32>,
}

pub(super) fn decode(attrs: &[u8]) -> Result<TraceEvent, DecodeError> {
    const WITHIN: &str = "nft_trace_attributes";
    let (mut table, mut chain, mut handle, mut kind) = (None, None, None, None);
    let (mut verdict, mut policy, mut id, mut mark) = (None, None, None, 0);
    let mut packet = TracedPacket::default();
    for attr in Attributes::new(attrs, WITHIN) {
        let attr = attr?;
        match attr.kind {
            NFTA_TRACE_TABLE => table = Some(attr.string()?.to_owned()),
            NFTA_TRACE_CHAIN => chain = Some(attr.string()?.to_owned()),
            NFTA_TRACE_RULE_HANDLE => handle = Some(attr.be64()?),
            NFTA_TRACE_TYPE => kind = Some(attr.be32()?),
            NFTA_TRACE_VERDICT => verdict = known_verdict(attr)?,
            NFTA_TRACE_ID => id = Some(attr.be32()?),
            NFTA_TRACE_NETWORK_HEADER => packet.addresses = addresses(attr.value),
            NFTA_TRACE_TRANSPORT_HEADER => packet.ports = ports(attr.value),
            NFTA_TRACE_IIF => packet.iif = Some(attr.be32()?),
            NFTA_TRACE_OIF => packet.oif = Some(attr.be32()?),
            NFTA_TRACE_MARK => mark = attr.be32()?,
            NFTA_TRACE_POLICY => policy = Some(attr.be32()?),
            _ => {}
        }
    }
    let kind = match need(kind, WITHIN, NFTA_TRACE_TYPE)? {
        NFT_TRACETYPE_POLICY => TraceKind::Policy(Policy::from_number(need(
            policy,
            WITHIN,
            NFTA_TRACE_POLICY,
        )?)),
        NFT_TRACETYPE_RETURN => TraceKind::Return,
        NFT_TRACETYPE_RULE => match handle {
            Some(handle) => TraceKind::Rule { handle, verdict },
            None => TraceKind::ChainEnd,
        },
        other => {
            return Err(DecodeError::Unknown {
                what: "nft_trace_types",
                value: u64::from(other),
            });
        }
    };
    Ok(TraceEvent {
        id: need(id, WITHIN, NFTA_TRACE_ID)?,
        table: need(table, WITHIN, NFTA_TRACE_TABLE)?,
        chain: need(chain, WITHIN, NFTA_TRACE_CHAIN)?,
        kind,
        packet: (packet != TracedPacket::default()).then_some(packet),
        mark,
    })
}

fn known_verdict(attr: Attribute<'_>) -> Result<Option<Verdict>, DecodeError> {
    match decode_expr::verdict(attr) {
        Ok(verdict) => Ok(Some(verdict)),
        Err(DecodeError::Unknown { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Of a network header of either version.
fn addresses(header: &[u8]) -> Option<(IpAddr, IpAddr)> {
    fn at<const N: usize>(header: &[u8], from: usize) -> Option<[u8; N]> {
        header.get(from..from + N)?.try_into().ok()
    }
    match header.first()? >> 4 {
        4 => {
            let [src, dst] = [12, 16].map(|from| at::<4>(header, from).map(Ipv4Addr::from));
            Some((src?.into(), dst?.into()))
        }
        6 => {
            let [src, dst] = [8, 24].map(|from| at::<16>(header, from).map(Ipv6Addr::from));
            Some((src?.into(), dst?.into()))
        }
        _ => None,
    }
}

fn ports(header: &[u8]) -> Option<(u16, u16)> {
    let [a, b, c, d, ..] = *header else {
        return None;
    };
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}
