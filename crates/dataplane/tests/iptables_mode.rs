//! iptables mode on the real kernel, in both back ends, over histories of generated clusters: every
//! transaction is accepted, and `iptables-save` lists its rules.

#[path = "../../kernel/tests/support/mod.rs"]
mod support;
#[path = "support/ipt.rs"]
mod support_ipt;

use std::collections::BTreeSet;
use std::net::UdpSocket;

use dataplane::iptables::{
    Mode, Netlink, Nfacct, Observation, Options, Output, RestoreText, Transport as _,
};
use kernel::iptables::legacy::Legacy;
use kernel::iptables::{Backend, Table};
use kernel::nfacct::{Counter, NfAcct};
use model::{Event, IpFamily, ServiceType};
use netfilter::iptables::{Chain, Flush, Restore, Rule, TableSet};
use plan::testing::{Applied, endpoint, history, service, settings, slice};
use plan::{Plan, Planner, PortKey, Settings};
use proptest::prelude::*;
use support::{in_namespace, run};
use support_ipt::{Live, kernel_family};

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

/// The back end under test.
enum Access {
    Legacy(Legacy),
    Netlink(Box<Netlink<Live>>),
}

/// A mode, access to the kernel, and the expected result of the transactions so far.
struct Host {
    family: IpFamily,
    backend: Backend,
    access: Access,
    mode: Mode,
    /// Writes the text from which `expected` is made.
    model: Mode,
    expected: TableSet,
    /// Every Service port so far.
    seen: BTreeSet<PortKey>,
}

impl Host {
    fn new(family: IpFamily, backend: Backend) -> Self {
        let rules = kernel_family(family);
        let mut mode = Mode::new(family, OPTIONS);
        let mut model = Mode::new(family, OPTIONS);
        model.observe(Observation::nothing());
        let access = match backend {
            Backend::Legacy => {
                mode.observe(Observation::nothing());
                Access::Legacy(Legacy::open(rules).unwrap())
            }
            Backend::Nft => {
                let mut transport = Live::transport(family);
                // Every transaction of some Services is divided.
                transport.divide_from(20_000);
                mode.observe(transport.read().unwrap());
                Access::Netlink(transport.into())
            }
        };
        Self {
            family,
            backend,
            access,
            mode,
            model,
            expected: TableSet::new(rules),
            seen: BTreeSet::new(),
        }
    }

    /// What the installed program lists.
    fn save(&self) -> String {
        let program = match self.family {
            IpFamily::V4 => "iptables",
            IpFamily::V6 => "ip6tables",
        };
        let tables = ["filter", "nat", "mangle"]
            .map(|table| run(&format!("{program}-{}-save -t {table}", self.backend)));
        tables.concat()
    }

    /// Write the difference to the plan, and return the text of the same transaction.
    fn write(&mut self, plan: &Plan) -> String {
        for mode in [&mut self.mode, &mut self.model] {
            mode.mark_changed(self.seen.iter().cloned());
        }
        let none = BTreeSet::new();
        let mut text = RestoreText::default();
        let modelled = self.model.transaction(plan, &none, &mut text).unwrap();
        self.model.committed(plan, modelled, &[]);
        let text = text.finish();
        let mut ignored = RestoreText::default();
        let output: &mut dyn Output = match &mut self.access {
            Access::Legacy(_) => &mut ignored,
            Access::Netlink(netlink) => netlink.begin(self.mode.has_observation()),
        };
        let transaction = self.mode.transaction(plan, &none, output).unwrap();
        assert!(
            self.mode.problems().is_empty(),
            "{:?}",
            self.mode.problems()
        );
        let handles = match &mut self.access {
            Access::Legacy(legacy) if !text.is_empty() => {
                let restored = legacy.restore(&text);
                restored.unwrap_or_else(|error| panic!("{error}\n{text}"));
                Vec::new()
            }
            Access::Legacy(_) => Vec::new(),
            Access::Netlink(netlink) => {
                let committed = netlink.commit();
                committed.unwrap_or_else(|failure| panic!("{failure:?}\n{text}"))
            }
        };
        self.mode.committed(plan, transaction, &handles);
        text
    }

    /// Read the kernel's rules.
    fn observe(&mut self, saved: &str) -> Observation {
        match &mut self.access {
            Access::Legacy(_) => Observation::read(self.family, saved).unwrap(),
            Access::Netlink(netlink) => netlink.read().unwrap(),
        }
    }

    /// Sync the kernel to the plan, and check its rules.
    fn sync(&mut self, planner: &Planner, large: bool) {
        let mut plan = planner.plan(self.family).clone();
        plan.endpoint_count = if large { 1001 } else { 1000 };
        self.seen.extend(plan.ports.keys().cloned());
        let text = self.write(&plan);
        if !text.is_empty() {
            let restore = Restore::parse(self.expected.family, &text).unwrap();
            self.expected.apply(restore, Flush::Nothing).unwrap();
        }

        let saved = self.save();
        let listed = TableSet::parse(self.expected.family, &saved).unwrap();
        assert_eq!(chains(&listed), chains(&self.expected));
        let mut reader = Mode::new(self.family, OPTIONS);
        reader.observe(self.observe(&saved));
        let mut repair = RestoreText::default();
        let none = BTreeSet::new();
        reader.transaction(&plan, &none, &mut repair).unwrap();
        assert_eq!(repair.finish(), "", "a reader finds nothing to do");
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

fn sync_all(backend: Backend, family: IpFamily, settings: &Settings, events: &[Event]) {
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
                with_counters(|| sync_all(backend, family, &settings, &events));
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
