//! The iptables rules of a back end.

use kernel::iptables::{Backend, Error, Rules, kube_chains, legacy_tables};
use model::{IpFamily, Mode};
use netfilter::iptables::Table;

use super::scope::Scope;
use crate::system::kernel_family;

/// A back end that may have rules of a proxy.
pub(super) struct Found {
    /// The rules, as iptables-save prints them.
    pub(super) rules: String,
    access: Rules,
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
            Backend::Legacy => legacy_tables(kernel_family),
            Backend::Nft => has_chains(family, scope),
        };
        if !found {
            return Ok(None);
        }
        let mut access = match Rules::with_backend(kernel_family, backend) {
            Ok(access) => access,
            Err(Error::FamilyDisabled(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let rules = access.save(tables)?;
        Ok((!rules.is_empty()).then_some(Self {
            rules,
            access,
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
        self.access.restore(input)?;
        tracing::info!(%family, %mode, %backend, "Removed iptables rules");
        Ok(())
    }
}

/// Return whether nf_tables has chains to remove. An unreadable state counts as yes.
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
