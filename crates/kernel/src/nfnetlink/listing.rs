//! The whole rule set: every table, whichever program made it.

use std::collections::BTreeMap;

use netfilter::iptables::{Family, TableSet};
use netfilter::iptables_nft::{SetIndex, State, nft_family, table_of};
use netfilter::netlink::Message;
use netfilter::nft::consts::{
    NFT_MSG_GETCHAIN, NFT_MSG_GETSET, NFT_MSG_GETSETELEM, NFT_MSG_GETTABLE, NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_LIST_TABLE,
};
use netfilter::nft::decode;
use netfilter::nft_hooks::{self, Hooked};
use netfilter::nft_list::Listing;
use nix::errno::Errno;

use super::NfTables;
use super::rules::{ChainEntry, Chains, request, table_name};
use crate::netlink::Error;

const NFT_MSG_GETOBJ: u16 = 19;
const NFT_MSG_GETFLOWTABLE: u16 = 23;
/// How many times the rule set is read again if other programs change it meanwhile.
const ATTEMPTS: u32 = 10;

/// The rule set at one moment.
#[derive(Clone, Debug)]
pub struct Ruleset {
    /// The tables that iptables-nft-save prints, of both families. Extensions that are not modelled are
    /// kept by name.
    pub iptables: [TableSet; 2],
    /// The other tables.
    pub listing: Listing,
    /// Messages that could not be decoded.
    pub problems: Vec<String>,
}

/// The chains of each table, by its family number and name.
type Tables = BTreeMap<(u8, String), Chains>;

impl NfTables {
    /// Read the whole rule set. `sets` are the names of ipsets, which rules of iptables-nft contain.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Interrupted`] if other programs kept changing it.
    pub fn ruleset(&mut self, sets: &SetIndex) -> Result<Ruleset, Error> {
        for _ in 0..ATTEMPTS {
            let before = self.generation()?.generation;
            let read = self.ruleset_once(sets);
            // An object may have been deleted meanwhile.
            let unchanged = self.generation()?.generation == before;
            match read {
                Err(Error::Interrupted { .. }) => {}
                read if unchanged => return read,
                _ => {}
            }
        }
        let what = "reading the nf_tables rule set";
        Err(Error::Interrupted { what })
    }

    /// Return the chains that a hook calls, in the order of the calls, as [`Hooked::label`] names them;
    /// `None` if the kernel does not report it.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn hooked(
        &mut self,
        family: Family,
        (hook, built_in): (u32, &str),
    ) -> Result<Option<Vec<String>>, Error> {
        let family = nft_family(family).number();
        let mut chains = Vec::new();
        let read = self.stream(&nft_hooks::request(family, hook), |message| {
            chains.extend(Hooked::decode(message.payload)?.label(family, built_in));
            Ok(())
        });
        match read {
            Ok(()) => Ok(Some(chains)),
            // No program uses the hook.
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(Some(Vec::new())),
            // Without the module, or before Linux 5.14.
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn ruleset_once(&mut self, sets: &SetIndex) -> Result<Ruleset, Error> {
        let mut tables = Tables::new();
        let mut states = [Family::Ipv4, Family::Ipv6].map(|family| {
            let mut state = State::with_sets(family, sets.clone());
            state.keeps_unknown = true;
            state
        });
        self.stream(&request(NFT_MSG_GETCHAIN, 0).finish(), |message| {
            if let Some(chain) = ChainEntry::read(message) {
                let chains = tables.entry((chain.family, chain.table)).or_default();
                chains.insert(chain.name, chain.uses);
            }
            if let Ok(decoded) = decode(message.kind & 0xff, message.payload) {
                let is_of = |s: &&mut State| decoded.family == Some(nft_family(s.family));
                if let Some(state) = states.iter_mut().find(is_of) {
                    state.add(decoded);
                }
            }
            Ok(())
        })?;
        let mut iptables = [Family::Ipv4, Family::Ipv6].map(TableSet::new);
        for (state, set) in states.iter_mut().zip(&mut iptables) {
            self.take_iptables(&mut tables, state, set)?;
        }
        let mut ruleset = Ruleset {
            iptables,
            listing: Listing::default(),
            problems: Vec::new(),
        };
        self.list_others(&tables, &mut ruleset)?;
        Ok(ruleset)
    }

    /// Read the tables of iptables-nft and move them from `tables` to `set`. Other tables stay.
    fn take_iptables(
        &mut self,
        tables: &mut Tables,
        state: &mut State,
        set: &mut TableSet,
    ) -> Result<(), Error> {
        let family = nft_family(state.family).number();
        for table in state.tables.keys().copied().collect::<Vec<_>>() {
            let name = (family, table.name().to_owned());
            let Some(chains) = tables.get(&name) else {
                continue;
            };
            let mut is_decoded = true;
            self.list_rules((family, &name.1), chains, &mut |message| match decode(
                message.kind & 0xff,
                message.payload,
            ) {
                Ok(rule) => state.add(rule),
                Err(_) => is_decoded = false,
            })?;
            if let Some(taken) = state.take(table).filter(|_| is_decoded) {
                set.tables.insert(table, taken);
                tables.remove(&name);
            }
        }
        Ok(())
    }

    /// Read all tables but those of iptables-nft. `tables` are their chains.
    fn list_others(&mut self, tables: &Tables, ruleset: &mut Ruleset) -> Result<(), Error> {
        for kind in [
            NFT_MSG_GETTABLE,
            NFT_MSG_GETCHAIN,
            NFT_MSG_GETSET,
            NFT_MSG_GETOBJ,
            NFT_MSG_GETFLOWTABLE,
        ] {
            let read = self.stream(&request(kind, 0).finish(), |message| {
                if !ruleset.has_as_iptables(message) {
                    ruleset.add(message);
                }
                Ok(())
            });
            match read {
                // A kernel without flow tables.
                Err(error) if kind == NFT_MSG_GETFLOWTABLE && is_absent(&error) => {}
                read => read?,
            }
        }
        for ((family, table), chains) in tables {
            self.list_rules((*family, table), chains, &mut |message| {
                ruleset.add(message)
            })?;
        }
        for (family, table, set) in ruleset.listing.sets() {
            let request = request(NFT_MSG_GETSETELEM, family)
                .string(NFTA_SET_ELEM_LIST_TABLE, &table)
                .string(NFTA_SET_ELEM_LIST_SET, &set)
                .finish();
            self.stream(&request, |message| {
                ruleset.add(message);
                Ok(())
            })?;
        }
        Ok(())
    }
}

fn is_absent(error: &Error) -> bool {
    matches!(
        error.errno(),
        Some(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOENT)
    )
}

impl Ruleset {
    /// Whether the object of a message belongs to a table among [`Ruleset::iptables`].
    fn has_as_iptables(&self, message: &Message<'_>) -> bool {
        let Some((family, name)) = table_name(message) else {
            return false;
        };
        let mut sets = self.iptables.iter();
        let set = sets.find(|set| nft_family(set.family).number() == family);
        let table = table_of(name);
        set.zip(table)
            .is_some_and(|(set, table)| set.tables.contains_key(&table))
    }

    /// Add an object of a dump to the listing.
    fn add(&mut self, message: &Message<'_>) {
        let kind = message.kind & 0xff;
        if let Err(error) = self.listing.add(kind, message.payload) {
            self.problems
                .push(format!("message of kind {kind}: {error}"));
        }
    }
}
