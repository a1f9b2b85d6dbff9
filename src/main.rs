//! The `flipback` binary.

fn main() {}
