//! The `flipback` binary: the TLS provider, the command line, the exit code.

use std::process::ExitCode;

/// Keeping evidence takes hundreds of megabytes through many threads for a moment. glibc keeps most of what was freed in
/// arenas; this allocator gives it back within seconds. Elsewhere the page size that it is built for may not be the machine's.
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // The first act: clients panic without a provider, and with two.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        anstream::eprintln!("flipback: a TLS provider is installed already");
        return ExitCode::FAILURE;
    }
    flipback::cli::main(std::env::args_os())
}
