//! Log-probabilities as OpenAI's two endpoints spell them.

use std::collections::BTreeMap;

use serde::Serialize;
use speculative::{Logprobs, TokenId};
use tokenizer::{Decoder, Tokenizer};

use super::parse::Endpoint;

/// Stands for what JSON cannot say, as OpenAI has it.
const LEAST: f32 = -9999.0;

/// Of the tokens of one choice, or of a chunk of one.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum ChoiceLogprobs {
    Chat {
        content: Vec<Token>,
        refusal: Option<()>,
    },
    Completion {
        tokens: Vec<String>,
        token_logprobs: Vec<f32>,
        top_logprobs: Vec<BTreeMap<String, f32>>,
        /// Where in the choice's text each token begins, in characters.
        text_offset: Vec<usize>,
    },
}

/// A token of a chat.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Token {
    #[serde(flatten)]
    token: Likely,
    top_logprobs: Vec<Likely>,
}

/// A token and how likely it was.
#[derive(Clone, Debug, Serialize)]
struct Likely {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

/// Spells the log-probabilities of one choice, in the order of its tokens.
pub(super) struct Scribe {
    endpoint: Endpoint,
    tokenizer: Tokenizer,
    decoder: Decoder,
    /// Characters of the text so far.
    offset: usize,
}

impl Scribe {
    pub(super) fn new(endpoint: Endpoint, tokenizer: &Tokenizer) -> Self {
        Self { endpoint, tokenizer: tokenizer.clone(), decoder: tokenizer.decoder(), offset: 0 }
    }

    /// Those of the choice's next tokens; `None` where none are asked for.
    pub(super) fn spell(&mut self, tokens: &[TokenId], logprobs: &[Logprobs]) -> Option<ChoiceLogprobs> {
        let told = tokens.iter().copied().zip(logprobs);
        match self.endpoint {
            _ if logprobs.is_empty() => None,
            Endpoint::Chat => {
                let content = told.map(|(token, logprobs)| self.token(token, logprobs)).collect();
                Some(ChoiceLogprobs::Chat { content, refusal: None })
            }
            Endpoint::Completions => Some(ChoiceLogprobs::Completion {
                tokens: tokens.iter().map(|&token| self.spelling(token)).collect(),
                token_logprobs: logprobs.iter().map(|logprobs| json_number(logprobs.chosen)).collect(),
                top_logprobs: told.map(|(token, logprobs)| self.top(token, logprobs)).collect(),
                text_offset: tokens.iter().map(|&token| self.advance(token)).collect(),
            }),
        }
    }

    fn token(&self, token: TokenId, logprobs: &Logprobs) -> Token {
        let likely = |token, logprob| Likely {
            token: self.spelling(token),
            logprob: json_number(logprob),
            bytes: self.tokenizer.bytes(token),
        };
        let top_logprobs = logprobs.top.iter().map(|&(token, logprob)| likely(token, logprob)).collect();
        Token { token: likely(token, logprobs.chosen), top_logprobs }
    }

    /// The likeliest tokens, and the chosen one where it is not among them.
    fn top(&self, token: TokenId, logprobs: &Logprobs) -> BTreeMap<String, f32> {
        let all = logprobs.top.iter().copied().chain([(token, logprobs.chosen)]);
        all.map(|(token, logprob)| (self.spelling(token), json_number(logprob))).collect()
    }

    /// A token as text; one that is not UTF-8 by its bytes, as OpenAI has it, and one that stands for no text by its id, as
    /// vLLM has it.
    fn spelling(&self, token: TokenId) -> String {
        let bytes = self.tokenizer.bytes(token);
        match String::from_utf8(bytes) {
            Ok(text) if text.is_empty() => format!("token_id:{token}"),
            Ok(text) => text,
            Err(error) => {
                let escaped = error.as_bytes().iter().map(|byte| format!("\\x{byte:02x}"));
                format!("bytes:{}", escaped.collect::<String>())
            }
        }
    }

    /// Where `token` begins.
    fn advance(&mut self, token: TokenId) -> usize {
        let begins = self.offset;
        self.offset += self.decoder.push(token).chars().count();
        begins
    }
}

fn json_number(logprob: f32) -> f32 {
    logprob.max(LEAST)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn logprobs(chosen: f32, top: &[(TokenId, f32)]) -> Logprobs {
        Logprobs { chosen, top: top.to_vec() }
    }

    #[test]
    fn a_completions_offsets_go_on_from_chunk_to_chunk() {
        let mut scribe = Scribe::new(Endpoint::Completions, &Tokenizer::ascii());
        assert!(scribe.spell(&[65], &[]).is_none());
        let first = scribe.spell(&[65, 66], &[logprobs(-0.5, &[(65, -0.5)]), logprobs(-2.0, &[(67, -0.25)])]);
        let expected = json!({
            "tokens": ["A", "B"],
            "token_logprobs": [-0.5, -2.0],
            "top_logprobs": [{ "A": -0.5 }, { "B": -2.0, "C": -0.25 }],
            "text_offset": [0, 1],
        });
        assert_eq!(json!(first), expected);
        let second = scribe.spell(&[67], &[logprobs(f32::NEG_INFINITY, &[])]);
        assert_eq!(json!(second)["text_offset"], json!([2]));
        assert_eq!(json!(second)["token_logprobs"], json!([-9999.0]));
    }

    #[test]
    fn a_chats_tokens_have_their_bytes() {
        let mut scribe = Scribe::new(Endpoint::Chat, &Tokenizer::ascii());
        let spelt = json!(scribe.spell(&[65, 200], &[logprobs(-0.5, &[(66, -0.25)]), logprobs(0.0, &[])]));
        let expected = json!({ "token": "A", "logprob": -0.5, "bytes": [65],
            "top_logprobs": [{ "token": "B", "logprob": -0.25, "bytes": [66] }] });
        assert_eq!(spelt["content"][0], expected);
        assert_eq!(spelt["content"][1]["token"], "token_id:200");
    }
}
