//! Queries of clients.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dns::fuzzing::query(data));
