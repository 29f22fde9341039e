//! iptables mode on the real kernel, in both back ends, over histories of generated clusters: every
//! input is accepted, and the listed rules are those of the input.

#[path = "../../kernel/tests/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::net::UdpSocket;

use dataplane::iptables::{Mode, Nfacct, Observation, Options};
use kernel::Family;
use kernel::iptables::{Backend, Iptables, Table};
use kernel::nfacct::{Counter, NfAcct};
use model::{Event, IpFamily, ServiceType};
use netfilter::iptables::{Chain, Flush, Restore, Rule, TableSet};
use plan::testing::{Applied, endpoint, history, service, settings, slice};
use plan::{Planner, PortKey, Settings};
use proptest::prelude::*;
use support::in_namespace;

/// With the counters, which exist in every namespace of [`with_counters`].
const OPTIONS: Options = Options {
    masquerade_bit: 14,
    localhost_node_ports: true,
    conntrack_tcp_be_liberal: false,
    random_fully: true,
    nfacct: Nfacct {
        invalid_dropped: true,
        localhost_node_ports: true,
    },
};

fn with_counters(body: impl FnOnce() + Send) {
    in_namespace(|| {
        let mut counters = NfAcct::open().unwrap().expect("a kernel with nfacct");
        for counter in Counter::ALL {
            counters.ensure(counter).unwrap();
        }
        body();
    });
}

/// A mode, the tools that run its inputs, and the expected result of the inputs so far.
struct Host {
    family: IpFamily,
    tools: Iptables,
    mode: Mode,
    expected: TableSet,
    /// Every Service port so far.
    seen: BTreeSet<PortKey>,
}

impl Host {
    fn new(family: IpFamily, backend: Backend) -> Self {
        let (tools, rules) = match family {
            IpFamily::V4 => (Family::Ipv4, netfilter::iptables::Family::Ipv4),
            IpFamily::V6 => (Family::Ipv6, netfilter::iptables::Family::Ipv6),
        };
        let mut mode = Mode::new(family, OPTIONS);
        mode.observe(Observation::nothing());
        Self {
            family,
            tools: Iptables::with_backend(tools, backend).unwrap(),
            mode,
            expected: TableSet::new(rules),
            seen: BTreeSet::new(),
        }
    }

    fn save(&self) -> String {
        let tables = [Table::Filter, Table::Nat, Table::Mangle];
        let saved = tables.map(|table| self.tools.save(table).unwrap());
        String::from_utf8(saved.concat()).unwrap()
    }

    /// Sync the kernel to the plan, and check its rules.
    fn sync(&mut self, planner: &Planner, large: bool) {
        let mut plan = planner.plan(self.family).clone();
        plan.endpoint_count = if large { 1001 } else { 1000 };
        self.seen.extend(plan.ports.keys().cloned());
        self.mode.mark_changed(self.seen.iter().cloned());
        let transaction = self.mode.transaction(&plan, &BTreeSet::new()).unwrap();
        assert!(
            self.mode.problems().is_empty(),
            "{:?}",
            self.mode.problems()
        );
        if !transaction.is_empty() {
            let text = &transaction.text;
            let restored = self.tools.restore(text.as_bytes());
            restored.unwrap_or_else(|error| panic!("{error}\n{text}"));
            let restore = Restore::parse(self.expected.family, text).unwrap();
            self.expected.apply(restore, Flush::Nothing).unwrap();
        }
        self.mode.committed(&plan, transaction);

        let saved = self.save();
        let listed = TableSet::parse(self.expected.family, &saved).unwrap();
        assert_eq!(chains(&listed), chains(&self.expected));
        let mut reader = Mode::new(self.family, OPTIONS);
        reader.observe(Observation::read(self.family, &saved).unwrap());
        let repair = reader.transaction(&plan, &BTreeSet::new()).unwrap().text;
        assert_eq!(repair, "", "a reader finds nothing to do");
    }
}

/// All chains that are not empty, with their rules in order.
fn chains(tables: &TableSet) -> Vec<(Table, Chain, &[Rule])> {
    let chains = tables.tables.iter().flat_map(|(table, state)| {
        let chains = state.chains.iter();
        chains.map(|(chain, state)| (*table, *chain, state.rules.as_slice()))
    });
    // A built-in chain without rules may be listed or not.
    chains
        .filter(|(table, chain, rules)| !rules.is_empty() || !table.is_built_in(*chain))
        .collect()
}

fn run(backend: Backend, family: IpFamily, settings: &Settings, events: &[Event]) {
    let mut planner = Planner::new(settings.clone());
    let mut host = Host::new(family, backend);
    for (step, events) in events.chunks(8).enumerate() {
        planner.apply_all(events.iter().cloned());
        planner.take_diff();
        host.sync(&planner, step % 3 == 2);
    }
    // Remove everything again.
    host.sync(&Planner::new(settings.clone()), false);
}

proptest! {
    // A case runs up to 28 restores and three times as many saves.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(6) })]

    #[test]
    fn the_kernel_accepts_every_change_and_lists_it((settings, events) in history()) {
        for backend in [Backend::Nft, Backend::Legacy] {
            for family in IpFamily::ALL {
                with_counters(|| run(backend, family, &settings, &events));
            }
        }
    }
}

/// A packet to a NodePort on a loopback address: the kernel accepts the counter's rule, and the packet matches it.
#[test]
fn packets_to_node_ports_on_loopback_are_counted() {
    let mut node_port = service("a/b", &["10.96.0.10"], &["dns:53:30053/UDP"]);
    node_port.service_type = ServiceType::NodePort;
    let endpoints = vec![endpoint("127.0.0.1", "node-1")];
    let slice = slice("b-1", "a/b", &["dns:53/UDP"], endpoints);
    for backend in [Backend::Nft, Backend::Legacy] {
        with_counters(|| {
            let mut planner = Planner::new(settings("node-1"));
            planner.apply_all([node_port.clone().applied(), slice.clone().applied()]);
            planner.take_diff();
            Host::new(IpFamily::V4, backend).sync(&planner, false);
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            // Counted first; then masquerading drops it, because only loopback has an address.
            let sent = socket.send_to(b"?", "127.0.0.1:30053");
            assert!(sent.is_err(), "{backend}");
            let mut counters = NfAcct::open().unwrap().expect("a kernel with nfacct");
            let counted = counters.read(Counter::LocalhostNodePortsAccepted).unwrap();
            assert_eq!(counted.map(|counted| counted.packets), Some(1), "{backend}");
        });
    }
}
