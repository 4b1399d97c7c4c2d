#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| r1d_fuzz_tests::targets::ledger(bytes));
