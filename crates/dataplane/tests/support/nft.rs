//! The kernel as the transport of nftables mode's state machine.

use dataplane::nftables::{Expected, Outcome, TABLE, Transport, table_family};
use kernel::netlink;
use kernel::nfnetlink::{NfTables, TableId, TransactionError, Witness};
use model::IpFamily;
use netfilter::nft::Op;
use netfilter::nft::table::Contents;

/// One family's table in the calling thread's network namespace.
pub(crate) struct Live {
    pub(crate) nft: NfTables,
    pub(crate) table: TableId,
    witness: Option<Witness>,
}

impl Live {
    pub(crate) fn open(family: IpFamily) -> Self {
        Live {
            nft: NfTables::open().expect("nf_tables"),
            table: TableId::new(table_family(family), TABLE),
            witness: None,
        }
    }
}

impl Transport for Live {
    type Error = netlink::Error;

    fn read(&mut self, expected: &Expected<'_>) -> Result<Option<(Contents, bool)>, Self::Error> {
        let (read, witness) = self.nft.read_expected(&self.table, expected)?;
        self.witness = Some(witness);
        Ok(read.map(|read| (read.contents, !read.foreign.is_empty())))
    }

    fn commit(&mut self, ops: &[Op], guarded: bool) -> Result<Outcome, Self::Error> {
        self.witness = self.witness.take().filter(|_| guarded);
        let committed = match &mut self.witness {
            Some(witness) => self.nft.commit_unless_touched(&self.table, ops, witness),
            None => self.nft.commit(&self.table, ops, None),
        };
        match committed {
            Ok(()) => Ok(Outcome::Committed),
            Err(error @ (TransactionError::Refused(_) | TransactionError::RefusedWhole(_))) => {
                Ok(Outcome::Refused(error.to_string()))
            }
            Err(TransactionError::Netlink(error)) => Err(error),
            Err(_) => Ok(Outcome::Unknown),
        }
    }
}
