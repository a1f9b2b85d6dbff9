//! What flipback may do, and what it leaves behind: the Role of `deploy/monitor.yaml` on a real API server, and core dumps.

pub mod support;

#[path = "security/cores.rs"]
mod cores;
#[path = "security/role.rs"]
mod role;
