//! Expressions of the text form.

use super::block::Parser;
use super::lex::{Kind, Token};
use super::literal::{self, number};
use super::{BinaryOp, FibField, FibLookup, Literal, ParseError, SetDecl, SetRef, Term, TermType};

/// Maximum depth of parentheses.
const MAX_DEPTH: usize = 32;

/// Words that start an expression rather than a literal.
pub(super) fn starts_expression(word: &str) -> bool {
    literal::meta(word).is_some()
        || matches!(
            word,
            "ip" | "ip6"
                | "tcp"
                | "udp"
                | "udplite"
                | "sctp"
                | "dccp"
                | "th"
                | "icmp"
                | "icmpv6"
                | "igmp"
                | "ether"
                | "vlan"
                | "arp"
                | "ah"
                | "esp"
                | "comp"
                | "meta"
                | "ct"
                | "fib"
                | "rt"
                | "rt0"
                | "rt2"
                | "srh"
                | "frag"
                | "hbh"
                | "dst"
                | "mh"
                | "exthdr"
                | "socket"
                | "osf"
                | "ipsec"
                | "tunnel"
                | "numgen"
                | "jhash"
                | "symhash"
                | "gre"
                | "geneve"
                | "vxlan"
                | "skuid"
                | "skgid"
                | "iiftype"
                | "oiftype"
                | "iifgroup"
                | "oifgroup"
                | "cgroup"
                | "rtclassid"
                | "ibrname"
                | "obrname"
                | "cpu"
                | "day"
                | "hour"
                | "time"
                | "length"
                | "priority"
        )
        || word.starts_with("@nh,")
        || word.starts_with("@th,")
        || word.starts_with("@ll,")
        || word.starts_with("@ih,")
}

impl<'a> Parser<'a> {
    /// Parse a complete expression.
    pub(super) fn expression(&mut self) -> Result<Term, ParseError> {
        self.expression_of(&[], 0)
    }

    /// Parse a complete expression whose literals have these types.
    pub(super) fn expression_of(
        &mut self,
        types: &[TermType],
        depth: usize,
    ) -> Result<Term, ParseError> {
        let at = |i: usize| types.get(i).copied().unwrap_or(TermType::Other);
        let first = self.binary(at(0), 0, depth)?;
        let mut expr = first;
        if self.is_word(".") {
            let mut parts = vec![expr];
            while self.take_word(".") {
                self.skip_newlines();
                parts.push(self.binary(at(parts.len()), 0, depth)?);
            }
            expr = Term::Concat(parts);
        }
        while self.is_word("map") {
            self.next();
            let map = self.set_ref(&expr.types(), &[TermType::Other; 3])?;
            expr = Term::Map {
                key: Box::new(expr),
                map,
            };
        }
        Ok(expr)
    }

    /// Parse a set by name or in place.
    pub(super) fn set_ref(
        &mut self,
        key: &[TermType],
        data: &[TermType],
    ) -> Result<SetRef, ParseError> {
        let token = self.some()?;
        if token.is_sign("{") {
            let elements = self.elements(key, data)?;
            return Ok(SetRef::Anonymous(Box::new(SetDecl {
                key: key.to_vec(),
                data: data.to_vec(),
                elements: elements.into(),
                ..SetDecl::default()
            })));
        }
        match token.text.strip_prefix('@') {
            Some("") if token.kind == Kind::Word => {
                Ok(SetRef::Name(self.word("a set")?.text.into()))
            }
            Some(name) if token.kind == Kind::Word => Ok(SetRef::Name(name.into())),
            _ => Err(token.error(format!("expected a set, found {}", token.shown()))),
        }
    }

    fn operator(&self) -> Option<(BinaryOp, u8)> {
        let token = self.peek()?;
        Some(match (token.kind, token.text) {
            (Kind::Sign, "|") | (Kind::Word, "or") => (BinaryOp::Or, 1),
            (Kind::Sign, "^") | (Kind::Word, "xor") => (BinaryOp::Xor, 2),
            (Kind::Sign, "&") | (Kind::Word, "and") => (BinaryOp::And, 3),
            (Kind::Sign, "<<") | (Kind::Word, "lshift") => (BinaryOp::Shl, 4),
            (Kind::Sign, ">>") | (Kind::Word, "rshift") => (BinaryOp::Shr, 4),
            _ => return None,
        })
    }

    /// Parse operators of at least this precedence.
    fn binary(&mut self, of: TermType, min: u8, depth: usize) -> Result<Term, ParseError> {
        let mut left = self.primary(of, depth)?;
        while let Some((op, strength)) = self.operator().filter(|(_, s)| *s > min) {
            self.next();
            let of = match left.data_type() {
                TermType::Other => of,
                known => known,
            };
            let right = self.binary(of, strength, depth + 1)?;
            left = Term::Binary {
                op,
                left: Box::new(left),
                right: Box::new(right),
            };
        }
        Ok(left)
    }

    fn primary(&mut self, of: TermType, depth: usize) -> Result<Term, ParseError> {
        let from = self.place();
        let token = self.some()?;
        if depth > MAX_DEPTH {
            return Err(token.error("expressions are nested too deep"));
        }
        if token.is_sign("(") {
            let inner = self.expression_of(&[of], depth + 1)?;
            self.sign(")")?;
            return Ok(inner);
        }
        if token.is_sign("{") {
            let elements = self.elements(&[of], &[])?;
            return Ok(Term::Set(Box::new(SetDecl {
                key: vec![of],
                elements: elements.into(),
                ..SetDecl::default()
            })));
        }
        match token.kind {
            Kind::Quoted => {
                let first = literal::name(token.text);
                // `meta hour "08:00"-"17:00"`.
                let last = self.peek_at(1).filter(|t| t.kind == Kind::Quoted);
                let Some(last) = last.filter(|_| self.is_word("-")) else {
                    return Ok(Term::Value(first));
                };
                self.next();
                self.next();
                Ok(Term::Range(first, literal::name(last.text)))
            }
            Kind::Word => self.word_expression(token, from, of),
            _ => Err(token.error(format!("expected a value, found {}", token.shown()))),
        }
    }

    fn word_expression(
        &mut self,
        token: Token<'a>,
        from: usize,
        of: TermType,
    ) -> Result<Term, ParseError> {
        let head = token.text;
        // `tcp` is a protocol where one is expected; `tcp dport` is a field.
        let follows = self.peek().filter(|t| t.kind == Kind::Word).map(|t| t.text);
        if let Some(expr) = follows.and_then(|name| literal::field(head, name)) {
            self.next();
            return Ok(expr);
        }
        match head {
            "meta" => {
                let key = self.word("a key of meta")?;
                return Ok(literal::meta(key.text)
                    .unwrap_or_else(|| Term::Unknown(self.unknown(from, self.place()))));
            }
            "ct" => return self.ct_expression(from),
            "fib" => return self.fib_expression(from),
            "numgen" => return self.numgen_expression(),
            "jhash" | "symhash" => return self.hash_expression(from),
            _ => {}
        }
        if of == TermType::Other || of == TermType::Mark {
            if let Some(expr) = literal::meta(head).filter(|_| head != "protocol") {
                return Ok(expr);
            }
            if starts_expression(head) && follows.is_some() {
                // Unknown fields have one more word; raw payload does not.
                if !head.starts_with('@') {
                    self.next();
                }
                return Ok(Term::Unknown(self.unknown(from, self.place())));
            }
        }
        if let Some(name) = head.strip_prefix('@') {
            return Ok(Term::SetName(name.into()));
        }
        if head.contains(',') {
            let values = head.split(',').filter(|w| !w.is_empty());
            return Ok(Term::Flags(values.map(|w| literal::value(w, of)).collect()));
        }
        let first: Term = literal::item(head, of).into();
        // A comma separates flags of one value: `established,related`.
        if let (Term::Value(value), true) = (&first, of.is_flags() && self.is_sign(",")) {
            let mut values = vec![value.clone()];
            while self.take_sign(",") {
                values.push(literal::value(self.word("a flag")?.text, of));
            }
            return Ok(Term::Flags(values));
        }
        Ok(first)
    }

    fn ct_expression(&mut self, from: usize) -> Result<Term, ParseError> {
        let first = self.word("a key of ct")?;
        let known = if matches!(first.text, "original" | "reply") {
            let mut key = self.word("a key of ct")?.text.to_owned();
            if matches!(key.as_str(), "ip" | "ip6") {
                key = format!("{key} {}", self.word("saddr or daddr")?.text);
            }
            literal::ct(&key, Some(first.text))
        } else {
            literal::ct(first.text, None)
        };
        Ok(known.unwrap_or_else(|| Term::Unknown(self.unknown(from, self.place()))))
    }

    /// Parse `saddr . iif oif`, after `fib`.
    fn fib_expression(&mut self, from: usize) -> Result<Term, ParseError> {
        let mut flags = vec![self.word("saddr or daddr")?.text];
        while self.take_word(".") {
            flags.push(self.word("a flag of fib")?.text);
        }
        let result = self.word("type, oif or oifname")?;
        // `check` and other results are not modelled.
        Ok(fib(&flags, result.text)
            .unwrap_or_else(|| Term::Unknown(self.unknown(from, self.place()))))
    }

    fn numgen_expression(&mut self) -> Result<Term, ParseError> {
        let kind = self.word("random or inc")?;
        let (modulus, offset) = self.modulus()?;
        Ok(Term::Numgen {
            random: kind.text == "random",
            modulus,
            offset,
        })
    }

    fn hash_expression(&mut self, from: usize) -> Result<Term, ParseError> {
        while !self.is_word("mod") {
            let token = self.some()?;
            if token.kind == Kind::Newline || token.is_sign("}") {
                return Err(token.error("a hash needs a modulus"));
            }
        }
        let (modulus, offset) = self.modulus()?;
        if self.take_word("seed") {
            self.word("a seed")?;
            if self.take_word("offset") {
                let offset = self.u32("an offset")?;
                return Ok(self.hash(from, modulus, offset));
            }
        }
        Ok(self.hash(from, modulus, offset))
    }

    fn hash(&self, from: usize, modulus: u32, offset: u32) -> Term {
        Term::Hash {
            text: self.text(from, self.place()),
            modulus,
            offset,
        }
    }

    /// Parse `mod 10 offset 5`.
    fn modulus(&mut self) -> Result<(u32, u32), ParseError> {
        if !self.take_word("mod") {
            let token = self.some()?;
            return Err(token.error(format!("expected \"mod\", found {}", token.shown())));
        }
        let place = self.peek();
        let modulus = self.u32("a modulus")?;
        if modulus == 0 {
            return Err(place.map_or_else(|| self.end_error(), |t| t.error("a modulus of 0")));
        }
        let offset = if self.take_word("offset") {
            self.u32("an offset")?
        } else {
            0
        };
        Ok((modulus, offset))
    }

    fn u32(&mut self, what: &str) -> Result<u32, ParseError> {
        let token = self.word(what)?;
        let found = number(token.text).and_then(|n| u32::try_from(n).ok());
        found.ok_or_else(|| token.error(format!("expected {what}, found {}", token.shown())))
    }
}

/// Return a `fib` expression from its flags and result.
pub(super) fn fib(flags: &[&str], result: &str) -> Option<Term> {
    let has = |name: &str| flags.contains(&name);
    if flags
        .iter()
        .any(|f| !matches!(*f, "saddr" | "daddr" | "mark" | "iif" | "oif"))
    {
        return None;
    }
    Some(Term::Fib(FibLookup {
        source: has("saddr"),
        mark: has("mark"),
        iif: has("iif"),
        oif: has("oif"),
        result: match result {
            "type" => FibField::Type,
            "oif" => FibField::Oif,
            "oifname" => FibField::Oifname,
            _ => return None,
        },
    }))
}

/// Return the number of a literal, if it is one.
pub(super) fn as_int(value: &Literal) -> Option<u64> {
    match value {
        Literal::Int(n) => Some(*n),
        _ => None,
    }
}
