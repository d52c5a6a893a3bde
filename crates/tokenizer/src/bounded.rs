//! Reading JSON from anywhere in memory that is bounded, whatever it says.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use crate::{Error, definition::MOST_TOKENS};

/// The longest document; those of the largest known vocabularies have half of it.
const MOST_BYTES: usize = 64 << 20;

/// The longest part that is kept as it is written, which takes ten times its length in memory.
const MOST_PART_BYTES: usize = 1 << 20;

/// What `document`, so called in errors, holds.
pub(crate) fn json<'a, T: Deserialize<'a>>(document: &'static str, json: &'a [u8]) -> Result<T, Error> {
    if json.len() > MOST_BYTES {
        return Err(Error::document(document, format!("it has {} bytes, at most 64 MiB are allowed", json.len())));
    }
    serde_json::from_slice(json).map_err(|error| Error::document(document, error.to_string()))
}

/// A part that is kept as it is written.
pub(crate) fn part<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    let written = <&RawValue>::deserialize(deserializer)?.get();
    match written.len() <= MOST_PART_BYTES {
        true => serde_json::from_str(written).map_err(D::Error::custom),
        false => Err(D::Error::custom(format!("a part of {} bytes, at most 1 MiB are allowed", written.len()))),
    }
}

/// The texts of all tokens.
pub(crate) fn tokens<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Tokens;

    impl<'de> Visitor<'de> for Tokens {
        type Value = Vec<String>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(formatter, "at most {MOST_TOKENS} tokens")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<String>, A::Error> {
            let mut tokens = Vec::new();
            while let Some(token) = sequence.next_element()? {
                if tokens.len() == MOST_TOKENS {
                    return Err(A::Error::invalid_length(MOST_TOKENS + 1, &self));
                }
                tokens.push(token);
            }
            Ok(tokens)
        }
    }

    deserializer.deserialize_seq(Tokens)
}
