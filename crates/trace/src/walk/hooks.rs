//! The entries of the five hooks, in the kernel's order.

use netfilter::iptables::{Chain, ChainState, Policy, Table, TableSet};
use netfilter::nft_lang as nft;

use super::state::State;
use crate::outcome::Backend;
use crate::world::World;

/// Which side of a packet a translation rewrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

impl Side {
    /// Return the value for this side.
    pub(crate) fn of<T>(self, source: T, destination: T) -> T {
        match self {
            Side::Source => source,
            Side::Destination => destination,
        }
    }
}

/// A netfilter hook of the IP layers, or of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
    Ingress,
    Egress,
}

impl Hook {
    pub(crate) const ALL: [Hook; 7] = [
        Hook::Prerouting,
        Hook::Input,
        Hook::Forward,
        Hook::Output,
        Hook::Postrouting,
        Hook::Ingress,
        Hook::Egress,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
            Hook::Ingress => "ingress",
            Hook::Egress => "egress",
        }
    }

    /// Whether the hook is a device's, which only nf_tables has.
    pub(crate) fn is_of_device(self) -> bool {
        matches!(self, Hook::Ingress | Hook::Egress)
    }

    fn built_in(self) -> Option<Chain> {
        Some(match self {
            Hook::Prerouting => const { Chain::literal("PREROUTING") },
            Hook::Input => const { Chain::literal("INPUT") },
            Hook::Forward => const { Chain::literal("FORWARD") },
            Hook::Output => const { Chain::literal("OUTPUT") },
            Hook::Postrouting => const { Chain::literal("POSTROUTING") },
            Hook::Ingress | Hook::Egress => return None,
        })
    }

    /// Return NAT's priority at this hook, and the side that it rewrites; `None` if there is no NAT
    /// (`enum nf_ip_hook_priorities` of `linux/netfilter_ipv4.h`).
    fn nat(self) -> Option<(i32, Side)> {
        match self {
            Hook::Prerouting | Hook::Output => Some((-100, Side::Destination)),
            Hook::Input | Hook::Postrouting => Some((100, Side::Source)),
            Hook::Forward | Hook::Ingress | Hook::Egress => None,
        }
    }
}

/// A chain of iptables or nf_tables.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ChainRef<'w> {
    Ipt {
        set: &'w TableSet,
        table: Table,
        name: Chain,
        state: &'w ChainState,
        backend: Option<Backend>,
    },
    Nft {
        table: &'w nft::TableDecl,
        chain: &'w nft::ChainDecl,
    },
}

impl<'w> ChainRef<'w> {
    pub(crate) fn table(&self) -> &'w str {
        match self {
            ChainRef::Ipt { table, .. } => table.name(),
            ChainRef::Nft { table, .. } => &table.name,
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            ChainRef::Ipt { name, .. } => name.as_str(),
            ChainRef::Nft { chain, .. } => &chain.name,
        }
    }

    pub(crate) fn family(&self) -> &'static str {
        match self {
            ChainRef::Ipt { set, .. } if is_v6(set) => "ip6",
            ChainRef::Ipt { .. } => "ip",
            ChainRef::Nft { table, .. } => table.family.name(),
        }
    }

    /// Return the iptables back end that contains the rule; `None` if that is not known.
    pub(crate) fn backend(&self) -> Option<Backend> {
        match self {
            ChainRef::Ipt { backend, .. } => *backend,
            ChainRef::Nft { .. } => Some(Backend::NfTables),
        }
    }

    /// Return whether a packet that passes the chain may notice it.
    fn has_effect(&self) -> bool {
        let has_rules = match self {
            ChainRef::Ipt { state, .. } => !state.rules.is_empty(),
            ChainRef::Nft { chain, .. } => !chain.rules.is_empty(),
        };
        has_rules || self.drops_by_policy()
    }

    /// `ip nat PREROUTING`, with `legacy` before it for iptables-legacy.
    pub(crate) fn label(&self) -> String {
        let legacy = match self.backend() {
            Some(Backend::Legacy) => "legacy ",
            _ => "",
        };
        format!("{legacy}{} {} {}", self.family(), self.table(), self.name())
    }

    /// Whether the chain is called for a packet on its interface: chains on a device's hook name their
    /// devices.
    pub(crate) fn is_called(&self, hook: Hook, state: &State<'_>) -> bool {
        let iface = match hook {
            Hook::Egress => state.oif.name(),
            _ => state.iif.name(),
        };
        let ChainRef::Nft { chain, .. } = self else {
            return true;
        };
        let is_it = |device: &str| match (iface, device.strip_suffix('*')) {
            (Some(name), Some(prefix)) => name.starts_with(prefix),
            (Some(name), None) => name == device,
            (None, _) => false,
        };
        let mut devices = chain.base.iter().flat_map(|b| &b.devices);
        !hook.is_of_device() || devices.any(|d| is_it(d))
    }

    pub(crate) fn drops_by_policy(&self) -> bool {
        match self {
            ChainRef::Ipt { state, .. } => state.policy == Some(Policy::Drop),
            ChainRef::Nft { chain, .. } => chain.base.as_ref().is_some_and(|b| b.drops),
        }
    }
}

/// An entry of a hook.
#[derive(Clone, Debug)]
pub(crate) struct Entry<'w> {
    pub(crate) priority: i32,
    pub(crate) kind: EntryKind<'w>,
}

#[derive(Clone, Debug)]
pub(crate) enum EntryKind<'w> {
    /// Connection tracking.
    Conntrack,
    /// A chain that filters; `reroutes` if the kernel routes again after a change of mark or address.
    Chain { chain: ChainRef<'w>, reroutes: bool },
    /// NAT, which calls its chains in turn until one settles the translation.
    Nat {
        side: Side,
        /// In the order of the calls, if chains of equal priority were registered in the order in
        /// which they are listed: the kernel calls the one that was registered last first.
        chains: Vec<ChainRef<'w>>,
        /// The opposite order of chains with equal priority; empty if there are none. The listings
        /// do not contain the order of registration.
        reversed: Vec<ChainRef<'w>>,
    },
    /// IPVS.
    Ipvs,
}

/// Return the priority of an iptables table at its hooks, except NAT.
fn priority(table: Table) -> i32 {
    match table {
        Table::Raw => -300,
        Table::Mangle => -150,
        Table::Nat => -100,
        Table::Filter => 0,
        Table::Security => 50,
    }
}

/// Return the entries of a hook for one family, in the order in which a packet passes them.
pub(crate) fn entries<'w>(world: &'w World, hook: Hook, v6: bool) -> Vec<Entry<'w>> {
    let mut all: Vec<Entry<'w>> = Vec::new();
    let mut nat: Vec<(i32, ChainRef<'w>)> = Vec::new();
    if matches!(hook, Hook::Prerouting | Hook::Output) {
        all.push(Entry {
            priority: -200,
            kind: EntryKind::Conntrack,
        });
    }
    let sets = world
        .iptables
        .iter()
        .map(|set| (set, world.iptables_backend()));
    let legacy = world.legacy.iter().map(|set| (set, Some(Backend::Legacy)));
    for (set, backend) in legacy.chain(sets).filter(|(s, _)| is_v6(s) == v6) {
        for (table, state) in &set.tables {
            let Some(name) = hook.built_in() else {
                continue;
            };
            let Some(chain) = state.chains.get(&name) else {
                continue;
            };
            let chain = ChainRef::Ipt {
                set,
                table: *table,
                name,
                state: chain,
                backend,
            };
            if *table == Table::Nat {
                nat.push((hook.nat().map_or(0, |(p, _)| p), chain));
            } else {
                all.push(Entry {
                    priority: priority(*table),
                    kind: EntryKind::Chain {
                        chain,
                        reroutes: *table == Table::Mangle && hook == Hook::Output,
                    },
                });
            }
        }
    }
    nft_entries(world, hook, v6, &mut all, &mut nat);
    if let Some((priority, side)) = hook.nat() {
        nat.retain(|(_, chain)| chain.has_effect());
        let (chains, reversed) = ordered(world, hook, v6, nat);
        all.push(Entry {
            priority,
            kind: EntryKind::Nat {
                side,
                chains,
                reversed,
            },
        });
    }
    if !world.ipvs.services.is_empty() {
        let at = match hook {
            Hook::Input => Some(99),
            Hook::Output => Some(-98),
            _ => None,
        };
        all.extend(at.map(|priority| Entry {
            priority,
            kind: EntryKind::Ipvs,
        }));
    }
    all.sort_by_key(|e| e.priority);
    all
}

/// Return NAT chains in the order of the calls, and in the other possible order if the order of chains with
/// equal priority is not known.
fn ordered<'w>(
    world: &World,
    hook: Hook,
    v6: bool,
    mut nat: Vec<(i32, ChainRef<'w>)>,
) -> (Vec<ChainRef<'w>>, Vec<ChainRef<'w>>) {
    let family = if v6 { 6 } else { 4 };
    let mut known = world.hooks.iter();
    let known = known.find(|order| order.family == family && order.hook == hook.name());
    let place = |chain: &ChainRef<'_>| {
        let label = chain.label();
        known?.chains.iter().position(|name| *name == label)
    };
    let places: Option<Vec<usize>> = nat.iter().map(|(_, chain)| place(chain)).collect();
    if let Some(places) = places {
        let mut placed: Vec<_> = places.into_iter().zip(nat).collect();
        placed.sort_by_key(|(place, _)| *place);
        return (
            placed.into_iter().map(|(_, (_, chain))| chain).collect(),
            Vec::new(),
        );
    }
    nat.sort_by_key(|(p, _)| *p);
    let is_tie = |pair: &[(i32, ChainRef<'_>)]| matches!(pair, [(a, _), (b, _)] if a == b);
    let has_ties = nat.windows(2).any(is_tie);
    let listed = nat.iter().map(|(_, chain)| *chain);
    let reversed = if has_ties {
        listed.collect()
    } else {
        Vec::new()
    };
    nat.reverse();
    nat.sort_by_key(|(p, _)| *p);
    (nat.into_iter().map(|(_, chain)| chain).collect(), reversed)
}

/// Return warnings about chains on hooks that are not walked: those of bridges and devices, which can
/// drop a packet before the five that are.
pub(crate) fn not_walked(world: &World) -> impl Iterator<Item = String> {
    let tables = world.nft.tables.iter().filter(|t| !t.dormant);
    tables.flat_map(|table| {
        let foreign = matches!(
            table.family,
            nft::TableFamily::Arp | nft::TableFamily::Bridge | nft::TableFamily::Netdev
        );
        let acts = move |c: &&nft::ChainDecl| {
            let base = c.base.as_ref();
            base.is_some_and(|b| {
                let mut known = Hook::ALL.iter().filter(|h| h.name() == &*b.hook);
                let is_walked = known.next().is_some_and(|h| h.is_of_device() || !foreign);
                !is_walked && (b.drops || !c.rules.is_empty())
            })
        };
        table.chains.iter().filter(acts).map(|c| {
            format!(
                "table {} {}: chain {} is on a hook that is not walked; assumed to accept the packet",
                table.family.name(),
                table.name,
                c.name
            )
        })
    })
}

fn is_v6(set: &TableSet) -> bool {
    set.family == netfilter::iptables::Family::Ipv6
}

/// Add the base chains of nf_tables. A chain of type nat does not run at its own priority: the hook's
/// NAT calls it, in the order of its priority (`nf_nat_inet_fn` of `net/netfilter/nf_nat_core.c`).
fn nft_entries<'w>(
    world: &'w World,
    hook: Hook,
    v6: bool,
    all: &mut Vec<Entry<'w>>,
    nat: &mut Vec<(i32, ChainRef<'w>)>,
) {
    let family = if v6 {
        nft::TableFamily::Ip6
    } else {
        nft::TableFamily::Ip
    };
    for table in &world.nft.tables {
        let is_family = if hook.is_of_device() {
            matches!(
                table.family,
                nft::TableFamily::Netdev | nft::TableFamily::Inet
            )
        } else {
            table.family == family || table.family == nft::TableFamily::Inet
        };
        if table.dormant || !is_family {
            continue;
        }
        for chain in &table.chains {
            let Some(base) = chain.base.as_ref().filter(|b| *b.hook == *hook.name()) else {
                continue;
            };
            let at = ChainRef::Nft { table, chain };
            if base.kind == nft::ChainType::Nat {
                nat.push((base.priority, at));
            } else {
                all.push(Entry {
                    priority: base.priority,
                    kind: EntryKind::Chain {
                        chain: at,
                        reroutes: base.kind == nft::ChainType::Route && hook == Hook::Output,
                    },
                });
            }
        }
    }
}
