//! corosync's own error numbers.

use std::fmt;

macro_rules! cs_errors {
    ($($(#[$doc:meta])* $name:ident = $code:literal $c_name:literal,)*) => {
        /// corosync's own errors, with the numbers of `cs_error_t`. Prints the C name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum CsError {
            $($(#[$doc])* $name,)*
            /// A number without a name. Only [`CsError::from_raw`] makes it.
            #[non_exhaustive]
            Unknown(i32),
        }

        impl CsError {
            /// Every error that has a name.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The error with this number. It is [`CsError::Unknown`] for 1 too, which is `CS_OK`
            /// and no error.
            pub const fn from_raw(raw: i32) -> Self {
                match raw {
                    $($code => Self::$name,)*
                    _ => Self::Unknown(raw),
                }
            }

            /// The number that C gives it.
            pub const fn raw(self) -> i32 {
                match self {
                    $(Self::$name => $code,)*
                    Self::Unknown(raw) => raw,
                }
            }

            /// The name that C gives it; `None` for [`CsError::Unknown`].
            pub const fn c_name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some($c_name),)*
                    Self::Unknown(_) => None,
                }
            }
        }
    };
}

cs_errors! {
    /// The library or the daemon failed. The connection is usually gone.
    Library = 2 "CS_ERR_LIBRARY",
    /// The versions of library and daemon do not match.
    Version = 3 "CS_ERR_VERSION",
    /// Initialization failed.
    Init = 4 "CS_ERR_INIT",
    /// The time is over.
    Timeout = 5 "CS_ERR_TIMEOUT",
    /// The daemon is busy; the request was not carried out.
    TryAgain = 6 "CS_ERR_TRY_AGAIN",
    /// An argument is not valid, or the daemon does not know the request.
    InvalidParam = 7 "CS_ERR_INVALID_PARAM",
    /// The daemon has no memory.
    NoMemory = 8 "CS_ERR_NO_MEMORY",
    /// The handle, tracker or iterator does not exist.
    BadHandle = 9 "CS_ERR_BAD_HANDLE",
    /// The resource is in use.
    Busy = 10 "CS_ERR_BUSY",
    /// Not allowed; cmap: the key is read-only.
    Access = 11 "CS_ERR_ACCESS",
    /// The object does not exist.
    NotExist = 12 "CS_ERR_NOT_EXIST",
    /// A name is too long (cmap: or too short, or has a character that is not allowed).
    NameTooLong = 13 "CS_ERR_NAME_TOO_LONG",
    /// The object exists already.
    Exist = 14 "CS_ERR_EXIST",
    /// No space left.
    NoSpace = 15 "CS_ERR_NO_SPACE",
    /// Interrupted.
    Interrupt = 16 "CS_ERR_INTERRUPT",
    /// No such name.
    NameNotFound = 17 "CS_ERR_NAME_NOT_FOUND",
    /// No resources.
    NoResources = 18 "CS_ERR_NO_RESOURCES",
    /// Not supported.
    NotSupported = 19 "CS_ERR_NOT_SUPPORTED",
    /// The operation is not valid in this state.
    BadOperation = 20 "CS_ERR_BAD_OPERATION",
    /// The operation failed.
    FailedOperation = 21 "CS_ERR_FAILED_OPERATION",
    /// The message is wrong; votequorum: the poll is for another ring.
    MessageError = 22 "CS_ERR_MESSAGE_ERROR",
    /// A queue is full.
    QueueFull = 23 "CS_ERR_QUEUE_FULL",
    /// The queue is not available.
    QueueNotAvailable = 24 "CS_ERR_QUEUE_NOT_AVAILABLE",
    /// The flags are invalid.
    BadFlags = 25 "CS_ERR_BAD_FLAGS",
    /// Too big.
    TooBig = 26 "CS_ERR_TOO_BIG",
    /// The iteration is at its end.
    NoSections = 27 "CS_ERR_NO_SECTIONS",
    /// No such context.
    ContextNotFound = 28 "CS_ERR_CONTEXT_NOT_FOUND",
    /// Too many groups.
    TooManyGroups = 30 "CS_ERR_TOO_MANY_GROUPS",
    /// The peer is not trusted.
    Security = 100 "CS_ERR_SECURITY",
}

impl CsError {
    /// The error that the C library returns for an errno. Matches `qb_to_cs_error`.
    pub fn from_errno(errno: i32) -> Self {
        use nix::libc;
        match errno {
            libc::EBADF => Self::BadHandle,
            libc::ENOMEM => Self::NoMemory,
            libc::ENOMSG | libc::ENOBUFS | libc::ETIMEDOUT | libc::EAGAIN => Self::TryAgain,
            libc::EBADE => Self::FailedOperation,
            libc::ETIME => Self::Timeout,
            libc::EINVAL => Self::InvalidParam,
            libc::EBUSY => Self::Busy,
            libc::EACCES => Self::Access,
            libc::EOVERFLOW => Self::NameTooLong,
            libc::EEXIST => Self::Exist,
            libc::ENOSPC => Self::NoSpace,
            libc::EINTR => Self::Interrupt,
            libc::ENOENT | libc::ENODEV => Self::NotExist,
            libc::ENOSYS | libc::ENOTSUP => Self::NotSupported,
            libc::EBADMSG => Self::MessageError,
            libc::EMSGSIZE | libc::E2BIG => Self::TooBig,
            _ => Self::Library,
        }
    }
}

impl fmt::Display for CsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.c_name() {
            Some(name) => f.pad(name),
            None => f.pad(&format!("unknown cs_error {}", self.raw())),
        }
    }
}

impl std::error::Error for CsError {}

/// As C's number.
#[cfg(feature = "serde")]
impl serde::Serialize for CsError {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.raw().serialize(serializer)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for CsError {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        i32::deserialize(deserializer).map(Self::from_raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_those_of_c() {
        assert_eq!(CsError::TryAgain.raw(), 6);
        assert_eq!(CsError::TryAgain.to_string(), "CS_ERR_TRY_AGAIN");
        assert_eq!(CsError::from_raw(30), CsError::TooManyGroups);
        for error in CsError::ALL {
            assert_eq!(CsError::from_raw(error.raw()), *error);
        }
    }

    #[test]
    fn a_number_without_a_name_is_kept() {
        for raw in [1, 29, -6, i32::MAX] {
            let error = CsError::from_raw(raw);
            assert_eq!((error, error.raw(), error.c_name()), (CsError::Unknown(raw), raw, None));
            assert_eq!(error.to_string(), format!("unknown cs_error {raw}"));
        }
    }

    #[cfg(feature = "serde")]
    #[test]
    fn every_number_is_serialized_as_it_is() {
        for raw in [12, 29] {
            let json = serde_json::to_string(&CsError::from_raw(raw)).unwrap();
            assert_eq!(json, raw.to_string());
            assert_eq!(serde_json::from_str::<CsError>(&json).unwrap(), CsError::from_raw(raw));
        }
    }
}
