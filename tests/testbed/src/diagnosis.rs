//! What tells a lost wake-up from an event that the daemon did not send: the connection as a third
//! process sees it.

use std::fmt::Write;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use corosync_ipc::ServiceClient;
use corosync_ipc::cmap::{self, Map};

/// Offsets in a ring's header file, and how long it is.
const WRITE_PT: usize = 0;
const READ_PT: usize = 4;
const WORDS: usize = 8;
const REF_COUNT: usize = 8204;
const SEMAPHORE: usize = 8208;
const FLOW_CONTROL: usize = 8240;
const HEADER: usize = 8244;

/// The rings of a client, both ends of its setup socket, and what the daemon counted of this
/// process's connections.
pub fn diagnosis<C: ServiceClient>(client: &C) -> String {
    let (server, own) = (client.peer_credentials().pid, std::process::id());
    let mut text = format!("{} of pid {server}:\n", C::SERVICE);
    let sockets = sockets(client);
    sockets.iter().for_each(|line| text += &format!("  {line}\n"));
    // Rings are named after the daemon's descriptor of the socket.
    let fd = sockets
        .get(1)
        .and_then(|line| line.split_once("fd=")?.1.split(')').next()?.parse::<u32>().ok());
    let connection = format!("-{server}-{own}-{}-", fd.map_or(String::new(), |fd| fd.to_string()));
    let (mut found, mut folders) = (Vec::new(), vec![PathBuf::from("/dev/shm")]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path
                .to_str()
                .is_some_and(|path| path.contains(&connection) && path.ends_with("-header"))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found.iter().for_each(|header| {
        text += &format!("  {}\n", ring(header).unwrap_or_else(|e| format!("{header:?}: {e}")))
    });
    text + &counters(own).unwrap_or_else(|error| format!("  no counters: {error}\n"))
}

/// What ss tells of our end of the socket, then of the daemon's: state, bytes that wait, inode and
/// inode of the other end.
fn sockets(fd: &impl AsFd) -> Vec<String> {
    let inode =
        fs::read_link(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())).unwrap_or_default();
    let inode: String = inode.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    let listed = Command::new("ss").args(["-x", "-a", "-p", "-n", "-H"]).output();
    let listed = listed
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    let local = |line: &&str| line.split_whitespace().nth(5) == Some(inode.as_str());
    let ours = listed.lines().filter(local);
    let theirs =
        listed.lines().filter(|line| line.split_whitespace().nth(7) == Some(inode.as_str()));
    ours.chain(theirs).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// Where a ring stands.
fn ring(header: &Path) -> std::io::Result<String> {
    let bytes = fs::read(header)?;
    let word = |at: usize| {
        bytes.get(at..at + 4).map_or(0, |word| u32::from_ne_bytes(word.try_into().unwrap()))
    };
    let (write, read) = (word(WRITE_PT), word(READ_PT));
    let data = File::open(header.to_string_lossy().replace("-header", "-data"))?;
    let mut chunk = [0; 8];
    data.read_exact_at(&mut chunk, u64::from(read) * 4)?;
    let chunk = u64::from_ne_bytes(chunk);
    let mut text =
        format!("{}: write_pt {write} read_pt {read} of {}", header.display(), word(WORDS));
    write!(text, ", semaphore {} waiters {}", word(SEMAPHORE), word(SEMAPHORE + 4)).unwrap();
    write!(text, ", at read_pt size {} magic {:#x}", chunk as u32, chunk >> 32).unwrap();
    write!(text, ", ref_count {}", word(REF_COUNT)).unwrap();
    if bytes.len() >= HEADER {
        write!(text, ", flow control {}", word(FLOW_CONTROL)).unwrap();
    }
    Ok(text)
}

/// The statistics of this process's connections that are not 0, one connection a line. Looks last,
/// since it connects itself.
fn counters(own: u32) -> corosync_ipc::Result<String> {
    let client = cmap::Client::connect_with(
        &corosync_ipc::Endpoint::new(),
        cmap::Options::new().map(Map::Stats),
    )?;
    let mut text = String::new();
    let mut last = String::new();
    for (key, value) in client.list("stats.ipcs.service")? {
        let Some((connection, name)) = key.rsplit_once('.') else { continue };
        if !connection.contains(&format!(".{own}.")) {
            continue;
        }
        if connection != last {
            text += &format!("\n  {connection}:");
            last = connection.to_owned();
        }
        if value.to_string() != "0" {
            text += &format!(" {name} {value}");
        }
    }
    Ok(text + "\n")
}
