//! Bytes and text in messages for people.

use std::fmt::{self, Write};

/// Prints bytes safely on one line of a terminal. Text is printed unchanged. Bytes that are not
/// UTF-8, control characters and characters that change the direction of text are printed as
/// `\x1b`.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escape = |bytes: &[u8], f: &mut fmt::Formatter<'_>| {
            bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
        };
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                if steers(character) {
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

/// Whether a terminal would not simply print the character.
fn steers(character: char) -> bool {
    let is_bidirectional = matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    character.is_control() || is_bidirectional || matches!(character, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_steer_a_terminal_is_escaped() {
        let printed = |text: &str| Escaped(text.as_bytes()).to_string();
        assert_eq!(printed("a\u{1b}[2Jb\nc \u{e9}\u{85}"), "a\\x1b[2Jb\\x0ac \u{e9}\\xc2\\x85");
        assert_eq!(Escaped(b"a\xff\xc3\xa9").to_string(), "a\\xff\u{e9}");
    }

    #[test]
    fn what_would_turn_text_around_is_escaped() {
        let printed = |text: &str| Escaped(text.as_bytes()).to_string();
        assert_eq!(printed("a\u{202e}b\u{2066}"), "a\\xe2\\x80\\xaeb\\xe2\\x81\\xa6");
        assert_eq!(
            printed("a\u{200f}\u{2028}\u{61c}"),
            "a\\xe2\\x80\\x8f\\xe2\\x80\\xa8\\xd8\\x9c"
        );
        // Text that is written from right to left is text.
        assert_eq!(printed("\u{5d0}\u{5d1}"), "\u{5d0}\u{5d1}");
    }
}
