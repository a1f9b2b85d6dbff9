//! What a Prometheus answers.
#![no_main]

use std::sync::{Arc, LazyLock};

use flipback::{fuzzing, model::GuardSpec};
use libfuzzer_sys::fuzz_target;

static GUARD: LazyLock<Arc<GuardSpec>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    fuzzing::guard(&folder.path().join("flipback.toml"))
});

fuzz_target!(|input: &[u8]| fuzzing::answer(input, &GUARD));
