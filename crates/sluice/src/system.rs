//! Helpers for the host's interfaces, used by all parts of the program.

use anyhow::Context as _;
use model::IpFamily;

/// Convert to netfilter's address family.
pub(crate) fn kernel_family(family: IpFamily) -> netfilter::iptables::Family {
    match family {
        IpFamily::V4 => netfilter::iptables::Family::Ipv4,
        IpFamily::V6 => netfilter::iptables::Family::Ipv6,
    }
}

/// Start a detached thread.
pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .with_context(|| format!("cannot start the thread {name}"))?;
    Ok(())
}
