//! Every reader of the kernel's netlink replies.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kernel::fuzz::netlink_replies(bytes));
