//! Transactions as nf_tables messages, in the form that iptables-nft writes.

use model::IpFamily;
use netfilter::iptables::{Chain, Family, Policy, Rule, Table};
use netfilter::iptables_nft::{Unsupported, base_chain, encode_rule, nft_family};
use netfilter::netlink::NLM_F_ECHO;
use netfilter::nft::{self, Encoder, Message, Op, RulePlace};

use super::Observation;
use super::lower::rule_family;
use super::output::{Before, Output};
use super::sync::{Failure, FailureKind, ReadError, Transport};

/// The size from which on a transaction is divided, so that a load of any size takes little memory.
///
/// The kernel validates all chains that base chains reach whenever a batch adds a jump. A division
/// costs little during a load nevertheless: until the last part adds the rules of the shared chains,
/// no base chain reaches the chains of Service ports.
const PART: usize = 8 << 20;

/// Access to nf_tables in one network namespace.
pub trait Kernel {
    /// Why the kernel could not be read, or rejected a batch.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Read the tables filter, nat and mangle: pass the objects to an
    /// [`Observer`](super::Observer).
    ///
    /// # Errors
    /// The tables cannot be read.
    fn read(&mut self, family: IpFamily) -> Result<Observation, Self::Error>;

    /// Commit one batch of messages. Return the number of the message and the handle of each rule
    /// whose message has `NLM_F_ECHO`.
    ///
    /// # Errors
    /// See [`BatchFailure`].
    fn commit(
        &mut self,
        batch: &mut [u8],
        guard: Guard,
    ) -> Result<Vec<(usize, u64)>, BatchFailure<Self::Error>>;
}

/// On which condition the kernel commits a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Only if no other program has changed rules of this mode since the last read.
    pub guarded: bool,
    /// Whether the batch is a part of a large transaction.
    pub part: bool,
}

/// A batch without effect, or whose reply was lost ([`FailureKind::Outdated`]).
#[derive(Debug)]
pub struct BatchFailure<E> {
    /// The cause.
    pub error: E,
    /// The kind.
    pub kind: FailureKind,
}

/// Why a transaction could not be committed, or the kernel not be read.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError<E> {
    /// The kernel's answer.
    #[error(transparent)]
    Kernel(E),
    /// A rule has no nf_tables form.
    #[error(transparent)]
    Unsupported(Unsupported),
    /// The handle of a rule to be deleted is not known.
    #[error("the handle of a rule is not known")]
    NoHandle,
}

/// Encodes operations as messages.
#[derive(Debug)]
struct Batch {
    family: Family,
    bytes: Vec<u8>,
    messages: usize,
    /// The numbers of the messages whose rules are tracked.
    tracked: Vec<usize>,
}

impl Batch {
    fn new(family: Family) -> Self {
        Self {
            family,
            bytes: Vec::new(),
            messages: 0,
            tracked: Vec::new(),
        }
    }

    fn encoder(&self, table: Table) -> Encoder<'static> {
        Encoder {
            family: nft_family(self.family),
            table: table.name(),
        }
    }

    fn push(&mut self, message: &Message) {
        message.append_to(&mut self.bytes);
        self.messages += 1;
    }

    fn op(&mut self, table: Table, op: &Op) {
        for message in self.encoder(table).ops(std::slice::from_ref(op)) {
            self.push(&message);
        }
    }

    fn rule(
        &mut self,
        table: Table,
        chain: Chain,
        rule: &Rule,
        place: RulePlace,
        tracked: bool,
    ) -> Result<(), Unsupported> {
        let rule = nft::Rule {
            chain: chain.as_str().to_owned(),
            exprs: encode_rule(rule, self.family)?,
            comment: None,
        };
        let mut message = self.encoder(table).place_rule(&rule, place);
        if tracked {
            message.flags |= NLM_F_ECHO;
            self.tracked.push(self.messages);
        }
        self.push(&message);
        Ok(())
    }
}

/// The nf_tables back end of iptables as a transport.
#[derive(Debug)]
pub struct Netlink<K: Kernel> {
    kernel: K,
    family: IpFamily,
    guarded: bool,
    batch: Batch,
    /// The handles of the tracked rules in committed parts.
    handles: Vec<u64>,
    /// Whether a part was committed.
    divided: bool,
    /// The first failure; the rest of the transaction is then discarded.
    failure: Option<Failure<NetlinkError<K::Error>>>,
    part: usize,
}

impl<K: Kernel> Netlink<K> {
    /// A transport over this access.
    pub fn new(family: IpFamily, kernel: K) -> Self {
        Self {
            kernel,
            family,
            guarded: false,
            batch: Batch::new(rule_family(family)),
            handles: Vec::new(),
            divided: false,
            failure: None,
            part: PART,
        }
    }

    /// The access to the kernel.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// Divide transactions from this size on. For tests, which use small ones.
    pub fn divide_from(&mut self, bytes: usize) {
        self.part = bytes;
    }

    fn fail(&mut self, error: NetlinkError<K::Error>, kind: FailureKind) {
        let unchanged = !self.divided;
        self.failure.get_or_insert(Failure {
            error,
            kind,
            unchanged,
        });
    }

    /// Commit the batch.
    fn send(&mut self, part: bool) {
        let empty = Batch::new(self.batch.family);
        let mut batch = std::mem::replace(&mut self.batch, empty);
        if self.failure.is_some() || batch.messages == 0 {
            return;
        }
        let guard = Guard {
            guarded: self.guarded,
            part: part || self.divided,
        };
        match self.kernel.commit(&mut batch.bytes, guard) {
            Ok(handles) => {
                self.divided = true;
                if handles.iter().map(|(at, _)| at).eq(&batch.tracked) {
                    self.handles
                        .extend(handles.iter().map(|(_, handle)| handle));
                } else {
                    self.fail(NetlinkError::NoHandle, FailureKind::Outdated);
                }
            }
            Err(BatchFailure { error, kind }) => {
                // The batch may have been committed.
                self.divided |= kind == FailureKind::Outdated;
                self.fail(NetlinkError::Kernel(error), kind);
            }
        }
    }

    fn rule(&mut self, table: Table, chain: Chain, rule: &Rule, place: RulePlace, tracked: bool) {
        if let Err(error) = self.batch.rule(table, chain, rule, place, tracked) {
            self.fail(NetlinkError::Unsupported(error), FailureKind::Rejected);
        }
    }
}

impl<K: Kernel> Transport for Netlink<K> {
    type Error = NetlinkError<K::Error>;

    fn read(&mut self) -> Result<Observation, ReadError<Self::Error>> {
        let read = self.kernel.read(self.family);
        read.map_err(|error| ReadError::Transport(NetlinkError::Kernel(error)))
    }

    fn begin(&mut self, guarded: bool) -> &mut dyn Output {
        self.guarded = guarded;
        self.batch = Batch::new(self.batch.family);
        self.handles.clear();
        self.divided = false;
        self.failure = None;
        self
    }

    fn commit(&mut self) -> Result<Vec<u64>, Failure<Self::Error>> {
        self.send(false);
        match self.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(std::mem::take(&mut self.handles)),
        }
    }
}

impl<K: Kernel> Output for Netlink<K> {
    fn table(&mut self, table: Table) {
        self.batch.op(table, &Op::AddTable { comment: None });
    }

    fn chain(&mut self, table: Table, chain: Chain, before: Before) {
        let name = chain.as_str().to_owned();
        let op = match before {
            Before::Present => Op::FlushChain(name),
            Before::Absent => Op::AddChain(nft::Chain {
                name,
                base: base_chain(table, chain, Policy::Accept),
                comment: None,
            }),
        };
        self.batch.op(table, &op);
    }

    fn append(&mut self, table: Table, chain: Chain, rule: &Rule, tracked: bool) {
        self.rule(table, chain, rule, RulePlace::Last, tracked);
    }

    fn insert(&mut self, table: Table, chain: Chain, rule: &Rule, tracked: bool) {
        self.rule(table, chain, rule, RulePlace::First, tracked);
    }

    fn delete(&mut self, table: Table, chain: Chain, _: &Rule, handle: Option<u64>) {
        let Some(handle) = handle else {
            return self.fail(NetlinkError::NoHandle, FailureKind::Outdated);
        };
        let encoder = self.batch.encoder(table);
        self.batch
            .push(&encoder.delete_rule(chain.as_str(), handle));
    }

    fn delete_chain(&mut self, table: Table, chain: Chain) {
        let name = chain.as_str().to_owned();
        self.batch.op(table, &Op::DeleteChain(name));
    }

    fn divide(&mut self) {
        if self.batch.bytes.len() >= self.part {
            self.send(true);
        }
    }

    fn most_single_rules(&self, rules: usize) -> usize {
        rules
    }
}
