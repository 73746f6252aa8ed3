//! The commands, one file each: arguments, their help, and what they do.

pub(crate) mod cfg;
pub(crate) mod cmap;
pub(crate) mod cpg;
#[cfg(feature = "decode")]
pub(crate) mod decode;
pub(crate) mod doctor;
pub(crate) mod evs;
#[cfg(feature = "exporter")]
pub(crate) mod exporter;
#[cfg(feature = "generate")]
pub(crate) mod generate;
mod group;
pub(crate) mod quorum;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod watch;
