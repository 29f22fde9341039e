//! The text of rules, as `iptables-save` 1.8.9 prints it. `iptables-restore` reads the same form.
//!
//! Everything is pushed onto one `String`: a large cluster has 300,000 rules, and the formatting
//! machinery of `core::fmt` would be most of the cost of writing them.

mod matches;
mod targets;

use std::fmt;
use std::net::IpAddr;

use super::{
    Chain, ChainState, Command, Counters, Header, Interface, Negatable, Net, PortRange, Protocol,
    Restore, Rule, Table, TableSet, TableState,
};

impl Rule {
    /// Appends the rule's words, without `-A CHAIN` and without counters, each with a space
    /// before it.
    pub fn write(&self, out: &mut String) {
        write_header(out, &self.header);
        for m in &self.matches {
            matches::write(out, m);
        }
        if let Some(target) = &self.target {
            targets::write(out, target);
        }
    }

    /// Appends `-A CHAIN RULE` and a line feed.
    pub fn write_append(&self, out: &mut String, chain: Chain) {
        out.push_str("-A ");
        out.push_str(chain.as_str());
        self.write(out);
        out.push('\n');
    }
}

/// The rule's words, without `-A CHAIN` and without counters.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text);
        f.write_str(text.strip_prefix(' ').unwrap_or(&text))
    }
}

impl TableSet {
    /// Appends the whole as `iptables-save` prints it, without comment lines; rules that have
    /// counters are printed with them, as under `iptables-save -c`.
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
    /// Appends the table from `*table` to `COMMIT`.
    pub fn write(&self, out: &mut String, table: Table) {
        out.push('*');
        out.push_str(table.name());
        out.push('\n');
        // Built-in chains in the order of the hooks, then the others by name.
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
    /// Appends the input for `iptables-restore`.
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
    /// Appends the command and a line feed.
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
                // 1 is what it means without a number.
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
    policy: Option<super::Policy>,
    counters: Option<Counters>,
) {
    out.push(':');
    out.push_str(chain.as_str());
    out.push_str(match policy {
        None => " -",
        Some(super::Policy::Accept) => " ACCEPT",
        Some(super::Policy::Drop) => " DROP",
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

fn negation<T>(out: &mut String, value: &Negatable<T>) {
    if value.negated {
        out.push_str(" !");
    }
}

fn interface_name(out: &mut String, interface: &Interface) {
    match interface {
        Interface::Name(name) => raw_word(out, name),
        Interface::Prefix(prefix) => {
            out.push_str(prefix);
            out.push('+');
        }
    }
}

fn protocol_name(out: &mut String, protocol: Protocol) {
    match protocol.name() {
        Some(name) => out.push_str(name),
        None => number(out, u64::from(protocol.0)),
    }
}

/// `10.0.0.0/8`, `10.0.0.1/32`, `10.0.0.1/255.0.0.255`.
fn net_with_length(out: &mut String, net: &Net) {
    address(out, net.addr());
    out.push('/');
    match net.prefix_len() {
        Some(length) => number(out, u64::from(length)),
        None => address(out, net.mask()),
    }
}

/// As [`net_with_length`], without the length for a single address.
fn net_short(out: &mut String, net: &Net) {
    if *net == Net::host(net.addr()) {
        address(out, net.addr());
    } else {
        net_with_length(out, net);
    }
}

fn address(out: &mut String, addr: IpAddr) {
    match addr {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            number(out, a.into());
            out.push('.');
            number(out, b.into());
            out.push('.');
            number(out, c.into());
            out.push('.');
            number(out, d.into());
        }
        IpAddr::V6(v6) => display(out, v6),
    }
}

/// `80`, or `80:90` with `:` as the separator.
fn port_range(out: &mut String, ports: PortRange, separator: char) {
    number(out, ports.first.into());
    if ports.last != ports.first {
        out.push(separator);
        number(out, ports.last.into());
    }
}

/// Two digits at a time, from text: digits made as bytes would have to be checked to be UTF-8,
/// which takes longer than making them.
fn number(out: &mut String, n: u64) {
    const PAIRS: &str = "00010203040506070809101112131415161718192021222324\
        25262728293031323334353637383940414243444546474849\
        50515253545556575859606162636465666768697071727374\
        75767778798081828384858687888990919293949596979899";
    if n < 10 {
        out.push(char::from(b'0' + n as u8));
        return;
    }
    if n >= 100 {
        number(out, n / 100);
    }
    let at = (n % 100) as usize * 2;
    out.push_str(&PAIRS[at..at + 2]);
}

fn hex(out: &mut String, n: u32) {
    display(out, format_args!("{n:#x}"));
}

fn display(out: &mut String, value: impl fmt::Display) {
    // Writing to a String cannot fail.
    let _ = fmt::Write::write_fmt(out, format_args!("{value}"));
}

fn option(out: &mut String, name: &str) {
    out.push(' ');
    out.push_str(name);
}

fn option_number(out: &mut String, name: &str, n: u64) {
    option(out, name);
    out.push(' ');
    number(out, n);
}

/// A word in quotes where iptables would put it in quotes (`xtables_save_string`): whenever it has
/// any character but letters, digits, `_` and `-`.
fn quoted(out: &mut String, text: &str) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    out.push(' ');
    if !text.is_empty() && text.bytes().all(plain) {
        out.push_str(text);
    } else {
        in_quotes(out, text);
    }
}

/// A word, in quotes only where it would otherwise not be read back as one word.
fn raw_word(out: &mut String, text: &str) {
    if text.is_empty() || text.contains(|c: char| c.is_ascii_whitespace() || c == '"') {
        in_quotes(out, text);
    } else {
        out.push_str(text);
    }
}

fn in_quotes(out: &mut String, text: &str) {
    out.push('"');
    if text.bytes().any(|b| matches!(b, b'"' | b'\\' | b'\'')) {
        for c in text.chars() {
            if matches!(c, '"' | '\\' | '\'') {
                out.push('\\');
            }
            out.push(c);
        }
    } else {
        out.push_str(text);
    }
    out.push('"');
}

fn words(out: &mut String, words: &[Box<str>]) {
    for word in words {
        out.push(' ');
        raw_word(out, word);
    }
}
