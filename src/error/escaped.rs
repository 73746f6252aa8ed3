//! Bytes in messages for people.

use std::fmt::{self, Write};

/// Bytes for people: text as it is, and control characters and what is no text as `\x1b`.
pub(crate) struct Escaped<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escape = |bytes: &[u8], f: &mut fmt::Formatter<'_>| {
            bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
        };
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                if character.is_control() {
                    escape(character.encode_utf8(&mut [0; 4]).as_bytes(), f)?;
                } else {
                    f.write_char(character)?;
                }
            }
            escape(chunk.invalid(), f)?;
        }
        Ok(())
    }
}
