//! sluice: makes Kubernetes Services work on a Linux node.

mod cleanup;
mod cli;
mod commands;
mod kubectl;
mod logging;
mod proxy;
mod sandbox;
mod settings;
mod socket;
mod system;
mod wiring;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    if is_called(kubectl::NAME) {
        return kubectl::command(std::env::args_os());
    }
    let matches = command().get_matches_from(arguments(std::env::args_os()));
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let done = ExitCode::SUCCESS;
    if matches!(
        cli.command,
        Command::Render(_)
            | Command::Trace(_)
            | Command::Explain(_)
            | Command::Verify(_)
            | Command::Status(_)
            | Command::Diagram(_)
            | Command::Facts
    ) && let Err(error) = kernel::process::end_with_the_reader()
    {
        eprintln!("sluice: {error}");
    }
    let result = match &cli.command {
        Command::Proxy(args) => {
            let proxy = matches.subcommand_matches("proxy").unwrap_or(&matches);
            commands::proxy::command(args, proxy).map(|()| done)
        }
        Command::Render(args) => commands::render::command(args).map(|()| done),
        Command::Trace(args) => Ok(commands::trace::command(args)),
        Command::Explain(args) => Ok(commands::explain::command(args)),
        Command::Verify(args) => Ok(commands::verify::command(args)),
        Command::Status(args) => Ok(commands::status::command(args)),
        Command::Diagram(args) => commands::diagram::command(args).map(|()| done),
        Command::Ui(args) => commands::ui::command(args).map(|()| done),
        Command::Facts => commands::facts::command().map(|()| done),
        Command::Cleanup(args) => commands::cleanup::command(args).map(|()| done),
        Command::Lab { command } => lab::cli::run(command),
        Command::LabEcho(args) => lab::echo::run(args).map(|()| done),
    };
    result.unwrap_or_else(|error| {
        eprintln!("sluice: {error:#}");
        ExitCode::FAILURE
    })
}

/// Return whether the program was started under a name.
fn is_called(name: &str) -> bool {
    let program = std::env::args_os().next();
    let program = program.as_deref().map(Path::new).and_then(Path::file_name);
    program.is_some_and(|program| program == name)
}

/// Return the command line: clap's derived part, and kube-proxy's flags from their table.
fn command() -> clap::Command {
    Cli::command().mut_subcommand("proxy", config::augment)
}

/// Return the arguments; if the program is called `kube-proxy`, they are those of `sluice proxy`.
fn arguments(given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = given.collect();
    let program = arguments.first().map(Path::new).and_then(Path::file_name);
    if program.is_some_and(|name| name == "kube-proxy") && !names_command(arguments.get(1)) {
        arguments.insert(1, "proxy".into());
    }
    if arguments.get(1).is_some_and(|a| a == "proxy") {
        arguments = config::normalize(arguments);
    }
    arguments
}

/// Return whether an argument is a command of sluice. kube-proxy has flags only, so that the image, which
/// contains the program as `kube-proxy`, can run the other commands too.
fn names_command(argument: Option<&OsString>) -> bool {
    let commands = Cli::command();
    argument.is_some_and(|word| commands.get_subcommands().any(|c| *word == *c.get_name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(words: &[&str]) -> Vec<OsString> {
        arguments(words.iter().map(OsString::from))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn sluice_called_as_kube_proxy_accepts_its_arguments() {
        let expected: Vec<OsString> = ["/usr/local/bin/kube-proxy", "proxy", "--proxy-mode=ipvs"]
            .map(OsString::from)
            .into();
        assert_eq!(
            called(&["/usr/local/bin/kube-proxy", "--proxy_mode=ipvs"]),
            expected
        );
        assert_eq!(called(&["sluice", "render"]), ["sluice", "render"]);
        let explain = ["kube-proxy", "explain", "demo/web"];
        assert_eq!(called(&explain), explain);
        assert_eq!(called(&["kube-proxy"]), ["kube-proxy", "proxy"]);
    }
}
