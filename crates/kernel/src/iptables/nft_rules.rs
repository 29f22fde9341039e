//! The tables of iptables' nf_tables back end, without its programs.

use std::collections::BTreeMap;

use netfilter::iptables::{Chain, ParseError, Restore, RestoreTable, Table, TableSet};
use netfilter::iptables_nft::{self, RestoreError, State, Unsupported, nft_family, table_of};
use netfilter::netlink::{Message, NFNL_SUBSYS_NFTABLES};
use netfilter::nft::consts::{NFT_MSG_DELTABLE, NFT_MSG_GETCHAIN};
use netfilter::nft::{Decoded, decode};

use crate::Family;
use crate::ipset::IpSets;
use crate::netlink::Error;
use crate::nfnetlink::rules::{ChainEntry, Chains, request, table_name};
use crate::nfnetlink::{Generation, NfTables, TransactionError, Witness};

/// How many times tables are read again if other programs change them meanwhile.
const ATTEMPTS: u32 = 10;
/// How many times a commit is retried after another program's commit to unrelated objects.
const COMMIT_ATTEMPTS: u32 = 1_000;
/// How many commits in a row may be refused because of another program's commit, before the next
/// one is made without that condition.
const MISSES: u32 = 5;

/// iptables' nf_tables tables of one family in the network namespace in which they were opened.
#[derive(Debug)]
pub struct NftRules {
    family: Family,
    nft: NfTables,
    concerns: Concerns,
    /// Observes foreign changes since the last read.
    witness: Option<Witness>,
    /// The generation after the last part of a divided transaction.
    generation: Option<Generation>,
    /// The generation at which the state is known: that of the last read or guarded commit.
    known: Option<Generation>,
    /// The commits in a row that were refused because of another program's commit.
    misses: u32,
}

/// A restore that did not succeed. Each table takes effect as a whole or not at all.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct NftError {
    /// The cause.
    cause: NftCause,
    /// The number of tables of the input that were committed before.
    tables_committed: usize,
}

/// Why rules could not be restored.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum NftCause {
    /// The kernel could not be read.
    Netlink(#[from] Error),
    /// The input is malformed.
    Parse(#[from] ParseError),
    /// The input does not fit the present rules.
    Restore(#[from] RestoreError),
    /// The kernel did not commit the transaction.
    Transaction(#[from] TransactionError),
}

impl NftError {
    /// Whether the content was rejected, so that the same input would fail again.
    pub fn is_rejection(&self) -> bool {
        match &self.cause {
            NftCause::Parse(_) | NftCause::Restore(_) => true,
            NftCause::Netlink(_) => false,
            NftCause::Transaction(error) => error.is_rejection(),
        }
    }

    /// Return the number of tables of the input that were committed before the failure; `None` if it is
    /// not known.
    pub fn tables_committed(&self) -> Option<usize> {
        let lost = matches!(
            self.cause,
            NftCause::Transaction(TransactionError::LostReply)
        );
        (!lost).then_some(self.tables_committed)
    }
}

/// The table and chain of a rule that cannot be decoded, with the reason.
pub type Undecoded = (Table, Chain, Unsupported);

/// Whether a chain is of interest.
pub type Concerns = fn(Table, Chain) -> bool;

/// Whether a notification is about chains of interest in iptables' tables of a family, about a rule that
/// jumps to one, or about a deleted table. The names of such chains begin with `KUBE-`.
pub fn is_about_chains(message: &Message<'_>, family: Family, concerns: Concerns) -> bool {
    let Some(kind) = kind(message) else {
        return false;
    };
    let number = nft_family(family).number();
    let table = table_name(message).filter(|(family, _)| *family == number);
    let Some(table) = table.and_then(|(_, name)| table_of(name)) else {
        return false;
    };
    kind == NFT_MSG_DELTABLE || kube_names(message.payload).any(|chain| concerns(table, chain))
}

/// Return the names in a message that begin with `KUBE-`, wherever they are.
fn kube_names(payload: &[u8]) -> impl Iterator<Item = Chain> {
    const PREFIX: &[u8] = b"KUBE-";
    let starts = payload.windows(PREFIX.len()).enumerate();
    let starts = starts.filter(|(_, bytes)| *bytes == PREFIX);
    starts.filter_map(|(start, _)| {
        let text = payload.get(start..)?.split(|byte| *byte == 0).next()?;
        Chain::new(std::str::from_utf8(text).ok()?).ok()
    })
}

/// Return the `NFT_MSG_*` of a message of nf_tables.
fn kind(message: &Message<'_>) -> Option<u16> {
    let [subsystem, kind] = message.kind.to_be_bytes();
    (subsystem == NFNL_SUBSYS_NFTABLES).then_some(kind.into())
}

impl NftRules {
    /// Open the connection.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn open(family: Family) -> Result<Self, Error> {
        let mut nft = NfTables::open()?;
        // A listing of a whole table continues at the number of rules that it has listed
        // (`__nf_tables_dump_rules`): rules that another program's unfinished transaction adds to another chain
        // make it repeat or omit some, without a mark in the answer.
        nft.list_by_chain_from(0);
        Ok(Self {
            family,
            nft,
            concerns: |_, _| true,
            witness: None,
            generation: None,
            known: None,
            misses: 0,
        })
    }

    /// Ignore other programs' changes to other chains than these.
    #[must_use]
    pub fn concerning(mut self, concerns: Concerns) -> Self {
        self.concerns = concerns;
        self
    }

    /// Return the port that identifies this socket's own changes in notifications.
    pub fn port(&self) -> u32 {
        self.nft.port()
    }

    /// Read the chains of these tables, then their rules: pass each object to `add`. If Kubernetes'
    /// chains change meanwhile, start again with a `new` result.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Interrupted`] if other programs kept changing the chains.
    pub fn read<T>(
        &mut self,
        tables: &[Table],
        new: impl Fn() -> T,
        mut add: impl FnMut(&mut T, Decoded),
    ) -> Result<T, Error> {
        self.generation = None;
        for _ in 0..ATTEMPTS {
            let (family, concerns) = (self.family, self.concerns);
            let relevant = Box::new(move |m: &Message<'_>| is_about_chains(m, family, concerns));
            let mut witness = Witness::of(&mut self.nft, relevant)?;
            let mut result = new();
            let read = self.read_once(tables, &mut |decoded| add(&mut result, decoded));
            // The error may concern an object that was deleted meanwhile.
            match read {
                Err(Error::Interrupted { .. }) => {}
                read if witness.is_untouched()? => {
                    read?;
                    self.known = Some(witness.generation());
                    self.witness = Some(witness);
                    return Ok(result);
                }
                _ => {}
            }
        }
        let what = "reading iptables' nf_tables rules";
        Err(Error::Interrupted { what })
    }

    fn read_once(&mut self, tables: &[Table], add: &mut dyn FnMut(Decoded)) -> Result<(), Error> {
        let chains = self.list_chains(tables, add)?;
        let family = nft_family(self.family).number();
        for (table, chains) in chains {
            let table = (family, table.name());
            self.nft.list_rules(table, &chains, &mut |message| {
                if let Ok(decoded) = decode(message.kind & 0xff, message.payload) {
                    add(decoded);
                }
            })?;
        }
        Ok(())
    }

    /// List the chains.
    ///
    /// A commit during a listing can hide a chain from it, so that the union of several is taken.
    fn list_chains(
        &mut self,
        tables: &[Table],
        add: &mut dyn FnMut(Decoded),
    ) -> Result<BTreeMap<Table, Chains>, Error> {
        let mut found: BTreeMap<Table, Chains> = BTreeMap::new();
        let family = nft_family(self.family).number();
        let request = request(NFT_MSG_GETCHAIN, family).finish();
        for attempt in 1.. {
            let listed = self.nft.stream(&request, |message| {
                let Some(chain) = ChainEntry::read(message) else {
                    return Ok(());
                };
                let table = table_of(&chain.table).filter(|table| tables.contains(table));
                if let Some(table) = table.filter(|_| chain.family == family) {
                    let chains = found.entry(table).or_default();
                    if chains.insert(chain.name, chain.uses).is_none() {
                        add(decode(message.kind & 0xff, message.payload)?);
                    }
                }
                Ok(())
            });
            match listed {
                Err(Error::Interrupted { .. }) if attempt < ATTEMPTS => {}
                Err(Error::Interrupted { .. }) | Ok(()) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Commit one batch of messages. Return the number of the message and the handle of each rule
    /// whose message has `NLM_F_ECHO`.
    ///
    /// If `guarded`, the batch is refused with [`TransactionError::GenerationChanged`] if another
    /// program has changed chains of interest since the last read, or may have. Several batches may
    /// follow one read if each is a `part` of one transaction. If other programs commit so often that
    /// guarded commits fail repeatedly, the next one is made without a guard: it changes only chains of
    /// interest.
    ///
    /// # Errors
    /// See [`TransactionError`].
    pub fn commit(
        &mut self,
        batch: &mut [u8],
        guarded: bool,
        part: bool,
    ) -> Result<Vec<(usize, u64)>, TransactionError> {
        self.known = None;
        let committed = if !guarded || self.misses >= MISSES {
            self.witness = None;
            self.nft.transact_echoed(batch, None)
        } else if let Some(generation) = self.generation.take() {
            let committed = self.nft.transact_echoed(batch, Some(generation));
            self.generation = committed.is_ok().then(|| generation.next());
            self.known = self.generation;
            committed
        } else {
            self.commit_unless_touched(batch, part)
        };
        match &committed {
            Err(TransactionError::GenerationChanged) => self.misses += 1,
            Ok(_) if !part => self.misses = 0,
            _ => {}
        }
        committed
    }

    fn commit_unless_touched(
        &mut self,
        batch: &mut [u8],
        part: bool,
    ) -> Result<Vec<(usize, u64)>, TransactionError> {
        for _ in 0..COMMIT_ATTEMPTS {
            let Some(witness) = &mut self.witness else {
                break;
            };
            if !witness.is_untouched()? {
                break;
            }
            let generation = witness.generation();
            let alone = part && self.misses == 0;
            if alone {
                // A witness of a large load would cost the kernel as much time as the load.
                self.witness = None;
            }
            match self.nft.transact_echoed(batch, Some(generation)) {
                // The notification of the earlier commit has arrived by now.
                Err(TransactionError::GenerationChanged) if !alone => {}
                Ok(handles) => {
                    self.known = Some(generation.next());
                    self.generation = self.known.filter(|_| alone);
                    if !part {
                        self.witness = None;
                    }
                    return Ok(handles);
                }
                Err(error) => return Err(error),
            }
        }
        Err(TransactionError::GenerationChanged)
    }

    /// End the observation of foreign changes that a read began. Return whether the rules are certainly
    /// those of the last read or guarded commit.
    pub fn end_observation(&mut self) -> bool {
        self.generation = None;
        if let Some(mut witness) = self.witness.take() {
            return witness.is_untouched().unwrap_or(false);
        }
        let now = self.nft.generation().map(|info| info.generation).ok();
        now.is_some() && now == self.known
    }

    /// Return the rules of these tables, and those that cannot be decoded.
    ///
    /// # Errors
    /// As [`NftRules::read`].
    pub fn table_set(&mut self, tables: &[Table]) -> Result<(TableSet, Vec<Undecoded>), Error> {
        let set = self.state(tables)?.table_set();
        self.witness = None;
        Ok(set)
    }

    /// Return the rules of these tables with their handles.
    ///
    /// # Errors
    /// As [`NftRules::read`].
    pub fn state(&mut self, tables: &[Table]) -> Result<State, Error> {
        let family = self.family;
        let sets = IpSets::open()?.index()?;
        let new = || State::with_sets(family, sets.clone());
        self.read(tables, new, State::add)
    }

    /// Return the rules of these tables as `iptables-save` prints them. Rules that cannot be decoded
    /// are left out.
    ///
    /// # Errors
    /// As [`NftRules::read`].
    pub fn save(&mut self, tables: &[Table]) -> Result<String, Error> {
        Ok(self.table_set(tables)?.0.to_string())
    }

    /// Apply `input` as `iptables-restore --noflush` does. Each table is one transaction. If another
    /// program changes `KUBE-` chains meanwhile, read them and try again.
    ///
    /// # Errors
    /// See [`NftError`].
    pub fn restore(&mut self, input: &str) -> Result<(), NftError> {
        let fail = |tables_committed| {
            move |cause| NftError {
                cause,
                tables_committed,
            }
        };
        let input = Restore::parse(self.family, input);
        let input = input.map_err(|error| fail(0)(error.into()))?;
        for (number, section) in input.tables.into_iter().enumerate() {
            self.restore_table(section).map_err(fail(number))?;
        }
        Ok(())
    }

    fn restore_table(&mut self, section: RestoreTable) -> Result<(), NftCause> {
        let tables = [section.table];
        let input = Restore {
            family: self.family,
            tables: vec![section],
        };
        let mut attempt = 1;
        loop {
            let state = self.state(&tables)?;
            let mut batch = Vec::new();
            for message in iptables_nft::restore(&state, input.clone())? {
                message.append_to(&mut batch);
            }
            let committed = self.commit(&mut batch, true, false);
            self.witness = None;
            match committed {
                Ok(_) => return Ok(()),
                Err(TransactionError::GenerationChanged) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }
}
