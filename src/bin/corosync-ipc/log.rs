//! `-v`: writes the library's log to standard error.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::output::{print_error, printable, rfc3339};

/// Starts logging.
pub(crate) fn start() {
    // Fails only if a subscriber is set already.
    let _ = tracing::subscriber::set_global_default(Stderr::default());
}

/// Writes every event as a line. There are no spans.
#[derive(Default)]
struct Stderr {
    /// The lines that nobody took since the last one.
    lost: AtomicU64,
}

impl Subscriber for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let (time, level) = (rfc3339(SystemTime::now()), event.metadata().level());
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let gap = format!("{lost} lines of the log are missing here\n");
        let gap = if lost == 0 { "" } else { &gap };
        let line = format!("{gap}{time} {level} {}{}\n", line.message, line.fields);
        if !print_error(&line) {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = printable(&format!("{value:?}"));
        if field.name() == "message" {
            self.message = text;
        } else {
            let _ = write!(self.fields, " {}={text}", field.name());
        }
    }
}
