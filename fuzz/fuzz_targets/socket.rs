//! Bytes over a connection.
#![no_main]

use std::sync::LazyLock;

use flipback::{fuzzing, serve::Fuzzed};
use libfuzzer_sys::fuzz_target;

static SERVER: LazyLock<Fuzzed> = LazyLock::new(fuzzing::server);

fuzz_target!(|input: &[u8]| fuzzing::socket(input, &SERVER));
