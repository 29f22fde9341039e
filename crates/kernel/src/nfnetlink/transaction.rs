//! The kernel's verdict on a transaction, and the messages at fault.

use std::fmt;

use netfilter::netlink::{
    DecodeError, Message, Messages, NFGENMSG_LEN, NFNL_SUBSYS_NFTABLES, NLM_F_ACK, nfnl_msg_type,
};
use netfilter::nft::consts::{NFT_MSG_NEWRULE, NFTA_RULE_HANDLE};
use nix::errno::Errno;

use crate::netlink::{self, Control, Refusal};

/// A part of a transaction that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The index, from 0, of the message in a batch, or of the operation in a list of operations.
    pub at: usize,
    /// The kernel's reason.
    pub refusal: Refusal,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "number {}: {}", self.at, self.refusal)
    }
}

/// A transaction that was not committed, or possibly not.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// The batch does not consist of whole messages; nothing was sent.
    #[error("malformed transaction, at byte {at}: {cause}")]
    Malformed {
        /// The offset of the bad message.
        at: usize,
        /// The error in the message.
        cause: DecodeError,
    },
    /// Another program committed first (`ERESTART`): read the state and compute the difference again.
    #[error("the nf_tables rule set has changed since it was read")]
    GenerationChanged,
    /// The kernel refused some parts, and therefore the whole transaction. The first refusal counts: the
    /// others may be consequences of it.
    #[error("the kernel refused {} parts of the transaction; {}", .0.len(), show(.0))]
    Refused(Vec<Fault>),
    /// The kernel refused it as a whole: no permission, no memory, a hook that cannot be
    /// registered.
    #[error("the kernel refused the transaction as a whole: {0}")]
    RefusedWhole(Refusal),
    /// No verdict arrived: it is not known whether it was committed, so the state must be read.
    #[error("the kernel's verdict on the transaction was lost")]
    LostReply,
    /// The transaction could not be sent.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
}

impl TransactionError {
    /// Whether the kernel rejected the content, so that the same transaction would fail again.
    pub fn is_rejection(&self) -> bool {
        match self {
            TransactionError::Refused(_) => true,
            TransactionError::RefusedWhole(refusal) => !matches!(
                refusal.errno,
                Errno::EPERM | Errno::ENOMEM | Errno::ENOBUFS | Errno::EINTR | Errno::EAGAIN
            ),
            _ => false,
        }
    }

    /// Whether the state on which the transaction depends must be read again: another program changed
    /// it, or the transaction may have been committed.
    pub fn is_outdated(&self) -> bool {
        matches!(
            self,
            TransactionError::GenerationChanged | TransactionError::LostReply
        )
    }
}

fn show(faults: &[Fault]) -> String {
    faults.first().map(Fault::to_string).unwrap_or_default()
}

/// Return the number of messages in the batch.
pub(super) fn count(batch: &[u8]) -> Result<u32, TransactionError> {
    let mut count: u32 = 0;
    let mut at = 0;
    for message in Messages::new(batch) {
        match message {
            Ok(message) => at += message.bytes.len().next_multiple_of(4),
            Err(cause) => return Err(TransactionError::Malformed { at, cause }),
        }
        count = count.saturating_add(1);
    }
    // Otherwise the kernel would not find the end of the batch.
    if at > batch.len() {
        let cause = DecodeError::Malformed("the last message is not padded to a multiple of four");
        return Err(TransactionError::Malformed {
            at: batch.len(),
            cause,
        });
    }
    Ok(count)
}

/// Number the messages of a batch that [`count`] has found well-formed, starting with `first + 1`, and
/// request an acknowledgement of the last one: the kernel reports errors without a request, but success
/// only on request.
pub(super) fn number(batch: &mut [u8], first: u32) {
    let mut at = 0;
    let mut sequence = first;
    let mut last = None;
    while let Some(header) = batch.get_mut(at..).and_then(|b| b.first_chunk_mut::<16>()) {
        let [a, b, c, d, ..] = *header;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        sequence += 1;
        set_sequence(header, sequence);
        last = Some(at);
        at += length.next_multiple_of(4).max(16);
    }
    let flags = last.and_then(|at| batch.get_mut(at + 6..at + 8));
    if let Some(flags) = flags {
        for (byte, bit) in flags.iter_mut().zip(NLM_F_ACK.to_ne_bytes()) {
            *byte |= bit;
        }
    }
}

/// Set the sequence number in a message's header.
pub(super) fn set_sequence(message: &mut [u8], sequence: u32) {
    if let Some(place) = message.get_mut(8..12) {
        place.copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// The combined replies to a transaction.
#[derive(Debug)]
pub(super) struct Verdict {
    first: u32,
    count: u32,
    faults: Vec<Fault>,
    whole: Option<Refusal>,
    acknowledged: bool,
    lost: bool,
    /// The message and handle of each echoed rule.
    echoed: Vec<(usize, u64)>,
}

/// Return the handle of an echoed rule.
fn echoed_handle(message: &Message<'_>) -> Option<u64> {
    if message.kind != nfnl_msg_type(NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWRULE as u8) {
        return None;
    }
    let mut attributes = message
        .attributes(NFGENMSG_LEN, "nft_rule_attributes")
        .flatten();
    attributes.find(|a| a.kind == NFTA_RULE_HANDLE)?.be64().ok()
}

impl Verdict {
    /// Start with a transaction of `count` messages whose begin message has the sequence number `first`.
    pub(super) fn new(first: u32, count: u32) -> Self {
        Verdict {
            first,
            count,
            faults: Vec::new(),
            whole: None,
            acknowledged: false,
            lost: false,
            echoed: Vec::new(),
        }
    }

    /// Process a datagram. A malformed one counts as lost.
    pub(super) fn read(&mut self, datagram: &[u8]) {
        for message in Messages::new(datagram) {
            let Ok(message) = message else {
                self.lost = true;
                return;
            };
            let Some(place) = message.sequence.checked_sub(self.first) else {
                continue;
            };
            if place > self.count + 1 {
                continue;
            }
            match Control::read(&message) {
                Ok(Some(Control::Acknowledged(Some(refusal)))) => {
                    if place == 0 || place == self.count + 1 {
                        self.whole.get_or_insert(refusal);
                    } else {
                        self.faults.push(Fault {
                            at: (place - 1) as usize,
                            refusal,
                        });
                    }
                }
                Ok(Some(Control::Acknowledged(None))) => {
                    self.acknowledged |= place == self.count;
                }
                Ok(Some(Control::Overrun)) | Err(_) => self.lost = true,
                Ok(None) => {
                    let handle = echoed_handle(&message);
                    let at = (place as usize).checked_sub(1);
                    self.echoed.extend(at.zip(handle));
                }
                Ok(Some(Control::Noop | Control::Done(_))) => {}
            }
        }
    }

    /// Record that a reply was lost.
    pub(super) fn lost(&mut self) {
        self.lost = true;
    }

    /// Return the verdict after the last reply, with the number of the message and the handle of each
    /// echoed rule. A received fault is certain even if replies were lost. An
    /// acknowledgement is not: a message is acknowledged even if another was refused.
    pub(super) fn conclude(mut self) -> Result<Vec<(usize, u64)>, TransactionError> {
        if let Some(refusal) = self.whole {
            return Err(match refusal.errno {
                Errno::ERESTART => TransactionError::GenerationChanged,
                _ => TransactionError::RefusedWhole(refusal),
            });
        }
        if !self.faults.is_empty() {
            self.faults.sort_by_key(|fault| fault.at);
            return Err(TransactionError::Refused(self.faults));
        }
        if self.lost || !self.acknowledged {
            return Err(TransactionError::LostReply);
        }
        Ok(self.echoed)
    }
}
