//! Queries of URLs.

use std::collections::HashMap;

/// Return the parameters, each with its last value.
pub(crate) fn parse_query(query: &str) -> HashMap<String, String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// Decode percent-encoding.
fn decode(s: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = s.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut hex = || bytes.next().and_then(|b| char::from(b).to_digit(16));
            if let (Some(high), Some(low)) = (hex(), hex()) {
                out.extend(u8::try_from(high * 16 + low));
            }
        } else {
            out.push(byte);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Return all values of a parameter.
pub(crate) fn values<'q>(query: &'q str, name: &'q str) -> impl Iterator<Item = String> + 'q {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let values = pairs.filter(move |(key, _)| *key == name);
    values.map(|(_, value)| decode(&value.replace('+', " ")))
}
