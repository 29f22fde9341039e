//! `sluice facts`: what decides about packets on this host, as one JSON object.
//!
//! A question asked of the live system goes through the same object, so that a file attached to a
//! bug report gives the same answers as the host that it was taken on.

mod host;
mod rules;

use trace::Facts;

/// Carries out `sluice facts`.
pub(crate) fn command() -> anyhow::Result<()> {
    let facts = collect()?;
    for note in &facts.notes {
        eprintln!("sluice: {note}");
    }
    println!("{}", facts.to_json());
    Ok(())
}

/// Everything about the calling thread's network namespace. A tool that is missing is no error: what
/// it would have told and could matter stands in [`Facts::notes`].
pub(crate) fn collect() -> anyhow::Result<Facts> {
    let mut facts = host::collect()?;
    rules::collect(&mut facts);
    Ok(facts)
}
