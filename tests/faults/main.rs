//! Faults of the system: signals, limits, full memory, forks and stopped processes.
//!
//! What a fault changes is the whole process's, so the clients are in processes of their own. Each
//! is an ignored test of this binary.

mod clients;
mod clock;
mod fork;
mod lack;
mod reserve;
mod server;
mod shm;
mod signals;
mod stop;

testbed::embedded_process!();
