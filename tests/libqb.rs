//! `libqb::Client`: a libqb service of ours, and one of libqb's own.

use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use corosync_ipc::codec::{Header, Kind};
use corosync_ipc::libqb::Client;
use corosync_ipc::libqb::server::{Conn, Handler, Listener, Peer, Refusal, Transport};
use corosync_ipc::{Endpoint, Error};
use testbed::{NodeCommand, Process, WATCHDOG, cc};

/// Is answered by as many events as its body says, and then by itself.
const EVENTS: i32 = 1;
/// Is not answered.
const SILENCE: i32 = 2;
/// Ends the connection.
const END: i32 = 3;

/// Answers as the constants above say, and everything else with itself.
struct Echo;

impl Handler for Echo {
    type Session = ();

    fn authorize(&mut self, _: &Peer<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn on_request(&mut self, conn: &mut Conn<'_, ()>, request: Bytes) {
        let (header, body) = Header::split(&request, Kind::Request).unwrap();
        let header = Header { error: 1, ..header };
        match header.id {
            SILENCE => return,
            END => return conn.disconnect(),
            EVENTS => {
                for number in 0..u32::from_ne_bytes(body[..4].try_into().unwrap()) {
                    let event = header.encode(Kind::Event, &number.to_ne_bytes()).unwrap();
                    conn.send_event(&event).unwrap();
                }
            }
            _ => {}
        }
        conn.reply(&header.encode(Kind::Response, body).unwrap()).unwrap();
    }
}

/// The same with libqb.
const C_SERVER: &str = r#"
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
#include <qb/qbipcs.h>
#include <qb/qbloop.h>

static qb_loop_t *loop;

static int32_t job_add(enum qb_loop_priority p, void *data, qb_loop_job_dispatch_fn fn)
{
    return qb_loop_job_add(loop, p, data, fn);
}
static int32_t poll_add(enum qb_loop_priority p, int32_t fd, int32_t evts, void *data, qb_ipcs_dispatch_fn_t fn)
{
    return qb_loop_poll_add(loop, p, fd, evts, data, fn);
}
static int32_t poll_mod(enum qb_loop_priority p, int32_t fd, int32_t evts, void *data, qb_ipcs_dispatch_fn_t fn)
{
    return qb_loop_poll_mod(loop, p, fd, evts, data, fn);
}
static int32_t poll_del(int32_t fd)
{
    return qb_loop_poll_del(loop, fd);
}
static int32_t accept_client(qb_ipcs_connection_t *c, uid_t uid, gid_t gid)
{
    return 0;
}
static int32_t process(qb_ipcs_connection_t *c, void *data, size_t size)
{
    struct qb_ipc_request_header *request = data;
    char *body = (char *)data + sizeof *request;
    size_t length = request->size - sizeof *request;
    struct qb_ipc_response_header header = { .id = request->id, .size = sizeof header + length, .error = 1 };
    struct iovec answer[2] = { { &header, sizeof header }, { body, length } };
    if (request->id == 2)
        return 0;
    if (request->id == 3) {
        qb_ipcs_disconnect(c);
        return 0;
    }
    if (request->id == 1) {
        uint32_t count;
        memcpy(&count, body, sizeof count);
        for (uint32_t number = 0; number < count; number++) {
            struct qb_ipc_response_header event = { .id = 1, .size = sizeof event + sizeof number, .error = 1 };
            struct iovec parts[2] = { { &event, sizeof event }, { &number, sizeof number } };
            ssize_t sent;
            /* The client takes events meanwhile. */
            while ((sent = qb_ipcs_event_sendv(c, parts, 2)) == -EAGAIN)
                usleep(100);
            assert(sent > 0);
        }
    }
    assert(qb_ipcs_response_sendv(c, answer, 2) > 0);
    return 0;
}

int main(int argc, char **argv)
{
    struct qb_ipcs_service_handlers handlers = { .connection_accept = accept_client, .msg_process = process };
    struct qb_ipcs_poll_handlers poll = {
        .job_add = job_add, .dispatch_add = poll_add, .dispatch_mod = poll_mod, .dispatch_del = poll_del,
    };
    qb_ipcs_service_t *service = qb_ipcs_create(argv[1], 0, strcmp(argv[2], "shm") ? QB_IPC_SOCKET : QB_IPC_SHM, &handlers);
    loop = qb_loop_create();
    assert(service && loop);
    if (argc > 3)
        qb_ipcs_enforce_buffer_size(service, atoi(argv[3]));
    qb_ipcs_poll_handlers_set(service, &poll);
    assert(qb_ipcs_run(service) == 0);
    printf("listening\n");
    fflush(stdout);
    qb_loop_run(loop);
    return 0;
}
"#;

/// A name that no other test uses.
fn name(what: &str) -> String {
    format!("corosync-ipc-{what}-{}", std::process::id())
}

fn request(id: i32, body: &[u8]) -> Vec<u8> {
    Header { id, size: 0, error: 0 }.encode(Kind::Request, body).unwrap()
}

fn echoes(client: &Client, body: &[u8]) {
    let answer = client.request(&request(7, body)).unwrap();
    let (header, echoed) = Header::split(&answer, Kind::Response).unwrap();
    assert_eq!((header.id, header.error, echoed), (7, 1, body));
}

/// What a service of any kind is asked for.
fn a_service_answers_and_tells_events(endpoint: &Endpoint, service: &str) {
    const SIZE: u32 = 64 << 10;
    let client = Client::connect_to(endpoint, service, SIZE).unwrap();
    client.set_request_timeout(WATCHDOG);
    assert!(client.max_message_size() >= SIZE as usize);
    assert_ne!(client.peer_credentials().pid, 0);
    for length in [0, 1, 7, 8, 1000, SIZE as usize - 100] {
        echoes(&client, &vec![length as u8; length]);
    }
    let too_long = client.request(&vec![0; client.max_message_size() + 1]);
    assert!(matches!(too_long, Err(Error::InvalidArgument { .. })), "{too_long:?}");

    // Of an answer that nobody waits for nothing is left, and what is not answered delays nobody.
    client.send(&request(SILENCE, b"psst")).unwrap();
    echoes(&client, b"after silence");
    client.set_request_timeout(Duration::from_millis(50));
    let silent = client.request(&request(SILENCE, b"psst"));
    assert!(matches!(silent, Err(Error::TimedOut { .. })), "{silent:?}");
    drop(client);

    let client = Client::connect_to(endpoint, service, SIZE).unwrap();
    client.set_request_timeout(WATCHDOG);
    // More than the ring has room for, taken by another thread meanwhile.
    let count: u32 = 5000;
    thread::scope(|scope| {
        scope.spawn(|| {
            for expected in 0..count {
                let event = client.next_event(WATCHDOG).unwrap().expect("no event came");
                let (_, number) = Header::split(&event, Kind::Event).unwrap();
                assert_eq!(number, expected.to_ne_bytes());
            }
        });
        client.request(&request(EVENTS, &count.to_ne_bytes())).unwrap();
        echoes(&client, b"meanwhile");
    });
    assert_eq!(client.poll_event().unwrap(), None);
    let _ = client.as_fd();

    client.send(&request(END, &[])).unwrap();
    let ended = client.next_event(WATCHDOG);
    assert!(matches!(ended, Err(Error::Disconnected { .. })), "{ended:?}");
    let late = client.request(&request(7, &[]));
    assert!(matches!(late, Err(Error::Disconnected { .. })), "{late:?}");
}

const TRANSPORTS: [(Transport, &str); 2] = [(Transport::Shm, "shm"), (Transport::Socket, "socket")];

#[test]
fn our_service_answers_and_tells_events() {
    for (transport, kind) in TRANSPORTS {
        let name = name(&format!("ours-{kind}"));
        let endpoint = Endpoint::new().abstract_sockets();
        let builder = Listener::<Echo>::builder().endpoint(&endpoint).transport(transport);
        let _listener = builder.service(&name).start(Echo).unwrap();
        a_service_answers_and_tells_events(&endpoint, &name);
    }
}

/// Starts a service of libqb's own.
fn c_service(name: &str, transport: &str, arguments: &[String]) -> Option<Process> {
    let program = cc(C_SERVER, &["qb"])?;
    let server = NodeCommand::here(program).arg(name).arg(transport).args(arguments).spawn();
    server.wait_stdout("listening");
    Some(server)
}

#[test]
fn libqbs_service_answers_and_tells_events() {
    for (_, kind) in TRANSPORTS {
        let name = name(&format!("libqb-{kind}"));
        let Some(server) = c_service(&name, kind, &[]) else { return };
        a_service_answers_and_tells_events(&Endpoint::new().abstract_sockets(), &name);
        server.kill();
    }
}

#[test]
fn a_service_may_raise_the_size_of_messages() {
    const RAISED: usize = 128 << 10;
    for (_, kind) in TRANSPORTS {
        let name = name(&format!("raising-{kind}"));
        let Some(server) = c_service(&name, kind, &[RAISED.to_string()]) else { return };
        let endpoint = Endpoint::new().abstract_sockets();
        let client = Client::connect_to(&endpoint, &name, 8192).unwrap();
        assert_eq!(client.max_message_size(), RAISED);
        echoes(&client, &[7; RAISED - 100]);
        server.kill();
    }
}

/// Datagrams are as long as the system lets a client send them, whatever was agreed.
#[test]
fn a_message_that_the_system_does_not_let_a_client_send_is_refused_by_the_limits_name() {
    const ASKED: u32 = 32 << 20;
    let name = name("long");
    let endpoint = Endpoint::new().abstract_sockets();
    let builder = Listener::<Echo>::builder().endpoint(&endpoint).transport(Transport::Socket);
    let _listener = builder.service(&name).start(Echo).unwrap();
    let client = Client::connect_to(&endpoint, &name, ASKED).unwrap();
    client.set_request_timeout(WATCHDOG);
    let limit = std::fs::read_to_string("/proc/sys/net/core/wmem_max").unwrap();
    // The kernel doubles what it is asked for, and keeps a little of it.
    let most = (2 * limit.trim().parse::<usize>().unwrap()).min(2 << 20);
    let longest = client.max_message_size();
    assert!((most - 64..=most).contains(&longest), "{longest} of {most}");
    echoes(&client, &vec![1; longest - 64]);
    let refused = client.request(&vec![0; longest + 1]).unwrap_err();
    assert!(refused.to_string().contains("net.core.wmem_max"), "{refused}");

    let client = Client::connect_to(&endpoint, &name, 8192).unwrap();
    let refused = client.request(&vec![0; 8193]).unwrap_err();
    assert!(refused.to_string().contains("ask for a larger ring size"), "{refused}");
}

#[test]
fn a_service_of_another_user_is_refused_until_it_is_named() {
    let Some(program) = cc(C_SERVER, &["qb"]) else { return };
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let name = name("foreign");
    let server = NodeCommand::here(program).arg(&name).arg("shm").user(12345, 12345).spawn();
    server.wait_stdout("listening");
    let endpoint = Endpoint::new().abstract_sockets();
    let refused = Client::connect_to(&endpoint, &name, 8192);
    assert!(matches!(refused, Err(Error::UntrustedServer { uid: 12345, .. })), "{refused:?}");
    echoes(&Client::connect_to(&endpoint.server_uids([12345]), &name, 8192).unwrap(), b"named");
    server.kill();
}
