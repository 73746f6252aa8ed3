//! Containers that hold nothing but the static command, against a real daemon. They are run as
//! docs/containers.md says.

#![cfg(target_env = "musl")]

mod page;
mod pids;
mod podman;
mod recipes;
