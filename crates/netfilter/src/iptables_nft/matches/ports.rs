//! Ports: `struct xt_tcp`, `xt_udp`, `xt_sctp_info` and `xt_multiport_v1`.

use super::{flag, inverted, unsupported};
use crate::iptables::{
    Match, MatchMultiport, MatchTcp, Negatable, PortMatch, PortRange, PortSide, TcpFlags,
};
use crate::iptables_nft::Unsupported;
use crate::iptables_nft::info::{Reader, Writer};

const EVERY_PORT: PortRange = PortRange {
    first: 0,
    last: u16::MAX,
};

/// Write the ports of `struct xt_tcp` and `struct xt_udp`; return the inversion flags.
fn put_ports(w: &mut Writer, ports: &PortMatch) -> u8 {
    for (at, side) in [(0, &ports.source), (4, &ports.destination)] {
        let range = side.as_ref().map_or(EVERY_PORT, |side| side.value);
        w.u16(at, range.first);
        w.u16(at + 2, range.last);
    }
    flag(inverted(ports.source.as_ref()), 1) | flag(inverted(ports.destination.as_ref()), 2)
}

pub(super) fn get_ports(r: Reader<'_>, source: usize, destination: usize, flags: u8) -> PortMatch {
    let side = |at: usize, negated: bool| {
        let value = PortRange {
            first: r.u16(at),
            last: r.u16(at + 2),
        };
        (value != EVERY_PORT || negated).then_some(Negatable { negated, value })
    };
    PortMatch {
        source: side(source, flags & 1 != 0),
        destination: side(destination, flags & 2 != 0),
    }
}

pub(super) fn put_tcp(tcp: &MatchTcp) -> Writer {
    let mut w = Writer::new(12);
    let mut invert = put_ports(&mut w, &tcp.ports);
    if let Some(option) = &tcp.option {
        w.u8(8, option.value);
    }
    if let Some(flags) = &tcp.flags {
        w.u8(9, flags.value.mask);
        w.u8(10, flags.value.set);
    }
    invert |= flag(inverted(tcp.flags.as_ref()), 4) | flag(inverted(tcp.option.as_ref()), 8);
    w.u8(11, invert);
    w
}

pub(super) fn get_tcp(r: Reader<'_>) -> MatchTcp {
    let invert = r.u8(11);
    let (option, mask, set) = (r.u8(8), r.u8(9), r.u8(10));
    MatchTcp {
        ports: get_ports(r, 0, 4, invert),
        flags: (mask != 0 || invert & 4 != 0).then_some(Negatable {
            negated: invert & 4 != 0,
            value: TcpFlags { mask, set },
        }),
        option: (option != 0).then_some(Negatable {
            negated: invert & 8 != 0,
            value: option,
        }),
    }
}

pub(super) fn put_udp(ports: &PortMatch) -> Writer {
    let mut w = Writer::new(10);
    let invert = put_ports(&mut w, ports);
    w.u8(8, invert);
    w
}

/// `XT_SCTP_SRC_PORTS`, `XT_SCTP_DEST_PORTS`.
const SCTP_FLAGS: [u32; 2] = [1, 2];

pub(super) fn put_sctp(ports: &PortMatch) -> Writer {
    let mut w = Writer::new(292);
    let (mut flags, mut invert) = (0, 0);
    let sides = [(4, &ports.source), (0, &ports.destination)];
    for ((at, side), bit) in sides.into_iter().zip(SCTP_FLAGS) {
        if let Some(side) = side {
            w.u16(at, side.value.first);
            w.u16(at + 2, side.value.last);
            flags |= bit;
            invert |= flag(side.negated, bit);
        }
    }
    // `flag_info`: four entries without a chunk type.
    for at in [268, 271, 274, 277] {
        w.u8(at, u8::MAX);
    }
    w.u32(284, flags);
    w.u32(288, invert);
    w
}

pub(super) fn get_sctp(r: Reader<'_>) -> Result<PortMatch, Unsupported> {
    let (flags, invert) = (r.u32(284), r.u32(288));
    if flags & !3 != 0 {
        return unsupported("match sctp with chunk types");
    }
    let side = |at, bit| {
        let range = PortRange {
            first: r.u16(at),
            last: r.u16(at + 2),
        };
        (flags & bit != 0).then_some(Negatable {
            negated: invert & bit != 0,
            value: range,
        })
    };
    let [source, destination] = SCTP_FLAGS;
    Ok(PortMatch {
        source: side(4, source),
        destination: side(0, destination),
    })
}

/// `XT_MULTI_PORTS`.
const MULTI_PORTS: usize = 15;

pub(super) fn put_multiport(multiport: &MatchMultiport) -> Writer {
    let mut w = Writer::new(48);
    w.u8(
        0,
        match multiport.side {
            PortSide::Source => 0,
            PortSide::Destination => 1,
            PortSide::Either => 2,
        },
    );
    let mut count = 0;
    for range in &multiport.ports.value {
        w.u16(2 + 2 * count, range.first);
        if range.first != range.last {
            w.u8(32 + count, 1);
            count += 1;
            w.u16(2 + 2 * count, range.last);
        }
        count += 1;
    }
    w.u8(1, count as u8);
    w.u8(47, multiport.ports.negated.into());
    w
}

pub(super) fn get_multiport(r: Reader<'_>) -> Result<Match, Unsupported> {
    let side = match r.u8(0) {
        0 => PortSide::Source,
        1 => PortSide::Destination,
        2 => PortSide::Either,
        _ => return unsupported("match multiport of this kind"),
    };
    let mut value = Vec::new();
    let count = usize::from(r.u8(1)).min(MULTI_PORTS);
    let mut at = 0;
    while at < count {
        let first = r.u16(2 + 2 * at);
        let range = r.u8(32 + at) != 0 && at + 1 < count;
        at += usize::from(range);
        let last = r.u16(2 + 2 * at);
        value.push(PortRange { first, last });
        at += 1;
    }
    let negated = r.u8(47) != 0;
    let ports = Negatable { negated, value };
    Ok(Match::Multiport(Box::new(MatchMultiport { side, ports })))
}
