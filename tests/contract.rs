//! The contract: every behaviour of the sandbox that flipback relies on, asserted by the same code against the sandbox
//! and against real servers, so that the double cannot drift from the world.

pub mod support;

#[path = "contract/world.rs"]
mod world;

#[path = "contract/kubernetes.rs"]
mod kubernetes;

#[path = "contract/prometheus.rs"]
mod prometheus;
