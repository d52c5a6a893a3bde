//! Prompt to tokens, tokens to text, and where a stop string ends it.

use speculative::TokenId;

use crate::Error;

/// The fingerprint of the character models' tokenizer: 128 ids, each the ASCII character of that code. SHA-256 of the line
/// `outrider tokenizer: id, code point` and then, for each id, id and code point as little-endian u32.
pub const ASCII_FINGERPRINT: &str = "583768078104c74b0f43f7e63ae5ce2015609bfafda0df69b5e96e59e0cd8f8b";

/// How many ids that tokenizer has.
pub const ASCII_SIZE: u32 = 128;

/// The tokens of `prompt`.
///
/// # Errors
/// A character outside ASCII.
pub fn encode(prompt: &str) -> Result<Vec<TokenId>, Error> {
    match prompt.char_indices().find(|(_, character)| !character.is_ascii()) {
        Some((at, character)) => Err(Error::Prompt { character, at }),
        None => Ok(prompt.bytes().map(TokenId::from).collect()),
    }
}

/// The text of one token. Ids beyond ASCII are masked by both services and never arrive here.
fn decode(token: TokenId) -> char {
    char::from_u32(token).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// A stretch of text of one origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The text.
    pub text: String,
    /// Whether its tokens were proposed by the draft and accepted; otherwise they are the target's own.
    pub accepted: bool,
}

/// The text so far. What could still turn out to be the beginning of a stop string is held back.
#[derive(Clone, Debug, Default)]
pub struct Text {
    stops: Vec<String>,
    text: String,
    /// Where in `text` each run of one origin ends.
    runs: Vec<(usize, bool)>,
    released: usize,
}

impl Text {
    /// An empty text that ends before the first of `stops`; empty stop strings never match.
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(), ..Self::default() }
    }

    /// Adds a token; `true` when it completes a stop string, which is then cut off.
    pub fn push(&mut self, token: TokenId, accepted: bool) -> bool {
        let before = self.text.len();
        self.text.push(decode(token));
        match self.runs.last_mut() {
            Some((end, origin)) if *origin == accepted => *end = self.text.len(),
            _ => self.runs.push((self.text.len(), accepted)),
        }
        let ends_now = |stop: &String| {
            let from = (before + 1).saturating_sub(stop.len());
            self.text[from..].find(stop.as_str()).map(|at| from + at)
        };
        match self.stops.iter().filter_map(ends_now).min() {
            Some(at) => {
                self.text.truncate(at);
                true
            }
            None => false,
        }
    }

    /// What has become certain since the last call; all of the rest when `ended`.
    pub fn release(&mut self, ended: bool) -> Vec<Piece> {
        let held = if ended { 0 } else { self.stops.iter().map(|stop| self.overlap(stop)).max().unwrap_or(0) };
        let certain = self.text.len() - held;
        let mut pieces = Vec::new();
        for &(end, accepted) in &self.runs {
            let end = end.min(certain);
            if end > self.released {
                pieces.push(Piece { text: self.text[self.released..end].to_owned(), accepted });
                self.released = end;
            }
        }
        pieces
    }

    /// The whole text.
    pub fn into_string(self) -> String {
        self.text
    }

    /// Length of the longest end of the text that begins `stop` without being all of it.
    fn overlap(&self, stop: &str) -> usize {
        let longest = self.text.len().min(stop.len() - 1);
        (1..=longest)
            .rev()
            .find(|&length| stop.is_char_boundary(length) && self.text.ends_with(&stop[..length]))
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(text: &mut Text, characters: &str) -> bool {
        characters.bytes().any(|byte| text.push(byte.into(), false))
    }

    fn released(text: &mut Text, ended: bool) -> String {
        text.release(ended).into_iter().map(|piece| piece.text).collect()
    }

    #[test]
    fn a_prompt_outside_ascii_is_refused_with_the_place() {
        assert!(matches!(encode("ROMÉO"), Err(Error::Prompt { character: 'É', at: 3 })));
        assert_eq!(encode("AZ").unwrap(), [65, 90]);
    }

    #[test]
    fn the_text_ends_before_the_stop_string() {
        let mut text = Text::new(&["ab!".to_owned(), "xyz".to_owned()]);
        assert!(!feed(&mut text, "one aab"));
        assert_eq!(released(&mut text, false), "one a");
        assert!(feed(&mut text, "!"));
        assert_eq!(released(&mut text, true), "");
        assert_eq!(text.into_string(), "one a");
    }

    #[test]
    fn what_only_looked_like_a_stop_string_is_released() {
        let mut text = Text::new(&["aab".to_owned()]);
        assert!(!feed(&mut text, "aa"));
        assert_eq!(released(&mut text, false), "");
        assert!(!feed(&mut text, "a"));
        assert_eq!(released(&mut text, false), "a");
        assert!(!feed(&mut text, "c"));
        assert_eq!(released(&mut text, false), "aac");
    }

    #[test]
    fn pieces_keep_their_origin() {
        let mut text = Text::new(&[]);
        for (byte, accepted) in [(b'a', true), (b'b', true), (b'c', false), (b'd', true)] {
            text.push(byte.into(), accepted);
        }
        let pieces: Vec<_> = text.release(false).into_iter().map(|piece| (piece.text, piece.accepted)).collect();
        assert_eq!(pieces, [("ab".to_owned(), true), ("c".to_owned(), false), ("d".to_owned(), true)]);
    }
}
