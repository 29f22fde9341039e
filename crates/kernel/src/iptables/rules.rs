//! The rules of one family in one back end, whichever it is.

use netfilter::iptables::Table;

use super::{Backend, Choice, Error, Iptables, NftError, NftRules, RestoreError, choose};
use crate::{Family, family, netlink};

/// Access to the rules of one family: over netlink for nf_tables, with the installed programs for
/// the legacy back end.
#[derive(Debug)]
pub enum Rules {
    /// nf_tables.
    Nft(Box<NftRules>),
    /// Legacy.
    Legacy(Iptables),
}

/// Why rules could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
#[allow(missing_docs)]
pub enum RulesError {
    Nft(#[from] NftError),
    Netlink(#[from] netlink::Error),
    Save(#[from] Error),
    Restore(#[from] RestoreError),
}

impl RulesError {
    /// Whether the content was rejected, so that the same input would fail again.
    pub fn is_rejection(&self) -> bool {
        match self {
            RulesError::Nft(error) => error.is_rejection(),
            RulesError::Restore(error) => error.is_rejection(),
            RulesError::Netlink(_) | RulesError::Save(_) => false,
        }
    }

    /// The number of tables of a failed input that certainly took effect.
    pub fn tables_committed(&self) -> Option<usize> {
        match self {
            RulesError::Restore(error) => error.tables_committed(),
            RulesError::Nft(error) => error.tables_committed(),
            RulesError::Netlink(_) | RulesError::Save(_) => None,
        }
    }
}

impl Rules {
    /// Find the back end that contains the node's other Kubernetes rules.
    ///
    /// # Errors
    /// [`Error::FamilyDisabled`] if the kernel lacks this address family, [`Error::NoTools`] if the
    /// legacy back end is in use but its programs are missing.
    pub fn find(family: Family) -> Result<(Self, Choice), Error> {
        if !family::in_kernel(family) {
            return Err(Error::FamilyDisabled(family));
        }
        let choice = choose::look(family)?;
        Ok((Self::with_backend(family, choice.backend)?, choice))
    }

    /// Use a given back end.
    ///
    /// # Errors
    /// As [`Rules::find`].
    pub fn with_backend(family: Family, backend: Backend) -> Result<Self, Error> {
        if !family::in_kernel(family) {
            return Err(Error::FamilyDisabled(family));
        }
        Ok(match backend {
            Backend::Nft => Rules::Nft(Box::new(NftRules::open(family)?)),
            Backend::Legacy => Rules::Legacy(Iptables::with_backend(family, backend)?),
        })
    }

    /// Return the back end.
    pub fn backend(&self) -> Backend {
        match self {
            Rules::Nft(_) => Backend::Nft,
            Rules::Legacy(_) => Backend::Legacy,
        }
    }

    /// Whether `-j MASQUERADE` supports `--random-fully`.
    pub fn random_fully(&self) -> bool {
        match self {
            Rules::Nft(_) => true,
            Rules::Legacy(tools) => tools.random_fully(),
        }
    }

    /// Return the rules of these tables, as `iptables-save` prints them.
    ///
    /// # Errors
    /// See [`RulesError`].
    pub fn save(&mut self, tables: &[Table]) -> Result<String, RulesError> {
        let tools = match self {
            Rules::Nft(rules) => return Ok(rules.save(tables)?),
            Rules::Legacy(tools) => tools,
        };
        let mut text = String::new();
        for table in tables {
            text.push_str(&String::from_utf8_lossy(&tools.save(*table)?));
        }
        Ok(text)
    }

    /// Apply `input` as `iptables-restore --noflush` does.
    ///
    /// # Errors
    /// See [`RulesError`].
    pub fn restore(&mut self, input: &str) -> Result<(), RulesError> {
        match self {
            Rules::Nft(rules) => Ok(rules.restore(input)?),
            Rules::Legacy(tools) => Ok(tools.restore(input.as_bytes())?),
        }
    }
}
