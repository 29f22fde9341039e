//! The listing of nf_tables: messages, each after its kind and its length in one byte. The text must be
//! readable or refused, without a panic.
#![no_main]

use netfilter::nft_lang::Ruleset;
use netfilter::nft_list::Listing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut listing = Listing::default();
    let mut rest = bytes;
    while let [kind, len, tail @ ..] = rest {
        let (message, after) = tail.split_at(usize::from(*len).min(tail.len()));
        let _ = listing.add(u16::from(*kind), message);
        rest = after;
    }
    let _ = Ruleset::parse(&listing.text(&|_, _| true, &|_| None));
});
