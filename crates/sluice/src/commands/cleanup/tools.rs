//! Rules that only iptables' own programs can remove.

use anyhow::bail;
use kernel::iptables::{Backend, Error, Iptables, kube_chains, legacy_tables};
use model::{IpFamily, Mode};
use netfilter::iptables::Table;

use super::scope::Scope;
use crate::system::kernel_family;

/// A back end that may hold rules of a proxy's.
pub(super) struct Found {
    /// As the save tool prints them.
    pub(super) rules: String,
    tools: Iptables,
    family: IpFamily,
    backend: Backend,
    dry_run: bool,
}

impl Found {
    /// Reads tables; `None` where there is nothing to remove for sure.
    pub(super) fn read(
        family: IpFamily,
        backend: Backend,
        tables: &[Table],
        scope: Scope,
    ) -> anyhow::Result<Option<Self>> {
        let kernel_family = kernel_family(family);
        let there = match backend {
            Backend::Legacy => legacy_tables(kernel_family).then_some("there may be rules"),
            Backend::Nft => has_chains(family, scope).then_some("there are rules"),
        };
        let Some(there) = there else { return Ok(None) };
        let tools = match Iptables::with_backend(kernel_family, backend) {
            Ok(tools) => tools,
            Err(Error::FamilyDisabled(_)) => return Ok(None),
            Err(Error::NoTools { .. }) => bail!(
                "{there} of a former proxy's, but iptables' programs, which alone can remove them, \
                 are not here: the image for all modes has them"
            ),
            Err(error) => return Err(error.into()),
        };
        let mut rules = String::new();
        for table in tables {
            match tools.save(*table) {
                Ok(saved) => rules.push_str(&String::from_utf8_lossy(&saved)),
                // A kernel without this table (or this back end) has no rules in it either.
                Err(error @ Error::Save { .. }) => tracing::debug!("{error}"),
                Err(error) => return Err(error.into()),
            }
        }
        Ok((!rules.is_empty()).then_some(Self {
            rules,
            tools,
            family,
            backend,
            dry_run: scope.dry_run,
        }))
    }

    /// Has this input carried out, which removes what `mode` has made; or prints it.
    pub(super) fn restore(&self, input: &str, mode: Mode) -> anyhow::Result<()> {
        let (family, backend) = (self.family, self.backend);
        if input.is_empty() {
            return Ok(());
        }
        if self.dry_run {
            println!("# {family}, {backend} back end: iptables-restore --noflush would be given");
            print!("{input}");
            return Ok(());
        }
        self.tools.restore(input.as_bytes())?;
        tracing::info!("{family}: removed the {mode} mode's rules from the {backend} back end");
        Ok(())
    }
}

/// Whether nf_tables has chains that may go, asked without the tools: that of nf_tables lists every set
/// of every table on the way, which takes seconds where there are many elements. What cannot be found
/// out counts as there.
fn has_chains(family: IpFamily, scope: Scope) -> bool {
    let stays = |name: &str| match name {
        // kubelet's.
        "KUBE-IPTABLES-HINT" | "KUBE-KUBELET-CANARY" => true,
        "KUBE-FIREWALL" => scope.in_force.is_some(),
        _ => false,
    };
    match kube_chains(kernel_family(family)) {
        Ok(chains) => chains.iter().any(|(_, name)| !stays(name)),
        Err(_) => true,
    }
}
