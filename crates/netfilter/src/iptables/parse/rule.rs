//! The words of a rule. Header options are interpreted at once; an extension's options are first
//! assigned to the extension.

use crate::iptables::name::{Chain, Family};
use crate::iptables::rule::{Counters, Header, Rule};
use crate::iptables::syntax::segment::{Item, Segment, Values, arity};
use crate::iptables::syntax::words::Word;
use crate::iptables::syntax::{Fault, Options, Parsed, values};
use crate::iptables::targets::Target;
use crate::iptables::value::{Negatable, Net};
use crate::iptables::{matches, targets};

struct Reader<'a> {
    family: Family,
    words: &'a [Word<'a>],
    at: usize,
    header: Header,
    counters: Option<Counters>,
    goto: Option<Chain>,
    segments: Vec<Segment<'a>>,
}

pub(super) fn parse<'a>(family: Family, words: &'a [Word<'a>]) -> Parsed<Rule> {
    let mut reader = Reader {
        family,
        words,
        at: 0,
        header: Header::default(),
        counters: None,
        goto: None,
        segments: Vec::with_capacity(4),
    };
    while reader.step()? {}
    reader.finish()
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<&'a Word<'a>> {
        let word = self.words.get(self.at)?;
        self.at += 1;
        Some(word)
    }

    fn value(&mut self, of: &Word<'_>) -> Parsed<&'a Word<'a>> {
        self.next()
            .ok_or_else(|| Fault::new(of.column, format!("{} needs a value", of.text)))
    }

    /// Parse one option with its values; `false` at the end.
    fn step(&mut self) -> Parsed<bool> {
        let Some(first) = self.next() else {
            return Ok(false);
        };
        let (negated, word) = if first.text == "!" {
            (true, self.value(first)?)
        } else {
            (false, first)
        };
        if !self.header_option(negated, word)? {
            self.extension_option(negated, word)?;
        }
        Ok(true)
    }

    /// Parse an option of the header; `false` if it is another option.
    fn header_option(&mut self, negated: bool, word: &'a Word<'a>) -> Parsed<bool> {
        let with = |value| Negatable { negated, value };
        match &*word.text {
            "-s" | "--source" | "--src" => {
                let net = values::net(self.family, self.value(word)?)?;
                set_once(&mut self.header.source, with(net), word)?;
                // iptables drops a condition that is always true.
                self.header.source = self.header.source.filter(|n| !is_void(n));
            }
            "-d" | "--destination" | "--dst" => {
                let net = values::net(self.family, self.value(word)?)?;
                set_once(&mut self.header.destination, with(net), word)?;
                self.header.destination = self.header.destination.filter(|n| !is_void(n));
            }
            "-i" | "--in-interface" => {
                let value = values::interface(self.value(word)?)?;
                set_once(
                    &mut self.header.in_interface,
                    Negatable { negated, value },
                    word,
                )?;
            }
            "-o" | "--out-interface" => {
                let value = values::interface(self.value(word)?)?;
                set_once(
                    &mut self.header.out_interface,
                    Negatable { negated, value },
                    word,
                )?;
            }
            // An option of that match; otherwise an abbreviation.
            "--proto" if self.segments.iter().any(|s| s.name == "policy") => return Ok(false),
            "-p" | "--protocol" | "--proto" => {
                let name = self.value(word)?;
                match values::protocol(name)? {
                    Some(value) => {
                        set_once(
                            &mut self.header.protocol,
                            Negatable { negated, value },
                            word,
                        )?;
                    }
                    None if negated => return Err(Fault::not_a(name, "a protocol to exclude")),
                    None => {}
                }
            }
            "-f" | "--fragment" if self.family == Family::Ipv4 => {
                let fragment = Negatable { negated, value: () };
                set_once(&mut self.header.fragment, fragment, word)?;
            }
            "-m" | "--match" => {
                not_negated(negated, word)?;
                let name = self.value(word)?;
                self.open(false, name, matches::options(&name.text));
            }
            "-j" | "--jump" => {
                not_negated(negated, word)?;
                let name = self.value(word)?;
                if self.goto.is_some() || self.segments.iter().any(|s| s.is_target) {
                    return Err(Fault::new(word.column, "a rule can have only one target"));
                }
                self.open(true, name, targets::options(&name.text));
            }
            "-g" | "--goto" => {
                not_negated(negated, word)?;
                let name = self.value(word)?;
                if self.goto.is_some() || self.segments.iter().any(|s| s.is_target) {
                    return Err(Fault::new(word.column, "a rule can have only one target"));
                }
                let chain = Chain::new(&name.text);
                self.goto = Some(chain.map_err(|e| Fault::new(name.column, e.to_string()))?);
            }
            "-c" | "--set-counters" => {
                not_negated(negated, word)?;
                let packets = values::number(self.value(word)?)?;
                let bytes = values::number(self.value(word)?)?;
                self.counters = Some(Counters { packets, bytes });
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn open(&mut self, is_target: bool, name: &'a Word<'a>, options: Option<Options>) {
        self.segments.push(Segment {
            is_target,
            name: &name.text,
            column: name.column,
            options,
            foreign: false,
            items: Vec::with_capacity(2),
        });
    }

    /// Assign an option to its extension.
    fn extension_option(&mut self, negated: bool, word: &'a Word<'a>) -> Parsed<()> {
        let option = &*word.text;
        if let Some((segment, arity)) = self.owner(option) {
            let end = self.at + usize::from(arity);
            let values = self.words.get(self.at..end).ok_or_else(|| {
                let message = format!("{option} needs {arity} values, but the line ends");
                Fault::new(word.column, message)
            })?;
            self.at = end;
            let values = Values::Words(values);
            self.push(segment, negated, option, word.column, values);
            return Ok(());
        }
        if option.starts_with("--")
            && let Some((name, value)) = option.split_once('=')
            && let Some((segment, 1)) = self.owner(name)
        {
            let value = Word {
                text: value.into(),
                column: word.column,
            };
            self.push(segment, negated, name, word.column, Values::Inline([value]));
            return Ok(());
        }
        self.foreign_option(negated, word)
    }

    /// Return the extension that has this option: the last one named, or the match that `-p` implies.
    fn owner(&mut self, option: &str) -> Option<(usize, u8)> {
        for (i, segment) in self.segments.iter().enumerate().rev() {
            if let Some(arity) = segment.arity(option) {
                return Some((i, arity));
            }
        }
        let (name, arity) = self.implicit(option)?;
        self.segments.push(Segment {
            is_target: false,
            name,
            column: 1,
            options: matches::options(name),
            foreign: false,
            items: Vec::new(),
        });
        Some((self.segments.len() - 1, arity))
    }

    /// Return the match that the protocol implies, if it has this option.
    fn implicit(&self, option: &str) -> Option<(&'static str, u8)> {
        let protocol = self.header.protocol.filter(|p| !p.negated)?;
        let name = match protocol.value.0 {
            1 => "icmp",
            6 => "tcp",
            17 => "udp",
            58 => "icmp6",
            132 => "sctp",
            _ => return None,
        };
        Some((name, arity(matches::options(name)?, option)?))
    }

    fn push(
        &mut self,
        segment: usize,
        negated: bool,
        option: &'a str,
        column: u32,
        values: Values<'a>,
    ) {
        if let Some(segment) = self.segments.get_mut(segment) {
            segment.items.push(Item {
                negated,
                option,
                column,
                values,
            });
        }
    }

    /// Keep an option that is not modelled, with the words up to the next option. It belongs to the
    /// target if the target was named last, else to the last extension that is not modelled, else
    /// to the last extension.
    fn foreign_option(&mut self, negated: bool, word: &'a Word<'a>) -> Parsed<()> {
        let unmodelled = |s: &Segment<'_>| s.foreign || s.options.is_none();
        let last = self.segments.last().filter(|s| s.is_target);
        let at = match last {
            Some(_) => None,
            None => self.segments.iter().rposition(unmodelled),
        };
        let Some(at) = at.or_else(|| self.segments.len().checked_sub(1)) else {
            return Err(Fault::not_a(word, "an option, or its extension is missing"));
        };
        if !word.text.starts_with('-') && !unmodelled(&self.segments[at]) {
            return Err(Fault::not_a(word, "an option"));
        }
        let start = self.at;
        while let Some(word) = self.words.get(self.at) {
            if word.text.starts_with('-') || word.text == "!" {
                break;
            }
            self.at += 1;
        }
        let values = Values::Words(self.words.get(start..self.at).unwrap_or_default());
        self.segments[at].foreign = true;
        self.push(at, negated, &word.text, word.column, values);
        Ok(())
    }

    /// Refuse an option that was kept for one extension although an extension named later has it:
    /// in print it would belong to the latter.
    fn early_options(&self) -> Parsed<()> {
        for segment in self.segments.iter().filter(|s| s.foreign) {
            let is_others = |item: &&Item<'_>| {
                let mut all = self.segments.iter();
                self.implicit(item.option).is_some()
                    || all.any(|s| !std::ptr::eq(s, segment) && s.arity(item.option).is_some())
            };
            if let Some(item) = segment.items.iter().find(is_others) {
                let message = format!("{} precedes its extension", item.option);
                return Err(Fault::new(item.column, message));
            }
        }
        Ok(())
    }

    fn finish(self) -> Parsed<Rule> {
        let matches = self.segments.iter().filter(|s| !s.is_target).count();
        let mut rule = Rule {
            header: self.header.clone(),
            matches: Vec::with_capacity(matches),
            target: self.goto.map(Target::Goto),
            counters: self.counters,
        };
        self.early_options()?;
        for segment in &self.segments {
            if segment.is_target {
                rule.target = Some(targets::build(self.family, segment)?);
            } else {
                rule.matches.push(matches::build(self.family, segment)?);
            }
        }
        Ok(rule)
    }
}

fn is_void(net: &Negatable<Net>) -> bool {
    net.value.is_everything() && !net.negated
}

fn set_once<T>(slot: &mut Option<T>, value: T, word: &Word<'_>) -> Parsed<()> {
    if slot.is_some() {
        return Err(Fault::new(
            word.column,
            format!("{} is repeated", word.text),
        ));
    }
    *slot = Some(value);
    Ok(())
}

fn not_negated(negated: bool, word: &Word<'_>) -> Parsed<()> {
    if negated {
        return Err(Fault::cannot_negate(word.column, &word.text));
    }
    Ok(())
}
