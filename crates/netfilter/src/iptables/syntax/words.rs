//! Splits a line into words like `iptables-restore`.

use std::borrow::Cow;

use super::{Fault, Parsed};

/// A word without its quotes, and the column (in bytes, from 1) at which it starts.
#[derive(Clone, Debug)]
pub(crate) struct Word<'a> {
    pub(crate) text: Cow<'a, str>,
    pub(crate) column: u32,
}

/// Split at white space. Within double quotes, white space is text and a backslash escapes the next
/// character; elsewhere a backslash is an ordinary character.
pub(crate) fn split(line: &str) -> Parsed<Vec<Word<'_>>> {
    let bytes = line.as_bytes();
    // kube-proxy's rules have up to 25 words.
    let mut words = Vec::with_capacity(24);
    let mut at = 0;
    while at < bytes.len() {
        if is_space(bytes[at]) {
            at += 1;
            continue;
        }
        let (word, end) = next_word(line, at)?;
        words.push(word);
        at = end;
    }
    Ok(words)
}

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\r' | b'\n')
}

fn column(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX).saturating_add(1)
}

/// Return the word that starts at `start`, and its end.
fn next_word(line: &str, start: usize) -> Parsed<(Word<'_>, usize)> {
    let bytes = line.as_bytes();
    let column = column(start);
    let plain_end = bytes[start..]
        .iter()
        .position(|b| is_space(*b) || *b == b'"')
        .map_or(bytes.len(), |n| start + n);
    if plain_end == bytes.len() || bytes[plain_end] != b'"' {
        let text = Cow::Borrowed(&line[start..plain_end]);
        return Ok((Word { text, column }, plain_end));
    }
    // A quoted word without a backslash can be borrowed too.
    if plain_end == start
        && let Some(n) = bytes[start + 1..]
            .iter()
            .position(|b| matches!(b, b'"' | b'\\'))
        && bytes[start + 1 + n] == b'"'
        && bytes.get(start + n + 2).is_none_or(|b| is_space(*b))
    {
        let text = Cow::Borrowed(&line[start + 1..start + 1 + n]);
        return Ok((Word { text, column }, start + n + 2));
    }
    let mut text = String::new();
    let (mut in_quotes, mut escaped) = (false, false);
    let mut end = line.len();
    for (offset, c) in line[start..].char_indices() {
        if escaped {
            text.push(c);
            escaped = false;
        } else if in_quotes && c == '\\' {
            escaped = true;
        } else if c == '"' {
            in_quotes = !in_quotes;
        } else if !in_quotes && u8::try_from(c).is_ok_and(is_space) {
            end = start + offset;
            break;
        } else {
            text.push(c);
        }
    }
    if in_quotes {
        return Err(Fault::new(column, "the quote is not closed"));
    }
    let text = Cow::Owned(text);
    Ok((Word { text, column }, end))
}
