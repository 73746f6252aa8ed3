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

/// Runs a piece of work in a span that records its outcome. `$work` is a closure that returns a
/// `Result`. No lock may be held: a subscriber is user code.
macro_rules! in_span {
    ($name:literal, $service:expr, $call:expr, $work:expr) => {{
        #[cfg(feature = "tracing")]
        let result = crate::log::record_outcome(
            tracing::debug_span!(
                $name,
                service = %$service,
                call = $call,
                outcome = tracing::field::Empty
            ),
            $work,
        );
        #[cfg(not(feature = "tracing"))]
        let result = {
            let _ = ($service, $call);
            ($work)()
        };
        result
    }};
}
pub(crate) use in_span;

#[cfg(feature = "tracing")]
pub(crate) fn record_outcome<T, E: std::fmt::Display>(
    span: tracing::Span,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let result = span.in_scope(work);
    match &result {
        Ok(_) => span.record("outcome", "ok"),
        Err(error) => span.record("outcome", tracing::field::display(error)),
    };
    result
}
