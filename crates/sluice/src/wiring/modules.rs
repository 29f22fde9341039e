//! Loads the kernel modules that the proxy needs while the process is still permitted to.

use config::Config;
use kernel::iptables::{Error, Rules};
use kernel::ipvs::{self, Ipvs};
use model::IpFamily;
use netfilter::iptables::Table;

use super::drivers::find_iptables;
use crate::cli::IptablesBackend;
use crate::system::kernel_family;

/// Load the modules of iptables and ipvs mode. A failure is a warning: the mode itself reports what it
/// lacks.
///
/// The kernel loads all of them by itself, except `ip_tables` and `ip6_tables` of the legacy back end.
pub(crate) fn load(config: &Config, backend: Option<IptablesBackend>) {
    if config.mode.has_virtual_servers()
        && let Err(error) = load_ipvs(&config.ipvs.scheduler)
    {
        tracing::warn!(%error, "IPVS not prepared");
    }
    if !config.mode.has_iptables_rules() {
        return;
    }
    for family in IpFamily::ALL {
        match load_iptables(family, backend) {
            Ok(()) | Err(Error::FamilyDisabled(_)) => {}
            Err(error) => tracing::warn!(%family, %error, "iptables not prepared"),
        }
    }
}

fn load_ipvs(scheduler: &str) -> Result<(), ipvs::Error> {
    Ipvs::open()?.load_scheduler(scheduler)
}

/// Legacy tables are created only if their back end is chosen.
fn load_iptables(family: IpFamily, backend: Option<IptablesBackend>) -> Result<(), Error> {
    let (rules, _) = find_iptables(kernel_family(family), backend)?;
    if let Rules::Legacy(legacy) = rules {
        legacy.create(Table::Mangle)?;
    }
    Ok(())
}
