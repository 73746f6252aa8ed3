//! Events: every way to wait for them, for every service, from one thread or many, and what ends a wait.

#[path = "../harness/mod.rs"]
mod harness;

#[cfg(feature = "tokio")]
mod asynchronous;
mod dispatch;
mod dispatcher;
mod sharing;
mod source;
mod supervise;
mod system_calls;
