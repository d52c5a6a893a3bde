//! Chats to prompts, tokens to text, and where a stop string ends it.

use std::collections::VecDeque;

use speculative::{Logprobs, TokenId};
use tokenizer::{Decoder, Message, Tokenizer};

use crate::Error;

/// The tokens of `prompt`.
///
/// # Errors
/// A character that the tokenizer does not know.
pub fn encode(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<TokenId>, Error> {
    tokenizer.encode(prompt).map_err(Error::Prompt)
}

/// The prompt in which the model answers `prompt`, said by the user, after its own chat template. `system` goes before it.
///
/// # Errors
/// A model without a chat template, or with one that does not take these messages.
pub fn chat(tokenizer: &Tokenizer, system: Option<&str>, prompt: &str) -> Result<String, Error> {
    let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    let system = system.map(|system| message("system", system));
    let messages: Vec<_> = system.into_iter().chain([message("user", prompt)]).collect();
    conversation(tokenizer, &messages)
}

/// The prompt in which the model answers `messages`, after its own chat template.
///
/// # Errors
/// A model without a chat template, or with one that does not take these messages.
pub fn conversation(tokenizer: &Tokenizer, messages: &[Message]) -> Result<String, Error> {
    tokenizer.render_chat(messages).map_err(Error::Chat)
}

/// A stretch of text of one origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// The text.
    pub text: String,
    /// Whether its tokens were proposed by the draft and accepted; otherwise they are the target's own.
    pub accepted: bool,
    /// The tokens whose text ends in it, and those after them that stand for none.
    pub tokens: Vec<TokenId>,
    /// Of each of them, where they are asked for.
    pub logprobs: Vec<Logprobs>,
}

/// The text so far. What could still turn out to be the beginning of a stop string is held back.
#[derive(Clone, Debug)]
pub struct Text {
    decoder: Decoder,
    stops: Vec<String>,
    text: String,
    /// Where in `text` each run of one origin ends that is not released as a whole.
    runs: Vec<(usize, bool)>,
    /// The tokens that are not released, each with where in `text` it ended.
    tokens: VecDeque<(usize, TokenId)>,
    released: usize,
}

impl Text {
    /// An empty text of `decoder`'s tokens that ends before the first of `stops`; empty stop strings never match.
    pub fn new(decoder: Decoder, stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { decoder, stops, text: String::new(), runs: Vec::new(), tokens: VecDeque::new(), released: 0 }
    }

    /// Adds a token; `true` when it completes a stop string, which is then cut off with all that follows it.
    pub fn push(&mut self, token: TokenId, accepted: bool) -> bool {
        let before = self.text.len();
        let text = self.decoder.push(token);
        self.append(&text, accepted);
        self.push_end(token);
        let ends_now = |stop: &String| {
            let from = self.text.floor_char_boundary((before + 1).saturating_sub(stop.len()));
            self.text[from..].find(stop.as_str()).map(|at| from + at)
        };
        match self.stops.iter().filter_map(ends_now).min() {
            Some(at) => {
                self.text.truncate(at);
                // The beginning of a character after the stop string ends with it.
                self.decoder.finish();
                true
            }
            None => false,
        }
    }

    /// Adds a token that stands for no text.
    pub fn push_end(&mut self, token: TokenId) {
        self.tokens.push_back((self.text.len(), token));
    }

    /// Adds text of the origin that completed it.
    fn append(&mut self, text: &str, accepted: bool) {
        if text.is_empty() {
            return;
        }
        self.text.push_str(text);
        match self.runs.last_mut() {
            Some((end, origin)) if *origin == accepted => *end = self.text.len(),
            _ => self.runs.push((self.text.len(), accepted)),
        }
    }

    /// What has become certain since the last call; all of the rest when `ended`, the tokens of what was cut off included.
    pub fn release(&mut self, ended: bool) -> Vec<Piece> {
        if ended {
            let rest = self.decoder.finish();
            self.append(&rest, false);
        }
        let held = if ended { 0 } else { self.stops.iter().map(|stop| self.overlap(stop)).max().unwrap_or(0) };
        let certain = self.text.len() - held;
        let mut pieces = Vec::new();
        for &(end, accepted) in &self.runs {
            let end = end.min(certain);
            if end > self.released {
                let ended = self.tokens.iter().take_while(|(at, _)| *at <= end).count();
                let tokens = self.tokens.drain(..ended).map(|(_, token)| token).collect();
                let text = self.text[self.released..end].to_owned();
                pieces.push(Piece { text, accepted, tokens, logprobs: Vec::new() });
                self.released = end;
            }
        }
        let released = self.runs.iter().take_while(|(end, _)| *end <= self.released).count();
        self.runs.drain(..released);
        if ended && !self.tokens.is_empty() {
            let rest = self.tokens.drain(..).map(|(_, token)| token);
            match pieces.last_mut() {
                Some(last) => last.tokens.extend(rest),
                None => {
                    let tokens = rest.collect();
                    pieces.push(Piece { text: String::new(), accepted: false, tokens, logprobs: Vec::new() });
                }
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
    use tokenizer::Vocabulary;

    use super::*;

    fn ascii(stops: &[&str]) -> Text {
        text(&Tokenizer::ascii(), stops)
    }

    fn text(tokenizer: &Tokenizer, stops: &[&str]) -> Text {
        Text::new(tokenizer.decoder(), &stops.iter().map(|&stop| stop.to_owned()).collect::<Vec<_>>())
    }

    /// Tokens of several characters, of parts of characters, and one that marks.
    fn pieces() -> Tokenizer {
        let tokens = ["ab", "!x", "Ã", "©", "<|mark|>", "ð", "Ł", "¤", "ĸ"].map(str::to_owned).into();
        let token_types = Some(vec![1, 1, 1, 1, 3, 1, 1, 1, 1]);
        let chat_template = Some("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}".to_owned());
        let model = "gpt2".to_owned();
        Tokenizer::from_gguf(Vocabulary { model, tokens, token_types, chat_template, ..Vocabulary::default() }).unwrap()
    }

    fn feed(text: &mut Text, characters: &str) -> bool {
        characters.bytes().any(|byte| text.push(byte.into(), false))
    }

    fn released(text: &mut Text, ended: bool) -> String {
        text.release(ended).into_iter().map(|piece| piece.text).collect()
    }

    #[test]
    fn a_prompt_outside_the_vocabulary_is_refused_with_the_place() {
        let refusal = encode(&Tokenizer::ascii(), "ROMÉO").unwrap_err().to_string();
        assert!(["prompt", "'É'", "byte 3", "ASCII"].iter().all(|word| refusal.contains(word)), "{refusal}");
        assert_eq!(encode(&Tokenizer::ascii(), "AZ").unwrap(), [65, 90]);
    }

    #[test]
    fn a_chat_is_the_system_message_and_the_users() {
        assert_eq!(chat(&pieces(), Some("Be brief."), "Hi").unwrap(), "system: Be brief.\nuser: Hi\n");
        assert_eq!(chat(&pieces(), None, "Hi").unwrap(), "user: Hi\n");
        let refusal = chat(&Tokenizer::ascii(), None, "Hi").unwrap_err().to_string();
        assert_eq!(refusal, "prompt cannot be put into a chat: the tokenizer ascii has no chat template");
    }

    #[test]
    fn the_text_ends_before_the_stop_string() {
        let mut text = ascii(&["ab!", "xyz"]);
        assert!(!feed(&mut text, "one aab"));
        assert_eq!(released(&mut text, false), "one a");
        assert!(feed(&mut text, "!"));
        assert_eq!(released(&mut text, true), "");
        assert_eq!(text.into_string(), "one a");
    }

    #[test]
    fn a_stop_string_may_end_within_a_token_and_begin_within_another() {
        let mut text = text(&pieces(), &["b!"]);
        assert!(!text.push(0, true));
        assert_eq!(released(&mut text, false), "a");
        assert!(text.push(1, true));
        assert_eq!(released(&mut text, true), "");
        assert_eq!(text.into_string(), "a");
    }

    #[test]
    fn a_stop_string_of_many_bytes_is_found_whatever_tokens_spell_it() {
        for (stop, tokens, rest) in [("é", &[0, 2, 3][..], "ab"), ("bé🤖", &[0, 2, 3, 5, 6, 7, 8], "a")] {
            let mut text = text(&pieces(), &[stop]);
            let (last, first) = tokens.split_last().unwrap();
            assert!(!first.iter().any(|&token| text.push(token, false)), "{stop}");
            assert!(text.push(*last, false), "{stop}");
            assert_eq!(released(&mut text, true), rest);
        }
    }

    #[test]
    fn what_follows_a_stop_string_never_comes_out() {
        let mut text = text(&pieces(), &["ab"]);
        text.push(2, false);
        assert!(text.push(0, false));
        assert_eq!(released(&mut text, true), "\u{fffd}");
    }

    #[test]
    fn half_a_character_at_the_end_is_replaced() {
        let mut text = text(&pieces(), &[]);
        assert!(!text.push(0, true) && !text.push(2, true));
        assert_eq!(released(&mut text, false), "ab");
        assert_eq!(released(&mut text, true), "\u{fffd}");
        assert_eq!(text.into_string(), "ab\u{fffd}");
    }

    #[test]
    fn what_only_looked_like_a_stop_string_is_released() {
        let mut text = ascii(&["aab"]);
        assert!(!feed(&mut text, "aa"));
        assert_eq!(released(&mut text, false), "");
        assert!(!feed(&mut text, "a"));
        assert_eq!(released(&mut text, false), "a");
        assert!(!feed(&mut text, "c"));
        assert_eq!(released(&mut text, false), "aac");
    }

    #[test]
    fn pieces_keep_the_origin_of_what_completed_them() {
        let mut text = ascii(&[]);
        for (byte, accepted) in [(b'a', true), (b'b', true), (b'c', false), (b'd', true)] {
            text.push(byte.into(), accepted);
        }
        let all: Vec<_> = text.release(false).into_iter().map(|piece| (piece.text, piece.accepted)).collect();
        assert_eq!(all, [("ab".to_owned(), true), ("c".to_owned(), false), ("d".to_owned(), true)]);
        let mut text = self::text(&pieces(), &[]);
        for (token, accepted) in [(2, true), (3, false), (4, true), (0, false)] {
            text.push(token, accepted);
        }
        let tokens = vec![2, 3, 4, 0];
        let piece = Piece { text: "éab".to_owned(), accepted: false, tokens, logprobs: Vec::new() };
        assert_eq!(text.release(true), [piece]);
    }
}
