//! What needs no real cluster.
