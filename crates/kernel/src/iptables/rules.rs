//! The rules of one family in one back end, whichever it is.

use netfilter::iptables::Table;

use super::legacy::{Legacy, LegacyError, LegacyRestoreError};
use super::{Backend, Choice, Error, NftError, NftRules, choose};
use crate::{Family, family, netlink};

/// Access to the rules of one family: over netlink for nf_tables, through socket options for the legacy
/// back end.
#[derive(Debug)]
pub enum Rules {
    /// nf_tables.
    Nft(Box<NftRules>),
    /// Legacy.
    Legacy(Legacy),
}

/// Why rules could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
#[allow(missing_docs)]
pub enum RulesError {
    Nft(#[from] NftError),
    Netlink(#[from] netlink::Error),
    Legacy(#[from] LegacyError),
    Restore(#[from] LegacyRestoreError),
}

impl RulesError {
    /// Whether the content was rejected, so that the same input would fail again.
    pub fn is_rejection(&self) -> bool {
        match self {
            RulesError::Nft(error) => error.is_rejection(),
            RulesError::Restore(error) => error.is_rejection(),
            RulesError::Netlink(_) | RulesError::Legacy(_) => false,
        }
    }

    /// The number of tables of a failed input that certainly took effect.
    pub fn tables_committed(&self) -> Option<usize> {
        match self {
            RulesError::Restore(error) => Some(error.tables_committed),
            RulesError::Nft(error) => error.tables_committed(),
            RulesError::Netlink(_) | RulesError::Legacy(_) => None,
        }
    }
}

impl Rules {
    /// Find the back end that contains the node's other Kubernetes rules.
    ///
    /// # Errors
    /// [`Error::FamilyDisabled`] if the kernel lacks this address family; no socket can be opened.
    pub fn find(family: Family) -> Result<(Self, Choice), Error> {
        if !family::in_kernel(family) {
            return Err(Error::FamilyDisabled(family));
        }
        let choice = choose::look(family);
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
            Backend::Legacy => Rules::Legacy(Legacy::open(family)?),
        })
    }

    /// Return the back end.
    pub fn backend(&self) -> Backend {
        match self {
            Rules::Nft(_) => Backend::Nft,
            Rules::Legacy(_) => Backend::Legacy,
        }
    }

    /// Return the rules of these tables, as `iptables-save` prints them.
    ///
    /// # Errors
    /// See [`RulesError`].
    pub fn save(&mut self, tables: &[Table]) -> Result<String, RulesError> {
        match self {
            Rules::Nft(rules) => Ok(rules.save(tables)?),
            Rules::Legacy(legacy) => Ok(legacy.save(tables)?),
        }
    }

    /// Apply `input` as `iptables-restore --noflush` does.
    ///
    /// # Errors
    /// See [`RulesError`].
    pub fn restore(&mut self, input: &str) -> Result<(), RulesError> {
        match self {
            Rules::Nft(rules) => Ok(rules.restore(input)?),
            Rules::Legacy(legacy) => Ok(legacy.restore(input)?),
        }
    }
}
