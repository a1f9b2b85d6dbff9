//! A trace, and the judgement of what is accepted.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| flipback::fuzzing::trace(input));
