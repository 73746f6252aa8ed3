//! What Debian's daemon does not do at will, and functions that its libraries do not have.

use std::thread;
use std::time::Duration;

use corosync_ipc::embedded::{Cluster, Refuse};
use testbed::NodeCommand;
use testbed::host::at_endpoint;

use super::{compile, installed};

const SERVICES: [&str; 4] = ["cfg", "cmap", "cpg", "quorum"];

/// A C program over our libraries that finds the first node.
fn over_ours(cluster: &Cluster, program: &std::path::Path) -> NodeCommand {
    let folder = cluster.node(1).unwrap().endpoint().shm_root_path().to_owned();
    at_endpoint(&folder, program).env("LD_LIBRARY_PATH", installed().join("lib"))
}

/// The functions of corosync's main branch, with a daemon that does not know them.
#[test]
fn extra_information_of_a_device_is_refused_by_daemons_without_it() {
    let Some(program) = compile("device", &["votequorum"]) else { return };
    let device = Cluster::builder().nodes(1).real_time().setting("quorum.device.model", "net");
    let cluster = device.setting("quorum.device.votes", 1_u32).start().unwrap();
    let said = over_ours(&cluster, &program).run().success();
    let expected = [
        "votequorum_model_initialize(&handle, &model) = 1",
        "votequorum_trackstart(handle, 7, CS_TRACK_CHANGES_ONLY) = 1",
        "votequorum_set_qdevice_extra_info(handle, 4, \"info\") = 19",
        "votequorum_qdevice_register(handle, \"device\") = 1",
        "votequorum_set_qdevice_extra_info(handle, 5000, found) = 7",
        "votequorum_set_qdevice_extra_info(handle, 4, \"info\") = 19",
        "votequorum_dispatch(handle, CS_DISPATCH_ALL) = 1",
        "votequorum_get_qdevice_extra_info(handle, 1, &size, found) = 19",
        "votequorum_get_qdevice_extra_info(handle, 1, NULL, found) = 7",
        "votequorum_get_qdevice_extra_info(handle, 1, &size, NULL) = 7",
        "votequorum_set_qdevice_extra_info(handle, 4, NULL) = 19",
        "votequorum_finalize(handle) = 1",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

/// The requests that `waits.c` makes after a line on its standard input, and their results.
fn results(said: &str) -> Vec<i32> {
    let requests = said.lines().filter(|line| !line.contains("_initialize"));
    requests.map(|line| line.rsplit_once(" = ").unwrap().1.parse().unwrap()).collect()
}

#[test]
fn a_busy_daemons_refusal_is_returned_at_once() {
    let Some(program) = compile("waits", &SERVICES) else { return };
    let cluster = Cluster::builder().nodes(1).real_time().start().unwrap();
    let mut process = over_ours(&cluster, &program).interactive().spawn();
    process.wait_stdout("quorum_initialize(&quorum, NULL, &type) = 1");
    for service in SERVICES {
        cluster.refuse(1, service, Refuse::All).unwrap();
    }
    process.write("\n");
    let output = process.wait();
    const TRY_AGAIN: i32 = 6;
    assert_eq!(results(&output.stdout), [TRY_AGAIN; 4], "{output:?}");
}

#[test]
fn a_call_waits_for_ever_unless_a_variable_sets_a_deadline() {
    let Some(program) = compile("waits", &SERVICES) else { return };
    let cluster = Cluster::builder().nodes(1).real_time().start().unwrap();
    let start = |command: NodeCommand| {
        let process = command.interactive().spawn();
        process.wait_stdout("quorum_initialize(&quorum, NULL, &type) = 1");
        process
    };
    let mut hurried = start(over_ours(&cluster, &program).env("COROSYNC_IPC_TIMEOUT", "300ms"));
    let mut patient = start(over_ours(&cluster, &program));
    for service in SERVICES {
        cluster.hold(1, service).unwrap();
    }
    hurried.write("\n");
    patient.write("\n");
    const TIMEOUT: i32 = 5;
    let output = hurried.wait();
    assert_eq!(results(&output.stdout), [TIMEOUT; 4], "{output:?}");
    // Each call took 300 ms, and this is still in its first one.
    assert!(patient.is_running());
    assert_eq!(results(&patient.stdout()), []);
    cluster.release_all().unwrap();
    assert_eq!(results(&patient.wait().stdout), [1; 4]);
}

/// A program without a loop around `cpg_mcast_joined` loses nothing, as with C.
#[test]
fn a_burst_of_messages_waits_for_a_daemon_that_reads_no_wake_bytes() {
    let Some(program) = compile("burst", &["cpg"]) else { return };
    let cluster = Cluster::builder().nodes(1).real_time().start().unwrap();
    let mut process = over_ours(&cluster, &program).interactive().spawn();
    process.wait_stdout("cpg_join(handle, &name) = 1");
    cluster.hold(1, "cpg").unwrap();
    process.write("\n");
    thread::sleep(Duration::from_millis(500));
    assert!(process.is_running());
    cluster.release_all().unwrap();
    let output = process.wait();
    assert!(output.stdout.ends_with("sent 500\n"), "{output:?}");
}

/// The ends of threads call functions of the library.
#[test]
fn a_thread_that_unloads_a_library_ends_as_usual() {
    let Some(program) = compile("unload", &["dl"]) else { return };
    let cluster = Cluster::builder().nodes(1).real_time().start().unwrap();
    let said = over_ours(&cluster, &program).arg("libcmap.so.4").run().success();
    let expected = ["initialize(&handle) = 1", "finalize(handle) = 1", "dlclose(loaded) = 0"];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected.repeat(2));
}
