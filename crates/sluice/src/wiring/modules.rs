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
/// The kernel loads all but one by itself. iptables-legacy needs `ip_tables` and `ip6_tables`, for which
/// its programs start `modprobe`.
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

/// Reading a table of the legacy back end creates it, so the tables are left alone if the other back end
/// is chosen.
fn load_iptables(family: IpFamily, backend: Option<IptablesBackend>) -> Result<(), Error> {
    let (rules, _) = find_iptables(kernel_family(family), backend)?;
    if let Rules::Legacy(tools) = rules {
        tools.save(Table::Mangle)?;
    }
    Ok(())
}
