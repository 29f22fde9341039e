//! The state machine of iptables mode over netlink on the real kernel: faults, concurrent writers,
//! foreign rules, and long series of changes.

#[path = "support/ipt.rs"]
mod ipt;
#[path = "../../kernel/tests/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use dataplane::iptables::{
    BatchFailure, FailureKind, Guard, Kernel, Netlink, Observation, Options, Sync, SyncError,
    Transport, render,
};
use ipt::{Live, TABLES, assert_settled, kube};
use kernel::iptables::NftRules;
use kernel::nfnetlink::TransactionError;
use model::{Event, IpFamily};
use netfilter::nft::{Encoder, Family, Op};
use plan::testing::{big_cluster, big_cluster_of, big_cluster_settings, history};
use plan::{Plan, Planner, PortChange, PortKey};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use support::{create_objects, in_namespace, run};

/// A size at which a transaction of a few Services is divided.
const PART: usize = 20_000;

fn planner(services: usize) -> Planner {
    let mut planner = Planner::new(big_cluster_settings());
    planner.apply_all(big_cluster(services, 4));
    planner.take_diff();
    planner
}

fn plan(services: usize) -> Plan {
    planner(services).plan(IpFamily::V4).clone()
}

fn new_sync(family: IpFamily) -> Sync {
    Sync::new(family, Options::default())
}

/// What happens at one commit.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The kernel refuses the message with this number.
    Refuse(usize),
    /// The reply is lost.
    Lost,
    /// Another program flushes a table first.
    Flushed(&'static str),
    /// Another program changes the rules of this mode first.
    AnotherWriter,
    /// The process ends.
    Killed,
    None,
}

/// The kernel, with a fault at one commit.
struct Faulty {
    live: Live,
    at: usize,
    fault: Fault,
    commits: usize,
    /// Batches with this text are refused.
    poison: Option<&'static str>,
}

impl Faulty {
    fn transport(family: IpFamily, at: usize, fault: Fault) -> Netlink<Self> {
        let faulty = Faulty {
            live: Live::open(family),
            at,
            fault,
            commits: 0,
            poison: None,
        };
        let mut transport = Netlink::new(family, faulty);
        transport.divide_from(PART);
        transport
    }

    /// Have the kernel refuse a batch because of an invalid message at this place.
    fn refuse(
        &mut self,
        batch: &[u8],
        at: usize,
        guard: Guard,
    ) -> Result<Vec<(usize, u64)>, BatchFailure<TransactionError>> {
        let encoder = Encoder {
            family: Family::Ip,
            table: "nat",
        };
        let mut invalid = Vec::new();
        for message in encoder.ops(&[Op::DeleteChain("no-such-chain".to_owned())]) {
            message.append_to(&mut invalid);
        }
        let mut offset = 0;
        for _ in 0..at {
            let Some(length) = batch[offset..].first_chunk::<4>() else {
                break;
            };
            offset += (u32::from_ne_bytes(*length) as usize).next_multiple_of(4);
        }
        let mut batch = batch.to_vec();
        batch.splice(offset..offset, invalid);
        let refused = self.live.commit(&mut batch, guard);
        let failure = refused.expect_err("the message is invalid");
        assert!(failure.kind != FailureKind::Unavailable, "{failure:?}");
        Err(failure)
    }
}

impl Kernel for Faulty {
    type Error = TransactionError;

    fn read(&mut self, family: IpFamily) -> Result<Observation, TransactionError> {
        self.live.read(family)
    }

    fn commit(
        &mut self,
        batch: &mut [u8],
        guard: Guard,
    ) -> Result<Vec<(usize, u64)>, BatchFailure<TransactionError>> {
        let now = self.commits == self.at;
        self.commits += 1;
        let poisoned = |text: &str| {
            batch
                .windows(text.len())
                .any(|bytes| bytes == text.as_bytes())
        };
        if self.poison.is_some_and(poisoned) {
            return self.refuse(batch, 0, guard);
        }
        let fail = |error, kind| Err(BatchFailure { error, kind });
        match self.fault {
            Fault::Refuse(number) if now => return self.refuse(batch, number, guard),
            Fault::Lost if now => {
                self.live.commit(batch, guard)?;
                return fail(TransactionError::LostReply, FailureKind::Outdated);
            }
            Fault::Killed if self.commits > self.at => {
                return fail(TransactionError::LostReply, FailureKind::Unavailable);
            }
            Fault::Flushed(command) if now => drop(run(command)),
            Fault::AnotherWriter if now => {
                let _ = run(
                    "iptables-nft -t nat -N KUBE-SERVICES; iptables-nft -t nat -A KUBE-SERVICES -j ACCEPT; \
                     iptables-nft -t nat -I KUBE-SERVICES -j DROP; iptables-nft -t nat -D PREROUTING 1; true",
                );
            }
            _ => {}
        }
        self.live.commit(batch, guard)
    }
}

#[test]
fn sync_recovers_from_any_fault_at_any_commit() {
    let (before, after) = (plan(30), plan(60));
    let changed: BTreeSet<PortKey> = after.ports.keys().cloned().collect();
    // Each takes about half a minute on an emulated processor.
    let apart = match std::env::var_os("SLUICE_TEST_IN_VM") {
        Some(_) => 23,
        None => 7,
    };
    let mut faults: Vec<Fault> = (0..60).step_by(apart).map(Fault::Refuse).collect();
    faults.extend([
        Fault::Lost,
        Fault::Flushed("nft delete table ip nat || true"),
        Fault::Flushed("nft flush table ip nat || true"),
        Fault::Flushed("nft flush ruleset"),
        Fault::AnotherWriter,
    ]);
    for fault in faults {
        for at in 0..4 {
            in_namespace(|| {
                let what = format!("{fault:?} at {at}");
                let mut host = Faulty::transport(IpFamily::V4, at, fault);
                let mut sync = new_sync(IpFamily::V4);
                // A failed sync is repeated by the caller.
                let _ = sync.resync(&before, &mut host);
                let _ = sync.sync(&after, &changed, &mut host);
                let synced = sync.sync(&after, &BTreeSet::new(), &mut host);
                assert!(synced.is_ok(), "{what}: {synced:?}");
                // As after the notification of a foreign change.
                sync.resync(&after, &mut host).unwrap();
                assert_settled(&sync, &after, &what);
            });
        }
    }
}

/// A fault in the middle of a change: the known state is in use, and the change is one transaction.
#[test]
fn sync_recovers_from_a_fault_during_a_change() {
    let mut planner = planner(20);
    let before = planner.plan(IpFamily::V4).clone();
    planner.apply_all(big_cluster(24, 5));
    let ports = planner.take_diff().v4.ports;
    let changed: BTreeSet<PortKey> = ports.iter().filter_map(PortChange::key).collect();
    let after = planner.plan(IpFamily::V4).clone();
    for fault in [
        Fault::Refuse(0),
        Fault::Refuse(20),
        Fault::Lost,
        Fault::Flushed("iptables-nft -t nat -F KUBE-SERVICES"),
        Fault::Flushed("iptables-nft -t nat -D KUBE-SERVICES 3"),
        Fault::Flushed("nft delete table ip nat"),
        Fault::AnotherWriter,
    ] {
        in_namespace(|| {
            let what = format!("{fault:?}");
            let mut host = Faulty::transport(IpFamily::V4, usize::MAX, fault);
            host.divide_from(usize::MAX);
            let mut sync = new_sync(IpFamily::V4);
            sync.resync(&before, &mut host).unwrap();
            let commits = host.kernel().commits;
            host.kernel().at = commits;
            sync.sync(&after, &changed, &mut host).unwrap();
            let is_foreign = matches!(fault, Fault::Flushed(_) | Fault::AnotherWriter);
            if is_foreign {
                sync.resync(&after, &mut host).unwrap();
            } else {
                // A read shows that a change whose reply was lost is complete.
                let more = if matches!(fault, Fault::Lost) { 1 } else { 2 };
                assert_eq!(host.kernel().commits, commits + more, "{what}");
            }
            assert_settled(&sync, &after, &what);
        });
    }
}

#[test]
fn a_process_killed_during_a_load_is_followed_by_one_that_completes_it() {
    let (before, after) = (plan(25), plan(50));
    for at in 0..8 {
        in_namespace(|| {
            let mut first = Live::transport(IpFamily::V4);
            new_sync(IpFamily::V4).resync(&before, &mut first).unwrap();
            let mut killed = Faulty::transport(IpFamily::V4, at, Fault::Killed);
            let result = new_sync(IpFamily::V4).resync(&after, &mut killed);
            assert!(result.is_err() || killed.kernel().commits <= at, "{at}");
            let mut next = Live::transport(IpFamily::V4);
            let mut sync = new_sync(IpFamily::V4);
            sync.resync(&after, &mut next).unwrap();
            assert_settled(&sync, &after, &format!("killed at commit {at}"));
        });
    }
}

#[test]
fn a_refused_service_is_quarantined_alone_and_keeps_its_last_state() {
    let plan = plan(40);
    let key = plan.ports.keys().nth(17).expect("40 ports").clone();
    let text: &'static str = Box::leak(format!("{}", key.0).into_boxed_str());
    let mut without = plan.clone();
    without.ports.remove(&key);
    in_namespace(|| {
        let mut host = Faulty::transport(IpFamily::V4, 0, Fault::None);
        let mut sync = new_sync(IpFamily::V4);
        host.kernel().poison = Some(text);
        sync.resync(&plan, &mut host).unwrap();
        assert_eq!(sync.refusals().keys().collect::<Vec<_>>(), [&key]);
        let (set, _) = NftRules::open(kernel::Family::Ipv4)
            .unwrap()
            .table_set(&TABLES)
            .unwrap();
        let expected = render(&without, &Options::default()).unwrap().tables;
        assert_eq!(kube(&set), kube(&expected));
        // It is not tried again with a later change of other Services, but in a resync.
        let commits = host.kernel().commits;
        sync.sync(&plan, &BTreeSet::new(), &mut host).unwrap();
        assert_eq!(host.kernel().commits, commits);
        host.kernel().poison = None;
        sync.resync(&plan, &mut host).unwrap();
        assert_settled(&sync, &plan, "accepted");
        // A refused change of an accepted Service leaves its rules.
        let mut changed = plan.clone();
        let port = &plan.ports[&key];
        let fewer = plan::PortPlan {
            cluster: port.cluster[1..].into(),
            ..(**port).clone()
        };
        changed.ports.insert(key.clone(), fewer.into());
        host.kernel().poison = Some("KUBE-SVC-");
        sync.sync(&changed, &[key.clone()].into(), &mut host)
            .unwrap();
        assert_eq!(sync.refusals().keys().collect::<Vec<_>>(), [&key]);
        host.kernel().poison = None;
        sync.sync(&changed, &[key.clone()].into(), &mut host)
            .unwrap();
        assert_settled(&sync, &changed, "the change is accepted");
    });
}

#[test]
fn a_restart_commits_nothing() {
    let plan = plan(100);
    in_namespace(|| {
        let mut host = Live::transport(IpFamily::V4);
        let mut sync = new_sync(IpFamily::V4);
        sync.resync(&plan, &mut host).unwrap();
        let mut again = Faulty::transport(IpFamily::V4, 0, Fault::None);
        let mut sync = new_sync(IpFamily::V4);
        sync.resync(&plan, &mut again).unwrap();
        assert_eq!(again.kernel().commits, 0);
        let found = sync.take_found().unwrap();
        assert_eq!((found.kept, found.written), (plan.ports.len(), 0));
    });
}

/// Ends a thread on drop.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn another_writer_to_the_same_tables_does_not_prevent_a_load_or_lose_its_rules() {
    let (before, after) = (plan(300), plan(600));
    in_namespace(|| {
        run("iptables-nft -t nat -N THEIRS; iptables-nft -t nat -A PREROUTING -j THEIRS");
        let stop = AtomicBool::new(false);
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let theirs = NftRules::open(kernel::Family::Ipv4).unwrap();
                let mut theirs = theirs.concerning(|_, _| false);
                while !stop.load(Ordering::Relaxed) {
                    let written = count.fetch_add(1, Ordering::Relaxed);
                    let address = format!("10.9.{}.{}", written / 250 % 250, written % 250);
                    let rules = format!(
                        "*nat\n:THEIRS - [0:0]\n-A THEIRS -s {address} -j RETURN\nCOMMIT\n\
                         *filter\n:THEIRS-{} - [0:0]\nCOMMIT\n",
                        written % 7
                    );
                    theirs.restore(&rules).unwrap();
                }
            });
            let _stop = Stop(&stop);
            let mut host = Faulty::transport(IpFamily::V4, 0, Fault::None);
            let mut sync = new_sync(IpFamily::V4);
            while count.load(Ordering::Relaxed) < 50 && !writer.is_finished() {
                for plan in [&before, &after] {
                    // As after a restart, and as after a foreign change.
                    sync.resync(plan, &mut host).unwrap();
                    assert_settled(&sync, plan, "beside another writer");
                }
            }
        });
        let saved = run("iptables-nft-save -t nat");
        assert!(saved.contains("-A PREROUTING -j THEIRS"), "{saved}");
        assert_eq!(saved.matches("-A THEIRS ").count(), 1, "{saved}");
        assert_eq!(saved.matches("-A PREROUTING ").count(), 2, "{saved}");
    });
}

/// Changes while no proxy runs, `T` in the tables of either family.
const MEDDLING: [&str; 8] = [
    "T -t nat -F KUBE-SERVICES",
    "T -t nat -D KUBE-SERVICES 3",
    "T -t nat -A KUBE-POSTROUTING -j ACCEPT",
    "T -t nat -N KUBE-SVC-AAAAAAAAAAAAAAAA; T -t nat -I KUBE-SERVICES -j KUBE-SVC-AAAAAAAAAAAAAAAA",
    "T -t nat -F PREROUTING",
    "T -t filter -R KUBE-FORWARD 1 -j DROP",
    "T -t filter -F; T -t filter -X",
    "for c in $(T-save -t nat | grep -o '^:KUBE-SEP-[A-Z0-9]*' | tr -d :); do T -t nat -F $c; done",
];

#[test]
fn rules_changed_while_sluice_was_down_are_updated() {
    for family in IpFamily::ALL {
        let program = match family {
            IpFamily::V4 => "iptables-nft",
            IpFamily::V6 => "ip6tables-nft",
        };
        let mut planner = Planner::new(big_cluster_settings());
        planner.apply_all(big_cluster_of(family, 20, 3));
        planner.take_diff();
        let plan = planner.plan(family);
        assert!(!plan.ports.is_empty());
        in_namespace(|| {
            for meddling in MEDDLING {
                let mut host = Live::transport(family);
                new_sync(family).resync(plan, &mut host).unwrap();
                let meddling = meddling.replace("T ", &format!("{program} "));
                run(&meddling.replace("T-save", &format!("{program}-save")));
                // As in a new process.
                let mut sync = new_sync(family);
                sync.resync(plan, &mut host).unwrap();
                assert_settled(&sync, plan, &meddling);
            }
        });
    }
}

#[test]
fn the_rules_of_kube_proxy_are_replaced_in_one_transaction() {
    let plan = plan(30);
    in_namespace(|| {
        let path = observed::path("iptables-default.v4.iptables-save");
        let text = std::fs::read_to_string(&path).unwrap();
        create_objects(netfilter::iptables::Family::Ipv4, &text);
        run(&format!("iptables-nft-restore < {}", path.display()));
        let mut host = Faulty::transport(IpFamily::V4, 0, Fault::None);
        host.divide_from(usize::MAX);
        let mut sync = new_sync(IpFamily::V4);
        sync.resync(&plan, &mut host).unwrap();
        assert_settled(&sync, &plan, "kube-proxy's rules are replaced");
        assert_eq!(host.kernel().commits, 1);
    });
}

#[test]
fn every_step_of_a_long_series_of_changes_equals_a_fresh_load() {
    let mut runner = TestRunner::deterministic();
    for round in 0..4 {
        let (settings, mut events) = history().new_tree(&mut runner).unwrap().current();
        for _ in 0..6 {
            let more: Vec<Event> = history().new_tree(&mut runner).unwrap().current().1;
            events.extend(more);
        }
        let mut planner = Planner::new(settings);
        in_namespace(|| {
            let mut syncs = IpFamily::ALL.map(|family| {
                let mut host = Live::transport(family);
                let mut sync = new_sync(family);
                sync.resync(planner.plan(family), &mut host).unwrap();
                (sync, host)
            });
            for (step, events) in events.chunks(1 + round).enumerate() {
                planner.apply_all(events.iter().cloned());
                let diff = planner.take_diff();
                for (family, (sync, host)) in IpFamily::ALL.into_iter().zip(&mut syncs) {
                    let ports = &diff.family(family).ports;
                    let changed = ports.iter().filter_map(PortChange::key).collect();
                    let plan = planner.plan(family);
                    sync.sync(plan, &changed, host).unwrap();
                    assert_settled(sync, plan, &format!("round {round}, step {step}, {family}"));
                }
            }
        });
    }
}

#[test]
fn a_failed_read_is_reported_as_such() {
    struct Unreadable;
    impl Kernel for Unreadable {
        type Error = TransactionError;

        fn read(&mut self, _: IpFamily) -> Result<Observation, TransactionError> {
            Err(TransactionError::LostReply)
        }

        fn commit(
            &mut self,
            _: &mut [u8],
            _: Guard,
        ) -> Result<Vec<(usize, u64)>, BatchFailure<TransactionError>> {
            unreachable!("nothing is written to an unknown state")
        }
    }
    let mut host = Netlink::new(IpFamily::V4, Unreadable);
    let failed = new_sync(IpFamily::V4).resync(&plan(3), &mut host);
    assert!(matches!(failed, Err(SyncError::Read(_))), "{failed:?}");
    assert!(Transport::read(&mut host).is_err());
}
