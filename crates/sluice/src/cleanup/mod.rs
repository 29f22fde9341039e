//! Removal of the kernel state of sluice or kube-proxy: of everything (`sluice cleanup`), or of the
//! modes that are not in force.

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

pub(crate) use self::scope::InForce;
use self::scope::Scope;
use self::tools::Found;

/// Remove the state of every mode, or print what would be removed. Continue after a failure and report all
/// failures.
pub(crate) fn remove_all(dry_run: bool) -> anyhow::Result<()> {
    run(Scope {
        in_force: None,
        dry_run,
    })
}

/// Remove the state of all modes except this one, and this mode's rules in the other iptables back
/// end. Call it when this mode's rules are in force, so that connections never find the node without
/// rules.
pub(crate) fn remove_leftovers(in_force: &InForce) -> anyhow::Result<()> {
    let mode = in_force.mode;
    tracing::debug!(%mode, "Checking for the state of an earlier proxy");
    run(Scope {
        in_force: Some(in_force),
        dry_run: false,
    })
}

fn run(scope: Scope<'_>) -> anyhow::Result<()> {
    let mut failures = Vec::new();
    let mut modes = Mode::ALL;
    // Before iptables mode, with which it shares chains.
    modes.sort_by_key(|mode| *mode != Mode::Ipvs);
    for mode in modes {
        match mode {
            Mode::Iptables => all_iptables(scope, &mut failures),
            Mode::Ipvs => ipvs::run(scope, &mut failures),
            mode if scope.mode() == Some(mode) => {}
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
    bail!("could not remove everything:\n  {}", failures.join("\n  "));
}

/// Remove rules from both back ends, whichever this node uses today.
fn all_iptables(scope: Scope<'_>, failures: &mut Vec<String>) {
    for backend in [Backend::Nft, Backend::Legacy] {
        for family in IpFamily::ALL {
            if scope.removes_rules(Mode::Iptables, family, backend)
                && let Err(error) = iptables(family, backend, scope)
            {
                failures.push(format!("{family}, {backend}: {error:#}"));
            }
        }
    }
}

fn tables(table: &str, scope: Scope<'_>, failures: &mut Vec<String>) {
    for family in IpFamily::ALL {
        if let Err(error) = nftables(family, table, scope.dry_run) {
            failures.push(format!("{family}, nftables table {table}: {error:#}"));
        }
    }
}

fn iptables(family: IpFamily, backend: Backend, scope: Scope<'_>) -> anyhow::Result<()> {
    let tables = [Table::Mangle, Table::Filter, Table::Nat];
    let Some(mut found) = Found::read(family, backend, &tables, scope)? else {
        return Ok(());
    };
    let observation = Observation::read(family, &found.rules)
        .context("cannot parse the output of iptables-save")?;
    let input = match scope.in_force {
        None if loopback_is_open(family) => {
            let input = leftovers(&observation, |_, _| false);
            // kube-proxy's `--cleanup` keeps the chain too.
            if cleanup(&observation) != input {
                tracing::warn!(
                    sysctl = "net.ipv4.conf.all.route_localnet=1",
                    fix = "sysctl -w net.ipv4.conf.all.route_localnet=0, then clean up again",
                    "Keeping KUBE-FIREWALL, because the sysctl opens 127.0.0.0/8 to other hosts"
                );
            }
            input
        }
        None => cleanup(&observation),
        Some(_) => {
            let shared = scope.mode_in(family, backend) == Some(Mode::Ipvs);
            leftovers(&observation, |table, chain| {
                shared && dataplane::ipvs::is_chain(table, chain)
            })
        }
    };
    found.restore(&input, Mode::Iptables)
}

/// Return whether other hosts can send to this node's loopback addresses, as iptables mode allows.
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
        println!("# input for nft:\ndelete table {table}");
        return Ok(());
    }
    nft.commit(&table, &[Op::DeleteTable], None)?;
    tracing::info!(%family, %table, "Removed an nftables table");
    Ok(())
}

/// Delete the counters, which no rule names any more.
fn nfacct() -> anyhow::Result<()> {
    let Some(mut nfacct) = NfAcct::open()? else {
        return Ok(());
    };
    for counter in Counter::ALL {
        nfacct.delete(counter)?;
    }
    Ok(())
}
