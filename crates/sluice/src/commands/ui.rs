//! `sluice ui`: a page about Services, rules and packets.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use diagnose::explain::Inspector;
use trace::Facts;
use ui::{Given, Nodes, Origin, Ui};

use super::explain;
use crate::cli::{HostArgs, PageArgs, UiArgs};

/// Run `sluice ui`.
pub(crate) fn command(args: &UiArgs) -> anyhow::Result<()> {
    let owned = args.clone();
    show(&args.page, move || load(&owned))
}

/// Serve the page, or write it into a file.
pub(crate) fn show(
    args: &PageArgs,
    load: impl Fn() -> anyhow::Result<Vec<Given>> + Send + Sync + 'static,
) -> anyhow::Result<()> {
    if let Some(path) = &args.export {
        let nodes = Nodes::new(load()?);
        nodes.wait();
        let questions = nodes.questions(&args.service, args.most);
        let html = ui::export(&nodes, &questions);
        return std::fs::write(path, html)
            .with_context(|| format!("cannot write {}", path.display()));
    }
    let running = ui::serve(Ui {
        listen: args.listen,
        load: Box::new(load),
    })?;
    println!("{}", running.url);
    if args.open {
        let mut browser = Command::new("xdg-open");
        browser.arg(&running.url);
        browser.stdin(Stdio::null()).stdout(Stdio::null());
        if let Err(error) = browser.spawn() {
            eprintln!("sluice: cannot run xdg-open: {error}; open the URL above");
        }
    }
    running.wait()
}

/// Read this host, or the nodes of the files.
fn load(args: &UiArgs) -> anyhow::Result<Vec<Given>> {
    if args.facts.is_empty() {
        let inspector = explain::inspector(&args.objects, &HostArgs::default())?;
        return Ok(vec![Given {
            inspector,
            origin: Origin::Live,
            client: args.objects.client,
        }]);
    }
    if args.facts.len() > 1 && args.objects.node.is_some() {
        bail!(
            "--node names one node, but --facts names {} files",
            args.facts.len()
        );
    }
    let read = |path: &std::path::PathBuf| -> anyhow::Result<(String, Facts)> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        let facts = Facts::parse(&text).with_context(|| format!("in {name}"))?;
        Ok((name, facts))
    };
    let files = args.facts.iter().map(read);
    let files = files.collect::<anyhow::Result<Vec<_>>>()?;
    let given = explain::of_facts(&args.objects, files.iter().map(|(_, facts)| facts.clone()))?;
    let named = files.into_iter().zip(given);
    let nodes = named.map(|((name, _), given)| Given {
        inspector: Inspector::new(given),
        origin: Origin::File(name),
        client: args.objects.client,
    });
    Ok(nodes.collect())
}

/// Return the objects in the text of a List.
pub(crate) fn objects(text: &str) -> anyhow::Result<Vec<model::Event>> {
    let batch = source::manifests::read_bytes(Path::new("objects.json"), text.as_bytes());
    if let (Some(problem), true) = (batch.problems.first(), batch.events.is_empty()) {
        bail!("{problem}");
    }
    Ok(batch.events)
}
