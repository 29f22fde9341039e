//! `sluice facts`: what decides about packets on this host, as one JSON object.

/// Run `sluice facts`.
pub(crate) fn command() -> anyhow::Result<()> {
    let facts = diagnose::facts::collect()?;
    for note in &facts.notes {
        eprintln!("sluice: {note}");
    }
    println!("{}", facts.to_json());
    Ok(())
}
