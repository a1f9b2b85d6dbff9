//! The sandbox: an in-process world for `flipback demo` and a fast double in tests.

mod api;
mod clock;
mod listen;
mod logs;
