//! The sandbox: an in-process world for `flipback demo` and a fast double in tests.
//!
//! It holds an API server with tiny controllers, one node that runs two small applications (blue and green), users that
//! follow the Service, a stand-in for Prometheus that scrapes them, and chats that remember what they were told. All of
//! it speaks over real sockets on loopback, so that the daemon inside is the real one. It is a demonstration and a test
//! double, never a product: `tests/contract.rs` holds it to what real servers do. It imports no room but `model`, since
//! it doubles the world and does not use the rooms.

mod api;
mod app;
mod chat;
mod clock;
mod control;
mod controllers;
mod listen;
mod logs;
mod node;
mod populate;
mod prometheus;
mod traffic;
mod world;

pub use self::{
    api::AuditEntry,
    app::Fault,
    chat::Message,
    control::{ControlPlane, Refused},
    populate::Who,
    traffic::Served,
    world::{Sandbox, SandboxError, SandboxOptions},
};
