//! The rules of whole tables, whichever program made them.

use std::collections::BTreeMap;

use netfilter::netlink::{
    Attributes, Builder, Message, Messages, NFGENMSG_LEN, NFNL_SUBSYS_NFTABLES, NLM_F_REQUEST,
    nfgenmsg, nfnl_msg_type,
};
use netfilter::nft::consts::{
    NFT_MSG_GETRULE, NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE, NFTA_CHAIN_USE, NFTA_RULE_CHAIN,
    NFTA_RULE_TABLE,
};

use super::NfTables;
use crate::netlink::Error;

/// Number of references and rules from which on a table is read chain by chain. A listing of a whole
/// table walks it from its start for every 32 KiB of the answer (`__nf_tables_dump_rules`), so that
/// its time grows with the square of the number of rules.
pub(super) const LARGE: u64 = 20_000;

/// The chains of a table, with the number of their references and rules.
pub(crate) type Chains = BTreeMap<String, u32>;

/// A chain as listed (`NFTA_CHAIN_*`).
#[derive(Debug)]
pub(crate) struct ChainEntry {
    pub(crate) family: u8,
    pub(crate) table: String,
    pub(crate) name: String,
    /// The number of its references and rules.
    pub(crate) uses: u32,
}

impl ChainEntry {
    /// Read a message about a chain; `None` if it lacks a name.
    pub(crate) fn read(message: &Message<'_>) -> Option<Self> {
        let family = *message.payload.first()?;
        let attributes = message.payload.get(NFGENMSG_LEN..)?;
        let (mut table, mut name, mut uses) = (None, None, 0);
        for attribute in Attributes::new(attributes, "nft_chain_attributes").flatten() {
            match attribute.kind {
                NFTA_CHAIN_TABLE => table = attribute.string().ok(),
                NFTA_CHAIN_NAME => name = attribute.string().ok(),
                NFTA_CHAIN_USE => uses = attribute.be32().ok()?,
                _ => {}
            }
        }
        Some(ChainEntry {
            family,
            table: table?.to_owned(),
            name: name?.to_owned(),
            uses,
        })
    }
}

/// Return the family number and name of the table of an object. In every kind of message, attribute 1 is
/// the table's name.
pub(crate) fn table_name<'m>(message: &Message<'m>) -> Option<(u8, &'m str)> {
    let family = *message.payload.first()?;
    let attributes = message.payload.get(NFGENMSG_LEN..)?;
    let mut attributes = Attributes::new(attributes, "nft attributes").flatten();
    let name = attributes.find(|a| a.kind == NFTA_CHAIN_TABLE)?;
    Some((family, name.string().ok()?))
}

/// Begin a request about nf_tables objects of a family; 0 stands for all families.
pub(crate) fn request(kind: u16, family: u8) -> Builder {
    let kind = nfnl_msg_type(NFNL_SUBSYS_NFTABLES, kind as u8);
    Builder::new(kind, NLM_F_REQUEST).fixed(&nfgenmsg(family, 0))
}

impl NfTables {
    /// List tables with at least this many references and rules chain by chain. For tests, which use small
    /// tables.
    pub fn list_by_chain_from(&mut self, rules: u64) {
        self.large_table = rules;
    }

    /// Pass the rules of a table to `each`, those of a chain in their order. A large table is listed chain by
    /// chain, and so is one that another program changes meanwhile: such a listing of a whole table may be
    /// incomplete.
    ///
    /// # Errors
    /// See [`Error`].
    pub(crate) fn list_rules(
        &mut self,
        (family, table): (u8, &str),
        chains: &Chains,
        each: &mut dyn FnMut(&Message<'_>),
    ) -> Result<(), Error> {
        let rules = || request(NFT_MSG_GETRULE, family).string(NFTA_RULE_TABLE, table);
        let uses: u64 = chains.values().map(|uses| u64::from(*uses)).sum();
        if uses < self.large_table {
            match self.dump_once(&rules().finish()) {
                Ok(listed) => {
                    Messages::new(&listed).flatten().for_each(|m| each(&m));
                    return Ok(());
                }
                Err(Error::Interrupted { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        for chain in chains.keys() {
            let request = rules().string(NFTA_RULE_CHAIN, chain).finish();
            let listed = self.dump(&request)?;
            Messages::new(&listed).flatten().for_each(|m| each(&m));
        }
        Ok(())
    }
}
