//! Statements of the text form.

use super::block::Parser;
use super::expr::starts_expression;
use super::lex::Kind;
use super::{
    BinaryOp, Literal, NatStatement, NatType, Op, ParseError, SetOp, Statement, Term, TermType,
    VerdictStatement,
};

/// Words that set a verdict wherever a statement may begin.
const DECIDING: [&str; 12] = [
    "accept",
    "drop",
    "reject",
    "return",
    "continue",
    "jump",
    "goto",
    "queue",
    "dnat",
    "snat",
    "masquerade",
    "redirect",
];

impl Parser<'_> {
    /// Parse the next statement of a rule. Text that cannot be parsed is kept verbatim up to the verdict,
    /// or to the end of the line.
    pub(super) fn statement(&mut self) -> Statement {
        let from = self.place();
        match self.known_statement() {
            Ok(statement) => statement,
            Err(_) => {
                self.go_back(from);
                let mut depth = 0_i32;
                while let Some(token) = self.peek() {
                    let decides = token.kind == Kind::Word && DECIDING.contains(&token.text);
                    if decides && depth == 0 && self.place() != from {
                        break;
                    }
                    if token.is_sign("{") {
                        depth += 1;
                    } else if token.is_sign("}") {
                        depth -= 1;
                        if depth < 0 {
                            break;
                        }
                    } else if (token.kind == Kind::Newline || token.is_sign(";")) && depth == 0 {
                        break;
                    }
                    self.next();
                }
                Statement::Unknown(self.unknown(from, self.place()))
            }
        }
    }

    fn known_statement(&mut self) -> Result<Statement, ParseError> {
        let from = self.place();
        let Some(token) = self.peek() else {
            return Err(self.end_error());
        };
        if token.kind != Kind::Word {
            return Err(token.error("expected a statement"));
        }
        if let Some(verdict) = self.verdict()? {
            if verdict == VerdictStatement::Queue {
                self.skip_words(&["num", "to", "flags", "bypass", "fanout", "bypass,fanout"]);
            }
            return Ok(Statement::Verdict(verdict));
        }
        match token.text {
            "dnat" | "snat" | "masquerade" | "redirect" => {
                self.next();
                self.nat(token.text)
            }
            "reject" => {
                self.next();
                if self.take_word("with") {
                    self.skip_words(&["icmp", "icmpx", "icmpv6", "type", "tcp"]);
                    self.word("a reason")?;
                }
                Ok(Statement::Reject(self.text(from + 1, self.place())))
            }
            "counter" | "log" | "comment" | "last" | "flow" => {
                self.next();
                self.inert(token.text, from)
            }
            "limit" => {
                self.next();
                self.limit(from)
            }
            "quota" => {
                self.next();
                self.quota(from)
            }
            "notrack" => {
                self.next();
                Ok(Statement::Notrack)
            }
            "add" | "update" | "delete" | "set" => {
                self.next();
                self.dynset(token.text)
            }
            "xt" => {
                self.next();
                self.word("match or target")?;
                self.word("a name")?;
                Ok(Statement::Unknown(self.unknown(from, self.place())))
            }
            "tcp" if self.peek_at(1).is_some_and(|t| t.is_word("option")) => self.tcp_option(from),
            "ct" if self.peek_at(1).is_some_and(|t| {
                matches!(t.text, "helper" | "timeout" | "expectation") && t.kind == Kind::Word
            }) && self.peek_at(2).is_some_and(|t| t.is_word("set")) =>
            {
                for _ in 0..4 {
                    self.next();
                }
                Ok(Statement::Inert(self.text(from, self.place())))
            }
            word if starts_expression(word) || word.starts_with('@') => self.comparison(from),
            _ => Err(token.error("expected a statement")),
        }
    }

    /// `tcp option maxseg size set rt mtu` has no influence on the packet's path; comparisons with
    /// an option are not modelled.
    fn tcp_option(&mut self, from: usize) -> Result<Statement, ParseError> {
        for _ in 0..4 {
            self.next();
        }
        if self.take_word("set") {
            self.word("a value")?;
            self.skip_words(&["mtu"]);
            return Ok(Statement::Inert(self.text(from, self.place())));
        }
        let token = self.some()?;
        Err(token.error("comparisons with TCP options are not modelled"))
    }

    /// Skip these words, numbers and ranges.
    fn skip_words(&mut self, words: &[&str]) {
        while self.peek().is_some_and(|t| {
            t.kind == Kind::Word
                && (words.contains(&t.text) || t.text.starts_with(|c: char| c.is_ascii_digit()))
        }) {
            self.next();
        }
    }

    fn inert(&mut self, head: &str, from: usize) -> Result<Statement, ParseError> {
        match head {
            "comment" => {
                self.word("a comment")?;
            }
            "flow" => {
                self.word("add")?;
                self.word("a flowtable")?;
            }
            "last" => self.skip_words(&["used", "never"]),
            "counter" => {
                if self.take_word("name") {
                    self.word("a counter")?;
                } else {
                    self.skip_words(&["packets", "bytes"]);
                }
            }
            _ => {
                while let Some(token) = self.peek().filter(|t| t.kind == Kind::Word) {
                    match token.text {
                        "prefix" | "level" | "group" | "snaplen" | "queue-threshold" | "flags" => {
                            self.next();
                            self.word("a value")?;
                            // `flags tcp sequence,options` and `flags ip options` have two words.
                            self.skip_words(&["sequence", "options"]);
                            while self.take_sign(",") {
                                self.word("a value")?;
                            }
                        }
                        _ => break,
                    }
                }
            }
        }
        Ok(Statement::Inert(self.text(from, self.place())))
    }

    fn limit(&mut self, from: usize) -> Result<Statement, ParseError> {
        let mut over = false;
        if self.take_word("name") {
            self.word("a limit")?;
        } else {
            self.word("rate")?;
            over = self.take_word("over");
            self.word("a rate")?;
            self.skip_words(&["bytes/second", "kbytes/second", "mbytes/second"]);
            if self.take_word("burst") {
                self.word("a burst")?;
                self.skip_words(&["packets", "bytes", "kbytes", "mbytes"]);
            }
        }
        Ok(Statement::Limit {
            over,
            text: self.text(from, self.place()),
        })
    }

    /// Parse `over 10 mbytes used 0 bytes`, after `quota`. The values of a named one are in its object.
    fn quota(&mut self, from: usize) -> Result<Statement, ParseError> {
        if self.take_word("name") {
            self.word("a quota")?;
            return Ok(Statement::Unknown(self.unknown(from, self.place())));
        }
        let over = self.take_word("over");
        self.skip_words(&["until", "used", "bytes", "kbytes", "mbytes"]);
        Ok(Statement::Limit {
            over,
            text: self.text(from, self.place()),
        })
    }

    /// Parse `@set { ip saddr timeout 5m : value }`, after `add` or `update`.
    fn dynset(&mut self, head: &str) -> Result<Statement, ParseError> {
        let (op, name) = match head {
            "update" => (SetOp::Update, self.word("a set")?),
            "delete" => (SetOp::Delete, self.word("a set")?),
            "add" => (SetOp::Add, self.word("a set")?),
            // `set update ip saddr @set`, from older versions.
            _ => {
                let op = match self.word("add or update")?.text {
                    "update" => SetOp::Update,
                    "delete" => SetOp::Delete,
                    _ => SetOp::Add,
                };
                let key = self.expression()?;
                let name = self.word("a set")?;
                return Ok(Statement::Dynset {
                    op,
                    set: name.text.trim_start_matches('@').into(),
                    key,
                    value: None,
                    condition: None,
                });
            }
        };
        let Some(set) = name.text.strip_prefix('@') else {
            return Err(name.error("a set starts with @"));
        };
        self.sign("{")?;
        let key = self.expression()?;
        let from = self.place();
        let mut value = None;
        let mut conditional = false;
        while !self.take_sign("}") {
            if self.take_word(":") {
                value = Some(self.expression()?);
                continue;
            }
            let token = self.some()?;
            if token.kind == Kind::Newline {
                return Err(token.error("the element is not closed on its line"));
            }
            conditional |= matches!(token.text, "limit" | "ct" | "quota");
        }
        let condition = conditional.then(|| self.text(from, self.place().saturating_sub(1)));
        Ok(Statement::Dynset {
            op,
            set: set.into(),
            key,
            value,
            condition,
        })
    }

    fn nat(&mut self, head: &str) -> Result<Statement, ParseError> {
        let kind = match head {
            "dnat" => NatType::Dnat,
            "snat" => NatType::Snat,
            "masquerade" => NatType::Masquerade,
            _ => NatType::Redirect,
        };
        let (mut address, mut port) = (None, None);
        while self.take_word("ip") || self.take_word("ip6") || self.take_word("inet") {}
        // `addr . port` repeats the types of the concatenation.
        if self.take_word("addr") {
            self.skip_words(&[".", "port"]);
        }
        if self.is_word("prefix") || self.is_word("interval") {
            let token = self.some()?;
            return Err(token.error("mappings from prefixes to prefixes are not modelled"));
        }
        if self.take_word("to") {
            if let Some((a, p)) = self.plain_target() {
                (address, port) = (a, p);
            } else if self.is_word(":") {
                self.next();
                port = Some(self.expression()?);
            } else {
                address = Some(self.expression()?);
                if self.take_word(":") {
                    port = Some(self.expression()?);
                }
            }
        }
        let mut flags: Vec<Box<str>> = Vec::new();
        while let Some(token) = self.peek().filter(|t| t.kind == Kind::Word) {
            let words: Vec<&str> = token.text.split(',').filter(|w| !w.is_empty()).collect();
            let all = words
                .iter()
                .all(|w| matches!(*w, "random" | "fully-random" | "persistent"));
            if !all || words.is_empty() {
                break;
            }
            flags.extend(words.into_iter().map(Into::into));
            self.next();
            self.take_sign(",");
        }
        Ok(Statement::Nat(NatStatement {
            kind,
            address,
            port,
            flags,
        }))
    }

    /// Parse `10.0.0.1:80`, `[fd00::1]:80-90`, `:8080`; `None` for anything else.
    fn plain_target(&mut self) -> Option<(Option<Term>, Option<Term>)> {
        let token = self.peek().filter(|t| t.kind == Kind::Word)?;
        if let Some((address, port)) = split_target(token.text) {
            self.next();
            return Some((address, port));
        }
        // An address directly followed by an expression for the port: `10.0.0.1:th dport map @m`.
        let (address, rest) = token.text.rsplit_once(':')?;
        let (address, None) = split_target(address)? else {
            return None;
        };
        self.shorten(token.text.len() - rest.len());
        let port = self.expression().ok()?;
        Some((address, Some(port)))
    }

    /// Parse a comparison, a lookup in a verdict map, or an assignment.
    fn comparison(&mut self, from: usize) -> Result<Statement, ParseError> {
        let left = self.expression()?;
        if self.take_word("vmap") {
            let map = self.set_ref(&left.types(), &[TermType::Verdict])?;
            return Ok(Statement::Vmap { key: left, map });
        }
        let types = left.types();
        if self.take_word("set") {
            let value = self.expression_of(&types, 0)?;
            // Only marks influence a packet's path.
            return Ok(match left {
                Term::Meta(super::Meta::Mark) | Term::Ct(super::Ct::Mark) => {
                    Statement::Assign { field: left, value }
                }
                Term::Field(_) => Statement::Unknown(self.unknown(from, self.place())),
                _ => Statement::Inert(self.text(from, self.place())),
            });
        }
        let op = match self.peek().filter(|t| t.kind == Kind::Sign).map(|t| t.text) {
            Some("==") => Op::Eq,
            Some("!=") => Op::Ne,
            Some("<") => Op::Lt,
            Some(">") => Op::Gt,
            Some("<=") => Op::Le,
            Some(">=") => Op::Ge,
            Some("!") => Op::Not,
            _ => Op::Implicit,
        };
        if op != Op::Implicit {
            self.next();
        }
        if self.is_sign("{") {
            self.next();
            let elements = self.elements(&types, &[])?;
            let set = super::SetDecl {
                key: types,
                elements: elements.into(),
                ..super::SetDecl::default()
            };
            return Ok(Statement::Match {
                left,
                op,
                right: Term::Set(Box::new(set)),
            });
        }
        if let Term::Unknown(_) = left {
            // Some operands have no right side (`tcp option maxseg exists`, `rt ipsec missing`); the rest
            // of the statement is then empty.
            if self.peek().is_none_or(|t| t.kind == Kind::Newline) {
                return Ok(Statement::Unknown(self.unknown(from, self.place())));
            }
        }
        let right = self.expression_of(&types, 0)?;
        // `tcp flags syn / fin,syn,rst,ack`: exactly these of the mask.
        if self.take_word("/") {
            let mask = self.expression_of(&types, 0)?;
            return Ok(Statement::Match {
                left: Term::Binary {
                    op: BinaryOp::And,
                    left: Box::new(left),
                    right: Box::new(all_flags(mask)),
                },
                op: if op == Op::Implicit { Op::Eq } else { op },
                right: all_flags(right),
            });
        }
        Ok(Statement::Match { left, op, right })
    }
}

/// Combine flags into one number.
pub(super) fn all_flags(expr: Term) -> Term {
    match expr {
        Term::Flags(values) => Term::Value(Literal::Int(
            values
                .iter()
                .filter_map(super::expr::as_int)
                .fold(0, |a, b| a | b),
        )),
        other => other,
    }
}

/// Split an address and port that are written as one word.
pub(super) fn split_target(text: &str) -> Option<(Option<Term>, Option<Term>)> {
    let address = |t: &str| -> Option<Term> {
        match super::literal::item(t.trim_matches(['[', ']']), TermType::Other) {
            super::Item::Value(Literal::Ip(ip)) => Some(Term::Value(Literal::Ip(ip))),
            super::Item::Range(a @ Literal::Ip(_), b) => Some(Term::Range(a, b)),
            _ => None,
        }
    };
    let port = |t: &str| -> Option<Term> {
        match super::literal::item(t, TermType::InetService) {
            super::Item::Value(Literal::Int(n)) => Some(Term::Value(Literal::Int(n))),
            super::Item::Range(a @ Literal::Int(_), b) => Some(Term::Range(a, b)),
            _ => None,
        }
    };
    if let Some(rest) = text.strip_prefix(':').filter(|r| !r.is_empty()) {
        return port(rest).map(|p| (None, Some(p)));
    }
    if let Some(a) = address(text) {
        return Some((Some(a), None));
    }
    let (a, p) = text.rsplit_once(':')?;
    // `fd00::1:80` without brackets is an address, which was handled above.
    Some((Some(address(a)?), Some(port(p)?)))
}
