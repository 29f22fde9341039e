//! The reader of iptables-save and iptables-restore text, in both families.
#![no_main]

use netfilter::iptables::{Family, fuzz_one};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_one(Family::Ipv4, bytes);
    fuzz_one(Family::Ipv6, bytes);
});
