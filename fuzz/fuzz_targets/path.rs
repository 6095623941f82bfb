#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weigate_fuzz::path(data));
