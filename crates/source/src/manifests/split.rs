//! Splits a YAML stream into documents.

/// One document of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Document<'a> {
    /// Its bytes without markers and directives.
    pub(super) bytes: &'a [u8],
    /// The line of the start of `bytes`, from 1.
    pub(super) first_line: usize,
    /// The line, from 1, of its first content that is not a comment.
    pub(super) line: usize,
}

/// Split a stream before parsing, so that a syntax error affects one document only. Documents
/// without content are left out.
///
/// `---` and `...` at the start of a line, followed by white space or the end of the line, are
/// always markers: YAML forbids them as content there, even in block and quoted scalars (YAML 1.2.2,
/// 9.1.2, `c-forbidden`). Directives (`%YAML 1.2`) are dropped; they do not affect API objects.
pub(super) fn split(stream: &[u8]) -> Vec<Document<'_>> {
    let stream = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    let mut documents = Vec::new();
    let mut start = 0; // First byte of the current document,
    let mut start_line = 1; // and its line.
    let mut at = 0;
    let mut line = 0;
    for text in stream.split_inclusive(|b| *b == b'\n') {
        line += 1;
        let marker = text.starts_with(b"---") || text.starts_with(b"...");
        if marker && text.get(3).is_none_or(u8::is_ascii_whitespace) {
            push(&mut documents, stream.get(start..at), start_line);
            // Text after a marker belongs to the document that it starts.
            start = at + 3;
            start_line = line;
        }
        at += text.len();
    }
    push(&mut documents, stream.get(start..), start_line);
    documents
}

fn push<'a>(documents: &mut Vec<Document<'a>>, bytes: Option<&'a [u8]>, first_line: usize) {
    let mut bytes = bytes.unwrap_or_default();
    let mut first_line = first_line;
    let mut skipped = 0;
    for (line, text) in (first_line..).zip(bytes.split_inclusive(|b| *b == b'\n')) {
        let content = text.trim_ascii();
        skipped += text.len();
        if content.starts_with(b"%") {
            // A directive, which precedes the content.
            bytes = bytes.get(skipped..).unwrap_or_default();
            skipped = 0;
            first_line = line + 1;
        } else if !content.is_empty() && !content.starts_with(b"#") {
            documents.push(Document {
                bytes,
                first_line,
                line,
            });
            return;
        }
    }
}
