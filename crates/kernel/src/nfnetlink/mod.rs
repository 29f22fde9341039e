//! The netlink of netfilter: nf_tables transactions, dumps and notifications.
//!
//! The messages themselves are `netfilter::nft`; this is what carries them. A transaction is one
//! `sendmsg` of `BATCH_BEGIN`, the messages, `BATCH_END`; the kernel applies all of them or none
//! (`net/netfilter/nfnetlink.c`).

mod monitor;
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

pub use monitor::{Monitor, Notice};
pub use table::{Expected, ReadTable, TableId};
pub use trace::{Heard, ListedChain, Tracing};
use transaction::Verdict;
pub use transaction::{Fault, TransactionError};
pub use witness::{Witness, is_about};

/// Room for replies: an acknowledgement takes below 1 KiB of it, and a transaction of many
/// faults has one for each.
const RECEIVE_BUFFER: usize = 8 << 20;
/// How often a dump is asked for again when others keep changing the tables.
const DUMP_ATTEMPTS: u32 = 10;

/// One state of the rule sets of a network namespace, counted up by every commit, 0 left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Generation(pub u32);

impl Generation {
    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        Generation(self.0.checked_add(1).unwrap_or(1))
    }
}

/// Who committed a generation (`NFT_MSG_NEWGEN`).
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
    /// Reads a `NFT_MSG_NEWGEN` message; `None` for messages of another kind.
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

/// A conversation with nf_tables, in the network namespace in which it was opened.
#[derive(Debug)]
pub struct NfTables {
    socket: Socket,
    send_buffer: usize,
    /// See [`NfTables::ask_by_key_from`].
    large: usize,
}

impl NfTables {
    /// Opens the conversation.
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
        })
    }

    /// The port that notifications name as the one that made a change: those with this one are
    /// about one's own.
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// The current generation, and who committed it.
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

    /// Commits the messages in `batch` as one transaction: all of them or none.
    ///
    /// `batch` is complete messages, each padded to four bytes, one after the other, without
    /// begin and end. Their sequence numbers are set here, and the last one requests an
    /// acknowledgement; nothing else is changed or copied. Faults name the message's
    /// place in the batch.
    ///
    /// With a `generation`, the kernel refuses everything unless it is the current one. After a
    /// success the current one is then [`Generation::next`] of it.
    ///
    /// # Errors
    /// See [`TransactionError`]. In all cases but [`TransactionError::LostReply`] nothing was
    /// changed.
    pub fn transact(
        &mut self,
        batch: &mut [u8],
        generation: Option<Generation>,
    ) -> Result<(), TransactionError> {
        let count = transaction::count(batch)?;
        if count == 0 {
            return Ok(());
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
        self.make_room(begin.len() + batch.len() + end.len())?;
        self.socket.send(&[
            IoSlice::new(&begin),
            IoSlice::new(batch),
            IoSlice::new(&end),
        ])?;
        // The kernel has worked it off inside `sendmsg`: all there is to say is there already.
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

    /// Sends `request`, one complete message, as a dump and passes every message of the answer
    /// to `each`, without keeping any. What changes meanwhile makes it
    /// [`Error::Interrupted`] at the end: [`NfTables::dump`] tries again.
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

    /// Sends `request`, one complete message, as a dump and returns the messages of the answer,
    /// one after the other as the kernel wrote them. Tried again while others change the tables.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn dump(&mut self, request: &[u8]) -> Result<Vec<u8>, Error> {
        let mut attempt = 1;
        loop {
            let mut answer = Vec::new();
            let result = self.stream(request, |message| {
                answer.extend_from_slice(message.bytes);
                answer.resize(answer.len().next_multiple_of(4), 0);
                Ok(())
            });
            match result {
                Err(Error::Interrupted { .. }) if attempt < DUMP_ATTEMPTS => attempt += 1,
                other => return other.map(|()| answer),
            }
        }
    }

    /// Sends `request`, one complete message, for a single object and returns the answer.
    ///
    /// # Errors
    /// See [`Error`]; an object that is not there is `ENOENT`.
    pub fn get(&mut self, request: &[u8]) -> Result<Vec<u8>, Error> {
        let mut answer = Vec::new();
        self.answer("reading an nf_tables object", request, |message| {
            answer.extend_from_slice(message.bytes);
            answer.resize(answer.len().next_multiple_of(4), 0);
            Ok(())
        })?;
        Ok(answer)
    }

    /// Sends `request`, one complete message, and passes every message of the answer to `each`.
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

    /// The kernel takes a datagram only when the whole of it fits the send buffer.
    fn make_room(&mut self, length: usize) -> Result<(), Error> {
        if length > self.send_buffer {
            let size = length.next_multiple_of(1 << 20);
            self.socket.set_send_buffer(size)?;
            self.send_buffer = size;
        }
        Ok(())
    }
}

/// Takes `bytes` for the reply to a transaction.
pub(crate) fn fuzz_verdict(bytes: &[u8]) {
    let mut verdict = Verdict::new(0, 3);
    verdict.read(bytes);
    // Any verdict will do.
    let _ = verdict.conclude();
}
