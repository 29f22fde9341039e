//! The kernel behind iptables mode's netlink transport.

#![allow(dead_code, reason = "each test binary uses its part")]

use dataplane::iptables::{
    BatchFailure, FailureKind, Guard, Kernel, Netlink, Observation, Observer,
};
use kernel::iptables::{NftRules, Table};
use kernel::nfnetlink::TransactionError;
use model::IpFamily;

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
        Live(NftRules::open(kernel_family(family)).expect("nf_tables"))
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
