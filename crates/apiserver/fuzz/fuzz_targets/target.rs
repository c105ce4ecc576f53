//! Any of the apiserver's fuzz targets: the binary's name says which.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| apiserver::fuzz::run(env!("CARGO_BIN_NAME"), bytes));
