//! Tokens of a listing.

use super::ParseError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A word: a name, number, address or range.
    Word,
    /// A quoted string; the text excludes the quotes.
    Quoted,
    /// One of `{ } ( ) ; , = == != < > <= >= & | ^ << >> !`.
    Sign,
    /// The end of a line.
    Newline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    pub(super) line: usize,
    pub(super) column: usize,
    /// Start and end in the source, including quotes.
    pub(super) span: (usize, usize),
}

impl Token<'_> {
    pub(super) fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError {
            line: self.line,
            column: self.column,
            message: message.into(),
        }
    }

    pub(super) fn is_sign(&self, sign: &str) -> bool {
        self.kind == Kind::Sign && self.text == sign
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text == word
    }

    /// Return the text for messages.
    pub(super) fn shown(&self) -> String {
        match self.kind {
            Kind::Newline => "the end of the line".to_owned(),
            _ => format!("{:?}", self.text.chars().take(60).collect::<String>()),
        }
    }
}

const SIGNS: &[u8] = b"{}();,=<>&|^!";

/// Split a listing into tokens. Comments (`#` to the end of the line) are left out.
pub(super) fn lex(text: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::with_capacity(text.len() / 6);
    let (mut at, mut line, mut line_start) = (0, 1, 0);
    while let Some(&b) = bytes.get(at) {
        let token = |kind, from: usize, to: usize, end: usize| Token {
            kind,
            text: text.get(from..to).unwrap_or_default(),
            line,
            column: at - line_start + 1,
            span: (at, end),
        };
        match b {
            b'\n' => {
                tokens.push(token(Kind::Newline, at, at, at));
                at += 1;
                line += 1;
                line_start = at;
            }
            _ if b.is_ascii_whitespace() => at += 1,
            b'\\' if bytes.get(at + 1) == Some(&b'\n') => {
                at += 2;
                line += 1;
                line_start = at;
            }
            b'#' => {
                while bytes.get(at).is_some_and(|b| *b != b'\n') {
                    at += 1;
                }
            }
            b'"' => {
                let len = bytes
                    .get(at + 1..)
                    .and_then(|rest| rest.iter().position(|b| *b == b'"' || *b == b'\n'));
                match len.map(|len| (len, bytes.get(at + 1 + len))) {
                    Some((len, Some(b'"'))) => {
                        tokens.push(token(Kind::Quoted, at + 1, at + 1 + len, at + len + 2));
                        at += len + 2;
                    }
                    _ => {
                        return Err(ParseError {
                            line,
                            column: at - line_start + 1,
                            message: "unterminated string".to_owned(),
                        });
                    }
                }
            }
            _ if SIGNS.contains(&b) => {
                let two = matches!(
                    (b, bytes.get(at + 1)),
                    (b'=' | b'!' | b'<' | b'>', Some(b'='))
                        | (b'<', Some(b'<'))
                        | (b'>', Some(b'>'))
                );
                let len = if two { 2 } else { 1 };
                tokens.push(token(Kind::Sign, at, at + len, at + len));
                at += len;
            }
            _ => {
                let rest = bytes.get(at..).unwrap_or_default();
                let len = rest
                    .iter()
                    .position(|b| b.is_ascii_whitespace() || SIGNS.contains(b) || *b == b'"')
                    .unwrap_or(rest.len());
                tokens.push(token(Kind::Word, at, at + len, at + len));
                at += len;
            }
        }
    }
    Ok(tokens)
}
