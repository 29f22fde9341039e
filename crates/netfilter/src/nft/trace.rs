//! Trace events of a packet (`NFT_MSG_TRACE`, `enum nft_trace_attributes`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::consts::*;
use super::decode_expr;
use super::object::{Policy, Verdict};
use crate::netlink::{Attribute, Attributes, DecodeError, need};

/// An event of a traced packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceEvent {
    /// Identifies the packet. A packet that re-enters through `lo` has a new one.
    pub id: u32,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The kind of event.
    pub kind: TraceKind,
    /// The packet as it entered a base chain; only in the first event of that chain.
    pub packet: Option<TracedPacket>,
    /// The packet's mark after this event.
    pub mark: u32,
}

/// The kind of a trace event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceKind {
    /// A rule all of whose conditions matched.
    Rule {
        /// Its handle.
        handle: u64,
        /// Its verdict; `None` for verdicts that end the traversal otherwise (queued, stolen).
        verdict: Option<Verdict>,
    },
    /// The end of the chain's rules. Kernels since 5.17 report it as a rule without a handle.
    ChainEnd,
    /// The end of a chain that was jumped to.
    Return,
    /// The end of a base chain.
    Policy(Policy),
}

/// The position and headers of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TracedPacket {
    /// Source and destination address, if the header is complete.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// The first four bytes of the transport header: source and destination port; or ICMP type and
    /// code, and the checksum.
    pub ports: Option<(u16, u16)>,
    /// The index of the input interface.
    pub iif: Option<u32>,
    /// The index of the output interface.
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
        // Linux 6.1 reports a rule that returns as the end of the chain, with the rule's handle.
        NFT_TRACETYPE_RETURN => match handle {
            Some(handle) => TraceKind::Rule { handle, verdict },
            None => TraceKind::Return,
        },
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

/// Read the addresses of an IPv4 or IPv6 header.
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
