//! Routes and policy rules as the kernel lists them, of every table and both families.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteVia,
};
use netlink_packet_route::rule::{RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

pub use netlink_packet_route::route::RouteType;
pub use netlink_packet_route::rule::RuleAction;

use super::{Result, RtNetlink};
use crate::Family;

/// A route of any table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRoute {
    /// The destination; `0.0.0.0/0` or `::/0` for the default route.
    pub destination: IpNet,
    /// The table (`RT_TABLE_*` of linux/rtnetlink.h).
    pub table: u32,
    /// `rtm_type`.
    pub kind: RouteType,
    /// The source address that local sockets get by this route.
    pub source: Option<IpAddr>,
    /// The metric; the lowest wins.
    pub metric: u32,
    /// Its ways: one, or several of a multipath route; none for a route that leads nowhere.
    pub hops: Vec<Hop>,
}

/// One way of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The interface's index.
    pub interface: Option<u32>,
    /// The gateway.
    pub via: Option<IpAddr>,
    /// Its share against the others' weights, from 1.
    pub weight: u32,
}

/// A policy routing rule, as `ip rule` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRule {
    /// The family.
    pub family: Family,
    /// The lowest number is asked first.
    pub priority: u32,
    /// Only packets from here.
    pub from: Option<IpNet>,
    /// Only packets to here.
    pub to: Option<IpNet>,
    /// Only packets that came in through this interface.
    pub iif: Option<String>,
    /// Only sockets bound to this interface.
    pub oif: Option<String>,
    /// Only packets with this mark.
    pub mark: Option<u32>,
    /// The mask for the mark.
    pub mask: Option<u32>,
    /// Whether the conditions are turned round.
    pub not: bool,
    /// The table to look in.
    pub table: u32,
    /// What to do.
    pub action: RuleAction,
    /// Conditions of the rule that are not told apart here (`suppress_prefixlength`, `ipproto`, …).
    pub other: Vec<String>,
}

impl RtNetlink {
    /// All routes of all tables, both families. Routes cached for one destination are left out.
    ///
    /// # Errors
    /// As the socket fails.
    pub fn routes(&mut self) -> Result<Vec<ListedRoute>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let answers = self.socket.dump(
                RouteNetlinkMessage::GetRoute(message),
                "ip route show table all",
            )?;
            found.extend(answers.into_iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(route) => route_of(&route),
                _ => None,
            }));
        }
        Ok(found)
    }

    /// All policy rules, both families.
    ///
    /// # Errors
    /// As the socket fails.
    pub fn rules(&mut self) -> Result<Vec<ListedRule>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RuleMessage::default();
            message.header.family = family;
            let answers = self
                .socket
                .dump(RouteNetlinkMessage::GetRule(message), "ip rule show")?;
            found.extend(answers.into_iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRule(rule) => rule_of(rule),
                _ => None,
            }));
        }
        Ok(found)
    }
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|a| match a {
        RouteAttribute::Gateway(ip) => address(ip),
        // An IPv4 route by way of an IPv6 neighbour (RFC 5549).
        RouteAttribute::Via(RouteVia::Inet(ip)) => Some((*ip).into()),
        RouteAttribute::Via(RouteVia::Inet6(ip)) => Some((*ip).into()),
        _ => None,
    })
}

fn hop_of(hop: &RouteNextHop) -> Hop {
    Hop {
        interface: Some(hop.interface_index),
        via: gateway(&hop.attributes),
        // rtnh_hops is the weight less one (linux/rtnetlink.h).
        weight: u32::from(hop.hops) + 1,
    }
}

fn route_of(message: &RouteMessage) -> Option<ListedRoute> {
    let header = &message.header;
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let any: IpAddr = match header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut to = any;
    let mut route = ListedRoute {
        destination: IpNet::new(any, 0).ok()?,
        table: header.table.into(),
        kind: header.kind,
        source: None,
        metric: 0,
        hops: Vec::new(),
    };
    let mut interface = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(ip) => to = address(ip)?,
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::PrefSource(ip) => route.source = address(ip),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::MultiPath(hops) => route.hops = hops.iter().map(hop_of).collect(),
            _ => {}
        }
    }
    let via = gateway(&message.attributes);
    if route.hops.is_empty() && (interface.is_some() || via.is_some()) {
        route.hops.push(Hop {
            interface,
            via,
            weight: 1,
        });
    }
    route.destination = IpNet::new(to, header.destination_prefix_length).ok()?;
    Some(route)
}

fn rule_of(message: RuleMessage) -> Option<ListedRule> {
    let header = message.header;
    let mut rule = ListedRule {
        family: match header.family {
            AddressFamily::Inet => Family::Ipv4,
            AddressFamily::Inet6 => Family::Ipv6,
            _ => return None,
        },
        priority: 0,
        from: None,
        to: None,
        iif: None,
        oif: None,
        mark: None,
        mask: None,
        not: header.flags.contains(RuleFlags::Invert),
        table: header.table.into(),
        action: header.action,
        other: Vec::new(),
    };
    for attribute in message.attributes {
        match attribute {
            RuleAttribute::Source(ip) => rule.from = Some(IpNet::new(ip, header.src_len).ok()?),
            RuleAttribute::Destination(ip) => rule.to = Some(IpNet::new(ip, header.dst_len).ok()?),
            RuleAttribute::Iifname(name) => rule.iif = Some(name),
            RuleAttribute::Oifname(name) => rule.oif = Some(name),
            RuleAttribute::Priority(number) => rule.priority = number,
            RuleAttribute::FwMark(mark) => rule.mark = Some(mark),
            RuleAttribute::FwMask(mask) => rule.mask = Some(mask),
            RuleAttribute::Table(table) => rule.table = table,
            RuleAttribute::SuppressPrefixLen(len) if len != u32::MAX => {
                rule.other.push(format!("suppress_prefixlength {len}"));
            }
            RuleAttribute::SuppressIfGroup(group) if group != u32::MAX => {
                rule.other.push(format!("suppress_ifgroup {group}"));
            }
            RuleAttribute::Goto(to) => rule.other.push(format!("goto {to}")),
            RuleAttribute::L3MDev(true) => rule.other.push("l3mdev".to_owned()),
            RuleAttribute::UidRange(_) => rule.other.push("uidrange".to_owned()),
            RuleAttribute::IpProtocol(_) => rule.other.push("ipproto".to_owned()),
            RuleAttribute::SourcePortRange(_) => rule.other.push("sport".to_owned()),
            RuleAttribute::DestinationPortRange(_) => rule.other.push("dport".to_owned()),
            RuleAttribute::TunId(_) => rule.other.push("tun_id".to_owned()),
            _ => {}
        }
    }
    if header.tos != 0 {
        rule.other.push(format!("tos {:#x}", header.tos));
    }
    Some(rule)
}
