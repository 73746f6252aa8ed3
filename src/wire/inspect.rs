//! Any message of any service, field by field.

use std::fmt;
use std::str::FromStr;

use super::{cfg, cmap, cpg, evs, quorum, votequorum};
use crate::codec::{CS_OK, Field, Header, Kind, Notes, Reader};
use crate::error::WireError;

/// Calls a macro with the module and the enum of a service's messages of one kind.
macro_rules! with_any_message {
    ($service:expr, $kind:expr, $macro:ident) => {
        with_any_message!($service, $kind, $macro;
            Cmap cmap, Quorum quorum, Votequorum votequorum, Cfg cfg, Evs evs, Cpg cpg)
    };
    ($service_value:expr, $kind:expr, $macro:ident; $($name:ident $service:ident),*) => {
        match ($service_value, $kind) {
            $(
                ($crate::wire::Service::$name, $crate::codec::Kind::Request) => $macro!($service AnyRequest),
                ($crate::wire::Service::$name, $crate::codec::Kind::Response) => $macro!($service AnyResponse),
                ($crate::wire::Service::$name, $crate::codec::Kind::Event) => $macro!($service AnyEvent),
            )*
        }
    };
}
#[cfg_attr(
    not(any(test, feature = "__fuzzing")),
    expect(unused_imports, reason = "for fuzzing")
)]
pub(crate) use with_any_message;

/// A service of corosync. Prints and parses as the name of its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Service {
    /// `cmap`
    Cmap,
    /// `quorum`
    Quorum,
    /// `votequorum`
    Votequorum,
    /// `cfg`
    Cfg,
    /// `evs`
    Evs,
    /// `cpg`
    Cpg,
}

impl Service {
    /// All services whose messages [`wire`](super) knows.
    pub const ALL: [Self; 6] =
        [Self::Cmap, Self::Quorum, Self::Votequorum, Self::Cfg, Self::Evs, Self::Cpg];

    /// Returns the name of the service's socket.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cmap => "cmap",
            Self::Quorum => "quorum",
            Self::Votequorum => "votequorum",
            Self::Cfg => "cfg",
            Self::Evs => "evs",
            Self::Cpg => "cpg",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Service {
    type Err = UnknownService;

    fn from_str(name: &str) -> Result<Self, UnknownService> {
        Self::ALL.into_iter().find(|service| service.name() == name).ok_or(UnknownService)
    }
}

/// No service has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no service of corosync has this name")]
pub struct UnknownService;

/// What [`inspect`] found in a message.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Inspection {
    /// The name of the message's C struct, or of the header where the id or the status says that
    /// nothing else can be read.
    pub message: &'static str,
    /// The fields in the order of the message, down to the one that is wrong.
    pub fields: Vec<Field>,
    /// The offset of the bytes that belong to no field: the length of a message without any.
    pub end: usize,
    /// Why the rest could not be read. `None` for a whole message.
    pub error: Option<WireError>,
}

/// Decodes any bytes as a message of a service and lists its fields, with where they are.
///
/// A message that is cut short or wrong is shown as far as it can be read. A response with a status
/// other than `CS_OK` is shown as its header: the daemon leaves its body undefined.
///
/// ```
/// use corosync_ipc::codec::Kind;
/// use corosync_ipc::wire::{Message, Service, cpg, inspect};
///
/// let request = cpg::Mcast { guarantee: cpg::Guarantee::AGREED, message: "hello".into() };
/// let found = inspect(Service::Cpg, Kind::Request, &request.encode()?);
/// assert_eq!(found.message, "req_lib_cpg_mcast");
/// let message = found.fields.last().unwrap();
/// assert_eq!((message.name, message.offset, message.size), ("message", 40, 5));
/// assert_eq!(message.value.to_string(), "\"hello\"");
///
/// let cut = inspect(Service::Cpg, Kind::Request, &request.encode()?[..42]);
/// assert!(cut.error.is_some());
/// assert_eq!(cut.fields.last().unwrap().name, "msglen");
/// # Ok::<(), corosync_ipc::WireError>(())
/// ```
pub fn inspect(service: Service, kind: Kind, bytes: &[u8]) -> Inspection {
    let mut notes = Notes::default();
    let read = note(service, kind, bytes, &mut notes);
    let (message, error) = match read {
        Ok(message) => (message, None),
        Err((message, error)) => (message, Some(error)),
    };
    if notes.fields.is_empty() {
        // The id names no message. What is there of a header can be read.
        let _ = Header::read(&mut Reader::noting(kind.header_name(), bytes, &mut notes), kind);
    }
    // The padding of the last field need not be there.
    let end = notes.end.min(bytes.len());
    let message = if message.is_empty() { kind.header_name() } else { message };
    Inspection { message, fields: notes.fields, end, error }
}

type Noted = Result<&'static str, (&'static str, WireError)>;

fn note(service: Service, kind: Kind, bytes: &[u8], notes: &mut Notes) -> Noted {
    if kind == Kind::Response && Header::status_of(bytes).is_some_and(|status| status != CS_OK) {
        return Ok(kind.header_name());
    }
    macro_rules! noted {
        (votequorum AnyEvent) => {
            votequorum::note_event(bytes, notes)
        };
        ($service:ident $any:ident) => {
            $service::$any::note(bytes, notes)
        };
    }
    with_any_message!(service, kind, noted)
}
