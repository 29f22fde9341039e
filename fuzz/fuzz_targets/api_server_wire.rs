//! Lists, watches and refusals, in both formats, as an API server may send them.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| source::apiserver::wire::decode_anything(bytes));
