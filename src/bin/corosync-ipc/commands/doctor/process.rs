//! How the daemon, and SELinux or AppArmor, see this process.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::process;

use corosync_ipc::{Endpoint, Error, cpg};

/// This process in two pid namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pids {
    /// As this process sees itself.
    own: u32,
    /// As the daemon sees it; `None` if it does not see it, or does not tell.
    pub(crate) at_daemon: Option<u32>,
    sees_daemon: bool,
}

impl Pids {
    /// Asks the daemon by a connection to cpg.
    pub(crate) fn look(endpoint: &Endpoint) -> Result<Self, Error> {
        let client = cpg::Client::connect_to(endpoint)?;
        Ok(Self {
            own: process::id(),
            at_daemon: client.pid_at_daemon(),
            sees_daemon: client.peer_credentials().pid != 0,
        })
    }

    /// What a member of a cpg group has to know; `None` in the daemon's pid namespace.
    pub(crate) fn text(self) -> Option<String> {
        let Self { own, at_daemon, sees_daemon } = self;
        let (seen, advice) = match at_daemon {
            Some(pid) if pid == own => return None,
            Some(pid) => (format!("{pid} for the daemon"), "--pid-at-daemon"),
            None if sees_daemon => return None,
            None => ("not visible to the daemon".to_owned(), "a --pid of its own"),
        };
        Some(format!(
            "{own} here, {seen}, which is in another pid namespace: another container may have a \
             process {own} too, so join cpg groups with {advice}"
        ))
    }
}

/// Whether a process runs as this user. The one that listened may have ended and left the socket to
/// another, and its number may now be that of any process.
pub(crate) fn is_of_user(pid: i32, uid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok_and(|process| process.uid() == uid)
}

/// Whether the system denied access to a socket or to rings.
pub(crate) fn is_denied(error: &Error) -> bool {
    match error {
        Error::NoSocket { source, .. }
        | Error::RingsNotVisible { source, .. }
        | Error::System { source, .. } => source.kind() == ErrorKind::PermissionDenied,
        _ => false,
    }
}

/// The label by which SELinux or AppArmor knows this process; `None` without either, and if
/// AppArmor does not confine it.
pub(crate) fn label() -> Option<String> {
    parse_label(&fs::read("/proc/self/attr/current").ok()?)
}

/// SELinux ends it with a NUL, AppArmor with a line feed.
fn parse_label(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let label = text.trim_end_matches(['\0', '\n']);
    (!label.is_empty() && label != "unconfined").then(|| label.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_pid_namespace_is_told() {
        let text = |at_daemon, sees_daemon| Pids { own: 1, at_daemon, sees_daemon }.text();
        assert_eq!(
            [text(Some(1), false), text(Some(1), true), text(None, true)],
            [None, None, None]
        );
        let container = text(Some(8958), false).unwrap();
        assert!(container.starts_with("1 here, 8958 for the daemon"), "{container}");
        assert!(container.ends_with("--pid-at-daemon"), "{container}");
        assert!(text(None, false).unwrap().ends_with("a --pid of its own"));
    }

    #[test]
    fn labels_of_both_kinds_are_read() {
        let label = "system_u:system_r:container_t:s0:c1,c2";
        assert_eq!(parse_label(format!("{label}\0").as_bytes()).as_deref(), Some(label));
        let profile = "docker-default (enforce)";
        assert_eq!(parse_label(format!("{profile}\n").as_bytes()).as_deref(), Some(profile));
        assert_eq!([parse_label(b"unconfined\n"), parse_label(b"")], [None, None]);
    }
}
