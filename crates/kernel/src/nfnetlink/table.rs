//! Whole tables: committing operations on one, and reading one back.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use netfilter::netlink::{Message, Messages};
use netfilter::nft::consts::{
    NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETSET, NFT_MSG_GETSETELEM,
};
use netfilter::nft::table::{ChainContents, Contents, SetContents};
use netfilter::nft::{Body, Element, Encoder, Family, Message as NftMessage, Op, decode};
use nix::errno::Errno;

use super::{Ending, Generation, NfTables, TransactionError, Witness};
use crate::netlink::Error;

/// How many times a table is read again if other programs change it meanwhile.
const ATTEMPTS: u32 = 10;
/// How many times a commit is retried after another program's commit to another table.
const COMMIT_ATTEMPTS: u32 = 1_000;
/// Number of elements from which on a set is read by key. A listing goes through the set from its
/// start for every 32 KiB of the answer (`nft_rhash_walk`), so that its time grows with the square of
/// the number of elements; up to here it is faster than an answer for each.
pub(super) const LARGE: usize = 150_000;
/// Number of keys per request: each is answered with a datagram, and all of them must fit
/// the receive buffer.
const KEYS: usize = 500;
/// Number of missing keys after which listing is faster: each ends an answer.
const MISSES: usize = 2_000;

/// The expected elements of a set, by its name.
pub type Expected<'a> = dyn Fn(&str) -> Vec<Element> + 'a;

/// A table's family and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId {
    /// The family.
    pub family: Family,
    /// The name.
    pub name: String,
}

impl TableId {
    /// Return a table's family and name.
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        TableId {
            family,
            name: name.into(),
        }
    }

    pub(super) fn encoder(&self) -> Encoder<'_> {
        Encoder {
            family: self.family,
            table: &self.name,
        }
    }

    /// Return the messages of operations, for [`NfTables::transact`], and for each message the index of
    /// its operation: the elements of one operation may need several.
    pub fn batch(&self, ops: &[Op]) -> (Vec<u8>, Vec<usize>) {
        let mut batch = Vec::new();
        let mut parts = Vec::with_capacity(ops.len());
        let mut messages = Vec::new();
        for (number, op) in ops.iter().enumerate() {
            self.encoder().op(op, &mut messages);
            for message in messages.drain(..) {
                message.append_to(&mut batch);
                parts.push(number);
            }
        }
        (batch, parts)
    }
}

/// `ip kube-proxy`.
impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::Inet => "inet",
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
        };
        write!(f, "{family} {}", self.name)
    }
}

/// A table as it was at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadTable {
    /// Its content, as far as it could be decoded.
    pub contents: Contents,
    /// Objects that could not be decoded, and why: sluice did not make them.
    pub foreign: Vec<String>,
}

impl NfTables {
    /// Commit operations on one table as one transaction: all of them or none. With a
    /// `generation`, only if that is the current one.
    ///
    /// # Errors
    /// See [`TransactionError`]; faults name the operation.
    pub fn commit(
        &mut self,
        table: &TableId,
        ops: &[Op],
        generation: Option<Generation>,
    ) -> Result<(), TransactionError> {
        Batch::new(table, ops).commit(self, generation)
    }

    /// Create a table that is owned by this socket (`NFT_TABLE_F_OWNER`, Linux 5.12), with the content of
    /// `ops`: no other program can change or delete it, and it is removed with the socket.
    ///
    /// # Errors
    /// As [`NfTables::commit`]; `EOPNOTSUPP` if the kernel does not support owners.
    pub fn commit_owned(
        &mut self,
        table: &TableId,
        comment: &str,
        ops: &[Op],
        generation: Option<Generation>,
    ) -> Result<(), TransactionError> {
        let mut batch = Batch::new(table, ops);
        let make = bytes(&table.encoder().owned_table(comment));
        batch.bytes.splice(..0, make);
        batch.parts.insert(0, 0);
        batch.commit(self, generation)
    }

    /// Try operations on a new table, without committing them. `table` must not exist. Its base chains
    /// are not registered, so packets are not affected.
    ///
    /// # Errors
    /// As [`NfTables::commit`]; a fault with an index beyond the operations is about the table itself.
    pub fn check(&mut self, table: &TableId, ops: &[Op]) -> Result<(), TransactionError> {
        let mut batch = Batch::new(table, ops);
        let make = bytes(&table.encoder().dormant_table());
        batch.bytes.splice(..0, make);
        batch.parts.insert(0, ops.len());
        let tried = self.send_batch(&mut batch.bytes, None, Ending::Abort);
        batch.name_operations(tried.map(drop))
    }

    /// Commit operations on a table that was read, unless another program has changed it since then
    /// ([`TransactionError::GenerationChanged`]). Changes to other tables do not matter.
    ///
    /// # Errors
    /// As [`NfTables::commit`].
    pub fn commit_unless_touched(
        &mut self,
        table: &TableId,
        ops: &[Op],
        witness: &mut Witness,
    ) -> Result<(), TransactionError> {
        let mut batch = Batch::new(table, ops);
        for _ in 0..COMMIT_ATTEMPTS {
            if !witness.is_untouched()? {
                break;
            }
            match batch.commit(self, Some(witness.generation())) {
                // The notification of the earlier commit has arrived by now.
                Err(TransactionError::GenerationChanged) => {}
                other => return other,
            }
        }
        Err(TransactionError::GenerationChanged)
    }

    /// Read a table and a generation at which it had this content; `None` if it does not exist.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Interrupted`] if other programs kept changing the table for too long.
    pub fn read_table(
        &mut self,
        table: &TableId,
    ) -> Result<(Option<ReadTable>, Generation), Error> {
        let (read, witness) = self.read(table, None)?;
        Ok((read, witness.generation()))
    }

    /// Read a table whose content is known, in time that is linear in its size as long as it contains
    /// little that is not `expected`. Elements that rules have learned (sets with [`dynamic`](netfilter::nft::SetFlags::dynamic)) are left out. The [`Witness`]
    /// reports whether the table is unchanged since then.
    ///
    /// # Errors
    /// As [`NfTables::read_table`].
    pub fn read_expected(
        &mut self,
        table: &TableId,
        expected: &Expected<'_>,
    ) -> Result<(Option<ReadTable>, Witness), Error> {
        self.read(table, Some(expected))
    }

    fn read(
        &mut self,
        table: &TableId,
        expected: Option<&Expected<'_>>,
    ) -> Result<(Option<ReadTable>, Witness), Error> {
        for _ in 0..ATTEMPTS {
            let mut witness = Witness::begin(self, table)?;
            let read = self.read_once(table, expected);
            // The error may concern an object that was deleted meanwhile.
            match read {
                Err(Error::Interrupted { .. }) => {}
                read if witness.is_untouched()? => return read.map(|read| (read, witness)),
                _ => {}
            }
        }
        let what = "reading an nf_tables table";
        Err(Error::Interrupted { what })
    }

    /// Pass the objects of a listing to `reader`. A commit meanwhile does not matter for a listing of one
    /// table: a [`Witness`] knows whether it changed this table.
    fn list(&mut self, request: &NftMessage, reader: &mut Reader<'_>) -> Result<(), Error> {
        let listed = self.stream(&bytes(request), |message| {
            reader.take(message);
            Ok(())
        });
        match listed {
            Err(Error::Interrupted { .. }) => Ok(()),
            other => other,
        }
    }

    fn read_once(
        &mut self,
        table: &TableId,
        expected: Option<&Expected<'_>>,
    ) -> Result<Option<ReadTable>, Error> {
        let encoder = table.encoder();
        let answer = match self.get(&bytes(&encoder.get_table())) {
            Ok(answer) => answer,
            Err(error) if error.errno() == Some(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut reader = Reader::new(table);
        for message in Messages::new(&answer).flatten() {
            reader.take(&message);
        }
        // The kernel lists the chains of all tables.
        let chains = self.dump(&bytes(&encoder.dump(NFT_MSG_GETCHAIN, None)))?;
        for message in Messages::new(&chains).flatten() {
            reader.take(&message);
        }
        for kind in [NFT_MSG_GETSET, NFT_MSG_GETRULE] {
            self.list(&encoder.dump(kind, None), &mut reader)?;
        }
        let sets: Vec<String> = reader.read.contents.sets.keys().cloned().collect();
        for set in &sets {
            if let Some(expected) = expected
                && (reader.is_learned(set) || self.read_by_key(&mut reader, set, expected)?)
            {
                continue;
            }
            self.list(&encoder.dump(NFT_MSG_GETSETELEM, Some(set)), &mut reader)?;
            reader.fill(set);
        }
        Ok(Some(reader.read))
    }

    /// Read sets of at least this many elements by key if their content is known. For tests, which use
    /// small sets.
    pub fn ask_by_key_from(&mut self, elements: usize) {
        self.large = elements;
    }

    /// Read a large set by requesting the expected elements. Return whether the set contains no others.
    fn read_by_key(
        &mut self,
        reader: &mut Reader<'_>,
        set: &str,
        expected: &Expected<'_>,
    ) -> Result<bool, Error> {
        let count = reader.counts.get(set).copied().unwrap_or_default();
        if count < self.large || reader.has_ranges(set) {
            return Ok(false);
        }
        let keys = expected(set);
        let mut rest = keys.as_slice();
        let mut missing = 0;
        while !rest.is_empty() && missing < MISSES {
            let some = rest.iter().take(KEYS);
            let request = bytes(&reader.table.encoder().get_elements(set, some));
            let mut got = 0;
            let answer = self.answer("reading elements of a set", &request, |message| {
                got += 1;
                reader.take(message);
                Ok(())
            });
            match answer {
                Ok(()) => got = KEYS,
                Err(error) if error.errno() == Some(Errno::ENOENT) => {
                    missing += 1;
                    got += 1;
                }
                Err(error) => return Err(error),
            }
            rest = rest.get(got..).unwrap_or_default();
        }
        Ok(reader.fill(set) == count)
    }
}

/// Operations as messages.
struct Batch {
    bytes: Vec<u8>,
    /// For each message, the index of its operation: the elements of one operation may need several
    /// messages.
    parts: Vec<usize>,
}

impl Batch {
    fn new(table: &TableId, ops: &[Op]) -> Self {
        let (bytes, parts) = table.batch(ops);
        Batch { bytes, parts }
    }

    /// Commit them; faults name the operation.
    fn commit(
        &mut self,
        nft: &mut NfTables,
        generation: Option<Generation>,
    ) -> Result<(), TransactionError> {
        let committed = nft.transact(&mut self.bytes, generation);
        self.name_operations(committed)
    }

    /// Replace the messages at fault by their operations.
    fn name_operations(
        &self,
        result: Result<(), TransactionError>,
    ) -> Result<(), TransactionError> {
        result.map_err(|error| match error {
            TransactionError::Refused(mut faults) => {
                for fault in &mut faults {
                    fault.at = self.parts.get(fault.at).copied().unwrap_or(fault.at);
                }
                faults.dedup_by_key(|fault| fault.at);
                TransactionError::Refused(faults)
            }
            other => other,
        })
    }
}

fn bytes(message: &NftMessage) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.append_to(&mut bytes);
    bytes
}

/// Builds a table from messages.
struct Reader<'a> {
    table: &'a TableId,
    read: ReadTable,
    /// The number of elements of each set, if the kernel reports it.
    counts: HashMap<String, usize>,
    /// Elements of the set that is being read.
    elements: Vec<Element>,
}

impl<'a> Reader<'a> {
    fn new(table: &'a TableId) -> Self {
        Reader {
            table,
            read: ReadTable::default(),
            counts: HashMap::new(),
            elements: Vec::new(),
        }
    }

    fn is_learned(&self, set: &str) -> bool {
        let there = self.read.contents.sets.get(set);
        there.is_some_and(|there| there.set.flags.dynamic)
    }

    fn has_ranges(&self, set: &str) -> bool {
        let there = self.read.contents.sets.get(set);
        there.is_none_or(|there| there.set.flags.interval)
    }

    /// Move the elements that have been read into the set, all at once, because building a map from sorted
    /// elements is much faster. Return the number of its elements.
    fn fill(&mut self, set: &str) -> usize {
        let Some(there) = self.read.contents.sets.get_mut(set) else {
            return 0;
        };
        let keyed = self
            .elements
            .drain(..)
            .map(|e| ((e.key, e.interval_end), e));
        there.elements.append(&mut keyed.collect());
        there.elements.len()
    }

    fn take(&mut self, message: &Message<'_>) {
        let decoded = match decode(message.kind & 0xff, message.payload) {
            Ok(decoded) => decoded,
            Err(error) => {
                let what = format!("message of kind {}: {error}", message.kind & 0xff);
                return self.read.foreign.push(what);
            }
        };
        // Older kernels list the chains of all tables.
        if decoded.family != Some(self.table.family) {
            return;
        }
        let ours = |name: &str| name == self.table.name;
        let ReadTable { contents, foreign } = &mut self.read;
        match decoded.body {
            Body::Table(table) if ours(&table.name) => contents.comment = table.comment,
            Body::Chain { table, chain, .. } if ours(&table) => {
                let name = chain.name.clone();
                let rules = Vec::new();
                contents.chains.insert(name, ChainContents { chain, rules });
            }
            Body::Rule { table, rule, .. } if ours(&table) => match rule {
                Ok(rule) => match contents.chains.get_mut(&rule.chain) {
                    Some(chain) => chain.rules.push(rule),
                    None => foreign.push(format!("a rule of chain {}", rule.chain)),
                },
                Err((chain, error)) => foreign.push(format!("a rule of chain {chain}: {error}")),
            },
            Body::Set { table, set, count } if ours(&table) => match set {
                Ok(set) => {
                    if let Some(count) = count {
                        self.counts.insert(set.name.clone(), count as usize);
                    }
                    let elements = BTreeMap::new();
                    let name = set.name.clone();
                    contents.sets.insert(name, SetContents { set, elements });
                }
                Err((set, error)) => foreign.push(format!("set {set}: {error}")),
            },
            Body::Elements {
                table,
                set,
                elements,
            } if ours(&table) => match contents.sets.get_mut(&set) {
                Some(_) => self.elements.extend(elements),
                None => foreign.push(format!("elements of set {set}")),
            },
            _ => {}
        }
    }
}
