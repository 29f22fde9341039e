//! Dumps of every tool, read and walked.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trace::fuzz_one(bytes));
