//! The decoder of iptables-nft's rules: the body of a rule's message, in both families.
#![no_main]

use netfilter::iptables::Family;
use netfilter::iptables_nft::fuzz_one;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_one(Family::Ipv4, bytes);
    fuzz_one(Family::Ipv6, bytes);
});
