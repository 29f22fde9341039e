//! Forms of names in Kubernetes (RFC 1123).

/// Return whether a text is a DNS label: at most 63 of `a-z`, `0-9` and `-`, without `-` at either
/// end.
pub(super) fn is_label(s: &str) -> bool {
    let bytes = s.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes
            .iter()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

/// Return whether a text is a DNS subdomain: at most 253 characters, labels of any length joined by
/// dots.
pub(super) fn is_subdomain(s: &str) -> bool {
    s.len() <= 253
        && s.split('.').all(|part| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
                && !part.starts_with('-')
                && !part.ends_with('-')
        })
}
