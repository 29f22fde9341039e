//! Removing what sluice or kube-proxy has put into the kernel: everything (`sluice cleanup`), or what
//! the modes that are not in force have left.

mod ipvs;
mod scope;
mod tools;

use anyhow::{Context as _, bail};
use dataplane::iptables::{Observation, cleanup, leftovers};
use dataplane::nftables::table_family;
use kernel::iptables::Backend;
use kernel::nfacct::{Counter, NfAcct};
use kernel::nfnetlink::{NfTables, TableId};
use kernel::sysctl::{Sysctl, SysctlTree};
use model::{IpFamily, Mode};
use netfilter::iptables::Table;
use netfilter::nft::Op;

use self::scope::Scope;
use self::tools::Found;
use crate::cli::CleanupArgs;
use crate::logging;

/// Carries out `sluice cleanup`.
pub(crate) fn command(args: &CleanupArgs) -> anyhow::Result<()> {
    logging::start_plain()?;
    run(Scope {
        in_force: None,
        dry_run: args.dry_run,
    })
}

/// Removes everything, in every mode's way. Goes on after a failure and reports all of them.
pub(crate) fn remove_all() -> anyhow::Result<()> {
    run(Scope {
        in_force: None,
        dry_run: false,
    })
}

/// Removes what other modes than this one have left. To be called when this one's rules are in
/// force, so that there is no moment without any.
pub(crate) fn remove_leftovers(in_force: Mode) -> anyhow::Result<()> {
    tracing::debug!("looking for what other modes than {in_force} have left");
    run(Scope {
        in_force: Some(in_force),
        dry_run: false,
    })
}

fn run(scope: Scope) -> anyhow::Result<()> {
    let mut failures = Vec::new();
    let mut modes = Mode::ALL;
    // Before iptables mode, with which it shares chains.
    modes.sort_by_key(|mode| *mode != Mode::Ipvs);
    for mode in modes.into_iter().filter(|mode| scope.holds(*mode)) {
        match mode {
            Mode::Iptables => all_iptables(scope, &mut failures),
            Mode::Ipvs => ipvs::run(scope, &mut failures),
            Mode::Nftables => tables(dataplane::nftables::TABLE, scope, &mut failures),
            Mode::Userspace => tables(dataplane::userspace::TABLE, scope, &mut failures),
        }
    }
    if scope.in_force.is_none()
        && !scope.dry_run
        && let Err(error) = nfacct()
    {
        failures.push(format!("packet counters: {error:#}"));
    }
    if failures.is_empty() {
        return Ok(());
    }
    bail!(
        "not everything could be removed:\n  {}",
        failures.join("\n  ")
    );
}

/// Remove rules from both back ends, whichever this node uses today.
fn all_iptables(scope: Scope, failures: &mut Vec<String>) {
    for backend in [Backend::Nft, Backend::Legacy] {
        for family in IpFamily::ALL {
            if let Err(error) = iptables(family, backend, scope) {
                failures.push(format!("{family}, {backend}: {error:#}"));
            }
        }
    }
}

fn tables(table: &str, scope: Scope, failures: &mut Vec<String>) {
    for family in IpFamily::ALL {
        if let Err(error) = nftables(family, table, scope.dry_run) {
            failures.push(format!("{family}, nftables table {table}: {error:#}"));
        }
    }
}

fn iptables(family: IpFamily, backend: Backend, scope: Scope) -> anyhow::Result<()> {
    let tables = [Table::Mangle, Table::Filter, Table::Nat];
    let Some(found) = Found::read(family, backend, &tables, scope)? else {
        return Ok(());
    };
    let observation = Observation::read(family, &found.rules).context("iptables-save")?;
    let input = match scope.in_force {
        None if loopback_is_open(family) => {
            let input = leftovers(&observation, |_, _| false);
            if cleanup(&observation) != input {
                tracing::warn!("{GUARD_STAYS}");
            }
            input
        }
        None => cleanup(&observation),
        Some(Mode::Ipvs) => leftovers(&observation, dataplane::ipvs::is_chain),
        Some(_) => leftovers(&observation, |_, _| false),
    };
    found.restore(&input, Mode::Iptables)
}

/// kube-proxy's clean-up does the same.
const GUARD_STAYS: &str = "KUBE-FIREWALL stays: it guards the addresses 127.0.0.0/8, which \
    net.ipv4.conf.all.route_localnet=1 opens to others. Where nothing else needs that: `sysctl -w \
    net.ipv4.conf.all.route_localnet=0`, and clean up again";

/// Whether others may send to this node's loopback addresses, as the iptables mode had it.
fn loopback_is_open(family: IpFamily) -> bool {
    let open = || SysctlTree::default().read_number(&Sysctl::ROUTE_LOCALNET);
    family == IpFamily::V4 && open().is_ok_and(|value| value != 0)
}

fn nftables(family: IpFamily, table: &str, dry_run: bool) -> anyhow::Result<()> {
    let table = TableId::new(table_family(family), table);
    let mut nft = NfTables::open()?;
    let (found, _) = nft.read_table(&table)?;
    if found.is_none() {
        return Ok(());
    }
    if dry_run {
        println!("# nft would be given\ndelete table {table}");
        return Ok(());
    }
    nft.commit(&table, &[Op::DeleteTable], None)?;
    tracing::info!("{family}: removed the nftables table {table}");
    Ok(())
}

/// The counters, once no rule names them any more.
fn nfacct() -> anyhow::Result<()> {
    let Some(mut nfacct) = NfAcct::open()? else {
        return Ok(());
    };
    for counter in Counter::ALL {
        nfacct.delete(counter)?;
    }
    Ok(())
}
