//! `struct xt_ipvs_mtinfo` (`linux/netfilter/xt_ipvs.h`).

use super::{flag, unsupported};
use crate::iptables::{Family, IpvsDirection, MatchIpvs, Negatable, Net, Protocol};
use crate::iptables_nft::Unsupported;
use crate::iptables_nft::info::{Reader, Writer};

pub(super) const SIZE: usize = 40;

const ADDRESS: usize = 0;
const MASK: usize = 16;
const PORT: usize = 32;
const PROTOCOL: usize = 34;
const METHOD: usize = 35;
const CONTROL_PORT: usize = 36;
const INVERT: usize = 38;
const GIVEN: usize = 39;

const XT_IPVS_IPVS_PROPERTY: u8 = 1 << 0;
const XT_IPVS_PROTO: u8 = 1 << 1;
const XT_IPVS_VADDR: u8 = 1 << 2;
const XT_IPVS_VPORT: u8 = 1 << 3;
const XT_IPVS_DIR: u8 = 1 << 4;
const XT_IPVS_METHOD: u8 = 1 << 5;
const XT_IPVS_VPORTCTL: u8 = 1 << 6;

/// `IP_VS_CONN_F_*` (`linux/ip_vs.h`).
const METHODS: [(u8, &str); 3] = [(0, "MASQ"), (2, "IPIP"), (3, "GATE")];

pub(super) fn put(m: &MatchIpvs) -> Result<Writer, Unsupported> {
    let mut w = Writer::new(SIZE);
    let (mut given, mut invert) = (0, 0);
    let mut set = |bit: u8, negated: bool| {
        given |= bit;
        invert |= flag(negated, bit);
    };
    if let Some(is_ipvs) = m.is_ipvs {
        set(XT_IPVS_IPVS_PROPERTY, !is_ipvs);
    }
    if let Some(protocol) = m.protocol {
        set(XT_IPVS_PROTO, protocol.negated);
        w.u8(PROTOCOL, protocol.value.0);
    }
    if let Some(net) = m.address {
        set(XT_IPVS_VADDR, net.negated);
        w.ip(ADDRESS, net.value.addr());
        w.ip(MASK, net.value.mask());
    }
    if let Some(port) = m.port {
        set(XT_IPVS_VPORT, port.negated);
        w.be16(PORT, port.value);
    }
    if let Some(direction) = m.direction {
        set(XT_IPVS_DIR, direction == IpvsDirection::Reply);
    }
    if let Some(method) = &m.method {
        set(XT_IPVS_METHOD, method.negated);
        let known = METHODS.iter().find(|(_, name)| **name == *method.value);
        let Some((number, _)) = known else {
            return unsupported("match ipvs with this method");
        };
        w.u8(METHOD, *number);
    }
    if let Some(port) = m.control_port {
        set(XT_IPVS_VPORTCTL, port.negated);
        w.be16(CONTROL_PORT, port.value);
    }
    // Every other condition implies an IPVS connection.
    if given & !XT_IPVS_IPVS_PROPERTY != 0 {
        if m.is_ipvs == Some(false) {
            return unsupported("match ipvs with contradictory conditions");
        }
        given |= XT_IPVS_IPVS_PROPERTY;
    }
    w.u8(INVERT, invert);
    w.u8(GIVEN, given);
    Ok(w)
}

pub(super) fn get(r: Reader<'_>, family: Family) -> Result<MatchIpvs, Unsupported> {
    let (given, invert) = (r.u8(GIVEN), r.u8(INVERT));
    let negated = |bit: u8| (given & bit != 0).then_some(invert & bit != 0);
    let method = match negated(XT_IPVS_METHOD) {
        None => None,
        Some(negated) => {
            let number = r.u8(METHOD);
            let known = METHODS.iter().find(|(known, _)| *known == number);
            let Some((_, name)) = known else {
                return unsupported("match ipvs with this method");
            };
            let value = (*name).into();
            Some(Negatable { negated, value })
        }
    };
    let with = |bit, value| {
        let negated = negated(bit)?;
        Some(Negatable { negated, value })
    };
    let address = match negated(XT_IPVS_VADDR) {
        None => None,
        Some(negated) => Net::new(r.ip(ADDRESS, family), r.ip(MASK, family))
            .map(|value| Negatable { negated, value }),
    };
    Ok(MatchIpvs {
        is_ipvs: match given {
            XT_IPVS_IPVS_PROPERTY => Some(invert & XT_IPVS_IPVS_PROPERTY == 0),
            _ => None,
        },
        protocol: negated(XT_IPVS_PROTO).map(|negated| Negatable {
            negated,
            value: Protocol(r.u8(PROTOCOL)),
        }),
        address,
        port: with(XT_IPVS_VPORT, r.be16(PORT)),
        direction: negated(XT_IPVS_DIR).map(|reply| match reply {
            true => IpvsDirection::Reply,
            false => IpvsDirection::Original,
        }),
        method,
        control_port: with(XT_IPVS_VPORTCTL, r.be16(CONTROL_PORT)),
    })
}
