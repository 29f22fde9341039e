//! The state machine of nftables mode on the real kernel, with faults and foreign changes.

#[path = "../../kernel/tests/support/mod.rs"]
mod support;
#[path = "support/faults.rs"]
mod support_faults;
#[path = "support/nft.rs"]
mod support_nft;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};

use dataplane::nftables::{Expected, Options, Outcome, State, Step, Sync, Transport};
use kernel::netlink;
use kernel::nfnetlink::{NfTables, TableId};
use model::{IpFamily, NodePortAddresses};
use netfilter::nft::table::Contents;
use netfilter::nft::{Element, Family, Op, Value};
use plan::testing::{big_cluster, big_cluster_settings};
use plan::{Plan, Planner, PortPlan, Settings};

use support::{in_namespace, run};
use support_faults::{Fault, Faulty, settled};
use support_nft::Live;

const LIMIT: usize = 1_000;

fn plan(services: usize) -> Plan {
    let mut planner = Planner::new(big_cluster_settings());
    planner.apply_all(big_cluster(services, 4));
    planner.take_diff();
    planner.plan(IpFamily::V4).clone()
}

fn sync(plan: &Plan, transport: &mut impl Transport<Error = netlink::Error>) -> Sync {
    let mut sync = Sync::new(Options::default());
    sync.run(plan, transport, LIMIT)
        .expect("the kernel answers");
    sync
}

#[test]
fn sync_converges_after_any_fault() {
    let plan = plan(60);
    let mut faults: Vec<Fault> = (0..40).map(Fault::Refuse).collect();
    faults.extend([Fault::Lost, Fault::TableDeleted, Fault::AnotherWriter]);
    for fault in faults {
        for at in 0..3 {
            in_namespace(|| {
                let live = Live::open(IpFamily::V4);
                let mut faulty = Faulty::new(live, at, fault);
                let mut sync = sync(&plan, &mut faulty);
                // As after the notification of a foreign change.
                sync.retry();
                sync.mark_unverified();
                sync.run(&plan, &mut faulty, LIMIT)
                    .expect("the kernel answers");
                settled(&sync, &mut faulty.live, &plan);
            });
        }
    }
}

#[test]
fn a_refused_service_adds_no_element_and_a_refused_change_removes_none() {
    let plan = plan(30);
    let (key, port) = plan.ports.iter().next().expect("a port");
    let frontend = Value::ip(port.cluster_ip)
        .with_protocol(port.protocol.number())
        .with_port(port.port.get());
    let mut without = plan.clone();
    without.ports.remove(key);
    let mut changed = plan.clone();
    let fewer = PortPlan {
        cluster: port.cluster[1..].into(),
        ..(**port).clone()
    };
    changed.ports.insert(key.clone(), fewer.into());
    for (before, after) in [(&without, &plan), (&plan, &changed)] {
        in_namespace(|| {
            let mut kernel = Faulty::new(Live::open(IpFamily::V4), 0, Fault::None);
            let mut sync = sync(before, &mut kernel);
            kernel.poison = Some(frontend.with_host_u32(0));
            sync.change(&[key.clone()].into());
            for _ in 0..2 {
                sync.run(after, &mut kernel, LIMIT)
                    .expect("the kernel answers");
                assert_eq!(sync.refused().keys().collect::<Vec<_>>(), [key]);
                let found = kernel.read(&|_| Vec::new()).expect("read");
                let wanted = State::lower(before, Options::default()).contents();
                assert!(found.expect("a table").0.sets == wanted.sets);
                // As in a new process.
                sync = Sync::new(Options::default());
            }
            kernel.poison = None;
            sync.run(after, &mut kernel, LIMIT)
                .expect("the kernel answers");
            settled(&sync, &mut kernel.live, after);
        });
    }
}

#[test]
fn a_restart_writes_nothing() {
    let plan = plan(100);
    in_namespace(|| {
        let mut live = Live::open(IpFamily::V4);
        let first = sync(&plan, &mut live);
        settled(&first, &mut live, &plan);
        let before = live.nft.generation().expect("a generation").generation;
        let again = sync(&plan, &mut live);
        settled(&again, &mut live, &plan);
        let after = live.nft.generation().expect("a generation").generation;
        assert_eq!(before, after, "nothing was committed");
    });
}

/// The table of `testdata/observed` as sluice wrote it before version 0.2, printed by `sluice render`.
const FORMER: &str = include_str!("former/nftables.v4.nft");

/// Passes operations to the kernel, and fails if they delete the table.
struct Keeps(Live);

impl Transport for Keeps {
    type Error = netlink::Error;

    fn read(&mut self, expected: &Expected<'_>) -> Result<Option<(Contents, bool)>, Self::Error> {
        self.0.read(expected)
    }

    fn commit(&mut self, ops: &[Op], guarded: bool) -> Result<Outcome, Self::Error> {
        assert!(!ops.contains(&Op::DeleteTable));
        self.0.commit(ops, guarded)
    }
}

#[test]
fn table_of_a_former_version_is_converted_with_its_learned_clients() {
    let settings = Settings {
        node_port_addresses: NodePortAddresses::Primary,
        ..observed::configuration("default").settings()
    };
    let mut planner = Planner::new(settings);
    planner.apply_all(observed::objects());
    planner.take_diff();
    let plan = planner.plan(IpFamily::V4);
    in_namespace(|| {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), FORMER).expect("room");
        run(&format!("nft -f {}", file.path().display()));
        let client = "10.244.1.99 . tcp . 10.96.10.7 . 80";
        run(&format!(
            "nft add element ip kube-proxy affinity \
             '{{ {client} timeout 1h : 80 . 10.244.1.17 . 8080 }}'"
        ));
        let mut kernel = Keeps(Live::open(IpFamily::V4));
        let sync = sync(plan, &mut kernel);
        let affinity = run("nft list map ip kube-proxy affinity");
        assert!(affinity.contains(client), "{affinity}");
        run("nft flush map ip kube-proxy affinity");
        settled(&sync, &mut kernel.0, plan);
    });
}

/// Ends a thread on drop.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A program that writes to other tables faster than a table is read does not block the start.
#[test]
fn constant_writes_to_other_tables_do_not_block_the_start() {
    let former = plan(1_500);
    let plan = plan(1_600);
    in_namespace(|| {
        let mut live = Live::open(IpFamily::V4);
        sync(&former, &mut live);
        let stop = AtomicBool::new(false);
        let commits = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut nft = NfTables::open().expect("nf_tables");
                let table = TableId::new(Family::Ip, "theirs");
                let comment = None;
                let mut commits = 0;
                while !stop.load(Ordering::Relaxed) {
                    for op in [
                        Op::AddTable {
                            comment: comment.clone(),
                        },
                        Op::DeleteTable,
                    ] {
                        nft.commit(&table, &[op], None).expect("theirs");
                        commits += 1;
                    }
                }
                commits
            });
            let stop = Stop(&stop);
            let sync = sync(&plan, &mut live);
            settled(&sync, &mut live, &plan);
            drop(stop);
            writer.join().expect("a writer")
        });
        assert!(commits > 100, "{commits} commits are no haste");
    });
}

/// A table that is read by key changes while its proxy is not running.
#[test]
fn a_large_table_changed_while_sluice_was_down_is_updated() {
    let plan = plan(300);
    in_namespace(|| {
        let mut live = Live::open(IpFamily::V4);
        live.nft.ask_by_key_from(1_000);
        sync(&plan, &mut live);
        let (contents, _) = live.read(&|_| Vec::new()).expect("read").expect("a table");
        let endpoints = &contents.sets["endpoints"].elements;
        assert!(endpoints.len() > 1_000);
        let first = endpoints.values().next();
        let first = first.expect("elements").key;
        let stranger = Value::ip(Ipv4Addr::LOCALHOST.into());
        let stranger = stranger.with_protocol(6).with_port(1).with_host_u32(0);
        for change in [
            // Fewer elements than desired, more, and as many but others.
            vec![delete(first)],
            vec![add(stranger)],
            vec![delete(first), add(first)],
        ] {
            live.nft
                .commit(&live.table, &change, None)
                .expect("meddling");
            let sync = sync(&plan, &mut live);
            settled(&sync, &mut live, &plan);
        }
    });
}

fn delete(key: Value) -> Op {
    Op::DeleteElements {
        set: "endpoints".to_owned(),
        elements: vec![Element::key(key)],
    }
}

/// Return the operation that adds an element with an unassigned endpoint.
fn add(key: Value) -> Op {
    let unassigned = Value::ip(Ipv4Addr::new(192, 0, 2, 1).into()).with_port(1);
    Op::AddElements {
        set: "endpoints".to_owned(),
        elements: vec![Element::map(key, unassigned)],
    }
}

#[test]
fn a_load_killed_at_any_point_is_completed_by_the_next() {
    let plan = plan(120);
    let half = Plan {
        ports: plan
            .ports
            .iter()
            .take(50)
            .map(|(k, p)| (k.clone(), p.clone()))
            .collect(),
        ..plan.clone()
    };
    for kill_after in 0..4 {
        in_namespace(|| {
            let mut live = Live::open(IpFamily::V4);
            sync(&half, &mut live);
            let mut killed = Sync::new(Options::default());
            for _ in 0..kill_after {
                match killed.step(&plan) {
                    Step::Idle => break,
                    Step::Read => {
                        let found = live.read(&|set| Sync::expected(&plan, set)).expect("read");
                        killed.on_read(&plan, found.map(|(contents, _)| contents), false);
                    }
                    Step::Commit { ops, guarded } => {
                        let outcome = live.commit(&ops, guarded).expect("sent");
                        killed.on_outcome(outcome);
                    }
                }
            }
            drop(killed);
            let again = sync(&plan, &mut live);
            settled(&again, &mut live, &plan);
        });
    }
}

#[test]
fn table_of_kube_proxy_is_replaced_in_one_transaction() {
    let plan = plan(30);
    let observed = observed::path("nftables-default.v4.nft");
    in_namespace(|| {
        run(&format!("nft -f {}", observed.display()));
        let mut live = Live::open(IpFamily::V4);
        let before = live.nft.generation().expect("a generation").generation;
        let sync = sync(&plan, &mut live);
        settled(&sync, &mut live, &plan);
        let after = live.nft.generation().expect("a generation").generation;
        assert_eq!(before.next(), after, "one transaction");
    });
}

#[test]
fn foreign_changes_are_repaired() {
    let plan = plan(30);
    for meddling in [
        "nft add rule ip kube-proxy services counter accept",
        "nft insert rule ip kube-proxy masquerading ip saddr 10.0.0.0/8 log accept",
        "nft flush chain ip kube-proxy nat-output",
        "nft flush set ip kube-proxy cluster-ips",
        "nft flush map ip kube-proxy service-ips",
        "nft flush set ip kube-proxy cluster-ip-ports",
        "nft flush set ip kube-proxy endpoint-counts",
        "nft flush chain ip kube-proxy pick",
        "nft flush map ip kube-proxy endpoints",
        "nft 'add chain ip kube-proxy theirs { drop; }; add rule ip kube-proxy services jump theirs'",
        "nft 'add set ip kube-proxy theirs { type ipv4_addr; elements = { 1.2.3.4 } }'",
        "nft 'add element ip kube-proxy cluster-ips { 192.0.2.1 }'",
        "nft 'add element ip kube-proxy service-ips { 192.0.2.1 . tcp . 80 : drop }'",
        "nft delete table ip kube-proxy",
        "nft flush ruleset",
    ] {
        in_namespace(|| {
            let mut live = Live::open(IpFamily::V4);
            let mut sync = sync(&plan, &mut live);
            run(meddling);
            sync.mark_unverified();
            sync.run(&plan, &mut live, LIMIT)
                .expect("the kernel answers");
            settled(&sync, &mut live, &plan);
        });
    }
}
