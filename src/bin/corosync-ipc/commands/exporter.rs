//! `corosync-ipc metrics` and `corosync-ipc exporter`: corosync for Prometheus.

use std::fmt;
use std::future::pending;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::SystemTime;

use clap::Args;
use listenfd::ListenFd;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::AcceptConn;
use serde_json::json;
use tokio::runtime;
use tokio::sync::oneshot;

use crate::context::Context;
use crate::exporter::Scraper;
use crate::exporter::families::Format;
use crate::exporter::http::{OTHER_DESCRIPTORS, Server};
use crate::exporter::observer::Observer;
use crate::exporter::scrape::Scrapes;
use crate::failure::Failure;
use crate::output::{
    complain, never_wait_for_standard_error, print, print_event, try_complain, words,
};
use crate::signals::Signals;

/// Prints metrics of corosync in the Prometheus text format, once
///
/// Prints what `exporter` serves, without the metrics that the exporter counts itself. For
/// node_exporter's textfile collector and for scripts. docs/monitoring.md lists the metrics.
///
/// Prints whatever could be asked, and "corosync_up 0" when nothing could; the exit status says
/// what failed.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  corosync-ipc metrics
  # From cron; keep the file when the exit status is not 0, since it says what
  # is wrong.
  cd /var/lib/prometheus/node-exporter
  corosync-ipc metrics >corosync.prom.$$; mv corosync.prom.$$ corosync.prom")]
pub(crate) struct Metrics {
    /// Print OpenMetrics instead.
    #[arg(long)]
    openmetrics: bool,

    #[command(flatten)]
    asked: Asked,
}

/// Serves metrics of corosync to Prometheus over HTTP
///
/// Serves /metrics, in OpenMetrics where the client prefers it and in the Prometheus text format
/// 0.0.4 otherwise, and /healthz, which says that the exporter runs. The metrics of
/// ha_cluster_exporter's corosync collector are among them, with its names and labels.
/// docs/monitoring.md lists all.
///
/// Runs until SIGINT, SIGTERM or SIGHUP, whether corosync runs or not: "corosync_up" says so, and
/// standard error why, when that changes. Each request asks corosync; requests at the same time
/// share the answer. --timeout limits how long
/// that takes; keep it below Prometheus' scrape_timeout.
///
/// There is no TLS and no password: put a reverse proxy in front of it where others reach the
/// address. Prints one line when it is ready; with --json an object with "event": "listening" and
/// its addresses.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  corosync-ipc exporter
  corosync-ipc exporter --listen 127.0.0.1:9665   # beside ha_cluster_exporter
  corosync-ipc exporter --listen 127.0.0.1:9664 --listen '[::1]:9664'
  corosync-ipc exporter --listen :9664            # at all addresses
  curl http://127.0.0.1:9664/metrics")]
pub(crate) struct Exporter {
    /// The address and port to listen at; can be given several times. Port 0 takes a free one.
    ///
    /// ":9664" is the port at all addresses. A name stands for the first of its addresses, of IPv4
    /// if there is one.
    #[arg(
        long,
        value_name = "ADDRESS",
        visible_alias = "web.listen-address",
        default_value = "127.0.0.1:9664"
    )]
    listen: Vec<Listen>,

    /// Serve at the sockets that systemd passes (LISTEN_FDS) instead.
    #[arg(long = "web.systemd-socket", conflicts_with = "listen")]
    systemd_socket: bool,

    #[command(flatten)]
    asked: Asked,
}

/// What to ask for, besides what is always asked for.
#[derive(Debug, Args)]
struct Asked {
    /// Also tell which programs are connected, and how many events wait for them.
    ///
    /// This iterates over corosync's statistics of connections. corosync before 3.1.4 may crash
    /// when a client disconnects at the same time; later versions may crash when one connects and
    /// disconnects again and again at the same time. How many connections there are is told
    /// without it.
    #[arg(long)]
    clients: bool,
}

impl Metrics {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        if context.json {
            let text = "metrics has formats of its own and does not take --json; see `status`";
            return Err(Failure::usage(text));
        }
        let scraper = Scraper::new(context.endpoint.clone(), self.asked.clients, None);
        let scrape = scraper.take();
        let result = scrape.result();
        let format = if self.openmetrics { Format::OpenMetrics } else { Format::Prometheus };
        print(scrape.families.write(format))?;
        result
    }
}

impl Exporter {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let listeners =
            if self.systemd_socket { systemd_sockets()? } else { bind_all(&self.listen)? };
        let addresses = addresses(&listeners)?;
        allow_descriptors();
        never_wait_for_standard_error();
        // Before there are other threads, and after names were looked up, which takes its time.
        let signals = if context.is_embedded { None } else { Some(Signals::block()?) };
        let observer = Observer::start(&context.endpoint)?;
        let scraper = Scraper::new(context.endpoint.clone(), self.asked.clients, Some(observer));
        let faults = Faults::default();
        let scrapes = Scrapes::new(scraper.time(), move || {
            let scrape = scraper.take();
            faults.tell(scrape.result());
            scrape.families
        });
        let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(|error| failed("starting the server", &error))?;
        let json = context.json;
        // Whoever started it may have gone, or may not read.
        thread::spawn(move || announce(json, &addresses));
        let stop = async {
            match signals.map(stop_at_signal) {
                Some(stop) => _ = stop.await,
                // Signals end the embedded corosync, and the process with it.
                None => pending().await,
            }
        };
        let served = runtime.block_on(Server::serve(scrapes, listeners, stop));
        // Does not wait for a scrape that nobody waits for any more.
        runtime.shutdown_background();
        served.map_err(|error| failed("serving", &error))
    }
}

/// Raises the limit of descriptors as far as it may be raised, and says if it is too low.
fn allow_descriptors() {
    let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    let needed = OTHER_DESCRIPTORS + 1;
    if most < needed as u64 {
        complain(&format!(
            "the limit of file descriptors is {most}: scrapes may be incomplete or say that \
             corosync does not answer; they need up to {needed}"
        ));
    }
}

/// What was said on standard error of the scrapes, so that it is said once.
#[derive(Debug, Default)]
struct Faults(Mutex<Option<String>>);

impl Faults {
    /// Says that a scrape fails in another way than the one before, or succeeds again.
    fn tell(&self, result: Result<(), Failure>) {
        let fault = match result {
            Err(Failure::Failed { text, .. }) => Some(text),
            _ => None,
        };
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != fault
            && try_complain(fault.as_deref().unwrap_or("corosync answers in full again"))
        {
            *said = fault;
        }
    }
}

/// Takes the sockets of systemd's socket unit.
fn systemd_sockets() -> Result<Vec<TcpListener>, Failure> {
    let mut given = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..given.len() {
        let listener = given.take_tcp_listener(index);
        let listener = listener.map_err(|error| failed("a socket of systemd", &error))?;
        if listener.as_ref().is_some_and(|one| getsockopt(one, AcceptConn) == Ok(false)) {
            let text = "--web.systemd-socket: systemd passed a socket that takes no connections; \
                        set \"Accept=no\" in the socket unit";
            return Err(Failure::refused(text));
        }
        listeners.extend(listener);
    }
    if listeners.is_empty() {
        let text = "--web.systemd-socket: systemd passed no socket; start the socket unit";
        return Err(Failure::refused(text));
    }
    Ok(listeners)
}

/// Where to listen.
#[derive(Clone, Debug)]
enum Listen {
    Address(SocketAddr),
    /// All addresses.
    Port(u16),
    Name(String, u16),
}

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or("no port: give ADDRESS:PORT or :PORT")?;
        let port = port.parse().map_err(|_| "the port has to be a number up to 65535")?;
        if host.contains([':', '[', ']']) {
            return Err("an address of IPv6 is written as [::1]:9664");
        }
        Ok(if host.is_empty() { Self::Port(port) } else { Self::Name(host.to_owned(), port) })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Port(port) => write!(f, ":{port}"),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

impl Listen {
    fn bind(&self) -> io::Result<TcpListener> {
        match self {
            Self::Address(address) => TcpListener::bind(address),
            Self::Port(port) => match TcpListener::bind((Ipv6Addr::UNSPECIFIED, *port)) {
                // There is no IPv6 here. Otherwise that socket is for IPv4 too.
                Err(error) if is_without_ipv6(&error) => {
                    TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port))
                }
                listener => listener,
            },
            Self::Name(name, port) => {
                let addresses = (name.as_str(), *port).to_socket_addrs()?;
                let address = addresses.min_by_key(SocketAddr::is_ipv6);
                TcpListener::bind(address.ok_or(ErrorKind::AddrNotAvailable)?)
            }
        }
    }
}

fn is_without_ipv6(error: &io::Error) -> bool {
    let errors = [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL];
    errors.map(|error| Some(error as i32)).contains(&error.raw_os_error())
}

fn bind_all(listen: &[Listen]) -> Result<Vec<TcpListener>, Failure> {
    let bind = |listen: &Listen| {
        listen.bind().map_err(|error| {
            let hint = match error.kind() {
                ErrorKind::AddrInUse => "; ha_cluster_exporter has port 9664 too: use another one",
                _ => "",
            };
            failed(&format!("--listen {listen}"), &error).map_text(|text| text + hint)
        })
    };
    listen.iter().map(bind).collect()
}

fn addresses(listeners: &[TcpListener]) -> Result<Vec<SocketAddr>, Failure> {
    let addresses: io::Result<_> = listeners.iter().map(TcpListener::local_addr).collect();
    addresses.map_err(|error| failed("listening", &error))
}

fn failed(what: &str, error: &io::Error) -> Failure {
    Failure::refused(format!("{what}: {error}"))
}

/// Ends at the first signal. The second one ends the process at once.
fn stop_at_signal(signals: Signals) -> oneshot::Receiver<()> {
    let (stop, stopped) = oneshot::channel();
    thread::spawn(move || {
        let _ = signals.wait(None);
        signals.let_through();
        let _ = stop.send(());
        // Only this thread lets the second one through.
        loop {
            thread::park();
        }
    });
    stopped
}

/// Prints the line, if anybody takes it.
fn announce(json: bool, addresses: &[SocketAddr]) {
    let printed = if json {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let members = json!({ "addresses": addresses });
        print_event("listening", SystemTime::now(), members)
    } else {
        let urls = addresses.iter().map(|address| format!("http://{address}/metrics"));
        print(format!("serving {}\n", words(urls)))
    };
    if let Err(Failure::Failed { text, .. }) = printed {
        complain(&text);
    }
}
