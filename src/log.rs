//! Logging through `tracing`. Without that feature the macros do nothing.

macro_rules! debug {
    ($($argument:tt)*) => {
        #[cfg(feature = "tracing")]
        tracing::debug!($($argument)*);
    };
}
pub(crate) use debug;

macro_rules! warn_ {
    ($($argument:tt)*) => {
        #[cfg(feature = "tracing")]
        tracing::warn!($($argument)*);
    };
}
pub(crate) use warn_ as warn;
