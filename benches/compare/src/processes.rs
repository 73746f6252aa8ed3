//! What is measured with processes of their own: the command, memory and servers; and what is
//! measured once.

use std::ffi::{CString, c_char};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use corosync_ipc::cmap::TrackEvents;
use corosync_ipc::cpg::GroupName;
use corosync_ipc::libqb;
use corosync_ipc::libqb::server::{Conn, Handler, Listener, Peer, Refusal};
use corosync_ipc::{Endpoint, TrackFlags, cfg, cmap, cpg, quorum, votequorum};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::meter::{Cost, Meter, time_of_thread};
use crate::report::{Other, Unit, median};
use crate::side::Side;
use crate::theirs::Theirs;

unsafe extern "C" {
    safe fn c_monitor();
    fn c_serve(name: *const c_char) -> !;
}

/// The parts that this program can play when it starts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Keeps a processor busy.
    Spin,
    /// Does nothing.
    Idle,
    /// Answers each byte with a byte.
    Echo,
    /// Watches all services.
    OurMonitor,
    TheirMonitor,
    /// Answers each request with its payload.
    OurServer,
    TheirServer,
}

/// Plays a part until standard input ends or the process is killed.
pub(crate) fn play(part: Part) -> ! {
    // It must not outlive the bench, however that ends.
    set_pdeathsig(Signal::SIGKILL).expect("a signal can be asked for");
    match part {
        Part::Spin => loop {
            std::hint::spin_loop();
        },
        Part::Idle => wait_for_the_end(()),
        Part::Echo => {
            let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
            let mut byte = [0];
            while input.read_exact(&mut byte).is_ok() {
                output.write_all(&byte).and_then(|()| output.flush()).unwrap();
            }
            std::process::exit(0)
        }
        Part::OurMonitor => wait_for_the_end(our_monitor()),
        Part::TheirMonitor => {
            c_monitor();
            wait_for_the_end(())
        }
        Part::OurServer => {
            let builder = Listener::<Echo>::builder().endpoint(&Endpoint::new().abstract_sockets());
            let server = builder.service(SERVER).max_message_size(2 << 20).start(Echo).unwrap();
            wait_for_the_end(server)
        }
        Part::TheirServer => {
            let name = CString::new(SERVER).unwrap();
            println!();
            // SAFETY: a text that ends with a zero and stays.
            unsafe { c_serve(name.as_ptr()) }
        }
    }
}

/// Keeps what was made, and says that it is made.
fn wait_for_the_end<T>(made: T) -> ! {
    println!();
    let _ = io::stdin().read(&mut [0]);
    drop(made);
    std::process::exit(0)
}

/// This program in a part. It is ended when it is dropped.
pub(crate) struct Player {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Player {
    pub(crate) fn start(part: Part) -> Player {
        let part = clap::ValueEnum::to_possible_value(&part).expect("no part is skipped");
        let program = std::env::current_exe().expect("this program has a path");
        let mut command = Command::new(program);
        command.args(["--part", part.get_name()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a process starts");
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Player { child, input, output }
    }

    /// Starts it and waits until it has made what it makes.
    fn ready(part: Part) -> Player {
        let mut player = Player::start(part);
        player.output.read_line(&mut String::new()).expect("the process says that it is ready");
        player
    }

    /// Its standard input and output.
    pub(crate) fn ends(&mut self) -> (&mut ChildStdin, &mut BufReader<ChildStdout>) {
        (&mut self.input, &mut self.output)
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn our_monitor() -> impl Sized {
    let cmap = cmap::Client::connect().unwrap();
    cmap.track_add("runtime.", TrackEvents::ALL | TrackEvents::PREFIX).unwrap();
    let cpg = cpg::Client::connect().unwrap();
    cpg.join(&GroupName::new("monitor").unwrap()).unwrap();
    let quorum = quorum::Client::connect().unwrap();
    quorum.track_start(TrackFlags::CURRENT | TrackFlags::CHANGES).unwrap();
    let votequorum = votequorum::Client::connect().unwrap();
    votequorum.track_start(0, TrackFlags::CURRENT | TrackFlags::CHANGES).unwrap();
    let cfg = cfg::Client::connect().unwrap();
    cfg.track_start().unwrap();
    let long = Duration::from_secs(60);
    assert!(cpg.next_event(long).unwrap().is_some());
    assert!(quorum.next_event(long).unwrap().is_some());
    assert!(votequorum.next_event(long).unwrap().is_some());
    (cmap, cpg, quorum, votequorum, cfg)
}

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn authorize(&mut self, _: &Peer<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn on_request(&mut self, conn: &mut Conn<'_, ()>, request: Bytes) {
        let size = (request.len() as i64 + 8).to_ne_bytes();
        conn.reply_slices(&[&request[..8], &size, &1_i64.to_ne_bytes(), &request[16..]]).unwrap();
    }
}

/// One name for both servers, of which one runs at a time.
const SERVER: &str = "compare_echo";

/// All that `wanted` takes by its name.
pub(crate) fn measure(daemon: u32, command: &Path, wanted: impl Fn(&str) -> bool) -> Vec<Other> {
    let lines: [(&str, &dyn Fn() -> Vec<Other>); 5] = [
        ("command", &|| start_of_command(command)),
        ("memory", &|| memory(command)),
        ("/dev/shm", &shared_memory),
        ("server", &servers),
        ("late answer", &|| late_answer(daemon)),
    ];
    let lines = lines.iter().filter(|(name, _)| wanted(name));
    lines.flat_map(|(_, measure)| measure()).collect()
}

/// From the start of a command until it has answered and ended.
fn start_of_command(command: &Path) -> Vec<Other> {
    let run = |program: &Path, args: &[&str]| {
        let (before, start) = (processor_time_of_children(), Instant::now());
        let output = Command::new(program).args(args).output().expect("the command starts");
        assert!(output.status.success(), "{output:?}");
        [start.elapsed().as_secs_f64(), processor_time_of_children() - before]
    };
    let rounds: Vec<_> = (0..41)
        .map(|_| {
            (
                run(command, &["cmap", "get", "bench.number"]),
                run(Path::new("corosync-cmapctl"), &["-g", "bench.number"]),
            )
        })
        .collect();
    let pick = |number: usize, name| {
        let [ours, theirs] = [
            rounds.iter().map(|round| round.0[number]).collect(),
            rounds.iter().map(|round| round.1[number]).collect(),
        ]
        .map(median);
        Other::new(name, Unit::Seconds, ours, theirs)
    };
    vec![pick(0, "command: time"), pick(1, "command: CPU")]
}

fn processor_time_of_children() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the kernel counts");
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
        .sum()
}

fn memory(command: &Path) -> Vec<Other> {
    let peak_of = |part| peak(Player::ready(part).pid());
    // Both monitors are this program, so what it is without them does not count.
    let nothing = peak_of(Part::Idle);
    let (ours, theirs) =
        (peak_of(Part::OurMonitor) - nothing, peak_of(Part::TheirMonitor) - nothing);
    let watches = |program: &Path, args: &[&str]| {
        // corosync-cmapctl ends when its standard input does.
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let client = cmap::Client::connect().unwrap();
        let mut number = 0_u32;
        // Until it has told of a change it may not watch yet.
        let (sender, told) = std::sync::mpsc::channel();
        let reader = thread::spawn(move || {
            output.read_line(&mut String::new()).unwrap();
            sender.send(()).unwrap();
            output
        });
        while told.recv_timeout(Duration::from_millis(20)).is_err() {
            number += 1;
            client.set("bench.watched", number).unwrap();
        }
        let peak = peak(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        drop(reader.join().unwrap());
        peak
    };
    let watch = (watches(command, &["cmap", "watch", "bench.watched"]), {
        watches(Path::new("corosync-cmapctl"), &["-t", "bench.watched"])
    });
    vec![
        Other::new("memory: monitor of five services", Unit::Bytes, ours, theirs),
        Other::new("memory: command that watches a key", Unit::Bytes, watch.0, watch.1),
    ]
}

/// The most memory that a process had at a time.
fn peak(process: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a process has memory");
    line.split_whitespace().next().and_then(|number| number.parse::<f64>().ok()).expect("a number")
        * 1024.0
}

/// What a connection has in /dev/shm.
fn shared_memory() -> Vec<Other> {
    let used = || size_of_folder(Path::new("/dev/shm"));
    // The daemon removes what it has of a connection when it sees its end.
    let at_rest = || {
        let mut before = used();
        loop {
            thread::sleep(Duration::from_millis(300));
            let now = used();
            if now == before {
                return now;
            }
            before = now;
        }
    };
    let size_of = |connect: Connect| {
        let before = at_rest();
        let _kept = connect();
        used() - before
    };
    // Two of cmap, and one of each other service. All ask for the same size.
    let theirs = size_of(|| Box::new(Theirs::connect())) / 6.0;
    let connect: [(&str, Connect); 5] = [
        ("quorum", || Box::new(quorum::Client::connect().unwrap())),
        ("votequorum", || Box::new(votequorum::Client::connect().unwrap())),
        ("cfg", || Box::new(cfg::Client::connect().unwrap())),
        ("cmap", || Box::new(cmap::Client::connect().unwrap())),
        ("cpg", || Box::new(cpg::Client::connect().unwrap())),
    ];
    let row = |(name, connect)| {
        let line = format!("/dev/shm of a connection, {name}");
        Other::new(&line, Unit::Bytes, size_of(connect), theirs)
    };
    connect.map(row).into()
}

type Connect = fn() -> Box<dyn Kept>;

/// Whatever is kept until it is dropped.
trait Kept {}
impl<T> Kept for T {}

fn size_of_folder(folder: &Path) -> f64 {
    let entries =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries
        .map(|path| {
            if path.is_dir() {
                size_of_folder(&path)
            } else {
                fs::metadata(&path).map_or(0.0, |metadata| metadata.blocks() as f64 * 512.0)
            }
        })
        .sum()
}

/// What a message to and from a server costs the server.
fn servers() -> Vec<Other> {
    [(64, "64 B", 5_000), (1_000_000, "1000 KB", 50)]
        .into_iter()
        .flat_map(|(size, name, count)| echo(size, name, count))
        .collect()
}

fn echo(size: usize, name: &str, count: u32) -> [Other; 2] {
    let mut request = vec![0; size];
    request[..8].copy_from_slice(&1_i64.to_ne_bytes());
    request[8..16].copy_from_slice(&(size as i64).to_ne_bytes());
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..11 {
        for (costs, part) in costs.iter_mut().zip([Part::OurServer, Part::TheirServer]) {
            let server = Player::ready(part);
            let meter = Meter::new(server.pid(), None);
            let client = connect_patiently(&Endpoint::new().abstract_sockets());
            let echo = |_| {
                let reply = client.request(&request).unwrap();
                assert_eq!(reply.len(), request.len() + 8);
            };
            (0..5).for_each(echo);
            costs.push(meter.measure(count, || (0..count).for_each(echo)));
        }
    }
    let row = |(what, value): (&str, fn(&Cost) -> f64)| {
        let [ours, theirs] =
            costs.each_ref().map(|costs| median(costs.iter().map(value).collect()));
        Other::new(&format!("server: echo of {name}, {what}"), Unit::Seconds, ours, theirs)
    };
    [("time", (|cost| cost.wall) as fn(&Cost) -> f64), ("its CPU", |cost| cost.other)].map(row)
}

/// libqb's server says that it starts before it listens.
fn connect_patiently(endpoint: &Endpoint) -> libqb::Client {
    loop {
        match libqb::Client::connect_to(endpoint, SERVER, 2 << 20) {
            Ok(client) => return client,
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// What waiting for an answer costs that takes three seconds.
fn late_answer(daemon: u32) -> Vec<Other> {
    let daemon = Pid::from_raw(daemon.try_into().expect("a process id"));
    let wait = |request: &mut dyn FnMut()| {
        kill(daemon, Signal::SIGSTOP).expect("the daemon runs");
        let waker = thread::spawn(move || {
            thread::sleep(Duration::from_secs(3));
            kill(daemon, Signal::SIGCONT).expect("the daemon runs");
        });
        let before = time_of_thread();
        request();
        let spent = time_of_thread() - before;
        waker.join().unwrap();
        spent
    };
    let client = cmap::Client::connect().unwrap();
    let ours = wait(&mut || drop(client.get("bench.number").unwrap()));
    let mut side = Theirs::connect();
    let theirs = wait(&mut || side.calls("cmap get, number", 0, &mut [0]));
    vec![Other::new("late answer: CPU of 3 seconds", Unit::Seconds, ours, theirs)]
}
