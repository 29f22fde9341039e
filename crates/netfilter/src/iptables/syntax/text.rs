//! Pieces of a rule's text, as `iptables-save` 1.8.9 prints it.
//!
//! Everything is appended to one `String`: a large cluster has 300,000 rules, and `core::fmt` would
//! take most of the time of writing them.

use std::fmt;
use std::net::IpAddr;

use crate::iptables::value::{Interface, Negatable, Net, PortRange, Protocol};

pub(crate) fn negation<T>(out: &mut String, value: &Negatable<T>) {
    if value.negated {
        out.push_str(" !");
    }
}

pub(crate) fn interface_name(out: &mut String, interface: &Interface) {
    match interface {
        Interface::Name(name) => raw_word(out, name),
        Interface::Prefix(prefix) => {
            out.push_str(prefix);
            out.push('+');
        }
    }
}

pub(crate) fn protocol_name(out: &mut String, protocol: Protocol) {
    match protocol.name() {
        Some(name) => out.push_str(name),
        None => number(out, u64::from(protocol.0)),
    }
}

/// `10.0.0.0/8`, `10.0.0.1/32`, `10.0.0.1/255.0.0.255`.
pub(crate) fn net_with_length(out: &mut String, net: &Net) {
    address(out, net.addr());
    out.push('/');
    match net.prefix_len() {
        Some(length) => number(out, u64::from(length)),
        None => address(out, net.mask()),
    }
}

/// Like [`net_with_length`], without the length of a single address.
pub(crate) fn net_short(out: &mut String, net: &Net) {
    if *net == Net::host(net.addr()) {
        address(out, net.addr());
    } else {
        net_with_length(out, net);
    }
}

pub(crate) fn address(out: &mut String, addr: IpAddr) {
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
pub(crate) fn port_range(out: &mut String, ports: PortRange, separator: char) {
    number(out, ports.first.into());
    if ports.last != ports.first {
        out.push(separator);
        number(out, ports.last.into());
    }
}

/// Two digits at a time, copied from text: bytes would have to be checked for valid UTF-8, which
/// takes longer than producing them.
pub(crate) fn number(out: &mut String, n: u64) {
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

pub(crate) fn hex(out: &mut String, n: u32) {
    display(out, format_args!("{n:#x}"));
}

pub(crate) fn display(out: &mut String, value: impl fmt::Display) {
    // Writing to a String cannot fail.
    let _ = fmt::Write::write_fmt(out, format_args!("{value}"));
}

pub(crate) fn option(out: &mut String, name: &str) {
    out.push(' ');
    out.push_str(name);
}

pub(crate) fn option_number(out: &mut String, name: &str, n: u64) {
    option(out, name);
    out.push(' ');
    number(out, n);
}

/// A word, quoted as by iptables (`xtables_save_string`): if it contains any character except
/// letters, digits, `_` and `-`.
pub(crate) fn quoted(out: &mut String, text: &str) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    out.push(' ');
    if !text.is_empty() && text.bytes().all(plain) {
        out.push_str(text);
    } else {
        in_quotes(out, text);
    }
}

/// A word, quoted only if it would not be parsed as one word otherwise.
pub(crate) fn raw_word(out: &mut String, text: &str) {
    if text.is_empty() || text.contains(|c: char| c.is_ascii_whitespace() || c == '"') {
        in_quotes(out, text);
    } else {
        out.push_str(text);
    }
}

pub(crate) fn in_quotes(out: &mut String, text: &str) {
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

pub(crate) fn words(out: &mut String, words: &[Box<str>]) {
    for word in words {
        out.push(' ');
        raw_word(out, word);
    }
}

/// Append the chosen names, separated by commas; `none` if no name is chosen.
pub(crate) fn names<T: Copy>(
    out: &mut String,
    all: &[(&'static str, T)],
    none: &str,
    chosen: impl Fn(T) -> bool,
) {
    let mut first = true;
    for (name, value) in all {
        if chosen(*value) {
            if !first {
                out.push(',');
            }
            first = false;
            out.push_str(name);
        }
    }
    if first {
        out.push_str(none);
    }
}

pub(crate) fn u32_range(out: &mut String, (first, last): (u32, u32), separator: char) {
    number(out, first.into());
    if last != first {
        out.push(separator);
        number(out, last.into());
    }
}

/// An option without a value that can be negated.
pub(crate) fn switch(out: &mut String, name: &str, value: Option<bool>) {
    if let Some(on) = value {
        if !on {
            out.push_str(" !");
        }
        option(out, name);
    }
}

pub(crate) fn flags(out: &mut String, all: &[(bool, &str)]) {
    for (on, name) in all {
        if *on {
            option(out, name);
        }
    }
}
