//! nfnetlink: nf_tables transactions, dumps and notifications.
//!
//! `netfilter::nft` defines the messages; this module sends and receives them. A transaction is one
//! `sendmsg` of `BATCH_BEGIN`, the messages, `BATCH_END`; the kernel applies all of them or none
//! (`net/netfilter/nfnetlink.c`).

mod listing;
mod monitor;
pub(crate) mod rules;
mod table;
mod trace;
mod transaction;
mod witness;

#[cfg(test)]
mod tests;

use std::io::IoSlice;

use netfilter::netlink::{
    Builder, DecodeError, Message, NFNL_BATCH_GENID, NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END,
    NFNL_SUBSYS_NFTABLES, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, nfgenmsg, nfnl_msg_type,
};
use netfilter::nft::consts::{NFT_MSG_GETGEN, NFT_MSG_NEWGEN};
use netfilter::nft::{Body, decode};
use nix::sys::socket::SockProtocol;

use crate::netlink::{self, Error, Socket};

pub use listing::Ruleset;
pub use monitor::{Monitor, Notice};
pub use table::{Expected, ReadTable, TableId};
pub use trace::{ListedChain, TraceEvents, Tracing};
use transaction::Verdict;
pub use transaction::{Fault, TransactionError};
pub use witness::{Relevant, Witness, is_about};

/// Room for replies: an acknowledgement or an echoed rule takes below 2 KiB of it. A transaction has one
/// for each fault, and one for each of the up to 8,000 rules of 8 MiB.
const RECEIVE_BUFFER: usize = 16 << 20;
/// How many times a dump is repeated if other programs change the tables meanwhile.
const DUMP_ATTEMPTS: u32 = 10;

/// The generation of a network namespace's rule set: incremented by every commit, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Generation(pub u32);

impl Generation {
    /// Return the next generation.
    #[must_use]
    pub fn next(self) -> Self {
        Generation(self.0.checked_add(1).unwrap_or(1))
    }
}

/// A generation and the program that committed it (`NFT_MSG_NEWGEN`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerationInfo {
    /// The generation.
    pub generation: Generation,
    /// The thread (Linux' task number) that committed it.
    pub thread: Option<u32>,
    /// That thread's name (`comm`).
    pub name: Option<String>,
}

impl GenerationInfo {
    /// Read an `NFT_MSG_NEWGEN` message; `None` for messages of another kind.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn read(message: &Message<'_>) -> Result<Option<Self>, DecodeError> {
        if message.kind != nfnl_msg_type(NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN as u8) {
            return Ok(None);
        }
        Ok(match decode(NFT_MSG_NEWGEN, message.payload)?.body {
            Body::Generation(generation) => Some(GenerationInfo {
                generation: Generation(generation.id),
                thread: generation.pid,
                name: generation.process,
            }),
            _ => None,
        })
    }
}

/// The end of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Commit,
    /// Without its end message, the kernel only tries the batch (`nft --check` uses this).
    Abort,
}

/// A connection to nf_tables in the network namespace in which it was opened.
#[derive(Debug)]
pub struct NfTables {
    socket: Socket,
    send_buffer: usize,
    /// See [`NfTables::ask_by_key_from`].
    large: usize,
    /// See [`NfTables::list_by_chain_from`].
    large_table: u64,
}

impl NfTables {
    /// Open the connection.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn open() -> Result<Self, Error> {
        let socket = Socket::open(SockProtocol::NetlinkNetFilter)?;
        socket.set_receive_buffer(RECEIVE_BUFFER)?;
        Ok(NfTables {
            socket,
            send_buffer: 0,
            large: table::LARGE,
            large_table: rules::LARGE,
        })
    }

    /// Return the port that identifies this socket's own changes in notifications.
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Return the current generation, and the program that committed it.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn generation(&mut self) -> Result<GenerationInfo, Error> {
        let what = "reading the nf_tables generation";
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        let request = Builder::new(
            nfnl_msg_type(NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN as u8),
            flags,
        )
        .fixed(&nfgenmsg(0, 0))
        .finish();
        let mut found = None;
        self.socket.exchange(what, request, |message| {
            found = GenerationInfo::read(message)?.or(found.take());
            Ok(())
        })?;
        found.ok_or(Error::LostReply { what })
    }

    /// Commit the messages in `batch` as one transaction: all of them or none.
    ///
    /// `batch` consists of complete messages, each padded to four bytes, without the begin and end
    /// messages. Their sequence numbers are set here, and the last one requests an
    /// acknowledgement; nothing else is changed or copied. Faults name the message's
    /// place in the batch.
    ///
    /// With a `generation`, the kernel refuses the batch unless that is the current generation. After a
    /// success, the current one is [`Generation::next`] of it.
    ///
    /// # Errors
    /// See [`TransactionError`]. In all cases but [`TransactionError::LostReply`] nothing was
    /// changed.
    pub fn transact(
        &mut self,
        batch: &mut [u8],
        generation: Option<Generation>,
    ) -> Result<(), TransactionError> {
        self.transact_echoed(batch, generation).map(drop)
    }

    /// As [`NfTables::transact`]. Return the number of the message and the handle of each new rule whose
    /// message has `NLM_F_ECHO`.
    ///
    /// # Errors
    /// As [`NfTables::transact`].
    pub fn transact_echoed(
        &mut self,
        batch: &mut [u8],
        generation: Option<Generation>,
    ) -> Result<Vec<(usize, u64)>, TransactionError> {
        self.send_batch(batch, generation, Ending::Commit)
    }

    fn send_batch(
        &mut self,
        batch: &mut [u8],
        generation: Option<Generation>,
        ending: Ending,
    ) -> Result<Vec<(usize, u64)>, TransactionError> {
        let count = transaction::count(batch)?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let first = self.socket.take_sequences(count.saturating_add(2));
        transaction::number(batch, first);
        let mut begin = Builder::new(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST)
            .fixed(&nfgenmsg(0, u16::from(NFNL_SUBSYS_NFTABLES)));
        if let Some(Generation(id)) = generation {
            begin = begin.bytes(NFNL_BATCH_GENID, &id.to_be_bytes());
        }
        let mut begin = begin.finish();
        let mut end = Builder::new(NFNL_MSG_BATCH_END, NLM_F_REQUEST)
            .fixed(&nfgenmsg(0, u16::from(NFNL_SUBSYS_NFTABLES)))
            .finish();
        transaction::set_sequence(&mut begin, first);
        transaction::set_sequence(&mut end, first + count + 1);
        if ending == Ending::Abort {
            end.clear();
        }
        self.make_room(begin.len() + batch.len() + end.len())?;
        self.socket.send(&[
            IoSlice::new(&begin),
            IoSlice::new(batch),
            IoSlice::new(&end),
        ])?;
        // The kernel processed the batch within `sendmsg`: all replies are available.
        let mut verdict = Verdict::new(first, count);
        loop {
            match self.socket.receive()? {
                netlink::Received::Datagram(length) => {
                    verdict.read(self.socket.datagram(length));
                }
                netlink::Received::Lost => verdict.lost(),
                netlink::Received::Nothing => return verdict.conclude(),
            }
        }
    }

    /// Send `request`, one complete message, as a dump, and pass every message of the answer to `each`. A
    /// change meanwhile results in [`Error::Interrupted`] at the end; [`NfTables::dump`] retries.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn stream(
        &mut self,
        request: &[u8],
        each: impl FnMut(&Message<'_>) -> Result<(), DecodeError>,
    ) -> Result<(), Error> {
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        self.ask("listing nf_tables objects", request, flags, each)
    }

    /// Send `request`, one complete message, as a dump, and return the messages of the answer in the
    /// kernel's order. Retry if other programs change the tables.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn dump(&mut self, request: &[u8]) -> Result<Vec<u8>, Error> {
        let mut attempt = 1;
        loop {
            match self.dump_once(request) {
                Err(Error::Interrupted { .. }) if attempt < DUMP_ATTEMPTS => attempt += 1,
                other => return other,
            }
        }
    }

    /// As [`NfTables::dump`], without a retry.
    fn dump_once(&mut self, request: &[u8]) -> Result<Vec<u8>, Error> {
        let mut answer = Vec::new();
        self.stream(request, |message| {
            answer.extend_from_slice(message.bytes);
            answer.resize(answer.len().next_multiple_of(4), 0);
            Ok(())
        })?;
        Ok(answer)
    }

    /// Send `request`, one complete message, for a single object, and return the answer.
    ///
    /// # Errors
    /// See [`Error`]; `ENOENT` if the object does not exist.
    pub fn get(&mut self, request: &[u8]) -> Result<Vec<u8>, Error> {
        let mut answer = Vec::new();
        self.answer("reading an nf_tables object", request, |message| {
            answer.extend_from_slice(message.bytes);
            answer.resize(answer.len().next_multiple_of(4), 0);
            Ok(())
        })?;
        Ok(answer)
    }

    /// Send `request`, one complete message, and pass every message of the answer to `each`.
    fn answer(
        &mut self,
        what: &'static str,
        request: &[u8],
        each: impl FnMut(&Message<'_>) -> Result<(), DecodeError>,
    ) -> Result<(), Error> {
        self.ask(what, request, NLM_F_REQUEST | NLM_F_ACK, each)
    }

    fn ask(
        &mut self,
        what: &'static str,
        request: &[u8],
        flags: u16,
        each: impl FnMut(&Message<'_>) -> Result<(), DecodeError>,
    ) -> Result<(), Error> {
        let mut request = request.to_vec();
        match request.get_mut(6..8) {
            Some(place) => place.copy_from_slice(&flags.to_ne_bytes()),
            None => {
                let cause = DecodeError::Malformed("a request without a header");
                return Err(Error::Malformed { what, cause });
            }
        }
        self.socket.exchange(what, request, each)
    }

    /// Enlarge the send buffer: the kernel accepts a datagram only if all of it fits.
    fn make_room(&mut self, length: usize) -> Result<(), Error> {
        if length > self.send_buffer {
            let size = length.next_multiple_of(1 << 20);
            self.socket.set_send_buffer(size)?;
            self.send_buffer = size;
        }
        Ok(())
    }
}

/// Interpret `bytes` as the reply to a transaction.
pub(crate) fn fuzz_verdict(bytes: &[u8]) {
    let mut verdict = Verdict::new(0, 3);
    verdict.read(bytes);
    // Any verdict is fine.
    let _ = verdict.conclude();
}
