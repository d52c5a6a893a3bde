//! The bytes that each id stands for.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// How a token's text in the vocabulary spells its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Spelling {
    /// GPT-2's: each byte is one printable character.
    ByteLevel,
    /// SentencePiece's: `▁` is a space, `<0x0A>` a byte, the rest is itself.
    Spaces,
}

/// GPT-2's characters, by byte: printable Latin-1 stands for itself, the other bytes for U+0100 and on, in order.
static ALPHABET: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut moved = 0x100..;
    std::array::from_fn(|byte| match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => byte as u8 as char,
        _ => moved.next().and_then(char::from_u32).unwrap_or_default(),
    })
});

/// The same in the other direction; the highest character is U+0143.
static BYTES: LazyLock<[Option<u8>; 0x144]> = LazyLock::new(|| {
    let mut bytes = [None; 0x144];
    ALPHABET.iter().zip(0..=u8::MAX).for_each(|(&character, byte)| bytes[character as usize] = Some(byte));
    bytes
});

impl Spelling {
    /// The bytes that `token` spells.
    pub(crate) fn bytes(self, token: &str) -> Vec<u8> {
        match self {
            // A token with a character outside the alphabet stands for itself.
            Self::ByteLevel => token
                .chars()
                .map(|character| BYTES.get(character as usize).copied().flatten())
                .collect::<Option<_>>()
                .unwrap_or_else(|| token.into()),
            Self::Spaces => match escaped_byte(token) {
                Some(byte) => vec![byte],
                None => token.replace('▁', " ").into_bytes(),
            },
        }
    }

    /// The token that spells `byte` alone.
    pub(crate) fn token(self, byte: u8) -> String {
        match self {
            Self::ByteLevel => ALPHABET[usize::from(byte)].to_string(),
            Self::Spaces => format!("<0x{byte:02X}>"),
        }
    }
}

fn escaped_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let hexadecimal = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| hexadecimal)
}

/// The bytes of all ids, one after the other.
pub(crate) struct Pieces {
    bytes: Box<[u8]>,
    /// Where each id's bytes end.
    ends: Box<[usize]>,
}

impl Pieces {
    pub(crate) fn new(pieces: impl Iterator<Item = Vec<u8>>) -> Self {
        let mut bytes = Vec::new();
        let ends = pieces
            .map(|piece| {
                bytes.extend(piece);
                bytes.len()
            })
            .collect();
        Self { bytes: bytes.into(), ends }
    }

    /// The bytes of `id`; none for an id that is no token.
    pub(crate) fn get(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let begin = id.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.ends.get(id).map_or(&[], |&end| &self.bytes[begin..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_gpt_2s() {
        for (byte, character) in
            [(b' ', 'Ġ'), (b'\n', 'Ċ'), (0, 'Ā'), (0x7f, 'ġ'), (0xad, 'Ń'), (b'!', '!'), (0xff, 'ÿ')]
        {
            assert_eq!(ALPHABET[usize::from(byte)], character);
        }
        for byte in 0..=u8::MAX {
            assert_eq!(Spelling::ByteLevel.bytes(&Spelling::ByteLevel.token(byte)), [byte]);
            assert_eq!(Spelling::Spaces.bytes(&Spelling::Spaces.token(byte)), [byte]);
        }
    }

    #[test]
    fn what_is_no_spelling_stands_for_itself() {
        assert_eq!(Spelling::ByteLevel.bytes("a b"), b"a b");
        assert_eq!(Spelling::Spaces.bytes("<0x+1>"), b"<0x+1>");
        assert_eq!(Spelling::Spaces.bytes("▁the▁"), b" the ");
    }

    #[test]
    fn an_id_that_is_no_token_has_no_bytes() {
        let pieces = Pieces::new([b"ab".to_vec(), vec![], b"c".to_vec()].into_iter());
        let all: Vec<_> = [0, 1, 2, 3, u32::MAX].map(|id| pieces.get(id)).into();
        assert_eq!(all, [&b"ab"[..], b"", b"c", b"", b""]);
    }
}
