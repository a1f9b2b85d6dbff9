//! What flipback may do, what it gives away, and what it leaves behind: the Role of `deploy/monitor.yaml`, secrets in anything that the
//! daemon says or writes, and core dumps. On a real API server.

pub mod support;

#[path = "security/canaries.rs"]
mod canaries;
#[path = "security/cores.rs"]
mod cores;
#[path = "security/role.rs"]
mod role;
#[path = "security/world.rs"]
mod world;
