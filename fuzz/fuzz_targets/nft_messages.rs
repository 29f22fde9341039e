//! The decoder of nf_tables messages: the first byte is the message's kind, the rest its body.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let [kind, body @ ..] = bytes {
        let _ = netfilter::nft::decode(u16::from(*kind), body);
    }
});
