//! `sluice cleanup`: removes what sluice or kube-proxy has put into the kernel.

use anyhow::{Context as _, bail};
use dataplane::iptables::{Observation, cleanup};
use dataplane::nftables::table_family;
use kernel::iptables::{Backend, Error, Iptables};
use kernel::nfacct::{Counter, NfAcct};
use kernel::nfnetlink::{NfTables, TableId};
use model::IpFamily;
use netfilter::iptables::Table;
use netfilter::nft::Op;

use crate::cli::CleanupArgs;
use crate::logging;

/// Carries out `sluice cleanup`.
pub(crate) fn command(args: &CleanupArgs) -> anyhow::Result<()> {
    logging::start_plain()?;
    run(args.dry_run)
}

/// Removes everything, in every mode's way. Goes on after a failure and reports all of them.
pub(crate) fn remove_all() -> anyhow::Result<()> {
    run(false)
}

fn run(dry_run: bool) -> anyhow::Result<()> {
    let mut failures = Vec::new();
    // Before the iptables mode, with which it has chains in common.
    crate::cleanup_ipvs::run(dry_run, &mut failures);
    // Rules may be in either back end, or in both, whatever this node uses today.
    for backend in [Backend::Nft, Backend::Legacy] {
        for family in IpFamily::ALL {
            if let Err(error) = iptables(family, backend, dry_run) {
                failures.push(format!("{family}, {backend}: {error:#}"));
            }
        }
    }
    for family in IpFamily::ALL {
        for table in [dataplane::nftables::TABLE, dataplane::userspace::TABLE] {
            if let Err(error) = nftables(family, table, dry_run) {
                failures.push(format!("{family}, nftables table {table}: {error:#}"));
            }
        }
    }
    if !dry_run && let Err(error) = nfacct() {
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

fn iptables(family: IpFamily, backend: Backend, dry_run: bool) -> anyhow::Result<()> {
    let tools = match Iptables::with_backend(crate::proxy::kernel_family(family), backend) {
        Ok(tools) => tools,
        // Without its tools nobody has made rules in a back end, nor in a family that is off.
        Err(Error::FamilyDisabled(_) | Error::NoTools { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut text = String::new();
    for table in [Table::Mangle, Table::Filter, Table::Nat] {
        match tools.save(table) {
            Ok(saved) => text.push_str(&String::from_utf8_lossy(&saved)),
            // A kernel without this table (or this back end) has no rules in it either.
            Err(error @ Error::Save { .. }) => tracing::debug!("{error}"),
            Err(error) => return Err(error.into()),
        }
    }
    if text.is_empty() {
        return Ok(());
    }
    let observation = Observation::read(family, &text).context("iptables-save")?;
    let input = cleanup(&observation);
    if input.is_empty() {
        return Ok(());
    }
    if dry_run {
        println!("# {family}, {backend} back end: iptables-restore --noflush would be given");
        print!("{input}");
        return Ok(());
    }
    tools.restore(input.as_bytes())?;
    tracing::info!("{family}: removed all rules from the {backend} back end");
    Ok(())
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
