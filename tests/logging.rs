//! What the library logs. Alone in its process: where several threads log, `tracing` may decide for
//! one of them what another one's subscriber sees.

use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use corosync_ipc::cpg;
use testbed::{Scripted, private_endpoint};

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

/// How a daemon answers every request.
#[derive(Clone, Copy, Debug)]
enum Ends {
    BadAnswer,
    BadEvent,
    Silence,
    Gone,
}
