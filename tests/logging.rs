//! What the library logs. Alone in its process: where several threads log, `tracing` may decide for
//! one of them what another one's subscriber sees.

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use corosync_ipc::embedded::Corosync;
use corosync_ipc::{cmap, cpg};
use testbed::{Scripted, private_endpoint};
use tracing::field::{Field, Visit};

/// One test at a time: see above.
static ALONE: Mutex<()> = Mutex::new(());

/// Uses a client when the library logs something.
struct Curious {
    client: OnceLock<Arc<cpg::Client>>,
    ended: mpsc::Sender<String>,
}

impl tracing::Subscriber for Curious {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        if let Some(client) = self.client.get() {
            let asked =
                client.local_node_id().map(drop).and_then(|()| client.poll_event().map(drop));
            let _ = self.ended.send(format!("{asked:?}"));
        }
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// A subscriber of the log is user code.
#[test]
fn nothing_is_logged_while_a_lock_is_held() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for ends in [Ends::BadAnswer, Ends::BadEvent, Ends::Silence, Ends::Gone] {
        let (endpoint, _directory) = private_endpoint();
        let _listener = Scripted::serve(&endpoint, "cpg", move |conn, _| match ends {
            Ends::BadAnswer => conn.reply(b"bad").unwrap(),
            Ends::BadEvent => conn.send_event(b"bad").unwrap(),
            Ends::Silence => {}
            Ends::Gone => conn.disconnect(),
        });
        let connect = || {
            let client = cpg::Client::connect_to(&endpoint).unwrap();
            client.set_request_timeout(Duration::from_millis(10));
            Arc::new(client)
        };
        let use_up = |client: &cpg::Client| {
            let _ = client.local_node_id();
            // To the end that the event is.
            while client.next_event(Duration::from_secs(60)).is_ok_and(|event| event.is_some()) {}
        };
        let client = connect();
        let (ended, told) = mpsc::channel();
        // On a thread of its own: one that waits for itself does so for ever.
        thread::spawn(move || {
            let curious = Curious { client: OnceLock::from(Arc::clone(&client)), ended };
            tracing::subscriber::with_default(curious, || {
                use_up(&client);
            });
        });
        let asked = told
            .recv_timeout(Duration::from_secs(60))
            .unwrap_or_else(|_| panic!("{ends:?}: it waits for itself"));
        assert!(asked.starts_with("Err("), "{ends:?}: {asked}");
    }
}

/// Notes every span that begins, with its fields, and what is recorded in it later.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<String>>>);

/// Appends fields to a line.
struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl tracing::Subscriber for Spans {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        let mut spans = self.0.lock().unwrap();
        let mut line = span.metadata().name().to_owned();
        span.record(&mut Fields(&mut line));
        spans.push(line);
        tracing::span::Id::from_u64(spans.len() as u64)
    }

    fn record(&self, span: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        let mut spans = self.0.lock().unwrap();
        values.record(&mut Fields(&mut spans[span.into_u64() as usize - 1]));
    }

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {}

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn connects_and_requests_are_spans_that_record_their_outcome() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let corosync = Corosync::start().unwrap();
    let spans = Spans::default();
    tracing::subscriber::with_default(spans.clone(), || {
        let client = cmap::Client::connect_to(corosync.endpoint()).unwrap();
        client.set("span.key", 1_u8).unwrap();
        client.delete("span.none").unwrap_err();
        let client = cpg::Client::connect_to(corosync.endpoint()).unwrap();
        client.multicast(cpg::Guarantee::AGREED, b"no group").unwrap_err();
    });
    let spans = spans.0.lock().unwrap();
    let [connect, set, delete, _, multicast] = &**spans else { panic!("{spans:?}") };
    assert_eq!(connect, r#"connect service=cmap call="connecting" outcome="ok""#);
    assert_eq!(set, r#"request service=cmap call="cmap set" outcome="ok""#);
    assert!(
        delete.starts_with(r#"request service=cmap call="cmap delete" outcome="#)
            && delete.contains("CS_ERR_NOT_EXIST"),
        "{delete}"
    );
    assert!(
        multicast.starts_with(r#"request service=cpg call="cpg multicast" outcome="#)
            && multicast.contains("CS_ERR_NOT_EXIST"),
        "{multicast}"
    );
}

/// How a daemon answers every request.
#[derive(Clone, Copy, Debug)]
enum Ends {
    BadAnswer,
    BadEvent,
    Silence,
    Gone,
}
