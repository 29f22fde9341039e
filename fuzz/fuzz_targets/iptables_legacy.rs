//! The decoder of iptables-legacy's tables: `struct ipt_getinfo` and the blob, in both families.
#![no_main]

use netfilter::iptables::Family;
use netfilter::iptables_legacy::fuzz_one;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_one(Family::Ipv4, bytes);
    fuzz_one(Family::Ipv6, bytes);
});
