//! The text of rules, as `iptables-save` 1.8.9 prints it. `iptables-restore` reads the same form.

use std::fmt;

use super::name::{Chain, Policy, Table};
use super::restore::{Command, Restore};
use super::rule::{Counters, Header, Rule};
use super::syntax::text::{interface_name, negation, net_with_length, number, protocol_name};
use super::tables::{ChainState, TableSet, TableState};
use super::{matches, targets};

impl Rule {
    /// Append the words of the rule after `-A CHAIN`, each preceded by a space, without counters.
    pub fn write(&self, out: &mut String) {
        write_header(out, &self.header);
        for m in &self.matches {
            matches::write(out, m);
        }
        if let Some(target) = &self.target {
            targets::write(out, target);
        }
    }

    /// Append `-A CHAIN RULE` and a line feed.
    pub fn write_append(&self, out: &mut String, chain: Chain) {
        out.push_str("-A ");
        out.push_str(chain.as_str());
        self.write(out);
        out.push('\n');
    }
}

/// The words of the rule after `-A CHAIN`, without counters.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text);
        f.write_str(text.strip_prefix(' ').unwrap_or(&text))
    }
}

impl TableSet {
    /// Append all tables as `iptables-save` prints them, without comment lines. Rules with counters
    /// are printed with them, as with `iptables-save -c`.
    pub fn write(&self, out: &mut String) {
        for (table, state) in &self.tables {
            state.write(out, *table);
        }
    }
}

impl fmt::Display for TableSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text);
        f.write_str(&text)
    }
}

impl TableState {
    /// Append the table from `*table` to `COMMIT`.
    pub fn write(&self, out: &mut String, table: Table) {
        out.push('*');
        out.push_str(table.name());
        out.push('\n');
        // Built-in chains in the order of the hooks, then others by name.
        let built_in = table.built_in().iter().copied();
        let own = self.chains.keys().copied();
        let order: Vec<(Chain, &ChainState)> = built_in
            .chain(own.filter(|c| !table.is_built_in(*c)))
            .filter_map(|c| self.chains.get(&c).map(|state| (c, state)))
            .collect();
        for (chain, state) in &order {
            write_declaration(out, *chain, state.policy, Some(state.counters));
        }
        for (chain, state) in &order {
            for rule in &state.rules {
                write_counters(out, rule.counters);
                rule.write_append(out, *chain);
            }
        }
        out.push_str("COMMIT\n");
    }
}

impl Restore {
    /// Append the input for `iptables-restore`.
    pub fn write(&self, out: &mut String) {
        for section in &self.tables {
            out.push('*');
            out.push_str(section.table.name());
            out.push('\n');
            for (_, command) in &section.commands {
                command.write(out);
            }
            out.push_str("COMMIT\n");
        }
    }
}

impl fmt::Display for Restore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text);
        f.write_str(&text)
    }
}

impl Command {
    /// Append the command and a line feed.
    pub fn write(&self, out: &mut String) {
        let with_chain = |out: &mut String, option: &str, chain: &Chain| {
            out.push_str(option);
            out.push_str(chain.as_str());
        };
        match self {
            Command::Declare {
                chain,
                policy,
                counters,
            } => return write_declaration(out, *chain, *policy, *counters),
            Command::Append { chain, rule } => {
                write_counters(out, rule.counters);
                return rule.write_append(out, *chain);
            }
            Command::Insert {
                chain,
                position,
                rule,
            } => {
                write_counters(out, rule.counters);
                with_chain(out, "-I ", chain);
                // The default position.
                if *position != 1 {
                    out.push(' ');
                    number(out, u64::from(*position));
                }
                rule.write(out);
            }
            Command::Replace {
                chain,
                position,
                rule,
            } => {
                write_counters(out, rule.counters);
                with_chain(out, "-R ", chain);
                out.push(' ');
                number(out, u64::from(*position));
                rule.write(out);
            }
            Command::Delete { chain, rule } => {
                with_chain(out, "-D ", chain);
                rule.write(out);
            }
            Command::DeleteAt { chain, position } => {
                with_chain(out, "-D ", chain);
                out.push(' ');
                number(out, u64::from(*position));
            }
            Command::New { chain } => with_chain(out, "-N ", chain),
            Command::Flush { chain: Some(chain) } => with_chain(out, "-F ", chain),
            Command::Flush { chain: None } => out.push_str("-F"),
            Command::DeleteChain { chain: Some(chain) } => with_chain(out, "-X ", chain),
            Command::DeleteChain { chain: None } => out.push_str("-X"),
            Command::SetPolicy { chain, policy } => {
                with_chain(out, "-P ", chain);
                out.push(' ');
                out.push_str(&policy.to_string());
            }
        }
        out.push('\n');
    }
}

fn write_declaration(
    out: &mut String,
    chain: Chain,
    policy: Option<Policy>,
    counters: Option<Counters>,
) {
    out.push(':');
    out.push_str(chain.as_str());
    out.push_str(match policy {
        None => " -",
        Some(Policy::Accept) => " ACCEPT",
        Some(Policy::Drop) => " DROP",
    });
    if let Some(counters) = counters {
        out.push(' ');
        bracketed(out, counters);
    }
    out.push('\n');
}

fn write_counters(out: &mut String, counters: Option<Counters>) {
    if let Some(counters) = counters {
        bracketed(out, counters);
        out.push(' ');
    }
}

fn bracketed(out: &mut String, counters: Counters) {
    out.push('[');
    number(out, counters.packets);
    out.push(':');
    number(out, counters.bytes);
    out.push(']');
}

fn write_header(out: &mut String, header: &Header) {
    if let Some(net) = &header.source {
        negation(out, net);
        out.push_str(" -s ");
        net_with_length(out, &net.value);
    }
    if let Some(net) = &header.destination {
        negation(out, net);
        out.push_str(" -d ");
        net_with_length(out, &net.value);
    }
    if let Some(interface) = &header.in_interface {
        negation(out, interface);
        out.push_str(" -i ");
        interface_name(out, &interface.value);
    }
    if let Some(interface) = &header.out_interface {
        negation(out, interface);
        out.push_str(" -o ");
        interface_name(out, &interface.value);
    }
    if let Some(protocol) = &header.protocol {
        negation(out, protocol);
        out.push_str(" -p ");
        protocol_name(out, protocol.value);
    }
    if let Some(fragment) = &header.fragment {
        negation(out, fragment);
        out.push_str(" -f");
    }
}
