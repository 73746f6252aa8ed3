//! A daemon that lies. Whatever it says and does, calls end with the right error and in time, leave
//! nothing behind, and do not keep a processor busy.
//!
//! The daemon is made of bytes (`testbed::raw`). It uses nothing of the crate under test, so it does
//! not share its mistakes. Each topic runs in a process of its own, where nothing else allocates,
//! maps or opens anything.

mod calls;
mod case;
mod cuts;
mod daemon;
mod events;
mod files;
mod handshake;
mod honest;
mod ledger;
mod replies;
mod rings;
mod steps;

use std::env;
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use testbed::NodeCommand;

use crate::case::Case;

/// Set in a topic's own process.
const OWN_PROCESS: &str = "COROSYNC_IPC_TEST_OWN_PROCESS";

/// How many cases there are at least.
const LEAST: usize = 2000;

/// How long a topic may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Makes a test of each topic, which is a list of cases.
macro_rules! topics {
    ($($(#[$doc:meta])* $name:ident = $cases:expr;)*) => {
        $(
            $(#[$doc])*
            #[test]
            fn $name() {
                run(stringify!($name), || $cases);
            }
        )*

        #[test]
        fn there_are_enough_cases() {
            let topics = [$((stringify!($name), $cases.len())),*];
            let count: usize = topics.iter().map(|(_, count)| count).sum();
            println!("{count} cases of a daemon that lies: {topics:?}");
            assert!(count >= LEAST, "{topics:?}");
        }
    };
}

topics! {
    registrations_without_an_answer = steps::registrations();
    events_that_lie = events::cases();
    events_without_end = events::too_many();
    wake_bytes_and_datagrams_that_lie = events::sockets();
    answers_to_requests = replies::cases();
    rings_that_lie = rings::cases();
    rings_that_change = rings::races();
    files_that_are_cut = cuts::cases();
    files_of_connections = files::cases();
    answers_to_connection_requests = handshake::cases();
    stalls_and_closes_of_cmap = steps::cases(&["cmap"]);
    stalls_and_closes_of_cpg = steps::cases(&["cpg", "test"]);
    stalls_and_closes_of_quorum = steps::cases(&["quorum", "evs"]);
    stalls_and_closes_of_votequorum = steps::cases(&["votequorum"]);
    stalls_and_closes_of_cfg = steps::cases(&["cfg"]);
}

/// Runs the cases in this process if it is the topic's own, and starts that otherwise.
fn run(topic: &str, cases: impl FnOnce() -> Vec<Case>) {
    if env::var_os(OWN_PROCESS).is_some() {
        setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap();
        case::try_all(cases());
    } else {
        // The suite counts itself what is not freed, and some is kept on purpose.
        let program = NodeCommand::here(env::current_exe().unwrap())
            .env(OWN_PROCESS, "1")
            .env("RUST_BACKTRACE", "0")
            .env("LSAN_OPTIONS", "detect_leaks=0");
        let program = program.args(["--exact", topic, "--nocapture"]).limit(LIMIT);
        let output = program.run();
        let is_right = output.is_success() && output.stdout.contains("1 passed");
        let (status, said) = (output.status, output.stderr);
        assert!(
            is_right,
            "{status}\n{}",
            said.rsplit_once(case::FAILURES).map_or(&*said, |it| it.1)
        );
    }
}
