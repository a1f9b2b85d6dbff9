//! What flipback may do: the Role of `deploy/monitor.yaml`, on a real API server.

pub mod support;

#[path = "security/role.rs"]
mod role;
