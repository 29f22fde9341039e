//! Everything on a host that decides about packets.

use netfilter::ipset::Sets;
use netfilter::iptables::{Family, TableSet};
use netfilter::ipvs::Services;
use netfilter::nft_lang::Ruleset;

use crate::facts::{Facts, FactsError, HookOrder};
use crate::host::Host;
use crate::infer;
use crate::outcome::Backend;
use crate::paste::{self, PasteError};

/// The rules, sets, virtual servers and facts of one host.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Rule sets of iptables, of the nf_tables back end or of an unknown one.
    pub iptables: Vec<TableSet>,
    /// Rule sets of iptables-legacy, where the dumps state that they are.
    pub legacy: Vec<TableSet>,
    /// nf_tables' rule set.
    pub nft: Ruleset,
    /// ipsets.
    pub ipsets: Sets,
    /// IPVS virtual servers.
    pub ipvs: Services,
    /// The order of each hook's chains, where it is known.
    pub hooks: Vec<HookOrder>,
    /// Addresses, routes, interfaces, sysctls.
    pub host: Host,
    /// Warnings about the input; every trace repeats them.
    pub warnings: Vec<String>,
}

/// An error in a host's dumps.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The facts themselves.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// The dump of `iptables-save` or `ip6tables-save`.
    #[error("{0}, {1}")]
    Iptables(&'static str, netfilter::iptables::ParseError),
    /// The dump of nf_tables.
    #[error("nft dump, {0}")]
    Nft(#[from] netfilter::nft_lang::ParseError),
    /// The dump of ipsets.
    #[error(transparent)]
    Ipset(#[from] netfilter::ipset::ParseError),
    /// The dump of IPVS.
    #[error(transparent)]
    Ipvs(#[from] netfilter::ipvs::ParseError),
    /// Text from another command, which lacks something.
    #[error(transparent)]
    Paste(#[from] PasteError),
}

impl World {
    /// Build a world from a facts file with its dumps.
    ///
    /// # Errors
    /// A dump cannot be parsed; the error names dump, line and column.
    pub fn from_facts(facts: &Facts) -> Result<Self, WorldError> {
        let mut world = World {
            host: Host::new(facts)?,
            warnings: facts.notes.clone(),
            hooks: facts.hooks.clone(),
            ..World::default()
        };
        let d = &facts.dumps;
        for (family, legacy, other) in [
            (Family::Ipv4, &d.iptables_legacy_save, &d.iptables_save),
            (Family::Ipv6, &d.ip6tables_legacy_save, &d.ip6tables_save),
        ] {
            if let Some(text) = legacy {
                world.legacy.push(parse_iptables(family, text)?);
            }
            if let Some(text) = other {
                world.add_iptables(family, text)?;
            }
        }
        if let Some(text) = &d.nft_ruleset {
            world.add_nft(text)?;
        }
        if let Some(text) = &d.ipset_save {
            world.ipsets = match Sets::parse(text) {
                Ok(sets) => sets,
                Err(_) => Sets::parse(&paste::ipset_save(text)?)?,
            };
        }
        if let Some(text) = &d.ipvsadm_save {
            world.ipvs = match Services::parse(text) {
                Ok(services) => services,
                Err(_) => Services::parse(&paste::ipvsadm_save(text)?)?,
            };
        }
        world.infer_addresses();
        Ok(world)
    }

    /// Add the output of `iptables-save` or `ip6tables-save`.
    ///
    /// # Errors
    /// As [`Self::from_facts`].
    pub fn add_iptables(&mut self, family: Family, text: &str) -> Result<(), WorldError> {
        self.iptables.push(parse_iptables(family, text)?);
        self.drop_duplicates();
        self.infer_addresses();
        Ok(())
    }

    /// Add the output of `nft list ruleset`, as text or as JSON.
    ///
    /// # Errors
    /// As [`Self::from_facts`].
    pub fn add_nft(&mut self, text: &str) -> Result<(), WorldError> {
        let ruleset = match Ruleset::parse(text) {
            Ok(ruleset) => ruleset,
            Err(_) => Ruleset::parse(&paste::clean(text))?,
        };
        self.nft.tables.extend(ruleset.tables);
        self.drop_duplicates();
        self.infer_addresses();
        Ok(())
    }

    /// Infer some of the node's addresses from its rules, if there are no facts.
    fn infer_addresses(&mut self) {
        if self.host.is_known() {
            return;
        }
        for ip in infer::node_addresses(&self.nft, self.all_iptables(), &self.ipvs) {
            self.host.assign(ip);
        }
    }

    /// Return the back end of [`Self::iptables`], which is known if the legacy rules are separate.
    pub(crate) fn iptables_backend(&self) -> Option<Backend> {
        (!self.legacy.is_empty()).then_some(Backend::NfTables)
    }

    /// Return the rule sets of both back ends.
    pub fn all_iptables(&self) -> impl Iterator<Item = &TableSet> {
        self.legacy.iter().chain(&self.iptables)
    }

    /// Remove the tables of iptables-nft, which appear in both dumps: only iptables prints all of their
    /// matches.
    fn drop_duplicates(&mut self) {
        let sets = &self.iptables;
        self.nft.tables.retain(|table| {
            let family = match table.family {
                netfilter::nft_lang::TableFamily::Ip => Family::Ipv4,
                netfilter::nft_lang::TableFamily::Ip6 => Family::Ipv6,
                _ => return true,
            };
            let same = sets
                .iter()
                .filter(|s| s.family == family)
                .flat_map(|s| &s.tables)
                .find(|(name, _)| name.name() == &*table.name);
            let Some((_, state)) = same else { return true };
            let all_there = table
                .chains
                .iter()
                .all(|c| state.chains.keys().any(|n| n.as_str() == &*c.name));
            !(table.iptables || all_there)
        });
    }
}

fn parse_iptables(family: Family, text: &str) -> Result<TableSet, WorldError> {
    let tool = match family {
        Family::Ipv4 => "iptables-save dump",
        Family::Ipv6 => "ip6tables-save dump",
    };
    let parse =
        |text: &str| TableSet::parse(family, text).map_err(|e| WorldError::Iptables(tool, e));
    match parse(text) {
        Ok(set) => Ok(set),
        Err(error) => {
            let converted = paste::iptables_save(text)?;
            // The lines of a plain dump have their own numbers.
            let is_plain = text.trim_start().starts_with(['*', '#']);
            parse(&converted).map_err(|later| if is_plain { error } else { later })
        }
    }
}
