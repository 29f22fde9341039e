//! The reader and writer of KubeProxyConfiguration.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| config::read_and_write(bytes));
