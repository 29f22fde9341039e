//! A Service port's own chains, all in the nat table.

use netfilter::iptables::{
    Chain, Header, Match, MatchAddrType, MatchRecent, NatTarget, Negatable, Net, PortMatch,
    Probability, RecentAction, Rule, Statistic, Target,
};
use plan::Endpoint;

use super::super::names::{self, Kind};
use super::dispatch::to_address;
use super::{Context, Port, comment, protocol, rule_family, simple};

/// The probability of the first of `n` rules, rounded as by kube-proxy and iptables: 1/n to ten
/// digits, then to the nearest fraction of 2³¹.
fn one_of(n: usize) -> Probability {
    const TEN_DIGITS: u64 = 10_000_000_000;
    let n = u64::try_from(n).unwrap_or(u64::MAX).max(1);
    let decimal = (TEN_DIGITS + n / 2) / n;
    let scaled = u128::from(decimal) << 31;
    let nearest = (scaled + u128::from(TEN_DIGITS / 2)) / u128::from(TEN_DIGITS);
    Probability(u32::try_from(nearest).unwrap_or(Probability::ONE.0))
}

impl Port<'_> {
    /// Pass each chain with its rules to the callback, after the chains that it jumps to. The buffer
    /// of rules is reused.
    pub(in super::super) fn chains(
        &mut self,
        context: &Context<'_>,
        mut emit: impl FnMut(Chain, &[Rule]),
    ) {
        let endpoints = self.plan.reachable();
        self.endpoint_chains(context, &endpoints, &mut emit);
        self.service_chains(context, &mut emit);
    }

    /// The chains of some endpoints.
    pub(in super::super) fn endpoint_chains(
        &mut self,
        context: &Context<'_>,
        endpoints: &[Endpoint],
        emit: &mut impl FnMut(Chain, &[Rule]),
    ) {
        let mut rules = Vec::with_capacity(2);
        for endpoint in endpoints {
            let chain = self.endpoint_chain(endpoint);
            rules.clear();
            rules.push(self.hairpin(context, endpoint));
            rules.push(self.to_endpoint(context, endpoint, chain));
            emit(chain, &rules);
        }
    }

    /// The chains except those of endpoints.
    pub(in super::super) fn service_chains(
        &mut self,
        context: &Context<'_>,
        emit: &mut impl FnMut(Chain, &[Rule]),
    ) {
        let plan = self.plan;
        let mut rules = Vec::new();
        for (kind, endpoints, used) in [
            (Kind::Cluster, &plan.cluster, plan.uses_cluster_endpoints()),
            (Kind::Local, &plan.local, plan.uses_local_endpoints()),
        ] {
            if used && !endpoints.is_empty() {
                rules.clear();
                if self.internal_kind() == kind && self.has_internal_endpoints() {
                    rules.extend(self.masquerade_from_outside(context));
                }
                self.balance(context, endpoints, &mut rules);
                emit(self.namer.chain(kind), &rules);
            }
        }
        if self.uses_external_chain() {
            rules.clear();
            self.external(context, &mut rules);
            emit(self.namer.chain(Kind::External), &rules);
        }
        if self.uses_firewall_chain() {
            rules.clear();
            self.firewall(context, &mut rules);
            emit(self.namer.chain(Kind::Firewall), &rules);
        }
    }

    /// A comment with the name of the Service port; omitted in large clusters.
    fn note(&self, context: &Context<'_>, text: impl FnOnce(&str) -> Box<str>) -> Option<Match> {
        (!context.large).then(|| Match::Comment(text(&self.name)))
    }

    /// A pod that reaches itself through the Service must see another source than its own address.
    fn hairpin(&self, context: &Context<'_>, endpoint: &Endpoint) -> Rule {
        let note = self.note(context, |name| name.into());
        Rule {
            header: Header {
                source: Some(Negatable::is(Net::host(endpoint.ip))),
                ..Header::default()
            },
            ..simple(note.into_iter().collect(), Target::Jump(names::MARK_MASQ))
        }
    }

    fn to_endpoint(&self, context: &Context<'_>, endpoint: &Endpoint, chain: Chain) -> Rule {
        let mut matches = Vec::with_capacity(3);
        matches.extend(self.note(context, |name| name.into()));
        if self.plan.affinity.is_some() {
            matches.push(recent(context, chain, RecentAction::Set, None));
        }
        // kube-proxy writes the match in addition to the protocol.
        matches.push(match self.plan.protocol {
            model::Protocol::Tcp => Match::Tcp(PortMatch::default().into()),
            model::Protocol::Udp => Match::Udp(PortMatch::default()),
            model::Protocol::Sctp => Match::Sctp(PortMatch::default()),
        });
        Rule {
            header: Header {
                protocol: protocol(self.plan.protocol),
                ..Header::default()
            },
            matches,
            target: Some(Target::Dnat(NatTarget::to(endpoint.ip, endpoint.port))),
            counters: None,
        }
    }

    /// Traffic to a cluster IP from outside this node's pods is masqueraded: the endpoint may be on a
    /// node that would reply past this one.
    fn masquerade_from_outside(&self, context: &Context<'_>) -> Option<Rule> {
        let from = if context.node.masquerade_all {
            Header::default()
        } else {
            context.local_traffic(true)?
        };
        let target = Target::Jump(names::MARK_MASQ);
        let mut rule = to_address(
            self,
            self.plan.cluster_ip,
            self.cluster_ip_comment(),
            target,
        );
        rule.header.source = from.source;
        rule.header.in_interface = from.in_interface;
        Some(rule)
    }

    fn balance(&mut self, context: &Context<'_>, endpoints: &[Endpoint], rules: &mut Vec<Rule>) {
        let chains: Vec<Chain> = endpoints.iter().map(|e| self.endpoint_chain(e)).collect();
        let note =
            |endpoint: &Endpoint| self.note(context, |name| format!("{name} -> {endpoint}").into());
        if let Some(affinity) = self.plan.affinity {
            for (endpoint, chain) in endpoints.iter().zip(&chains) {
                let mut matches = Vec::with_capacity(2);
                matches.extend(note(endpoint));
                let seconds = Some(affinity.timeout_seconds);
                matches.push(recent(context, *chain, RecentAction::Check, seconds));
                rules.push(simple(matches, Target::Jump(*chain)));
            }
        }
        for (i, (endpoint, chain)) in endpoints.iter().zip(&chains).enumerate() {
            let left = endpoints.len() - i;
            let mut matches = Vec::with_capacity(2);
            matches.extend(note(endpoint));
            if left > 1 {
                let chance = Statistic::Random(one_of(left));
                matches.push(Match::Statistic(Negatable::is(chance)));
            }
            rules.push(simple(matches, Target::Jump(*chain)));
        }
    }

    /// Traffic to every external address.
    fn external(&self, context: &Context<'_>, rules: &mut Vec<Rule>) {
        let jump = |kind| Target::Jump(self.namer.chain(kind));
        if !self.plan.external_local {
            // The endpoint may be on another node, which must send its replies here.
            rules.push(simple(
                vec![comment(self.external_comment("masquerade traffic for"))],
                Target::Jump(names::MARK_MASQ),
            ));
        } else {
            // Pods and the node itself reach the Service as if through the load balancer,
            // whatever the policy.
            if let Some(header) = context.local_traffic(false) {
                rules.push(Rule {
                    header,
                    ..simple(
                        vec![comment(self.external_comment("pod traffic for"))],
                        jump(Kind::Cluster),
                    )
                });
            }
            let mut from_host = |what, target| {
                let note = comment(self.external_comment(what));
                let local = Match::Addrtype(MatchAddrType::SOURCE_LOCAL);
                rules.push(simple(vec![note, local], target));
            };
            let masquerade = Target::Jump(names::MARK_MASQ);
            from_host("masquerade LOCAL traffic for", masquerade);
            from_host("route LOCAL traffic for", jump(Kind::Cluster));
        }
        if self.has_external_endpoints() {
            let kind = if self.plan.external_local {
                Kind::Local
            } else {
                Kind::Cluster
            };
            rules.push(simple(Vec::new(), jump(kind)));
        }
    }

    /// Only the source ranges reach the Service; the filter table drops other traffic.
    fn firewall(&self, context: &Context<'_>, rules: &mut Vec<Rule>) {
        let external = self.namer.chain(Kind::External);
        let note = format!("{} loadbalancer IP", self.name);
        let mut accept = |from: Net| {
            rules.push(Rule {
                header: Header {
                    source: (!from.is_everything()).then_some(Negatable::is(from)),
                    ..Header::default()
                },
                ..simple(vec![comment(note.as_str())], Target::Jump(external))
            });
        };
        let ranges = &self.plan.source_ranges;
        ranges.iter().for_each(|range| accept(Net::from(*range)));
        // Packets of an admitted node have the load balancer's address as their source if it is
        // one of the node's addresses.
        let node = context.node.node_ip;
        if node.is_some_and(|ip| ranges.iter().any(|range| range.contains(&ip))) {
            let ips = &self.plan.load_balancer_ips;
            ips.iter().for_each(|ip| accept(Net::host(*ip)));
        }
        rules.push(Rule {
            matches: vec![comment(self.other_traffic_comment())],
            ..Rule::default()
        });
    }
}

fn recent(
    context: &Context<'_>,
    chain: Chain,
    action: RecentAction,
    seconds: Option<u32>,
) -> Match {
    Match::Recent(Box::new(MatchRecent {
        action: Negatable::is(action),
        seconds,
        reap: seconds.is_some(),
        hit_count: None,
        ttl: false,
        name: chain.as_str().into(),
        mask: rule_family(context.family).host_mask(),
        destination: false,
    }))
}
