//! Detects other programs' changes to a table since it was read.

use std::fmt;

use netfilter::netlink::{Message, NFGENMSG_LEN};

use super::{Generation, GenerationInfo, Monitor, NfTables, Notice, TableId};
use crate::netlink::Error;

/// Whether a notification is about objects of interest.
pub type Relevant = Box<dyn Fn(&Message<'_>) -> bool>;

/// Receives notifications about all changes to nf_tables, and records whether another socket has changed
/// an object of interest. The generation cannot show this, because it counts the commits to all tables.
///
/// While a witness exists, the kernel composes a notification for every changed object. Drop it as soon
/// as it is no longer needed.
pub struct Witness {
    monitor: Monitor,
    relevant: Relevant,
    own: u32,
    generation: Generation,
    touched: bool,
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Witness")
            .field("generation", &self.generation)
            .field("touched", &self.touched)
            .finish_non_exhaustive()
    }
}

impl Witness {
    /// Start to listen for changes to a table.
    pub(super) fn begin(nft: &mut NfTables, table: &TableId) -> Result<Self, Error> {
        let table = table.clone();
        Self::of(nft, Box::new(move |message| is_about(message, &table)))
    }

    /// Start to listen for relevant changes by other sockets than this one.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn of(nft: &mut NfTables, relevant: Relevant) -> Result<Self, Error> {
        let monitor = Monitor::open()?;
        Ok(Witness {
            monitor,
            relevant,
            own: nft.port(),
            generation: nft.generation()?.generation,
            touched: false,
        })
    }

    /// Return whether no other program has made a relevant change so far, nor may have.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn is_untouched(&mut self) -> Result<bool, Error> {
        while let Some(notice) = self.monitor.receive()? {
            let Notice::Changes(messages) = notice else {
                self.touched = true;
                continue;
            };
            for message in messages.flatten() {
                if let Ok(Some(info)) = GenerationInfo::read(&message) {
                    self.generation = info.generation;
                }
                self.touched |= message.port != self.own && (self.relevant)(&message);
            }
        }
        Ok(!self.touched)
    }

    /// Return the last generation whose changes have all been received.
    pub fn generation(&self) -> Generation {
        self.generation
    }
}

/// Return whether a notification is about a table or something in it: in every kind of message the attribute
/// numbered 1 (`NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE`, ... in `nf_tables.h`) is the
/// table's name, a C string.
pub fn is_about(message: &Message<'_>, table: &TableId) -> bool {
    let family = message.payload.first() == Some(&table.family.number());
    let name = message
        .attributes(NFGENMSG_LEN, "nft attributes")
        .flatten()
        .find(|a| a.kind == 1);
    let name = name.and_then(|name| name.value.strip_suffix(b"\0"));
    family && name == Some(table.name.as_bytes())
}
