#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::address::SocketAddress;
use crate::endpoint::resolve;

/// Both ends of a direction, as the two processes have them.
struct Pair {
    sender: Sender,
    receiver: Receiver,
    control: Arc<Control>,
    address: UnixAddr,
    _directory: TempDir,
}

impl Pair {
    fn receive(&mut self) -> Result<Option<Bytes>, ChannelError> {
        let mut message = Vec::new();
        Ok(self.receiver.try_receive_into(&mut message)?.then(|| message.into()))
    }
}

const SIZE: usize = 64 << 10;

fn address(directory: &Path, name: &str) -> UnixAddr {
    resolve(&SocketAddress::Path(directory.join(name))).unwrap()
}

fn pair(direction: Direction, trust: bool) -> Pair {
    let directory = tempfile::tempdir().unwrap();
    let file = tempfile::tempfile_in(&directory).unwrap();
    file.set_len(CONTROL_SIZE as u64).unwrap();
    let control = Arc::new(Control::new(&file).unwrap());
    let (own, others) = (address(directory.path(), "tx"), address(directory.path(), "rx"));
    let socket = Arc::new(datagram::bind_datagram(&own).unwrap());
    let sender = Sender::new(socket, Arc::clone(&control), direction, SIZE, Some(others)).unwrap();
    let socket = Arc::new(datagram::bind_datagram(&others).unwrap());
    let trust: Trust = Box::new(move |_| trust);
    let receiver = Receiver::new(socket, Arc::clone(&control), direction, SIZE, SIZE, trust);
    let receiver = receiver.unwrap();
    Pair { sender, receiver, control, address: others, _directory: directory }
}

#[test]
fn messages_come_whole_and_in_order() {
    let mut pair = pair(Direction::Event, true);
    assert_eq!(pair.receive().unwrap(), None);
    assert!(pair.sender.try_send(&[b"one", b"", b" message"]).unwrap());
    assert!(pair.sender.try_send(&[&[7; SIZE]]).unwrap());
    assert_eq!((pair.sender.backlog(), pair.receiver.backlog()), (2, 2));
    assert_eq!(pair.receive().unwrap().unwrap(), "one message");
    assert_eq!(pair.receive().unwrap().unwrap(), vec![7; SIZE]);
    assert_eq!((pair.receive().unwrap(), pair.sender.backlog()), (None, 0));
}

#[test]
fn each_direction_is_counted_by_itself() {
    let mut pair = pair(Direction::Response, true);
    assert!(pair.sender.try_send(&[b"x"]).unwrap());
    let counts = [Direction::Request, Direction::Response, Direction::Event]
        .map(|direction| pair.control.backlog(direction));
    assert_eq!(counts, [0, 1, 0]);
    // A count below 0 is none.
    pair.control.sent(Direction::Request).store(u32::MAX, Ordering::Relaxed);
    assert_eq!(pair.control.backlog(Direction::Request), 0);
    assert_eq!(pair.control.flow_control().load(Ordering::Relaxed), 0);
}

#[test]
fn a_full_socket_takes_messages_again_once_some_were_received() {
    let mut pair = pair(Direction::Request, true);
    let mut sent = 0_u32;
    while pair.sender.try_send(&[&sent.to_ne_bytes()]).unwrap() {
        sent += 1;
    }
    for number in 0..sent {
        assert_eq!(pair.receive().unwrap().unwrap(), number.to_ne_bytes().to_vec());
    }
    assert!(sent > 0 && pair.sender.try_send(&[b"again"]).unwrap());
}

#[test]
fn messages_of_users_who_are_not_trusted_are_discarded() {
    let mut pair = pair(Direction::Request, false);
    for _ in 0..3 {
        assert!(pair.sender.try_send(&[b"psst"]).unwrap());
    }
    assert_eq!(pair.receive().unwrap(), None);
    assert_eq!(pair.receiver.backlog(), 3);
}

#[test]
fn a_message_that_is_too_long_violates_the_protocol() {
    let mut pair = pair(Direction::Event, true);
    let other = datagram::bind_datagram(&UnixAddr::new_unnamed());
    let other = other.unwrap();
    datagram::connect_datagram(&other, &pair.address).unwrap();
    datagram::send_parts(&other, &[&[1; SIZE + 1]]).unwrap();
    let too_long = ProtocolError::DatagramSize {
        direction: "event",
        size: SIZE as u64 + 1,
        limit: SIZE as u64,
    };
    match pair.receive() {
        Err(ChannelError::Protocol(error)) => assert_eq!(error, too_long),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_that_has_no_socket_yet_has_no_room() {
    let Pair { mut sender, receiver, address, _directory, .. } = pair(Direction::Event, true);
    drop(receiver);
    std::fs::rename(address.path().unwrap(), address.path().unwrap().with_extension("gone"))
        .unwrap();
    assert!(!sender.try_send(&[b"early"]).unwrap());
    let socket = datagram::bind_datagram(&address).unwrap();
    assert!(sender.try_send(&[b"now"]).unwrap());
    drop(socket);
    assert!(matches!(sender.try_send(&[b"late"]), Err(ChannelError::Closed)));
}

#[test]
fn a_client_promises_no_more_than_the_system_lets_the_daemon_send() {
    let socket = datagram::bind_datagram(&UnixAddr::new_unnamed()).unwrap();
    let limit: usize =
        std::fs::read_to_string("/proc/sys/net/core/wmem_max").unwrap().trim().parse().unwrap();
    // The kernel doubles what it is asked for.
    let most = 2 * limit;
    assert!(datagram::reserve(&socket, 4 * limit, false).unwrap() < most);
    assert!(datagram::reserve(&socket, limit, false).unwrap() >= limit);
}

/// A server may greet its client as soon as the client's socket is there.
#[test]
fn a_message_that_comes_at_once_says_who_sent_it() {
    let directory = tempfile::tempdir().unwrap();
    let (own, others) = (address(directory.path(), "tx"), address(directory.path(), "rx"));
    let sender = datagram::bind_datagram(&own).unwrap();
    let receiver = datagram::bind_datagram(&others).unwrap();
    datagram::connect_datagram(&sender, &others).unwrap();
    datagram::send_parts(&sender, &[b"welcome"]).unwrap();
    let (size, from) = datagram::receive_datagram(&receiver, &mut [0; 16]).unwrap();
    assert_eq!((size, from.unwrap().unwrap().pid), (7, i32::try_from(std::process::id()).unwrap()));
}
