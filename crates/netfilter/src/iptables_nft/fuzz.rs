//! The body of the fuzz target, also run over a corpus by the tests.

use super::{decode_rule, encode_rule};
use crate::iptables::{Family, Interface, Rule};
use crate::nft::consts::NFT_MSG_NEWRULE;
use crate::nft::{Body, decode};

/// Decode the bytes as the body of a rule's message. A rule that can be decoded and encoded must be
/// decoded as the same rule again, and printed without a panic.
///
/// # Panics
/// A violation of these properties.
pub fn fuzz_one(family: Family, bytes: &[u8]) {
    let Ok(decoded) = decode(NFT_MSG_NEWRULE, bytes) else {
        return;
    };
    let Body::Rule { rule: Ok(rule), .. } = decoded.body else {
        return;
    };
    let Ok(rule) = decode_rule(&rule.exprs, family) else {
        return;
    };
    let _ = rule.to_string();
    let Ok(exprs) = encode_rule(&rule, family) else {
        return;
    };
    assert_eq!(decode_rule(&exprs, family), Ok(canonical(rule)));
}

/// Remove conditions that are always true, for which iptables-nft writes nothing.
pub(super) fn canonical(mut rule: Rule) -> Rule {
    let header = &mut rule.header;
    for net in [&mut header.source, &mut header.destination] {
        net.take_if(|net| net.value.is_everything() && !net.negated);
    }
    for interface in [&mut header.in_interface, &mut header.out_interface] {
        interface.take_if(|i| {
            matches!(&i.value, Interface::Prefix(prefix) if prefix.is_empty()) && !i.negated
        });
    }
    rule
}
