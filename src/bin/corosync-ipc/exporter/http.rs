//! The HTTP server of the exporter. It serves one request on each connection, so that a time limit
//! bounds what a slow client holds.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, VARY};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::resource::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::families::Format;
use super::scrape::Scrapes;

/// The most connections at a time. Others wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 64;
/// The descriptors that connections leave to a scrape and to everything else. A scrape was seen to
/// have 37 at a time, and the exporter has 18 open besides.
pub(crate) const OTHER_DESCRIPTORS: usize = 60;
/// The most bytes of a request. The smallest that hyper allows.
const MOST_REQUEST: usize = 8 << 10;
/// The time for a client to send its request.
const CLIENT_TIME: Duration = Duration::from_secs(10);
/// The time for which a client without a whole request holds its place when others wait.
const GRACE: Duration = Duration::from_millis(100);
/// The pause after a connection could not be accepted, usually for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
const INDEX: &str = "corosync-ipc exporter\n\n/metrics  metrics of corosync\n/healthz  whether this exporter runs\n";

/// The server.
#[derive(Debug)]
pub(crate) struct Server {
    scrapes: Scrapes,
    slots: Arc<Semaphore>,
    /// The connections that have sent no whole request, by age.
    silent: Mutex<BTreeMap<u64, Silent>>,
    /// How many connections there have been.
    connections: AtomicU64,
    /// The time for a whole connection.
    time: Duration,
    /// Becomes true when the server ends.
    ends: watch::Receiver<bool>,
}

/// A connection that has sent no whole request.
#[derive(Debug)]
struct Silent {
    since: Instant,
    task: AbortHandle,
}

impl Server {
    /// Serves until `stop`, then finishes the requests that are being served.
    pub(crate) async fn serve(
        scrapes: Scrapes,
        listeners: Vec<net::TcpListener>,
        stop: impl Future<Output = ()>,
    ) -> std::io::Result<()> {
        let (end, ends) = watch::channel(false);
        let scrape_time = scrapes.time_limit();
        let most = most_connections();
        let server = Arc::new(Self {
            scrapes,
            slots: Arc::new(Semaphore::new(most)),
            silent: Mutex::default(),
            connections: AtomicU64::new(0),
            time: scrape_time.saturating_add(CLIENT_TIME * 2),
            ends,
        });
        let mut acceptors = Vec::new();
        for listener in listeners {
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            acceptors.push(tokio::spawn(Arc::clone(&server).accept(listener)));
        }
        stop.await;
        acceptors.into_iter().for_each(|acceptor| acceptor.abort());
        end.send_replace(true);
        // All slots are free when no connection is left.
        let all = u32::try_from(most).unwrap_or(u32::MAX);
        let _ = timeout(scrape_time, server.slots.acquire_many(all)).await;
        Ok(())
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let Some(slot) = self.slot().await else { break };
                    let number = self.connections.fetch_add(1, Ordering::Relaxed);
                    let mut silent = self.silent();
                    let task = tokio::spawn(Arc::clone(&self).connection(number, stream, slot));
                    let task = task.abort_handle();
                    silent.insert(number, Silent { since: Instant::now(), task });
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    /// Waits for a slot, for which connections without a whole request make room.
    async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        let mut slot = pin!(Arc::clone(&self.slots).acquire_owned());
        let mut pause = Duration::ZERO;
        loop {
            if let Ok(slot) = timeout(pause, slot.as_mut()).await {
                return slot.ok();
            }
            pause = self.make_room();
        }
    }

    /// Drops the oldest connection that has sent no whole request, unless it is too young. Returns
    /// when to try again.
    fn make_room(&self) -> Duration {
        let mut silent = self.silent();
        let Some(oldest) = silent.first_entry() else { return GRACE };
        let left = GRACE.saturating_sub(oldest.get().since.elapsed());
        if !left.is_zero() {
            return left;
        }
        oldest.remove().task.abort();
        GRACE
    }

    fn silent(&self) -> MutexGuard<'_, BTreeMap<u64, Silent>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a connection. What goes wrong is the client's affair.
    async fn connection(
        self: Arc<Self>,
        number: u64,
        stream: TcpStream,
        _slot: OwnedSemaphorePermit,
    ) {
        let service = service_fn(|request: Request<Incoming>| {
            self.silent().remove(&number);
            async { Ok::<_, Infallible>(self.respond(request).await) }
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(CLIENT_TIME)
            .max_buf_size(MOST_REQUEST)
            .half_close(true)
            .keep_alive(false);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut ends = self.ends.clone();
        let mut end = pin!(ends.wait_for(|is_over| *is_over));
        let mut is_over = false;
        let served = poll_fn(|context| {
            if !is_over && end.as_mut().poll(context).is_ready() {
                is_over = true;
                // Ends at once, unless a request has begun.
                connection.as_mut().graceful_shutdown();
            }
            connection.as_mut().poll(context)
        });
        let _ = timeout(self.time, served).await;
        self.silent().remove(&number);
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<String> {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/metrics" => self.metrics(request.headers()).await,
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/" => text(StatusCode::OK, INDEX),
            _ => text(StatusCode::NOT_FOUND, "no such page: see /\n"),
        }
    }

    async fn metrics(&self, headers: &HeaderMap) -> Response<String> {
        let Some(families) = self.scrapes.scrape().await else {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "the scrape failed\n");
        };
        let format = accepted(headers);
        let mut response = Response::new(families.write(format));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
        headers.insert(VARY, HeaderValue::from_static("accept"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// How many connections the limit of descriptors allows.
fn most_connections() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).ok();
    let limit = limit.and_then(|(limit, _)| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    limit.saturating_sub(OTHER_DESCRIPTORS).clamp(1, MOST_CONNECTIONS)
}

fn text(status: StatusCode, text: &str) -> Response<String> {
    let mut response = Response::new(text.to_owned());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    response
}

/// The format that a client prefers. Without a preference it is the older one, which everybody
/// reads.
fn accepted(headers: &HeaderMap) -> Format {
    let (mut openmetrics, mut prometheus) = (0.0, 0.0);
    let lists = headers.get_all(ACCEPT).into_iter().filter_map(|list| list.to_str().ok());
    for range in lists.flat_map(|list| list.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut quality, mut version) = (1.0_f64, None);
        for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
            match name.trim().to_ascii_lowercase().as_str() {
                "q" => quality = value.trim().parse().unwrap_or(0.0),
                "version" => version = Some(value.trim().trim_matches('"')),
                _ => {}
            }
        }
        match (media_type.as_str(), version) {
            ("application/openmetrics-text", None | Some("1.0.0")) => {
                openmetrics = quality.max(openmetrics);
            }
            ("text/plain", None | Some("0.0.4")) => prometheus = quality.max(prometheus),
            _ => {}
        }
    }
    // NaN is no preference.
    if openmetrics > 0.0 && openmetrics >= prometheus {
        Format::OpenMetrics
    } else {
        Format::Prometheus
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_says_which_format_it_reads() {
        let format = |accept: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in accept {
                headers.append(ACCEPT, HeaderValue::from_static(value));
            }
            accepted(&headers)
        };
        // What Prometheus 2.42 and 3 send.
        for accept in [
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            "Application/OpenMetrics-Text; Version=\"1.0.0\"",
            "application/openmetrics-text",
        ] {
            assert_eq!(format(&[accept]), Format::OpenMetrics, "{accept}");
        }
        for accept in [
            "*/*",
            "text/plain",
            "text/plain;version=0.0.4, application/openmetrics-text;q=0.5",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=x",
            "application/openmetrics-text;q=NaN",
            ";;=,,",
        ] {
            assert_eq!(format(&[accept]), Format::Prometheus, "{accept}");
        }
        assert_eq!(format(&[]), Format::Prometheus);
        assert_eq!(
            format(&["text/plain;q=0.2", "application/openmetrics-text;q=0.3"]),
            Format::OpenMetrics
        );
    }
}
