//! `corosync-ipc doctor`: why the daemon cannot be reached.

mod process;
mod surroundings;

use std::io;
use std::mem::discriminant;
use std::path::Path;
use std::thread;

use clap::Args;
use corosync_ipc::cmap::{self, Map};
use corosync_ipc::snapshot::{Fault, Service, services};
use corosync_ipc::{
    CsError, Endpoint, Error, ProtocolError, RingError, RingFileFault, SocketAddress, Stage, within,
};
use nix::errno::Errno;
use serde_json::{Value as Json, json};

use crate::commands::doctor::process::{Pids, is_denied, is_of_user, label};
use crate::commands::doctor::surroundings::{Daemon, Surroundings};
use crate::context::Context;
use crate::failure::{Failure, judge, service_faults};
use crate::output::{Cell, fields, pairs, print, print_document};
use crate::report::{is_unconfigured, process};

/// Finds out why a daemon cannot be reached, and says what to do
///
/// Checks this machine (user, environment, kind of sockets, shared memory, corosync processes),
/// then connects to each service: socket, handshake, rings in shared memory, first request. For
/// each failure it says at which step it failed and what to do. With --json prints one document.
/// Ends with 0 when all configured services answer, with 3 when none can be reached, else with 4
/// when one timed out, or with 1.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  corosync-ipc doctor
  corosync-ipc doctor --socket-dir /host/run --shm-root /host/dev/shm")]
pub(crate) struct Doctor {}

impl Doctor {
    #[allow(clippy::unused_self, reason = "as all commands")]
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let Context { endpoint, deadline, .. } = context;
        let (mut is_new, mut pids) = (None, None);
        let (mut services, has_votequorum) = thread::scope(|scope| {
            scope.spawn(|| is_new = Some(within(*deadline, || is_2_99(endpoint))));
            // If this fails, so does cpg.
            scope.spawn(|| pids = within(*deadline, || Pids::look(endpoint)).ok());
            within(*deadline, || services(endpoint))
        });
        // After the services, since it takes time that is not the daemon's.
        let surroundings = Surroundings::look(endpoint);
        // evs, which most corosyncs do not have.
        services.retain(|service| {
            service.reachable || service.error.is_some() || is_unconfigured(service)
        });
        // Without cmap these fail for the same reason as cmap.
        let has_cmap =
            services.iter().any(|service| service.service == "cmap" && service.reachable);
        let is_new = is_new.filter(|_| has_cmap).map(|is_new| is_new.map_err(Fault::from));
        let unknown_provider = has_votequorum.err().filter(|_| has_cmap).map(Fault::from);
        let beside = [
            (PROVIDER, unknown_provider.as_ref()),
            (IS_NEW, is_new.as_ref().and_then(|asked| asked.as_ref().err())),
        ];
        let beside: Vec<(&str, &Fault)> =
            beside.into_iter().filter_map(|(part, fault)| Some((part, fault?))).collect();
        let fault_of =
            |part| beside.iter().find(|(name, _)| *name == part).map(|(_, fault)| *fault);
        let faults: Vec<_> = service_faults(&services).chain(beside.iter().copied()).collect();
        let is_reached = services.iter().any(|service| service.reachable);
        let seen = Seen { surroundings: &surroundings, is_reached };
        if context.json {
            let mut document = surroundings.json();
            document["ok"] = json!(faults.is_empty());
            document["pid"] = json!(std::process::id());
            document["pid_at_daemon"] = json!(pids.and_then(|pids| pids.at_daemon));
            document["label"] = json!(label());
            document[IS_NEW] = json!(is_new.as_ref().and_then(|is_new| is_new.as_ref().ok()));
            for (part, fault) in &beside {
                document["errors"][part] = json!(fault);
            }
            document["services"] =
                services.iter().map(|service| service_json(service, &seen)).collect();
            print_document(&document)?;
        } else {
            let generation = match &is_new {
                Some(Ok(true)) => Some("2.99 or later".into()),
                Some(Ok(false)) => Some("older than 2.99".into()),
                _ => fault_of(IS_NEW).map(Cell::failed),
            };
            let provider = fault_of(PROVIDER).map(Cell::failed);
            let transport = services.iter().find_map(|service| service.transport);
            let transport = transport.map(|transport| transport.to_string().into());
            let is_denied = services.iter().any(|service| error_of(service).is_some_and(is_denied));
            let label = is_denied.then(label).flatten();
            let pids = pids.and_then(Pids::text);
            let known = [
                ("Daemon", generation),
                ("Transport", transport),
                ("Provider", provider),
                ("Process", pids.map(Cell::from)),
                ("Label", label.map(Cell::from)),
            ];
            let known = known.into_iter().filter_map(|(name, said)| Some((name, said?)));
            let text = fields(surroundings.fields().into_iter().chain(known));
            print(text + "\n" + &pairs(services_text(&services, &seen), 2))?;
        }
        judge(faults, is_reached)
    }
}

/// The questions beside those to the services.
const PROVIDER: &str = "quorum_provider";
const IS_NEW: &str = "daemon_is_2_99_or_later";

/// Why a service does not answer.
fn error_of(service: &Service) -> Option<&Error> {
    service.error.as_ref().and_then(|fault| fault.source.as_deref())
}

fn is_2_99(endpoint: &Endpoint) -> Result<bool, Error> {
    match cmap::Client::connect_with(endpoint, cmap::Options::new().map(Map::Stats)) {
        Ok(_) => Ok(true),
        Err(Error::Unsupported { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What the advice depends on.
struct Seen<'a> {
    surroundings: &'a Surroundings,
    /// Whether some service answers.
    is_reached: bool,
}

/// A line for each service; services with the same failure share one.
fn services_text(services: &[Service], seen: &Seen<'_>) -> Vec<[Cell; 2]> {
    // As long as the longest of all.
    let name_cell = |name: &str| format!("{name:<10}").into();
    let mut lines = Vec::new();
    let mut failed: Vec<(&str, &Error)> = Vec::new();
    for service in services {
        let name = &*service.service;
        let said = match (error_of(service), service.uid) {
            _ if is_unconfigured(service) => "ok: not configured (quorum.provider)".to_owned(),
            (None, uid) => {
                let uid = uid.unwrap_or_default();
                let process = process(service.pid, uid);
                // evs accepts no request while the partition is not quorate.
                let did = if name == "evs" { "took the connection" } else { "answered a request" };
                format!("ok: {process} {did}")
            }
            (Some(error), _) => {
                failed.push((name, error));
                continue;
            }
        };
        lines.push([name_cell(name), said.into()]);
    }
    // Such errors differ in the service's name only.
    let nameless = |(name, error): (&str, &Error)| {
        // `cfg` is also the name of a command.
        (discriminant(error), advice(error, seen).replace("cfg reload", "reload").replace(name, ""))
    };
    while let Some(first @ (name, error)) = failed.first().copied() {
        let (alike, others) =
            failed.iter().copied().partition::<Vec<_>, _>(|one| nameless(*one) == nameless(first));
        failed = others;
        let what = format!("failed at the {}: {}", failed_at(error), Fault::describe(error));
        lines.push([name_cell(name), Cell::wrong(what)]);
        let alike: Vec<&str> = alike.iter().skip(1).map(|(name, _)| *name).collect();
        if !alike.is_empty() {
            lines.push([Cell::default(), format!("so did {}", alike.join(", ")).into()]);
        }
        lines.push([Cell::default(), format!("-> {}", advice(error, seen)).into()]);
    }
    lines
}

fn service_json(service: &Service, seen: &Seen<'_>) -> Json {
    let error = error_of(service);
    let is_ok = service.fault().is_none();
    json!({
        "service": service.service,
        "ok": is_ok,
        "configured": service.configured != Some(false),
        "pid": service.pid,
        "uid": service.uid,
        "transport": service.transport,
        "failed_at": error.map(failed_at),
        "error": service.error.as_ref().map(|fault| &fault.error),
        "cs_error": service.error.as_ref().and_then(|fault| fault.cs_error.as_ref()),
        "advice": error.filter(|_| !is_ok).map(|error| advice(error, seen)),
    })
}

/// The stage of connecting that failed, or the first request.
fn failed_at(error: &Error) -> String {
    match error {
        // Nothing was tried yet.
        Error::InvalidArgument { .. } => Stage::Socket.to_string(),
        _ => error.stage().map_or_else(|| "request".to_owned(), |stage| stage.to_string()),
    }
}

/// What to do about an error.
fn advice(error: &Error, seen: &Seen<'_>) -> String {
    let surroundings = seen.surroundings;
    match error {
        Error::NoSocket { service, .. } if seen.is_reached => missing(service),
        Error::NoSocket { address, source, .. } => {
            no_socket(surroundings, address, source)
        }
        Error::UntrustedServer { uid, is_unmapped: true, .. } => format!(
            "this is a user namespace: if the server is the host's root, allow it with --server-uid {uid}, which also allows \
             every other user that is not mapped here"
        ),
        Error::UntrustedServer { uid, pid, .. } => {
            let process = match pid {
                0 => "that process, which is in another pid namespace,".to_owned(),
                pid if is_of_user(*pid, *uid) => format!("process {pid}"),
                _ => format!("the process of uid {uid} that holds the socket (`ss -xlp` names it)"),
            };
            format!(
                "end {process} and start corosync, or, if uid {uid} may serve and read all requests, allow it with \
                 --server-uid {uid}"
            )
        }
        Error::RingFile { owner: Some(uid), fault: RingFileFault::Owner { .. }, .. } => format!(
            "the server is hostile, or it runs in a user namespace in which it gave the file to another user than \
             this one: --server-uid {uid} allows that user's files"
        ),
        Error::RingFile { owner: Some(uid), fault: RingFileFault::Ours { .. }, .. } => format!(
            "the server is hostile, or it is root of a user namespace in which this user is mapped: --server-uid {uid} \
             allows this user's files"
        ),
        Error::RingFile { .. } => "the server is hostile or broken: it named other users' files as rings".to_owned(),
        Error::NotReady { .. } => "wait for corosync to finish starting, or raise its limit of open files".to_owned(),
        Error::NotAllowed { uid, gid, .. } => not_allowed(*uid, *gid, surroundings),
        Error::SharedMemoryFull { .. } => {
            "free space in the daemon's /dev/shm, enlarge it, or use a smaller --ring-size".to_owned()
        }
        Error::RingsNotVisible { path, source } if source.raw_os_error() == Some(Errno::EROFS as i32) => {
            format!("mount {} for writing: both ends write to a ring", surroundings.mount_of(path))
        }
        Error::RingsNotVisible { path, source } if source.kind() == io::ErrorKind::PermissionDenied => {
            let root = surroundings.mount_of(path);
            format!("let this user search {root}; if it may, see the audit log for what SELinux or AppArmor denied")
        }
        Error::RingsNotVisible { .. } => {
            "the daemon has another /dev/shm: mount it here, at /dev/shm or elsewhere, and name that with --shm-root"
                .to_owned()
        }
        Error::SocketsNotVisible { address, .. } if address.path().is_none() => {
            "the daemon is in another network namespace and its corosync.conf has qb_ipc_type: socket: share the \
             network namespace, or let the daemon use shm, the default"
                .to_owned()
        }
        Error::SocketsNotVisible { .. } => {
            "another directory than the daemon's is mounted here: name the daemon's with --socket-dir".to_owned()
        }
        Error::System { source, stage: Some(Stage::Socket), .. }
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            denied(surroundings).to_owned()
        }
        Error::TimedOut { .. } => match surroundings.daemons.iter().find(|daemon| daemon.is_stopped) {
            Some(daemon) => format!("process {} is stopped: `kill -CONT {}` continues it", daemon.pid, daemon.pid),
            None => {
                "the daemon hangs or is very busy: check its log and its load, or try a longer --timeout".to_owned()
            }
        },
        Error::Protocol { source: ProtocolError::StreamTransport, .. } => {
            "the daemon's corosync.conf has qb { ipc_type: socket }: use shm, the default, and restart it"
                .to_owned()
        }
        Error::Protocol { source: ProtocolError::Transport(_), .. } => {
            "the daemon uses an unknown transport: see qb_ipc_type in its corosync.conf".to_owned()
        }
        Error::Protocol { source: ProtocolError::RingName { .. } | ProtocolError::ControlName, .. } => format!(
            "the daemon has its rings elsewhere than in {}: mount their directory at the daemon's path and name it \
             with --shm-root, or serve with --client-shm-root /dev/shm; if no corosync serves there, name another socket",
            surroundings.shm_root.display()
        ),
        Error::System { source, .. } => out_of(source).to_owned(),
        Error::Protocol { source: ProtocolError::Ring(RingError::Truncated { .. }), .. }
        | Error::Disconnected { truncated: Some(_), .. } => {
            "the daemon's /dev/shm is full, or a user who may write there truncated a file: check both".to_owned()
        }
        Error::Protocol { .. } => "another program than corosync listens there, or corosync is broken".to_owned(),
        Error::Disconnected { .. } => "the daemon has just ended: see its log".to_owned(),
        Error::Cs { error: CsError::TryAgain, .. } => {
            "the daemon is busy, often with a change of membership: try again, or use a longer --timeout".to_owned()
        }
        _ => "see the daemon's log".to_owned(),
    }
}

/// What to do when the system denies access to the setup socket.
fn denied(surroundings: &Surroundings) -> &'static str {
    if surroundings.address.path().is_some() {
        "let this user search the socket's directory; if it may, see the audit log for what SELinux or AppArmor denied"
    } else {
        "SELinux or AppArmor denied it, since an abstract socket has no permissions: see the audit log, and \
         docs/containers.md for the rules that a client needs"
    }
}

/// What to do when a system call fails.
fn out_of(source: &io::Error) -> &'static str {
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE) => {
            "this process, not the daemon, has no file descriptors left: raise its limit (`ulimit -n`)"
        }
        Some(Errno::ENFILE) => {
            "this machine has no file descriptors left: see the sysctl fs.file-max"
        }
        Some(Errno::ENOMEM) => "this machine has no memory left",
        Some(Errno::EAFNOSUPPORT) => {
            "a sandbox forbids Unix sockets: add AF_UNIX to the unit's RestrictAddressFamilies="
        }
        _ => "see this machine's log",
    }
}

/// What to do when the daemon does not allow this user.
fn not_allowed(uid: u32, gid: u32, surroundings: &Surroundings) -> String {
    let [said, mapped] = match surroundings.outside {
        Some(_) => [
            "this is a user namespace; the ids are those outside of it: ",
            ", or as the daemon's user namespace, if it has one, maps them",
        ],
        None => [""; 2],
    };
    let (uid, _) = surroundings.outside.unwrap_or((uid, gid));
    format!(
        "{said}run as root, or put `uidgid {{ uid: {uid} }}` into corosync.conf, in three lines of which the first ends \
         with the brace{mapped}; then `corosync-ipc cfg reload`, or a restart before corosync 2.3.2"
    )
}

/// Why a service is missing while others answer.
fn missing(service: &str) -> String {
    if service == "votequorum" {
        // If it is known not to be configured, it is not missing.
        return "it needs provider: corosync_votequorum in the section quorum of corosync.conf: see the daemon's log"
            .to_owned();
    }
    format!(
        "this corosync runs without {service}, which every corosync has: see its log; if sockets are files, mount their \
         directory, not single ones"
    )
}

fn no_socket(surroundings: &Surroundings, address: &SocketAddress, source: &io::Error) -> String {
    let sockets = &surroundings.sockets;
    let is_file = address.path().is_some();
    // A socket file is visible in every network namespace.
    let mut elsewhere = surroundings.daemons.iter().filter(|_| !is_file);
    let elsewhere = elsewhere.find(|daemon| daemon.same_network == Some(false));
    if is_file && source.kind() == io::ErrorKind::ConnectionRefused {
        return "the socket file is left over and no process listens: start corosync. If only the file is mounted here, \
                mount its directory: a restart makes a new file"
            .to_owned();
    }
    let is_missing = |directory: &&Path| surroundings.sees_processes() && !directory.exists();
    if let Some(directory) = address.path().and_then(Path::parent).filter(is_missing) {
        return format!(
            "no such directory: {}; mount the daemon's there, or name another one",
            directory.display()
        );
    }
    let directory = sockets.files.first().and_then(|file| file.parent());
    let hidden =
        surroundings.daemons.iter().find_map(|daemon| Some((daemon.pid, daemon.hidden_directory?)));
    match (sockets.is_abstract, directory, hidden, elsewhere) {
        (true, ..) => "corosync has an abstract socket here: use --abstract".to_owned(),
        (_, Some(directory), ..) => {
            format!("corosync has a socket in {0}: use --socket-dir {0}", directory.display())
        }
        (_, _, Some((pid, directory)), _) => format!(
            "process {pid} is a corosync with sockets in its {directory}, which is another directory here: mount it \
             (it is /proc/{pid}/root{directory}) and name it with --socket-dir"
        ),
        (.., Some(Daemon { pid, .. })) => format!(
            "process {pid} is a corosync in another network namespace: enter it with `nsenter -t {pid} -n`, \
             or let the daemon use filesystem sockets and name them with --socket-dir"
        ),
        _ if !surroundings.sees_processes() => format!(
            "start corosync, unless it runs: without /proc that is not visible here. In a container or chroot, {SHARE}"
        ),
        _ if surroundings.daemons.is_empty() => format!("start corosync; in a container, {SHARE}"),
        _ => {
            let private = "; or it has its sockets in a directory that is private here, as PrivateTmp= makes /tmp: mount \
                           the host's and name it with --socket-dir";
            let private = if is_file { private } else { "" };
            if surroundings.daemons.iter().all(|daemon| daemon.same_network.is_none()) {
                return format!(
                    "a corosync runs, and whether in this network namespace is not visible without the capability \
                     SYS_PTRACE: if not, {SHARE}"
                );
            }
            format!("a corosync runs here but does not listen (yet): see its log{private}")
        }
    }
}

/// What a container shares to reach a corosync outside.
const SHARE: &str = "share the host's network namespace, or, if corosync has its sockets in a directory (/run, in Debian \
    /tmp), mount that and name it with --socket-dir; and mount the host's /dev/shm";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_of_the_user_that_serves_is_to_be_ended() {
        let surroundings = Surroundings::look(&Endpoint::new());
        let seen = Seen { surroundings: &surroundings, is_reached: false };
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = nix::unistd::geteuid().as_raw();
        let advised = |uid| {
            let service = "cmap".into();
            advice(&Error::UntrustedServer { service, uid, pid, is_unmapped: false }, &seen)
        };
        assert!(advised(own).contains(&format!("end process {pid} and")), "{}", advised(own));
        let other = advised(own + 1);
        assert!(!other.contains(&pid.to_string()) && other.contains("ss -xlp"), "{other}");
    }
}
