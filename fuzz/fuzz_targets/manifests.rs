//! The manifest reader, as YAML (or JSON, where it starts with a brace).
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    source::manifests::read_bytes(std::path::Path::new("x.yaml"), bytes);
});
