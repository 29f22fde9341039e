//! A cluster in a planner, and its table in a separate network namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::nftables::{Expected, Options, Outcome, Sync, TABLE, Transport, table_family};
use kernel::netlink;
use kernel::nfnetlink::{NfTables, TableId};
use model::{Change, EndpointSlice, Event, IpFamily, NamespacedName};
use netfilter::nft::Op;
use netfilter::nft::table::Contents;
use nix::sched::{CloneFlags, unshare};
use plan::testing::{big_cluster_of, big_cluster_settings};
use plan::{Planner, PortChange};

const LIMIT: usize = 100_000;

/// The kernel, and the time that it took, from sending a transaction to its verdict.
struct Timed {
    nft: NfTables,
    table: TableId,
    took: Duration,
    longest: Duration,
}

impl Timed {
    /// Open the kernel in a new namespace, which is removed on drop.
    fn open(family: IpFamily) -> Self {
        let open = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (run as root)");
            NfTables::open().expect("nf_tables")
        };
        Timed {
            nft: std::thread::spawn(open).join().expect("opened"),
            table: TableId::new(table_family(family), TABLE),
            took: Duration::ZERO,
            longest: Duration::ZERO,
        }
    }
}

impl Transport for Timed {
    type Error = netlink::Error;

    fn read(&mut self, expected: &Expected<'_>) -> Result<Option<(Contents, bool)>, Self::Error> {
        let (read, _) = self.nft.read_expected(&self.table, expected)?;
        Ok(read.map(|read| (read.contents, !read.foreign.is_empty())))
    }

    fn commit(&mut self, ops: &[Op], _guarded: bool) -> Result<Outcome, Self::Error> {
        let (mut batch, _) = self.table.batch(ops);
        let start = Instant::now();
        let verdict = self.nft.transact(&mut batch, None);
        let took = start.elapsed();
        verdict.expect("a transaction");
        self.took += took;
        self.longest = self.longest.max(took);
        Ok(Outcome::Committed)
    }
}

/// The duration of an operation, and the kernel's part of it.
#[derive(Clone, Copy)]
pub(crate) struct Took {
    pub(crate) all: Duration,
    pub(crate) kernel: Duration,
}

pub(crate) struct Cluster {
    pub(crate) services: usize,
    pub(crate) load: Took,
    /// The longest transaction of the load.
    pub(crate) longest: Duration,
    /// In KiB.
    pub(crate) resident: u64,
    family: IpFamily,
    planner: Planner,
    slices: Vec<Arc<EndpointSlice>>,
    sync: Sync,
    kernel: Timed,
}

impl Cluster {
    /// Load a cluster whose objects are all known.
    pub(crate) fn load(family: IpFamily, services: usize, endpoints: usize) -> Self {
        let before = resident();
        let mut planner = Planner::new(big_cluster_settings());
        let events = big_cluster_of(family, services, endpoints);
        let slices = events.iter().filter_map(|event| match event {
            Event::EndpointSlice(Change::Applied(slice)) => Some(slice.clone()),
            _ => None,
        });
        let slices = slices.collect();
        planner.apply_all(events);
        planner.take_diff();
        let mut sync = Sync::new(Options::default());
        let mut kernel = Timed::open(family);
        let start = Instant::now();
        sync.run(planner.plan(family), &mut kernel, LIMIT)
            .expect("a load");
        let all = start.elapsed();
        Cluster {
            services,
            load: Took {
                all,
                kernel: kernel.took,
            },
            longest: kernel.longest,
            resident: resident().saturating_sub(before),
            family,
            planner,
            slices,
            sync,
            kernel,
        }
    }

    /// Measure the time from arriving objects to the committed transaction.
    fn apply(&mut self, events: Vec<Event>) -> Took {
        self.kernel.took = Duration::ZERO;
        let start = Instant::now();
        for event in events {
            self.planner.apply(event);
        }
        let diff = self.planner.take_diff();
        let diff = match self.family {
            IpFamily::V4 => diff.v4,
            IpFamily::V6 => diff.v6,
        };
        let changed = diff.ports.iter().filter_map(PortChange::key);
        self.sync.change(&changed.collect());
        let plan = self.planner.plan(self.family);
        let steps = self
            .sync
            .run(plan, &mut self.kernel, LIMIT)
            .expect("a change");
        let all = start.elapsed();
        assert!(steps > 0, "the change changed nothing");
        Took {
            all,
            kernel: self.kernel.took,
        }
    }

    fn change_slice(&mut self, round: usize, change: impl Fn(&mut EndpointSlice)) -> Took {
        let at = round * 7919 % self.slices.len();
        let mut slice = (*self.slices[at]).clone();
        change(&mut slice);
        let slice = Arc::new(slice);
        self.slices[at] = slice.clone();
        self.apply(vec![Event::EndpointSlice(Change::Applied(slice))])
    }

    /// Replace one endpoint.
    pub(crate) fn replace(&mut self, round: usize) -> Took {
        let number = u32::try_from(round).expect("few rounds");
        let fresh = u32::from(Ipv4Addr::new(10, 254, 0, 0)) + number;
        let fresh = match self.family {
            IpFamily::V4 => IpAddr::V4(fresh.into()),
            IpFamily::V6 => Ipv6Addr::from(0xfd00 << 112 | u128::from(fresh)).into(),
        };
        self.change_slice(round, |slice| slice.endpoints[0].address = fresh)
    }

    /// Remove one endpoint.
    pub(crate) fn lessen(&mut self, round: usize) -> Took {
        self.change_slice(round, |slice| drop(slice.endpoints.pop()))
    }

    /// Restart, and find the desired state.
    pub(crate) fn restart(&mut self) -> Duration {
        let start = Instant::now();
        let mut sync = Sync::new(Options::default());
        let plan = self.planner.plan(self.family);
        let steps = sync.run(plan, &mut self.kernel, LIMIT).expect("a readback");
        let took = start.elapsed();
        assert_eq!(steps, 1, "there was something to do");
        took
    }

    /// Remove some Services at once.
    pub(crate) fn remove(&mut self, count: usize) -> Took {
        let plan = self.planner.plan(self.family);
        let names = plan.ports.keys().map(|(name, _)| name.service.clone());
        let names: Vec<NamespacedName> = names.take(count).collect();
        let gone = |name| Event::Service(Change::Deleted(name));
        self.apply(names.into_iter().map(gone).collect())
    }
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|l| l.starts_with("VmRSS:"));
    let kib = line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.expect("VmRSS in KiB")
}
