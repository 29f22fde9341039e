//! The chains that pick an endpoint. Their number is independent of the number of Services.
//!
//! A rule can only choose among a constant number of endpoints, so there is one chain for each number
//! in use. A verdict map could lead each frontend to its chain, but after a change to such a map the
//! kernel validates all of its elements (`nft_table_validate`), which takes 0.2 µs for each. Therefore
//! the number is in a plain set, as a sum of powers of two, and a tree of tests leads to the chain: at
//! most one test for each bit in which the numbers in use differ.
//!
//! ```text
//! chain pick     { F . 8 @endpoint-counts goto pick-8-15   (F: ip daddr . meta l4proto . th dport)
//!                  F . 2 @endpoint-counts goto pick-3
//!                  goto pick-1 }
//! chain pick-8-15 { F . 2 @endpoint-counts goto pick-10
//!                   goto pick-8 }
//! ```
//!
//! (nft syntax lacks constants in a concatenation; `8` is written as `numgen random mod 1 offset 8`.)

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use model::{IpFamily, Protocol};
use netfilter::nft::{CmpOp, DynsetOp, Expr, FibAddress, Reg, Rule, Verdict};
use plan::NodeFacts;

use super::Options;
use super::names::{LOCAL_INDEX, SetId};
use crate::nft_table::build::{Build, FRONTEND, Field, NODE_PORT, address_len};

/// The chain of frontends without endpoints. Its name and comment are those of former versions and of
/// kube-proxy, so that a table of a former version keeps it while elements of other sets lead to it.
pub(super) const REJECT: &str = "reject-chain";

/// The destination of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum At {
    /// An address of the Service.
    Address,
    /// A port on a node-port address.
    NodePort,
}

/// The action of a chain on a frontend's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Lead to one of the frontend's endpoints.
    Any,
    /// Lead to one of the endpoints only for clients from outside.
    Local,
    /// Mark for masquerading, then as [`Role::Any`].
    Masquerade,
    /// External policy Local: [`Role::Any`] for pods and the node itself, [`Role::Local`] for
    /// everyone else.
    LocalPolicy,
    /// External policy Local without an endpoint on this node: [`Role::Any`] for pods and the node
    /// itself; packets of everyone else are dropped.
    LocalOrDrop,
    /// Refuse connections: no endpoint exists.
    Reject,
    /// Drop packets.
    Drop,
    /// Translate to one of exactly `n` endpoints.
    OneOf {
        /// Whether they are only for clients from outside.
        local: bool,
        /// Their number.
        n: u32,
    },
}

/// One chain to which elements lead, directly or, for [`Role::OneOf`], by their number of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pick {
    /// The destinations.
    pub at: At,
    /// The action.
    pub role: Role,
    /// Seconds for which a client keeps its endpoint.
    pub affinity: Option<u32>,
    /// Whether only the sources in [`SetId::SourceRanges`] may use the frontend.
    pub ranged: bool,
}

/// `pick`, `pick-10`, `pick-sticky-600`, `nodeport-masquerade`, `nodeport-3-local`,
/// `pick-masquerade-ranged`.
impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.role {
            Role::Any => self.name(f, ""),
            Role::Local => self.name(f, "-local"),
            Role::Masquerade => self.name(f, "-masquerade"),
            Role::LocalPolicy => self.name(f, "-policy-local"),
            Role::LocalOrDrop => self.name(f, "-local-or-drop"),
            Role::Reject => self.name(f, "-reject"),
            Role::Drop => self.name(f, "-drop"),
            Role::OneOf { local: false, n } => self.name(f, format_args!("-{n}")),
            Role::OneOf { local: true, n } => self.name(f, format_args!("-{n}-local")),
        }
    }
}

/// The sets that a pick uses.
struct Sets {
    counts: SetId,
    endpoints: SetId,
    sticky: SetId,
    live: SetId,
    affinity: SetId,
}

impl Pick {
    fn name(self, f: &mut fmt::Formatter<'_>, role: impl fmt::Display) -> fmt::Result {
        let at = match self.at {
            At::Address => "pick",
            At::NodePort => "nodeport",
        };
        write!(f, "{at}{role}")?;
        if let Some(seconds) = self.affinity {
            write!(f, "-sticky-{seconds}")?;
        }
        f.write_str(if self.ranged { "-ranged" } else { "" })
    }

    /// Parse the name of a chain; `None` if no pick has that name.
    pub fn parse(name: &str) -> Option<Self> {
        let mut words = name.split('-');
        let at = match words.next()? {
            "pick" => At::Address,
            "nodeport" => At::NodePort,
            _ => return None,
        };
        let (mut role, mut affinity, mut ranged) = (Role::Any, None, false);
        while let Some(word) = words.next() {
            role = match (word, role) {
                ("local", Role::Any) => Role::Local,
                ("local", Role::OneOf { n, .. }) => Role::OneOf { local: true, n },
                ("masquerade", Role::Any) => Role::Masquerade,
                ("policy", Role::Any) if words.next() == Some("local") => Role::LocalPolicy,
                ("or", Role::Local) if words.next() == Some("drop") => Role::LocalOrDrop,
                ("reject", Role::Any) => Role::Reject,
                ("drop", Role::Any) => Role::Drop,
                ("ranged", role) => {
                    ranged = true;
                    role
                }
                ("sticky", role) => {
                    affinity = Some(words.next()?.parse().ok()?);
                    role
                }
                (n, Role::Any) => Role::OneOf {
                    local: false,
                    n: n.parse().ok()?,
                },
                _ => return None,
            };
        }
        let pick = Self {
            at,
            role,
            affinity,
            ranged,
        };
        (pick.to_string() == name).then_some(pick)
    }

    fn with(self, role: Role) -> Self {
        Self { role, ..self }
    }

    /// Return the verdict that leads to it.
    pub(super) fn verdict(self) -> Verdict {
        match self.role {
            Role::Reject if !self.ranged => Verdict::Goto(REJECT.to_owned()),
            Role::Drop if !self.ranged => Verdict::Drop,
            _ => Verdict::Goto(self.to_string()),
        }
    }

    /// Return whether it has a chain of its own.
    fn has_chain(self) -> bool {
        self.ranged || !matches!(self.role, Role::Reject | Role::Drop)
    }
}

/// The chain of cluster IPs that only need a choice of endpoint.
pub(super) const PLAIN: Pick = Pick {
    at: At::Address,
    role: Role::Any,
    affinity: None,
    ranged: false,
};

/// Rules by chain.
pub(super) type Chains = BTreeMap<String, Vec<Rule>>;

/// Return the chains of these picks, with those between them.
pub(super) fn chains(
    picks: impl Iterator<Item = Pick>,
    family: IpFamily,
    options: &Options,
    node: &NodeFacts,
) -> Chains {
    let mut chains = Chains::new();
    let mut pools: BTreeMap<Pool, BTreeSet<u32>> = BTreeMap::new();
    // The constant rules lead there.
    pools.entry(Pool::of(PLAIN, false)).or_default();
    for pick in picks.filter(|pick| pick.has_chain()) {
        if pick.ranged {
            let name = pick.to_string();
            let rules = pick.enforce_source_ranges(family, &name);
            chains.insert(name, rules.into());
        }
        let pick = Pick {
            ranged: false,
            ..pick
        };
        let mut pool = |local, n: Option<u32>| {
            let pool = Pool::of(pick, local);
            pools.entry(pool).or_default().extend(n);
        };
        let mark = || Build::new(family).add_to_mark(options.masquerade_mark());
        let name = pick.to_string();
        let mut rules = Vec::new();
        match pick.role {
            Role::Any | Role::Local => {
                pool(pick.role == Role::Local, None);
                continue;
            }
            Role::OneOf { local, n } => {
                pool(local, Some(n));
                Pool::of(pick, local).choose(family, &name, n, &mut rules);
            }
            Role::Masquerade => {
                pool(false, None);
                let any = pick.with(Role::Any).to_string();
                rules.push(mark().goto(&any).rule_with_comment(&name, "masquerade"));
            }
            Role::LocalPolicy => {
                pool(false, None);
                pool(true, None);
                let local = Verdict::Goto(pick.with(Role::Local).to_string());
                pick.by_local_policy(family, options, node, local, &mut rules);
            }
            Role::LocalOrDrop => {
                pool(false, None);
                pick.by_local_policy(family, options, node, Verdict::Drop, &mut rules);
            }
            Role::Reject | Role::Drop => continue,
        }
        chains.insert(name, rules);
    }
    for (pool, numbers) in pools {
        let numbers: Vec<u32> = numbers.into_iter().collect();
        let root = pool.root().to_string();
        let mut rules = Vec::new();
        if let Some(seconds) = pool.affinity {
            rules.extend(Protocol::ALL.map(|p| pool.keep(family, p, &root, seconds)));
        }
        chains.insert(root.clone(), rules);
        pool.lead(family, &root, &numbers, &mut chains);
    }
    chains
}

impl Pick {
    /// Return the rules that drop packets of other sources, and continue without that condition.
    fn enforce_source_ranges(self, family: IpFamily, chain: &str) -> [Rule; 2] {
        let with_source = [Field::Daddr, Field::Protocol, Field::Dport, Field::Saddr];
        let next = Pick {
            ranged: false,
            ..self
        };
        [
            Build::new(family)
                .not_member(&with_source, SetId::SourceRanges)
                .verdict(Verdict::Drop)
                .rule_with_comment(chain, "loadBalancerSourceRanges"),
            Build::new(family).verdict(next.verdict()).rule(chain),
        ]
    }

    /// Add the rules of external policy Local, with the verdict on packets from outside.
    fn by_local_policy(
        self,
        family: IpFamily,
        options: &Options,
        node: &NodeFacts,
        outside: Verdict,
        rules: &mut Vec<Rule>,
    ) {
        let chain = self.to_string();
        let any = self.with(Role::Any).to_string();
        if let Some(pods) = Build::new(family).source_is_pod(CmpOp::Eq, &node.local) {
            let rule = pods.goto(&any);
            rules.push(rule.rule_with_comment(&chain, "short-circuit pod traffic"));
        }
        // The host may have chosen the frontend's own address as source.
        let host = Build::new(family)
            .if_local(FibAddress::Source)
            .add_to_mark(options.masquerade_mark())
            .goto(&any);
        rules.push(host.rule_with_comment(&chain, "masquerade and short-circuit local traffic"));
        rules.push(Build::new(family).verdict(outside).rule(&chain));
    }
}

/// Chains that choose among the same endpoints in the same way, and differ in their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pool {
    at: At,
    /// Whether the endpoints are only for clients from outside.
    local: bool,
    affinity: Option<u32>,
}

impl Pool {
    fn of(pick: Pick, local: bool) -> Self {
        let Pick { at, affinity, .. } = pick;
        Self {
            at,
            local,
            affinity,
        }
    }

    fn pick(self, role: Role) -> Pick {
        Pick {
            at: self.at,
            role,
            affinity: self.affinity,
            ranged: false,
        }
    }

    fn root(self) -> Pick {
        self.pick(if self.local { Role::Local } else { Role::Any })
    }

    /// Return the name of the chain for all numbers from `first` to `last`.
    fn range(self, first: u32, last: u32) -> String {
        let name = self.pick(Role::OneOf {
            local: self.local,
            n: first,
        });
        // `pick-8-15`, `pick-8-15-local`.
        name.to_string()
            .replacen(&format!("-{first}"), &format!("-{first}-{last}"), 1)
    }

    /// Add rules to a chain that lead to the chain of the frontend's number of endpoints, one of the
    /// sorted `numbers`.
    fn lead(self, family: IpFamily, chain: &str, numbers: &[u32], chains: &mut Chains) {
        let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else {
            return;
        };
        let local = self.local;
        let leaf = |n| self.pick(Role::OneOf { local, n }).to_string();
        let mut add = |rule| chains.entry(chain.to_owned()).or_default().push(rule);
        let Some(bit) = (first ^ last).checked_ilog2() else {
            return add(Build::new(family).goto(&leaf(*first)).rule(chain));
        };
        let bit = 1 << bit;
        let (without, with) = numbers.split_at(numbers.partition_point(|n| n & bit == 0));
        let test = Build::new(family).member(&self.field(1, bit), self.sets().counts);
        match with {
            [n] => add(test.goto(&leaf(*n)).rule(chain)),
            _ => {
                let from = last & !(bit - 1);
                let range = self.range(from, from + bit - 1);
                add(test.goto(&range).rule(chain));
                self.lead(family, &range, with, chains);
            }
        }
        self.lead(family, chain, without, chains);
    }

    fn sets(self) -> Sets {
        match self.at {
            At::Address => Sets {
                counts: SetId::EndpointCounts,
                endpoints: SetId::Endpoints,
                sticky: SetId::StickyEndpoints,
                live: SetId::LiveEndpoints,
                affinity: SetId::Affinity,
            },
            At::NodePort => Sets {
                counts: SetId::NodePortEndpointCounts,
                endpoints: SetId::NodePortEndpoints,
                sticky: SetId::NodePortStickyEndpoints,
                live: SetId::NodePortLiveEndpoints,
                affinity: SetId::NodePortAffinity,
            },
        }
    }

    /// Return a client and a frontend.
    fn client(self) -> &'static [Field] {
        match self.at {
            At::Address => &[Field::Saddr, Field::Protocol, Field::Daddr, Field::Dport],
            At::NodePort => &[Field::Saddr, Field::Protocol, Field::Dport],
        }
    }

    /// Return a frontend and a random index: one of `n` from the first of this pool.
    fn field(self, n: u32, first: u32) -> Vec<Field> {
        let frontend: &[Field] = match self.at {
            At::Address => &FRONTEND,
            At::NodePort => &NODE_PORT,
        };
        let first = if self.local {
            LOCAL_INDEX + first
        } else {
            first
        };
        let mut fields = frontend.to_vec();
        fields.push(Field::Random(n, first));
        fields
    }

    fn choose(self, family: IpFamily, chain: &str, n: u32, rules: &mut Vec<Rule>) {
        if let Some(seconds) = self.affinity {
            rules.extend(Protocol::ALL.map(|p| self.stick(family, p, chain, n, seconds)));
        }
        // With affinity, for clients that find the map full.
        let any = Build::new(family)
            .load(&self.field(n, 0), Reg::FIRST)
            .map(self.sets().endpoints, Reg::FIRST, Reg::FIRST)
            .dnat(Reg::FIRST);
        rules.push(any.rule(chain));
    }

    /// Affinity: return to the last endpoint of the client if it is still live.
    ///
    /// The registers hold client, protocol, frontend and endpoint in this order: the first three are
    /// the key of learned elements, the last three that of live endpoints.
    ///
    /// nft syntax cannot express this, but nft must be able to list it. nft gives values from a map no
    /// length, and 1.0.6 aborts on a key with such a part. So the maps begin one register early, with
    /// the frontend's port, which is loaded again afterwards: in the registers of the endpoint nft
    /// still sees the packet's destination, which was loaded before. A rule loaded from such a listing
    /// matches a frontend that is its own endpoint, so it never matches, and the rule without affinity
    /// decides. nft loads the listing only if the rule names the protocol of the ports, so there is one
    /// rule per protocol.
    fn keep(self, family: IpFamily, protocol: Protocol, chain: &str, seconds: u32) -> Rule {
        let (sets, at) = (self.sets(), self.registers(family));
        Build::new(family)
            .if_protocol(protocol)
            .load(&[Field::Daddr, Field::Dport], at.endpoint)
            .load(self.client(), Reg::FIRST)
            .map(sets.affinity, Reg::FIRST, at.port)
            .load(&[Field::Dport], at.port)
            .member_at(sets.live, at.protocol)
            .push(self.learn(family, DynsetOp::Update, seconds))
            .dnat(at.endpoint)
            .rule_with_comment(chain, "return to the endpoint of the client")
    }

    /// Affinity: pick one of `n` endpoints and learn it.
    fn stick(
        self,
        family: IpFamily,
        protocol: Protocol,
        chain: &str,
        n: u32,
        seconds: u32,
    ) -> Rule {
        let (sets, at) = (self.sets(), self.registers(family));
        // The learned endpoint may have been removed; an update would only prolong it.
        Build::new(family)
            .if_protocol(protocol)
            .load(&[Field::Daddr, Field::Dport], at.endpoint)
            .load(&self.field(n, 0), Reg::FIRST)
            .map(sets.sticky, Reg::FIRST, at.port)
            .load(self.client(), Reg::FIRST)
            .member_at(sets.live, at.protocol)
            .push(self.learn(family, DynsetOp::Delete, seconds))
            .push(self.learn(family, DynsetOp::Add, seconds))
            .dnat(at.endpoint)
            .rule_with_comment(chain, "choose and store an endpoint for the client")
    }

    fn registers(self, family: IpFamily) -> Registers {
        let address = address_len(family);
        let protocol = Reg::FIRST.after(address);
        let port = match self.at {
            At::Address => protocol.after(4).after(address),
            At::NodePort => protocol.after(4),
        };
        Registers {
            protocol,
            port,
            endpoint: port.after(4),
        }
    }

    fn learn(self, family: IpFamily, op: DynsetOp, seconds: u32) -> Expr {
        Expr::Dynset {
            set: self.sets().affinity.name().to_owned(),
            op,
            key: Reg::FIRST,
            // The kernel requires it for a map even if it is unused.
            data: Some(self.registers(family).port),
            timeout_ms: (op != DynsetOp::Delete).then_some(u64::from(seconds) * 1000),
        }
    }
}

/// The registers of the affinity rules.
struct Registers {
    protocol: Reg,
    port: Reg,
    endpoint: Reg,
}
