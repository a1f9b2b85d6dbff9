//! The `flipback` binary: the TLS provider, the command line, the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The first act: clients panic without a provider, and with two.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        anstream::eprintln!("flipback: a TLS provider is installed already");
        return ExitCode::FAILURE;
    }
    flipback::cli::main(std::env::args_os())
}
