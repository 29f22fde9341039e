//! The facts file: a host's state as `sluice facts` writes it and `sluice trace --facts` reads it.
//!
//! One JSON object. Every field may be absent, which means unknown; the tracer reports this if it
//! matters. Unknown fields are ignored, so that files of newer versions can be read.
//!
//! ```
//! let facts = trace::Facts::parse(r#"{
//!   "version": 1,
//!   "hostname": "node1",
//!   "interfaces": [
//!     {"name": "lo", "index": 1, "up": true, "addresses": ["127.0.0.1/8"]},
//!     {"name": "eth0", "index": 2, "up": true, "addresses": ["10.200.1.2/24"]},
//!     {"name": "veth1", "index": 5, "up": true, "master": "cbr0"}
//!   ],
//!   "routes": [{"dst": "default", "via": "10.200.1.1", "dev": "eth0"}],
//!   "sysctls": {"net.ipv4.ip_forward": "1"},
//!   "dumps": {"iptables_save": "*nat\nCOMMIT\n"}
//! }"#).unwrap();
//! assert_eq!(facts.interfaces[1].name, "eth0");
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A host's facts and its dumps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// The format's version: 1.
    pub version: u32,
    /// The host's name.
    pub hostname: String,
    /// `uname -r`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kernel: String,
    /// All interfaces.
    pub interfaces: Vec<Interface>,
    /// All routes of all tables, both families. The table `local` (255) may be left out; its routes
    /// then follow from the addresses.
    pub routes: Vec<Route>,
    /// Policy routing rules; empty for the usual three (local, main, default).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RoutingRule>,
    /// Sysctls by their dotted name (`net.ipv4.ip_forward`; a dot in an interface's name is
    /// written `/`, as sysctl(8) does), values as read, without the newline.
    pub sysctls: BTreeMap<String, String>,
    /// The programs that run as the node's proxy (`kube-proxy`, `sluice`, …); `None` if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxies: Option<Vec<String>>,
    /// The chains of each hook in the order in which the kernel calls them. Empty if the kernel does not
    /// report it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookOrder>,
    /// Output of the host's tools.
    pub dumps: Dumps,
    /// Missing information that could matter, a sentence each. Every trace repeats them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// The chains that a hook calls, in the order of the calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HookOrder {
    /// 4 or 6.
    pub family: u8,
    /// `prerouting`, `input`, `forward`, `output` or `postrouting`.
    pub hook: String,
    /// Family, table and chain, separated by spaces, after `legacy` for a chain of iptables-legacy. Kernels
    /// before Linux 7.1 do not list chains of type nat.
    pub chains: Vec<String>,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its addresses with prefix lengths and host bits, primary addresses first.
    pub addresses: Vec<IpNet>,
    /// Whether it is up. Routes through an interface that is down are ignored.
    pub up: bool,
    /// The bridge (or VRF, bond) that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// Its kind as `ip -d link` names it: `bridge`, `veth`, `dummy`, `vxlan`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination: a range, an address, or `default` (of the family of `family`, `via` or `src`;
    /// IPv4 if all are absent).
    pub dst: String,
    /// The table; 254 (main) if absent.
    #[serde(default = "main_table")]
    pub table: u32,
    /// Its kind.
    #[serde(default, rename = "type")]
    pub kind: RouteKind,
    /// The interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<String>,
    /// The gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// The preferred source address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<IpAddr>,
    /// The metric; of routes to the same range, the lowest wins.
    #[serde(default)]
    pub metric: u32,
    /// The next hops of a multipath route, instead of `dev` and `via`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nexthops: Vec<NextHop>,
    /// 4 or 6; only needed for `default` without `via` and `src`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<u8>,
}

/// A next hop of a multipath route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// The interface.
    pub dev: Option<String>,
    /// The gateway.
    pub via: Option<IpAddr>,
    /// Its share of connections, relative to the other weights.
    #[serde(default = "one")]
    pub weight: u32,
}

fn main_table() -> u32 {
    254
}

fn one() -> u32 {
    1
}

/// The kinds of route (`rtm_type` of `linux/rtnetlink.h`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // The kernel's names.
pub enum RouteKind {
    #[default]
    Unicast,
    Local,
    Broadcast,
    Anycast,
    Multicast,
    Blackhole,
    Unreachable,
    Prohibit,
    Throw,
}

/// A policy routing rule (`ip rule`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoutingRule {
    /// The rule with the lowest number comes first.
    pub priority: u32,
    /// 4 or 6.
    pub family: u8,
    /// Only for packets from this range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<IpNet>,
    /// Only for packets to this range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<IpNet>,
    /// Only for packets that entered through this interface (`lo`: packets of this host).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iif: Option<String>,
    /// Only for sockets bound to this interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oif: Option<String>,
    /// Only for packets whose mark, masked with `fwmask`, is this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fwmark: Option<u32>,
    /// The mask for `fwmark`; all bits if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fwmask: Option<u32>,
    /// Whether the conditions are negated (`not`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub not: bool,
    /// The table; 0 for a rule that decides by `action`.
    pub table: u32,
    /// `blackhole`, `unreachable` or `prohibit`, for a rule without a table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<RouteKind>,
}

/// Complete output of the host's tools. Absent if the tool is not installed or prints nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dumps {
    /// `iptables-save`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iptables_save: Option<String>,
    /// `ip6tables-save`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip6tables_save: Option<String>,
    /// `iptables-legacy-save`, if iptables-legacy has rules; `iptables_save` is then the nf_tables
    /// back end's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iptables_legacy_save: Option<String>,
    /// `ip6tables-legacy-save`, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip6tables_legacy_save: Option<String>,
    /// `nft list ruleset`, as text or as JSON (`nft -j list ruleset`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nft_ruleset: Option<String>,
    /// `ipset save`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipset_save: Option<String>,
    /// `ipvsadm-save -n`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipvsadm_save: Option<String>,
}

/// Why a facts file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// It is not JSON of the right shape.
    #[error("facts file, line {line}, column {column}: {message}")]
    Json {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// The error.
        message: String,
    },
    /// Its version is not supported.
    #[error(
        "facts file: version {0} is not supported; this program reads version 1: use a newer one"
    )]
    Version(u32),
    /// A route's destination is neither a range, an address nor `default`.
    #[error("facts file: route {index}: dst {dst:?} is not a range, an address or \"default\"")]
    RouteDst {
        /// The route's index in the list, from 0.
        index: usize,
        /// The value of `dst`.
        dst: String,
    },
}

impl Dumps {
    /// Return the number of bytes of all dumps.
    pub fn size(&self) -> usize {
        let all = [
            &self.iptables_save,
            &self.ip6tables_save,
            &self.iptables_legacy_save,
            &self.ip6tables_legacy_save,
            &self.nft_ruleset,
            &self.ipset_save,
            &self.ipvsadm_save,
        ];
        all.into_iter().flatten().map(String::len).sum()
    }
}

impl Facts {
    /// Parse a facts file.
    ///
    /// # Errors
    /// The text is not JSON of this format, or of a newer version.
    pub fn parse(text: &str) -> Result<Self, FactsError> {
        // Pasted with something around it, the object begins at its brace.
        let begin = text.find('{').unwrap_or(0);
        let end = text.rfind('}').map_or(text.len(), |end| end + 1);
        let is_fenced = text.trim_start().starts_with("```");
        let text = text.get(begin..end).filter(|_| is_fenced).unwrap_or(text);
        let facts: Facts = serde_json::from_str(text).map_err(|e| FactsError::Json {
            line: e.line(),
            // serde_json reports column 0 for a string that is not closed on its line.
            column: e.column().max(1),
            // The message ends with line and column, which are printed already.
            message: e
                .to_string()
                .split(" at line ")
                .next()
                .unwrap_or_default()
                .to_owned(),
        })?;
        if facts.version > 1 {
            return Err(FactsError::Version(facts.version));
        }
        Ok(facts)
    }

    /// Return the facts file.
    pub fn to_json(&self) -> String {
        // Serialisation cannot fail: all keys are strings.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl Route {
    /// Return the destination range; `None` if [`Route::dst`] is not one.
    pub fn range(&self) -> Option<IpNet> {
        if self.dst == "default" {
            let v6 = match (self.family, self.via.or(self.src)) {
                (Some(f), _) => f == 6,
                (None, Some(ip)) => ip.is_ipv6(),
                (None, None) => self
                    .nexthops
                    .iter()
                    .any(|n| n.via.is_some_and(|ip| ip.is_ipv6())),
            };
            let any: IpAddr = if v6 {
                std::net::Ipv6Addr::UNSPECIFIED.into()
            } else {
                std::net::Ipv4Addr::UNSPECIFIED.into()
            };
            return IpNet::new(any, 0).ok();
        }
        match self.dst.parse::<IpNet>() {
            Ok(net) => Some(net.trunc()),
            Err(_) => Some(IpNet::from(self.dst.parse::<IpAddr>().ok()?)),
        }
    }
}
