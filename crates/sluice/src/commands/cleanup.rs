//! `sluice cleanup`: removes everything that a proxy programmed.

use crate::cleanup;
use crate::cli::CleanupArgs;
use crate::logging;

/// Run `sluice cleanup`.
pub(crate) fn command(args: &CleanupArgs) -> anyhow::Result<()> {
    logging::start_plain()?;
    cleanup::remove_all(args.dry_run)
}
