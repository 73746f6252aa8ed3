//! Durations on the command line.

use std::time::Duration;

use crate::output::quoted;

/// Reads a duration that is not 0.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| {
        format!("invalid duration {}: {error}; write it like 500ms, 5s or 2m", quoted(text))
    })?;
    if duration.is_zero() {
        return Err("it has to be more than 0".to_owned());
    }
    Ok(duration)
}
