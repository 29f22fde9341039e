//! What decides about packets on this host, as one object.
//!
//! A question about the live system goes through the same object as one about a file, so that a file
//! attached to a bug report gives the same answers as its host.

mod host;
mod rules;

use trace::Facts;

/// Collect everything about the calling thread's network namespace. A part that cannot be read is
/// no error; [`Facts::notes`] names it.
///
/// # Errors
/// The interfaces, addresses or routes cannot be read.
pub fn collect() -> anyhow::Result<Facts> {
    let mut facts = host::collect()?;
    rules::collect(&mut facts);
    Ok(facts)
}
