//! Services whose answers a test writes.

use bytes::Bytes;
use corosync_ipc::Endpoint;
use corosync_ipc::libqb::server::{Conn, Handler, Listener, Peer, Refusal};

/// A service that lets everybody connect and answers requests by a closure.
pub struct Scripted(Box<Answer>);

type Answer = dyn FnMut(&mut Conn<'_, ()>, Bytes) + Send;

impl Scripted {
    /// Serves until the listener is dropped.
    pub fn serve(
        endpoint: &Endpoint,
        service: &str,
        answer: impl FnMut(&mut Conn<'_, ()>, Bytes) + Send + 'static,
    ) -> Listener<Scripted> {
        let builder = Listener::<Scripted>::builder().endpoint(endpoint).service(service);
        builder.start(Scripted(Box::new(answer))).expect("a scripted service starts")
    }

    /// Serves and answers nothing.
    pub fn silent(endpoint: &Endpoint, service: &str) -> Listener<Scripted> {
        Scripted::serve(endpoint, service, |_, _| {})
    }
}

impl Handler for Scripted {
    type Session = ();

    fn authorize(&mut self, _: &Peer<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn on_request(&mut self, conn: &mut Conn<'_, ()>, request: Bytes) {
        (self.0)(conn, request);
    }
}
