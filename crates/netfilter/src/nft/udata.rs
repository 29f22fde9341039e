//! nf_tables user data: entries of a one-byte type, a one-byte length and an unpadded value
//! (libnftnl's `struct nftnl_udata`).

/// Append an entry. A value of more than 255 bytes is left out.
pub(super) fn put(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    if let Ok(len) = u8::try_from(value.len()) {
        out.extend_from_slice(&[kind, len]);
        out.extend_from_slice(value);
    }
}

/// Return the value of the first entry of a type.
pub(super) fn get(bytes: &[u8], kind: u8) -> Option<&[u8]> {
    let mut rest = bytes;
    while let [k, len, tail @ ..] = rest {
        let value = tail.get(..usize::from(*len))?;
        if *k == kind {
            return Some(value);
        }
        rest = tail.get(usize::from(*len)..)?;
    }
    None
}

/// Return a comment: text with a terminating NUL.
pub(super) fn comment(bytes: &[u8], kind: u8) -> Option<String> {
    let value = get(bytes, kind)?;
    let text = value.strip_suffix(&[0]).unwrap_or(value);
    std::str::from_utf8(text).ok().map(str::to_owned)
}

/// Append a comment.
pub(super) fn put_comment(out: &mut Vec<u8>, kind: u8, text: &str) {
    let mut value = Vec::with_capacity(text.len() + 1);
    value.extend_from_slice(text.as_bytes());
    value.push(0);
    put(out, kind, &value);
}
