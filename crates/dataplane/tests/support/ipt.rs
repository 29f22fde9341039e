//! The kernel behind iptables mode's netlink transport, and its rules in a comparable form.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;

use dataplane::iptables::{
    BatchFailure, FailureKind, Guard, Kernel, Netlink, Observation, Observer, Options, Sync,
    is_chain, render,
};
use kernel::iptables::{NftRules, Table};
use kernel::nfnetlink::TransactionError;
use model::IpFamily;
use netfilter::iptables::{Chain, Rule, TableSet, Target};
use plan::Plan;

pub(crate) const TABLES: [Table; 3] = [Table::Mangle, Table::Filter, Table::Nat];

pub(crate) fn kernel_family(family: IpFamily) -> kernel::Family {
    match family {
        IpFamily::V4 => kernel::Family::Ipv4,
        IpFamily::V6 => kernel::Family::Ipv6,
    }
}

/// One family's tables in the calling thread's network namespace.
pub(crate) struct Live(pub(crate) NftRules);

impl Live {
    pub(crate) fn open(family: IpFamily) -> Self {
        let rules = NftRules::open(kernel_family(family)).expect("nf_tables");
        Live(rules.concerning(is_chain))
    }

    pub(crate) fn transport(family: IpFamily) -> Netlink<Self> {
        Netlink::new(family, Self::open(family))
    }
}

pub(crate) fn failure(error: TransactionError) -> BatchFailure<TransactionError> {
    let kind = match &error {
        error if error.is_rejection() => FailureKind::Rejected,
        error if error.is_outdated() => FailureKind::Outdated,
        _ => FailureKind::Unavailable,
    };
    BatchFailure { error, kind }
}

impl Kernel for Live {
    type Error = TransactionError;

    fn read(&mut self, family: IpFamily) -> Result<Observation, Self::Error> {
        let read = self
            .0
            .read(&TABLES, || Observer::new(family), Observer::add);
        Ok(read?.finish())
    }

    fn commit(
        &mut self,
        batch: &mut [u8],
        guard: Guard,
    ) -> Result<Vec<(usize, u64)>, BatchFailure<Self::Error>> {
        self.0
            .commit(batch, guard.guarded, guard.part)
            .map_err(failure)
    }
}

/// Whether a name is one of kube-proxy's chains, rather than one of kubelet or of kube-router.
pub(crate) fn is_of_proxy(name: &str) -> bool {
    let chain = Chain::new(name);
    chain.is_ok_and(|chain| TABLES.iter().any(|table| is_chain(*table, chain)))
}

/// Check that the kernel has the state of a fresh load.
pub(crate) fn assert_settled(sync: &Sync, plan: &Plan, what: &str) {
    assert!(sync.refusals().is_empty(), "{what}: {:?}", sync.refusals());
    let expected = render(plan, &Options::default()).unwrap();
    let mut rules = NftRules::open(kernel_family(plan.family)).unwrap();
    let (set, _) = rules.table_set(&TABLES).unwrap();
    assert_eq!(kube(&set), kube(&expected.tables), "{what}");
}

/// kube-proxy's chains and the jumps to them. Rules of chains in which their order has no meaning are
/// sorted.
pub(crate) fn kube(set: &TableSet) -> BTreeMap<(Table, Chain), Vec<String>> {
    let is_kube = |chain: Chain| is_of_proxy(chain.as_str());
    let mut all = BTreeMap::new();
    for (table, state) in &set.tables {
        for (chain, state) in &state.chains {
            let jumps = |rule: &&Rule| {
                let to = rule.target.as_ref().and_then(Target::chain);
                is_kube(*chain) || to.is_some_and(is_kube)
            };
            let rules = state.rules.iter().filter(jumps);
            let mut rules: Vec<String> = rules.map(ToString::to_string).collect();
            if !is_kube(*chain) && rules.is_empty() {
                continue;
            }
            let own = [
                "KUBE-SVC-",
                "KUBE-SVL-",
                "KUBE-SEP-",
                "KUBE-EXT-",
                "KUBE-FW-",
                "KUBE-POST",
            ];
            if !own.iter().any(|prefix| chain.as_str().starts_with(prefix)) {
                let tail = rules
                    .iter()
                    .rev()
                    .take_while(|r| r.ends_with("-j KUBE-NODEPORTS"));
                let sorted = rules.len() - tail.count();
                rules[..sorted].sort();
            }
            all.insert((*table, *chain), rules);
        }
    }
    all
}
