//! Traces single packets through nf_tables, rule by rule.

use std::collections::HashMap;
use std::time::Duration;

use netfilter::netlink::{
    Builder, Messages, NFNL_SUBSYS_NFTABLES, NFNLGRP_NFTRACE, NLM_F_DUMP, NLM_F_REQUEST, nfgenmsg,
    nfnl_msg_type,
};
use netfilter::nft::consts::{NFT_MSG_GETCHAIN, NFT_MSG_GETRULE};
use netfilter::nft::{BaseChain, Body, Family, Op, TraceEvent, decode};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::{Generation, NfTables, TableId, TransactionError};
use crate::netlink::{Error, Received, Socket};

/// Some ten events per packet, below 1 KiB each.
const RECEIVE_BUFFER: usize = 4 << 20;
/// How many times chains are listed again if other programs commit meanwhile.
const ATTEMPTS: u32 = 10;

/// A chain of any table, with the handles of its rules in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedChain {
    /// The table.
    pub table: TableId,
    /// The chain's name.
    pub name: String,
    /// The hook of a base chain.
    pub base: Option<BaseChain>,
    /// The handles of its rules, which [`TraceEvent`]s contain.
    pub handles: Vec<u64>,
}

impl NfTables {
    /// Return the chains of all tables of the supported families, and the generation at which they were
    /// read.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Interrupted`] if other programs kept committing for too long.
    pub fn chains(&mut self) -> Result<(Vec<ListedChain>, Generation), Error> {
        for _ in 0..ATTEMPTS {
            let before = self.generation()?.generation;
            match self.chains_once() {
                Err(Error::Interrupted { .. }) => {}
                read => {
                    let read = read?;
                    if self.generation()?.generation == before {
                        return Ok((read, before));
                    }
                }
            }
        }
        let what = "listing the chains of all tables";
        Err(Error::Interrupted { what })
    }

    fn chains_once(&mut self) -> Result<Vec<ListedChain>, Error> {
        let all = |message: u16| {
            Builder::new(
                nfnl_msg_type(NFNL_SUBSYS_NFTABLES, message as u8),
                NLM_F_REQUEST | NLM_F_DUMP,
            )
            .fixed(&nfgenmsg(0, 0))
            .finish()
        };
        let mut found: Vec<ListedChain> = Vec::new();
        let mut places: HashMap<(TableId, String), usize> = HashMap::new();
        self.stream(&all(NFT_MSG_GETCHAIN), |message| {
            // Chains that sluice cannot decode are on no hook that packets between pods pass.
            if let Ok(decoded) = decode(message.kind & 0xff, message.payload)
                && let (Some(family), Body::Chain { table, chain, .. }) =
                    (decoded.family, decoded.body)
            {
                let table = TableId::new(family, table);
                places.insert((table.clone(), chain.name.clone()), found.len());
                found.push(ListedChain {
                    table,
                    name: chain.name,
                    base: chain.base,
                    handles: Vec::new(),
                });
            }
            Ok(())
        })?;
        self.stream(&all(NFT_MSG_GETRULE), |message| {
            if let Ok(decoded) = decode(message.kind & 0xff, message.payload)
                && let Some(family) = decoded.family
                && let Body::Rule {
                    table,
                    handle,
                    rule,
                } = decoded.body
            {
                let chain = match rule {
                    Ok(rule) => rule.chain,
                    Err((chain, _)) => chain,
                };
                let place = places.get(&(TableId::new(family, table), chain));
                if let Some(chain) = place.and_then(|i| found.get_mut(*i)) {
                    chain.handles.push(handle);
                }
            }
            Ok(())
        })?;
        Ok(found)
    }
}

/// The result of a wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceEvents {
    /// The events of traced packets, in order, each with the family of its table.
    Events(Vec<(Family, TraceEvent)>),
    /// No event before the timeout.
    Nothing,
    /// Events were lost: too many packets were traced at once.
    Overrun,
}

/// A table whose rules mark packets for tracing, and the events of these packets. Dropping it deletes the
/// table.
///
/// The table is owned by the socket (`NFT_TABLE_F_OWNER`): the kernel deletes it when the process ends for
/// any reason. Kernels before 5.12 do not support owners; there the table stays if the process is killed.
#[derive(Debug)]
pub struct Tracing {
    nft: NfTables,
    events: Socket,
    table: TableId,
}

impl Tracing {
    /// Create the table with the content of `ops`, and start to listen. With a `generation`, only if that is
    /// the current one.
    ///
    /// # Errors
    /// See [`TransactionError`]; the table does not exist then.
    pub fn start(
        table: TableId,
        comment: &str,
        ops: &[Op],
        generation: Option<Generation>,
    ) -> Result<Self, TransactionError> {
        match Self::attempt(&table, comment, ops, generation, true) {
            Err(TransactionError::Refused(faults))
                if faults.iter().any(|f| f.refusal.errno == Errno::EOPNOTSUPP) =>
            {
                Self::attempt(&table, comment, ops, generation, false)
            }
            other => other,
        }
    }

    pub(super) fn attempt(
        table: &TableId,
        comment: &str,
        ops: &[Op],
        generation: Option<Generation>,
        owned: bool,
    ) -> Result<Self, TransactionError> {
        let events = Socket::open(SockProtocol::NetlinkNetFilter)?;
        events.set_receive_buffer(RECEIVE_BUFFER)?;
        events.subscribe(NFNLGRP_NFTRACE)?;
        let mut nft = NfTables::open()?;
        if owned {
            nft.commit_owned(table, comment, ops, generation)?;
        } else {
            let comment = Some(comment.to_owned());
            let all = [&[Op::AddTable { comment }], ops].concat();
            nft.commit(table, &all, generation)?;
        }
        Ok(Tracing {
            nft,
            events,
            table: table.clone(),
        })
    }

    /// Return the current generation, and who committed it.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn generation(&mut self) -> Result<super::GenerationInfo, Error> {
        self.nft.generation()
    }

    /// Wait for a notification.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn receive(&mut self, limit: Duration) -> Result<TraceEvents, Error> {
        if !self.events.wait(limit)? {
            return Ok(TraceEvents::Nothing);
        }
        let length = match self.events.receive()? {
            Received::Datagram(length) => length,
            Received::Lost => return Ok(TraceEvents::Overrun),
            Received::Nothing => return Ok(TraceEvents::Nothing),
        };
        let mut events = Vec::new();
        for message in Messages::new(self.events.datagram(length)).flatten() {
            // Skip tables of other families, and unknown kinds of events.
            if let Ok(decoded) = decode(message.kind & 0xff, message.payload)
                && let (Some(family), Body::Trace(event)) = (decoded.family, decoded.body)
            {
                events.push((family, event));
            }
        }
        Ok(TraceEvents::Events(events))
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        if let Err(error) = self.nft.commit(&self.table, &[Op::DeleteTable], None) {
            tracing::warn!(table = %self.table, %error, "Table for tracing not deleted");
        }
    }
}
