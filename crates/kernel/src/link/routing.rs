//! Routes and policy rules as the kernel lists them, of every table and both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netfilter::netlink::{Attribute, Attributes, DecodeError, Message};
use nix::libc;

use super::{Result, RtNetlink};
use crate::Family;
use crate::rtnetlink::{
    self, AF_INET, AF_INET6, FIB_RULE_HDR, RTA_DST, RTA_GATEWAY, RTA_MULTIPATH, RTA_OIF,
    RTA_PREFSRC, RTA_PRIORITY, RTA_TABLE, RTA_VIA, RTM_GETROUTE, RTM_GETRULE, RTMSG, ip,
};

const RTM_F_CLONED: u32 = 0x200;
/// The size of `struct rtnexthop`.
const RTNEXTHOP: usize = 8;

const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_GOTO: u16 = 4;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TUN_ID: u16 = 12;
const FRA_SUPPRESS_IFGROUP: u16 = 13;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
const FRA_L3MDEV: u16 = 19;
const FRA_UID_RANGE: u16 = 20;
const FRA_IP_PROTO: u16 = 22;
const FRA_SPORT_RANGE: u16 = 23;
const FRA_DPORT_RANGE: u16 = 24;
const FRA_DSCP: u16 = 25;
const FRA_FLOWLABEL: u16 = 26;
const FIB_RULE_INVERT: u32 = 2;
const FR_ACT_TO_TBL: u8 = 1;
const FR_ACT_BLACKHOLE: u8 = 6;
const FR_ACT_UNREACHABLE: u8 = 7;
const FR_ACT_PROHIBIT: u8 = 8;

/// The kind of a route (`rtm_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteType {
    /// `RTN_UNICAST`.
    Unicast,
    /// `RTN_LOCAL`.
    Local,
    /// `RTN_BROADCAST`.
    Broadcast,
    /// `RTN_ANYCAST`.
    Anycast,
    /// `RTN_MULTICAST`.
    Multicast,
    /// `RTN_BLACKHOLE`.
    BlackHole,
    /// `RTN_UNREACHABLE`.
    Unreachable,
    /// `RTN_PROHIBIT`.
    Prohibit,
    /// `RTN_THROW`.
    Throw,
    /// Another number.
    Other(u8),
}

/// The action of a policy rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// `FR_ACT_TO_TBL`.
    ToTable,
    /// `FR_ACT_BLACKHOLE`.
    Blackhole,
    /// `FR_ACT_UNREACHABLE`.
    Unreachable,
    /// `FR_ACT_PROHIBIT`.
    Prohibit,
    /// Another number.
    Other(u8),
}

/// A route of any table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRoute {
    /// The destination; `0.0.0.0/0` or `::/0` for the default route.
    pub destination: IpNet,
    /// The table (`RT_TABLE_*` of linux/rtnetlink.h).
    pub table: u32,
    /// The kind.
    pub kind: RouteType,
    /// The source address of local sockets that use this route.
    pub source: Option<IpAddr>,
    /// The metric; the lowest wins.
    pub metric: u32,
    /// The next hops: several in a multipath route, none in a route that drops packets.
    pub hops: Vec<Hop>,
}

/// A next hop of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The interface's index.
    pub interface: Option<u32>,
    /// The gateway.
    pub via: Option<IpAddr>,
    /// Its share relative to the other hops' weights, from 1.
    pub weight: u32,
}

/// A policy routing rule, as `ip rule` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRule {
    /// The family.
    pub family: Family,
    /// The rule with the lowest number is evaluated first.
    pub priority: u32,
    /// The source addresses that match.
    pub from: Option<IpNet>,
    /// The destination addresses that match.
    pub to: Option<IpNet>,
    /// The input interface that matches.
    pub iif: Option<String>,
    /// The interface to which matching sockets are bound.
    pub oif: Option<String>,
    /// The packet mark that matches.
    pub mark: Option<u32>,
    /// The mask for the mark.
    pub mask: Option<u32>,
    /// Whether the conditions are negated.
    pub not: bool,
    /// The table to look in.
    pub table: u32,
    /// The action.
    pub action: RuleAction,
    /// Other conditions, by name (`suppress_prefixlength`, `ipproto`, …).
    pub other: Vec<String>,
}

impl RtNetlink {
    /// List the routes of all tables and both families, without routes cached for one destination.
    ///
    /// # Errors
    /// [`LinkError::Netlink`](super::LinkError::Netlink).
    pub fn routes(&mut self) -> Result<Vec<ListedRoute>> {
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let mut header = [0; RTMSG];
            header[0] = family;
            let what = "listing routes";
            found.extend(rtnetlink::dump(
                &mut self.socket,
                what,
                RTM_GETROUTE,
                &header,
                ListedRoute::read,
            )?);
        }
        Ok(found)
    }

    /// List the policy rules of both families.
    ///
    /// # Errors
    /// [`LinkError::Netlink`](super::LinkError::Netlink).
    pub fn rules(&mut self) -> Result<Vec<ListedRule>> {
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let mut header = [0; FIB_RULE_HDR];
            header[0] = family;
            let what = "listing policy rules";
            found.extend(rtnetlink::dump(
                &mut self.socket,
                what,
                RTM_GETRULE,
                &header,
                ListedRule::read,
            )?);
        }
        Ok(found)
    }
}

/// Read `struct rtvia`: the IPv6 gateway of an IPv4 route (RFC 8950).
fn via(attribute: &Attribute<'_>) -> std::result::Result<Option<IpAddr>, DecodeError> {
    let (family, value) = attribute
        .value
        .split_first_chunk::<2>()
        .ok_or(DecodeError::Malformed("a gateway without its family"))?;
    let family = u8::try_from(u16::from_ne_bytes(*family)).unwrap_or_default();
    ip(family, &attribute.with_value(value))
}

/// Read the hops of `RTA_MULTIPATH`: each is a `struct rtnexthop` with attributes of its own.
fn multipath(family: u8, mut bytes: &[u8]) -> std::result::Result<Vec<Hop>, DecodeError> {
    let cut = DecodeError::Malformed("a next hop longer than its route");
    let mut hops = Vec::new();
    while let Some(head) = bytes.first_chunk::<RTNEXTHOP>() {
        let &[l, m, _, weight, a, b, c, d] = head;
        let length = usize::from(u16::from_ne_bytes([l, m]));
        let inside = bytes.get(RTNEXTHOP..length).ok_or(cut)?;
        let mut hop = Hop {
            interface: Some(u32::from_ne_bytes([a, b, c, d])),
            via: None,
            // rtnh_hops is the weight less one.
            weight: u32::from(weight) + 1,
        };
        for attribute in Attributes::new(inside, "rtattr_type_t") {
            let attribute = attribute?;
            match attribute.kind {
                RTA_GATEWAY => hop.via = ip(family, &attribute)?,
                RTA_VIA => hop.via = via(&attribute)?,
                _ => {}
            }
        }
        hops.push(hop);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(hops)
}

impl ListedRoute {
    /// Read an `RTM_NEWROUTE` message; `None` for a cached route and for other families.
    pub(crate) fn read(message: &Message<'_>) -> std::result::Result<Option<Self>, DecodeError> {
        let head = message.payload.first_chunk::<RTMSG>();
        let head = head.ok_or(DecodeError::Malformed("a route without its header"))?;
        let &[family, length, _, _, table, _, _, kind, f, g, h, i] = head;
        let mut destination: IpAddr = match family {
            AF_INET => Ipv4Addr::UNSPECIFIED.into(),
            AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return Ok(None),
        };
        if u32::from_ne_bytes([f, g, h, i]) & RTM_F_CLONED != 0 {
            return Ok(None);
        }
        let (mut table, mut source, mut metric) = (u32::from(table), None, 0);
        let (mut gateway, mut interface, mut hops) = (None, None, Vec::new());
        for attribute in message.attributes(RTMSG, "rtattr_type_t") {
            let attribute = attribute?;
            match attribute.kind {
                RTA_DST => destination = ip(family, &attribute)?.unwrap_or(destination),
                RTA_TABLE => table = attribute.ne32()?,
                RTA_PREFSRC => source = ip(family, &attribute)?,
                RTA_PRIORITY => metric = attribute.ne32()?,
                RTA_OIF => interface = Some(attribute.ne32()?),
                RTA_GATEWAY => gateway = ip(family, &attribute)?,
                RTA_VIA => gateway = via(&attribute)?,
                RTA_MULTIPATH => hops = multipath(family, attribute.value)?,
                _ => {}
            }
        }
        if hops.is_empty() && (interface.is_some() || gateway.is_some()) {
            hops.push(Hop {
                interface,
                via: gateway,
                weight: 1,
            });
        }
        Ok(Some(ListedRoute {
            destination: net(destination, length)?,
            table,
            kind: match kind {
                libc::RTN_UNICAST => RouteType::Unicast,
                libc::RTN_LOCAL => RouteType::Local,
                libc::RTN_BROADCAST => RouteType::Broadcast,
                libc::RTN_ANYCAST => RouteType::Anycast,
                libc::RTN_MULTICAST => RouteType::Multicast,
                libc::RTN_BLACKHOLE => RouteType::BlackHole,
                libc::RTN_UNREACHABLE => RouteType::Unreachable,
                libc::RTN_PROHIBIT => RouteType::Prohibit,
                libc::RTN_THROW => RouteType::Throw,
                other => RouteType::Other(other),
            },
            source,
            metric,
            hops,
        }))
    }
}

fn net(address: IpAddr, length: u8) -> std::result::Result<IpNet, DecodeError> {
    IpNet::new(address, length).map_err(|_| DecodeError::Malformed("an invalid prefix length"))
}

impl ListedRule {
    /// Read an `RTM_NEWRULE` message; `None` for families other than IPv4 and IPv6.
    pub(crate) fn read(message: &Message<'_>) -> std::result::Result<Option<Self>, DecodeError> {
        let head = message.payload.first_chunk::<FIB_RULE_HDR>();
        let head = head.ok_or(DecodeError::Malformed("a policy rule without its header"))?;
        let &[
            number_of_family,
            to,
            from,
            tos,
            table,
            _,
            _,
            action,
            f,
            g,
            h,
            i,
        ] = head;
        let family = match number_of_family {
            AF_INET => Family::Ipv4,
            AF_INET6 => Family::Ipv6,
            _ => return Ok(None),
        };
        let mut rule = ListedRule {
            family,
            priority: 0,
            from: None,
            to: None,
            iif: None,
            oif: None,
            mark: None,
            mask: None,
            not: u32::from_ne_bytes([f, g, h, i]) & FIB_RULE_INVERT != 0,
            table: table.into(),
            action: match action {
                FR_ACT_TO_TBL => RuleAction::ToTable,
                FR_ACT_BLACKHOLE => RuleAction::Blackhole,
                FR_ACT_UNREACHABLE => RuleAction::Unreachable,
                FR_ACT_PROHIBIT => RuleAction::Prohibit,
                other => RuleAction::Other(other),
            },
            other: Vec::new(),
        };
        let network = |attribute: &Attribute<'_>, length| {
            let address = ip(number_of_family, attribute)?;
            address.map(|address| net(address, length)).transpose()
        };
        for attribute in message.attributes(FIB_RULE_HDR, "FRA") {
            let attribute = attribute?;
            match attribute.kind {
                FRA_SRC => rule.from = network(&attribute, from)?,
                FRA_DST => rule.to = network(&attribute, to)?,
                FRA_IIFNAME => rule.iif = Some(attribute.string_lossy()),
                FRA_OIFNAME => rule.oif = Some(attribute.string_lossy()),
                FRA_PRIORITY => rule.priority = attribute.ne32()?,
                FRA_FWMARK => rule.mark = Some(attribute.ne32()?),
                FRA_FWMASK => rule.mask = Some(attribute.ne32()?),
                FRA_TABLE => rule.table = attribute.ne32()?,
                _ => rule.other.extend(condition(&attribute)?),
            }
        }
        if tos != 0 {
            rule.other.push(format!("tos {tos:#x}"));
        }
        Ok(Some(rule))
    }
}

/// Return the name of another condition that an attribute states; `None` for attributes that state none.
fn condition(attribute: &Attribute<'_>) -> std::result::Result<Option<String>, DecodeError> {
    let valued = |name: &str| {
        let value = attribute.ne32()?;
        Ok((value != u32::MAX).then(|| format!("{name} {value}")))
    };
    let named = |name: &str| Ok(Some(name.to_owned()));
    match attribute.kind {
        FRA_SUPPRESS_PREFIXLEN => valued("suppress_prefixlength"),
        FRA_SUPPRESS_IFGROUP => valued("suppress_ifgroup"),
        FRA_GOTO => valued("goto"),
        FRA_L3MDEV if attribute.value.first().is_some_and(|on| *on != 0) => named("l3mdev"),
        FRA_UID_RANGE => named("uidrange"),
        FRA_IP_PROTO => named("ipproto"),
        FRA_SPORT_RANGE => named("sport"),
        FRA_DPORT_RANGE => named("dport"),
        FRA_TUN_ID => named("tun_id"),
        FRA_DSCP => named("dscp"),
        FRA_FLOWLABEL => named("flowlabel"),
        _ => Ok(None),
    }
}
