//! The host's side of things, for every room of the program.

use anyhow::Context as _;
use model::IpFamily;

/// The family in netfilter's terms.
pub(crate) fn kernel_family(family: IpFamily) -> netfilter::iptables::Family {
    match family {
        IpFamily::V4 => netfilter::iptables::Family::Ipv4,
        IpFamily::V6 => netfilter::iptables::Family::Ipv6,
    }
}

/// A thread that is not waited for.
pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .with_context(|| format!("cannot start the thread {name}"))?;
    Ok(())
}
