//! Tables, chains and sets of a listing.

use super::lex::{Kind, Token, lex};
use super::literal::name as text_value;
use super::{
    BaseDecl, ChainDecl, ChainType, ElementDecl, Mapped, ParseError, RuleDecl, Ruleset, SetDecl,
    TableDecl, TableFamily, TermType, Unknown, VerdictStatement, literal,
};

/// The tokens of a listing, and the position in them.
pub(super) struct Parser<'a> {
    pub(super) source: &'a str,
    tokens: Vec<Token<'a>>,
    at: usize,
}

const END: &str = "the listing ends here: is it complete?";

impl<'a> Parser<'a> {
    pub(super) fn new(source: &'a str) -> Result<Self, ParseError> {
        Ok(Self {
            source,
            tokens: lex(source)?,
            at: 0,
        })
    }

    pub(super) fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }

    pub(super) fn peek_at(&self, ahead: usize) -> Option<Token<'a>> {
        self.tokens.get(self.at + ahead).copied()
    }

    pub(super) fn next(&mut self) -> Option<Token<'a>> {
        let token = self.peek()?;
        self.at += 1;
        Some(token)
    }

    /// Cut the first `len` bytes off the next token.
    pub(super) fn shorten(&mut self, len: usize) {
        if let Some(token) = self.tokens.get_mut(self.at) {
            token.text = token.text.get(len..).unwrap_or_default();
            token.column += len;
        }
    }

    pub(super) fn place(&self) -> usize {
        self.at
    }

    pub(super) fn go_back(&mut self, place: usize) {
        self.at = place;
    }

    pub(super) fn end_error(&self) -> ParseError {
        let (line, column) = match self.tokens.last() {
            Some(t) => (t.line, t.column + t.text.len()),
            None => (1, 1),
        };
        ParseError {
            line,
            column,
            message: END.to_owned(),
        }
    }

    /// Return the next token, or the error at the end of the listing.
    pub(super) fn some(&mut self) -> Result<Token<'a>, ParseError> {
        self.next().ok_or_else(|| self.end_error())
    }

    pub(super) fn is_sign(&self, sign: &str) -> bool {
        self.peek().is_some_and(|t| t.is_sign(sign))
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        self.peek().is_some_and(|t| t.is_word(word))
    }

    /// Consume a sign if it is next.
    pub(super) fn take_sign(&mut self, sign: &str) -> bool {
        let there = self.is_sign(sign);
        self.at += usize::from(there);
        there
    }

    pub(super) fn take_word(&mut self, word: &str) -> bool {
        let there = self.is_word(word);
        self.at += usize::from(there);
        there
    }

    pub(super) fn sign(&mut self, sign: &str) -> Result<Token<'a>, ParseError> {
        let token = self.some()?;
        if token.is_sign(sign) {
            Ok(token)
        } else {
            Err(token.error(format!("expected {sign:?}, found {}", token.shown())))
        }
    }

    pub(super) fn word(&mut self, what: &str) -> Result<Token<'a>, ParseError> {
        let token = self.some()?;
        match token.kind {
            Kind::Word | Kind::Quoted => Ok(token),
            _ => Err(token.error(format!("expected {what}, found {}", token.shown()))),
        }
    }

    pub(super) fn skip_newlines(&mut self) {
        while self.peek().is_some_and(|t| t.kind == Kind::Newline) {
            self.at += 1;
        }
    }

    /// Skip separators between the statements of a block.
    fn end_statement(&mut self) {
        while self
            .peek()
            .is_some_and(|t| t.kind == Kind::Newline || t.is_sign(";"))
        {
            self.at += 1;
        }
    }

    /// Skip to behind the brace that closes the one just read.
    fn skip_block(&mut self) -> Result<(), ParseError> {
        let mut depth = 1_usize;
        while depth > 0 {
            let token = self.some()?;
            if token.is_sign("{") {
                depth += 1;
            } else if token.is_sign("}") {
                depth -= 1;
            }
        }
        Ok(())
    }

    /// Return the source between two positions, with white space normalised.
    pub(super) fn text(&self, from: usize, to: usize) -> Box<str> {
        let start = self.tokens.get(from).map_or(0, |t| t.span.0);
        let end = to
            .checked_sub(1)
            .and_then(|i| self.tokens.get(i))
            .map_or(start, |t| t.span.1);
        let slice = self.source.get(start..end).unwrap_or_default();
        if slice.contains(['\n', '\t']) {
            slice
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .into()
        } else {
            slice.into()
        }
    }

    pub(super) fn unknown(&self, from: usize, to: usize) -> Unknown {
        let (line, column) = self.tokens.get(from).map_or((0, 0), |t| (t.line, t.column));
        Unknown {
            text: self.text(from, to),
            line,
            column,
        }
    }
}

/// Return the tables that nft marks as managed by iptables-nft.
fn iptables_tables(source: &str) -> Vec<(&str, &str)> {
    let of_line = |line: &'_ str| -> Option<(usize, usize)> {
        let rest = line.strip_prefix("# Warning: table ")?;
        rest.find(" is managed by iptables-nft")
            .map(|end| (17, 17 + end))
    };
    source
        .lines()
        .filter_map(|line| {
            let (from, to) = of_line(line)?;
            line.get(from..to)?.split_once(' ')
        })
        .collect()
}

pub(super) fn parse(source: &str) -> Result<Ruleset, ParseError> {
    let mut p = Parser::new(source)?;
    let managed = iptables_tables(source);
    let mut ruleset = Ruleset::default();
    loop {
        p.end_statement();
        let Some(token) = p.next() else { break };
        if !token.is_word("table") {
            return Err(token.error(format!(
                "expected \"table\", found {}: is this `nft list ruleset`?",
                token.shown()
            )));
        }
        let family = p.word("a family")?;
        let Some(kind) = TableFamily::parse(family.text) else {
            return Err(family.error(format!("{} is not a family", family.shown())));
        };
        let name = p.word("the table's name")?;
        let mut table = TableDecl::new(kind, name.text);
        table.iptables = managed.contains(&(family.text, name.text));
        p.sign("{")?;
        self::table(&mut p, &mut table)?;
        ruleset.tables.push(table);
    }
    Ok(ruleset)
}

fn table(p: &mut Parser<'_>, table: &mut TableDecl) -> Result<(), ParseError> {
    loop {
        p.end_statement();
        let from = p.place();
        let token = p.some()?;
        if token.is_sign("}") {
            return Ok(());
        }
        match token.text {
            "chain" => {
                let name = p.word("the chain's name")?;
                p.sign("{")?;
                let chain = chain(p, name.text)?;
                if !table.add_chain(chain) {
                    return Err(name.error(format!("duplicate chain {}", name.shown())));
                }
            }
            "set" | "map" => {
                let name = p.word("the set's name")?;
                p.sign("{")?;
                let set = set(p, name.text)?;
                if !table.add_set(set) {
                    return Err(name.error(format!("duplicate set {}", name.shown())));
                }
            }
            "flags" => {
                while let Some(word) = p.peek().filter(|t| t.kind == Kind::Word || t.is_sign(",")) {
                    table.dormant |= word.text == "dormant";
                    p.next();
                }
            }
            "comment" => {
                p.word("a comment")?;
            }
            _ => {
                // Named objects, and keywords of newer versions.
                loop {
                    let next = p.some()?;
                    if next.is_sign("{") {
                        p.skip_block()?;
                        break;
                    }
                    if next.kind == Kind::Newline || next.is_sign(";") {
                        break;
                    }
                    if next.is_sign("}") {
                        return Err(next.error("unexpected closing brace"));
                    }
                }
                let unknown = p.unknown(from, p.place());
                table.others.push(unknown);
            }
        }
    }
}

fn chain(p: &mut Parser<'_>, name: &str) -> Result<ChainDecl, ParseError> {
    let mut chain = ChainDecl {
        name: name.into(),
        ..ChainDecl::default()
    };
    loop {
        p.end_statement();
        let Some(token) = p.peek() else {
            return Err(p.end_error());
        };
        if token.is_sign("}") {
            p.next();
            return Ok(chain);
        }
        if token.is_word("type") && chain.rules.is_empty() && chain.base.is_none() {
            p.next();
            chain.base = Some(base(p)?);
        } else if token.is_word("policy") && chain.rules.is_empty() {
            p.next();
            let policy = p.word("a policy")?;
            if let Some(base) = &mut chain.base {
                base.drops = policy.text == "drop";
            }
        } else if token.is_word("comment")
            && chain.rules.is_empty()
            && p.peek_at(1).is_some_and(|t| t.kind == Kind::Quoted)
        {
            p.next();
            p.next();
        } else {
            let rule = rule(p)?;
            chain.rules.push(rule);
        }
    }
}

/// Parse `type nat hook prerouting priority dstnat - 10`, after `type`.
fn base(p: &mut Parser<'_>) -> Result<BaseDecl, ParseError> {
    let kind = p.word("a chain type")?;
    let kind = match kind.text {
        "filter" => ChainType::Filter,
        "nat" => ChainType::Nat,
        "route" => ChainType::Route,
        _ => return Err(kind.error(format!("{} is not a chain type", kind.shown()))),
    };
    let token = p.word("\"hook\"")?;
    if token.text != "hook" {
        return Err(token.error(format!("expected \"hook\", found {}", token.shown())));
    }
    let hook = p.word("a hook")?;
    // Chains of devices have `device eth0` or `devices = { eth0, eth1 }` before the priority.
    let mut devices: Vec<Box<str>> = Vec::new();
    let mut is_list = false;
    loop {
        let token = p.some()?;
        if token.is_word("priority") {
            break;
        }
        if token.is_sign("{") || token.is_sign("}") && is_list {
            is_list = token.is_sign("{");
        } else if matches!(token.kind, Kind::Word | Kind::Quoted)
            && !matches!(token.text, "device" | "devices")
        {
            devices.push(token.text.into());
        } else if is_list {
            // Commas, and lines of a long list.
        } else if token.kind == Kind::Newline || token.is_sign("}") || token.is_sign(";") {
            return Err(token.error("a base chain needs a priority"));
        }
    }
    let first = p.word("a priority")?;
    let Some(mut priority) = super::block::priority(first.text, hook.text) else {
        return Err(first.error(format!("{} is not a priority", first.shown())));
    };
    if let Some(sign) = p.peek().filter(|t| t.is_word("-") || t.is_word("+")) {
        p.next();
        let by = p.word("a number")?;
        let Ok(by_number) = by.text.parse::<i32>() else {
            return Err(by.error(format!("{} is not a number", by.shown())));
        };
        priority = if sign.text == "-" {
            priority.saturating_sub(by_number)
        } else {
            priority.saturating_add(by_number)
        };
    }
    Ok(BaseDecl {
        kind,
        hook: hook.text.into(),
        devices,
        priority,
        drops: false,
    })
}

/// Return a priority by number or name (`std_prios` of nft's `src/rule.c`, with the numbers of
/// `linux/netfilter_ipv4.h`).
pub(super) fn priority(text: &str, hook: &str) -> Option<i32> {
    Some(match text {
        "raw" => -300,
        "mangle" => -150,
        "dstnat" if hook == "output" => -100,
        "dstnat" => -100,
        "filter" => 0,
        "security" => 50,
        "srcnat" => 100,
        "out" => 100,
        number => number.parse().ok()?,
    })
}

fn rule(p: &mut Parser<'_>) -> Result<RuleDecl, ParseError> {
    let from = p.place();
    let line = p.peek().map_or(0, |t| t.line);
    let mut statements = Vec::new();
    while let Some(token) = p.peek() {
        if token.kind == Kind::Newline || token.is_sign(";") || token.is_sign("}") {
            break;
        }
        let before = p.place();
        let statement = p.statement();
        statements.push(statement);
        if p.place() == before {
            // A sign where no statement starts.
            return Err(token.error(format!("expected a statement, found {}", token.shown())));
        }
    }
    Ok(RuleDecl {
        statements,
        text: p.text(from, p.place()),
        line,
    })
}

fn set(p: &mut Parser<'_>, name: &str) -> Result<SetDecl, ParseError> {
    let mut set = SetDecl {
        name: name.into(),
        ..SetDecl::default()
    };
    loop {
        p.end_statement();
        let token = p.some()?;
        if token.is_sign("}") {
            return Ok(set);
        }
        match token.text {
            "type" => (set.key, set.data) = types(p)?,
            "typeof" => (set.key, set.data) = p.typeof_types()?,
            "flags" => {
                while let Some(word) = p.peek().filter(|t| t.kind == Kind::Word || t.is_sign(",")) {
                    if word.kind == Kind::Word {
                        set.flags.extend(word.text.split(',').map(Into::into));
                    }
                    p.next();
                }
            }
            "timeout" => set.timeout = Some(p.word("a time")?.text.into()),
            "elements" => {
                p.sign("=")?;
                p.sign("{")?;
                set.elements = p.elements(&set.key, &set.data)?.into();
            }
            "size" | "gc-interval" | "policy" | "comment" => {
                p.word("a value")?;
            }
            "auto-merge" | "counter" => {}
            "expires" | "last" | "limit" | "ct" | "quota" => {
                while p
                    .peek()
                    .is_some_and(|t| t.kind != Kind::Newline && !t.is_sign(";") && !t.is_sign("}"))
                {
                    p.next();
                }
            }
            _ => {
                return Err(token.error(format!(
                    "{} is not a property of a set that is known here",
                    token.shown()
                )));
            }
        }
    }
}

/// Parse `ipv4_addr . inet_service : verdict`.
fn types(p: &mut Parser<'_>) -> Result<(Vec<TermType>, Vec<TermType>), ParseError> {
    let (mut key, mut data) = (Vec::new(), Vec::new());
    let mut in_data = false;
    loop {
        let word = p.word("a type")?;
        let side = if in_data { &mut data } else { &mut key };
        side.push(TermType::parse(word.text));
        if p.take_word(".") {
            continue;
        }
        if !in_data && p.take_word(":") {
            in_data = true;
            continue;
        }
        return Ok((key, data));
    }
}

impl Parser<'_> {
    /// Parse the types of `typeof ip daddr . th dport : ip daddr`.
    fn typeof_types(&mut self) -> Result<(Vec<TermType>, Vec<TermType>), ParseError> {
        let key = self.expression()?.types();
        let mut data = Vec::new();
        if self.take_word(":") {
            if self.take_word("verdict") {
                data.push(TermType::Verdict);
            } else {
                self.take_word("interval");
                data = self.expression()?.types();
            }
        }
        Ok((key, data))
    }

    /// Parse elements up to the closing brace; the opening one is consumed.
    pub(super) fn elements(
        &mut self,
        key: &[TermType],
        data: &[TermType],
    ) -> Result<Vec<ElementDecl>, ParseError> {
        let mut all = Vec::new();
        loop {
            self.skip_newlines();
            if self.take_sign("}") {
                return Ok(all);
            }
            let element = self.element(key, data)?;
            all.push(element);
            self.skip_newlines();
            if !self.take_sign(",") && !self.is_sign("}") {
                let token = self.some()?;
                return Err(token.error(format!(
                    "expected \",\" or \"}}\" in a set's elements, found {}",
                    token.shown()
                )));
            }
        }
    }

    fn element(&mut self, key: &[TermType], data: &[TermType]) -> Result<ElementDecl, ParseError> {
        let parts = if self.take_word("*") {
            Vec::new()
        } else {
            self.items(key)?
        };
        let mut element = ElementDecl {
            key: parts.into(),
            data: None,
            comment: None,
        };
        loop {
            self.skip_newlines();
            let Some(token) = self.peek() else {
                return Err(self.end_error());
            };
            if token.is_sign(",") || token.is_sign("}") {
                return Ok(element);
            }
            self.next();
            if token.is_word(":") {
                element.data = Some(self.data(data)?);
            } else if token.is_word("comment") {
                element.comment = Some(self.word("a comment")?.text.into());
            }
            // Other words are properties of the element (timeout, expires, counter, …), which do not
            // decide whether a packet is in the set.
        }
    }

    fn data(&mut self, types: &[TermType]) -> Result<Mapped, ParseError> {
        self.skip_newlines();
        if let Some(verdict) = self.verdict()? {
            return Ok(Mapped::Verdict(verdict));
        }
        Ok(Mapped::Items(self.items(types)?.into()))
    }

    /// Parse a verdict, if the next words are one.
    pub(super) fn verdict(&mut self) -> Result<Option<VerdictStatement>, ParseError> {
        let Some(token) = self.peek().filter(|t| t.kind == Kind::Word) else {
            return Ok(None);
        };
        let verdict = match token.text {
            "accept" => VerdictStatement::Accept,
            "drop" => VerdictStatement::Drop,
            "continue" => VerdictStatement::Continue,
            "return" => VerdictStatement::Return,
            "queue" => VerdictStatement::Queue,
            "jump" | "goto" => {
                self.next();
                let chain: Box<str> = self.word("a chain")?.text.into();
                return Ok(Some(if token.text == "jump" {
                    VerdictStatement::Jump(chain)
                } else {
                    VerdictStatement::Goto(chain)
                }));
            }
            _ => return Ok(None),
        };
        self.next();
        Ok(Some(verdict))
    }

    /// Parse the fields of a key or value, separated by dots.
    fn items(&mut self, types: &[TermType]) -> Result<Vec<super::Item>, ParseError> {
        let mut all = Vec::with_capacity(types.len().max(1));
        loop {
            let of = types.get(all.len()).copied().unwrap_or(TermType::Other);
            let token = self.word("a value")?;
            all.push(if token.kind == Kind::Quoted {
                super::Item::Value(text_value(token.text))
            } else {
                literal::item(token.text, of)
            });
            // Flags of one value: `established,related`.
            if !self.take_word(".") {
                return Ok(all);
            }
            self.skip_newlines();
        }
    }
}
