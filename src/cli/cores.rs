//! No core dumps: the memory of this process holds the tokens, passwords and webhook URLs of everything that it talks to, and a dump would
//! carry them to a disk, a crash collector, a ticket.
//!
//! Two locks, because each leaves a door open. A limit of 0 bytes is not asked for where the kernel pipes dumps into a program
//! (`core_pattern` with `|`, as systemd-coredump and apport set it). A process that is not dumpable writes no dump either way, nor can
//! another process of its user trace it or read its memory; but it would be dumpable again after an `exec`. What flipback reads of itself
//! below `/proc` for its metrics stays readable to itself.

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};

/// Forbids core dumps of this process, and of those that it starts as far as the limit reaches.
///
/// # Errors
/// What the kernel says; a limit may always be lowered.
pub(super) fn forbid() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}
