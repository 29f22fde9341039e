//! Rules that only the iptables tools can remove.

use anyhow::bail;
use kernel::iptables::{Backend, Error, Rules, RulesError, kube_chains, legacy_tables};
use model::{IpFamily, Mode};
use netfilter::iptables::Table;

use super::scope::Scope;
use crate::system::kernel_family;

/// A back end that may have rules of a proxy.
pub(super) struct Found {
    /// The output of the save tool.
    pub(super) rules: String,
    tools: Rules,
    family: IpFamily,
    backend: Backend,
    dry_run: bool,
}

impl Found {
    /// Read tables; `None` if they certainly have nothing to remove.
    pub(super) fn read(
        family: IpFamily,
        backend: Backend,
        tables: &[Table],
        scope: Scope<'_>,
    ) -> anyhow::Result<Option<Self>> {
        let kernel_family = kernel_family(family);
        let found = match backend {
            Backend::Legacy => legacy_tables(kernel_family).then_some("there may be rules"),
            Backend::Nft => has_chains(family, scope).then_some("there are rules"),
        };
        let Some(found) = found else { return Ok(None) };
        let mut tools = match Rules::with_backend(kernel_family, backend) {
            Ok(tools) => tools,
            Err(Error::FamilyDisabled(_)) => return Ok(None),
            Err(Error::NoTools { .. }) => bail!(
                "{found} left by an earlier proxy, but the iptables tools needed to remove them are \
                 not installed; use the all-modes image"
            ),
            Err(error) => return Err(error.into()),
        };
        let mut rules = String::new();
        for table in tables {
            match tools.save(&[*table]) {
                Ok(saved) => rules.push_str(&saved),
                // A kernel without this table or back end has no rules in it.
                Err(error @ RulesError::Save(Error::Save { .. })) => {
                    tracing::debug!(%error, "Skipped a table");
                }
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

    /// Run or print this input, which removes the rules of `mode`.
    pub(super) fn restore(&mut self, input: &str, mode: Mode) -> anyhow::Result<()> {
        let (family, backend) = (self.family, self.backend);
        if input.is_empty() {
            return Ok(());
        }
        if self.dry_run {
            println!("# {family}, {backend} back end: input for iptables-restore --noflush:");
            print!("{input}");
            return Ok(());
        }
        self.tools.restore(input)?;
        tracing::info!(%family, %mode, %backend, "Removed iptables rules");
        Ok(())
    }
}

/// Return whether nf_tables has chains to remove, read without the tools: those list every set of every
/// table, which takes seconds with many elements. An unreadable state counts as yes.
fn has_chains(family: IpFamily, scope: Scope<'_>) -> bool {
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
