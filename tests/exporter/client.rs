//! A client for HTTP that does what it is told, wrong things too.

use std::io::{Read, Write};
use std::net::TcpStream;

use testbed::WATCHDOG;

/// The answer to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The lines of the head, in lower case.
    pub(crate) headers: Vec<String>,
    pub(crate) body: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let prefix = format!("{name}: ");
        let found = self.headers.iter().find_map(|line| line.strip_prefix(&prefix));
        found.unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }
}

/// Asks for a page, with these lines in the request's head.
#[track_caller]
pub(crate) fn get(address: &str, path: &str, headers: &[&str]) -> Answer {
    request(address, "GET", path, headers)
}

#[track_caller]
pub(crate) fn request(address: &str, method: &str, path: &str, headers: &[&str]) -> Answer {
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
    let mut stream = connect(address);
    stream.write_all(head.as_bytes()).expect("the server reads");
    answer(stream)
}

#[track_caller]
pub(crate) fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap_or_else(|e| panic!("{address}: {e}"));
    stream.set_read_timeout(Some(WATCHDOG)).expect("a time-out");
    stream
}

/// Reads the answer up to the end of the connection, which has to follow.
#[track_caller]
pub(crate) fn answer(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        panic!("no end of the answer: {error}; {:?}", String::from_utf8_lossy(&bytes));
    }
    let text = String::from_utf8(bytes).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status: {head:?}"));
    let headers = lines.map(str::to_lowercase).collect();
    Answer { status, headers, body: body.to_owned() }
}
