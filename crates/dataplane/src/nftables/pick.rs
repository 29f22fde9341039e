//! The chains that pick an endpoint: one for each number of endpoints and way of treating traffic
//! that is in use, whatever the number of Services. Services only point at them.

use std::fmt;

use model::IpFamily;
use netfilter::nft::{CmpOp, DynsetOp, Expr, FibAddress, Reg, Rule};
use plan::{LocalDetector, NodeFacts};

use super::Options;
use super::names::{LOCAL_INDEX, SetId};
use super::rules::{Build, FRONTEND, Field, NODE_PORT, address_len};

/// What the packet's destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum At {
    /// An address of the Service's own.
    Address,
    /// A port on a node-port address.
    NodePort,
}

/// How a frontend's traffic is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// A cluster IP, over `n` endpoints.
    Internal {
        /// How many endpoints.
        n: u32,
    },
    /// An external frontend as pods and the node itself see it under Local policy: over all `n`
    /// endpoints of the cluster.
    ShortCircuit {
        /// How many endpoints.
        n: u32,
    },
    /// An external frontend under Cluster policy: masqueraded, over `n` endpoints.
    Masqueraded {
        /// How many endpoints.
        n: u32,
    },
    /// An external frontend under Local policy: pods and the node itself go over `n` endpoints of
    /// the cluster, everyone else over `local` endpoints on this node.
    Local {
        /// How many endpoints in the cluster.
        n: u32,
        /// How many endpoints on this node.
        local: u32,
    },
}

/// One chain that picks an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pick {
    /// For which destinations.
    pub at: At,
    /// How.
    pub policy: Policy,
    /// For how many seconds a client keeps to its endpoint.
    pub affinity: Option<u32>,
}

/// `pick-10`, `pick-10-sticky-600`, `nodeport-3-masquerade`, `nodeport-3-local-1`.
impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.at {
            At::Address => "pick",
            At::NodePort => "nodeport",
        })?;
        match self.policy {
            Policy::Internal { n } => write!(f, "-{n}")?,
            Policy::ShortCircuit { n } => write!(f, "-{n}-short")?,
            Policy::Masqueraded { n } => write!(f, "-{n}-masquerade")?,
            Policy::Local { n, local } => write!(f, "-{n}-local-{local}")?,
        }
        match self.affinity {
            Some(seconds) => write!(f, "-sticky-{seconds}"),
            None => Ok(()),
        }
    }
}

/// The sets that a pick looks into.
struct Sets {
    endpoints: SetId,
    sticky: SetId,
    live: SetId,
    affinity: SetId,
}

impl Pick {
    /// The pick, in the one form that stands for all that behave the same.
    pub fn new(at: At, policy: Policy, affinity: Option<u32>) -> Self {
        let policy = match (policy, at) {
            (Policy::ShortCircuit { n }, At::Address) => Policy::Internal { n },
            (policy, _) => policy,
        };
        Self {
            at,
            policy,
            affinity,
        }
    }

    /// The pick of a chain's name; `None` if no pick has that name.
    pub fn parse(name: &str) -> Option<Self> {
        let mut words = name.split('-');
        let at = match words.next()? {
            "pick" => At::Address,
            "nodeport" => At::NodePort,
            _ => return None,
        };
        let n = words.next()?.parse().ok()?;
        let mut policy = Policy::Internal { n };
        let mut affinity = None;
        while let Some(word) = words.next() {
            match word {
                "short" => policy = Policy::ShortCircuit { n },
                "masquerade" => policy = Policy::Masqueraded { n },
                "local" => {
                    let local = words.next()?.parse().ok()?;
                    policy = Policy::Local { n, local };
                }
                "sticky" => affinity = Some(words.next()?.parse().ok()?),
                _ => return None,
            }
        }
        let pick = Self::new(at, policy, affinity);
        (pick.to_string() == name).then_some(pick)
    }

    /// The pick that this one goes to for pods and the node itself.
    pub fn inner(self) -> Option<Self> {
        match self.policy {
            Policy::Local { n, .. } => {
                let policy = Policy::ShortCircuit { n };
                Some(Self::new(self.at, policy, self.affinity))
            }
            _ => None,
        }
    }

    /// The chain's rules.
    pub fn rules(self, family: IpFamily, options: &Options, node: &NodeFacts) -> Vec<Rule> {
        let chain = self.to_string();
        let mut rules = Vec::new();
        match self.policy {
            Policy::Internal { n } | Policy::ShortCircuit { n } => {
                self.choose(family, &chain, n, &mut rules);
            }
            Policy::Masqueraded { n } => {
                let mark = Build::new(family).add_to_mark(options.masquerade_mark());
                rules.push(mark.rule_with_comment(&chain, "masquerade"));
                self.choose(family, &chain, n, &mut rules);
            }
            Policy::Local { local, .. } => {
                self.short_circuit(family, &chain, options, node, &mut rules);
                self.choose(family, &chain, local, &mut rules);
            }
        }
        rules
    }

    fn short_circuit(
        self,
        family: IpFamily,
        chain: &str,
        options: &Options,
        node: &NodeFacts,
        rules: &mut Vec<Rule>,
    ) {
        let Some(inner) = self.inner().map(|inner| inner.to_string()) else {
            return;
        };
        if let Some(pods) = is_pod(Build::new(family), CmpOp::Eq, &node.local) {
            let rule = pods.goto(&inner);
            rules.push(rule.rule_with_comment(chain, "short-circuit pod traffic"));
        }
        let host = || Build::new(family).if_local(FibAddress::Source);
        // The source that the host chose may be the frontend's own address.
        rules.push(
            host()
                .add_to_mark(options.masquerade_mark())
                .rule_with_comment(chain, "masquerade local traffic"),
        );
        rules.push(
            host()
                .goto(&inner)
                .rule_with_comment(chain, "short-circuit local traffic"),
        );
    }

    fn sets(self) -> Sets {
        match self.at {
            At::Address => Sets {
                endpoints: SetId::Endpoints,
                sticky: SetId::StickyEndpoints,
                live: SetId::LiveEndpoints,
                affinity: SetId::Affinity,
            },
            At::NodePort => Sets {
                endpoints: SetId::NodePortEndpoints,
                sticky: SetId::NodePortStickyEndpoints,
                live: SetId::NodePortLiveEndpoints,
                affinity: SetId::NodePortAffinity,
            },
        }
    }

    /// A client and a frontend.
    fn client(self) -> &'static [Field] {
        match self.at {
            At::Address => &[Field::Saddr, Field::Protocol, Field::Daddr, Field::Dport],
            At::NodePort => &[Field::Saddr, Field::Protocol, Field::Dport],
        }
    }

    /// A frontend and a random one of its `n` endpoints.
    fn random(self, n: u32) -> Vec<Field> {
        let (frontend, first): (&[Field], u32) = match (self.at, self.policy) {
            (At::Address, Policy::Local { .. }) => (&FRONTEND, LOCAL_INDEX),
            (At::Address, _) => (&FRONTEND, 0),
            (At::NodePort, Policy::Local { .. }) => (&NODE_PORT, LOCAL_INDEX),
            (At::NodePort, _) => (&NODE_PORT, 0),
        };
        let mut fields = frontend.to_vec();
        fields.push(Field::Random(n, first));
        fields
    }

    fn choose(self, family: IpFamily, chain: &str, n: u32, rules: &mut Vec<Rule>) {
        if n == 0 {
            return;
        }
        if let Some(seconds) = self.affinity {
            self.stick(family, chain, n, seconds, rules);
        }
        // With affinity: for a client that finds the map full.
        let any = Build::new(family)
            .load(&self.random(n), Reg::FIRST)
            .map(self.sets().endpoints, Reg::FIRST, Reg::FIRST)
            .dnat(Reg::FIRST);
        rules.push(any.rule(chain));
    }

    /// Affinity. The registers hold client, protocol, frontend and endpoint one after the other: the
    /// first three are the key of what was learned, the last three that of what is still there.
    ///
    /// nft has no words for this, but it must be able to list it. It gives what comes from a map no
    /// length, and aborts (1.0.6) on a key with a part that has none. So the maps begin one register
    /// early, with the frontend's port, which is loaded there once more afterwards: where the
    /// endpoint is, nft still sees the packet's own destination, which was loaded there before.
    /// A rule that is loaded from such a listing looks for a frontend that is its own endpoint,
    /// finds none, and leaves the packet to the rule without affinity.
    fn stick(self, family: IpFamily, chain: &str, n: u32, seconds: u32, rules: &mut Vec<Rule>) {
        let address = address_len(family);
        let protocol = Reg::FIRST.after(address);
        let port = match self.at {
            At::Address => protocol.after(4).after(address),
            At::NodePort => protocol.after(4),
        };
        let endpoint = port.after(4);
        let sets = self.sets();
        let learn = |op| Expr::Dynset {
            set: sets.affinity.name().to_owned(),
            op,
            key: Reg::FIRST,
            // The kernel wants it for a map even where it has no use for it.
            data: Some(port),
            timeout_ms: (op != DynsetOp::Delete).then_some(u64::from(seconds) * 1000),
        };
        let start = || Build::new(family).load(&[Field::Daddr, Field::Dport], endpoint);
        let known = start()
            .load(self.client(), Reg::FIRST)
            .map(sets.affinity, Reg::FIRST, port)
            .load(&[Field::Dport], port)
            .member_at(sets.live, protocol)
            .push(learn(DynsetOp::Update))
            .dnat(endpoint);
        rules.push(known.rule_with_comment(chain, "the endpoint that the client keeps to"));
        // What was learned may be an endpoint that is gone; an update would only prolong it.
        let chosen = start()
            .load(&self.random(n), Reg::FIRST)
            .map(sets.sticky, Reg::FIRST, port)
            .load(self.client(), Reg::FIRST)
            .member_at(sets.live, protocol)
            .push(learn(DynsetOp::Delete))
            .push(learn(DynsetOp::Add))
            .dnat(endpoint);
        rules.push(chosen.rule_with_comment(chain, "an endpoint for the client to keep to"));
    }
}

/// Goes on only if the traffic comes from this node's pods (or does not, with [`CmpOp::Neq`]);
/// `None` where nothing is known to.
pub(crate) fn is_pod(build: Build, op: CmpOp, local: &LocalDetector) -> Option<Build> {
    match local {
        LocalDetector::None => None,
        LocalDetector::Source(range) => Some(build.in_range(true, op, range)),
        LocalDetector::Interface(name) => Some(build.interface(op, name, true)),
        LocalDetector::InterfacePrefix(prefix) => Some(build.interface(op, prefix, false)),
    }
}
