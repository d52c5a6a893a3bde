//! Tokens to text, one at a time.

use crate::Tokenizer;

/// Turns tokens into text as they come. What it returns ends at a character's end always; all of it together is what the
/// tokens' bytes are, with U+FFFD for each sequence that is not UTF-8. Special tokens stand for nothing.
///
/// It continues a text: a first token that begins with a space keeps it.
#[derive(Clone, Debug)]
pub struct Decoder {
    tokenizer: Tokenizer,
    /// The beginning of a character whose end has not come; at most three bytes between calls.
    open: Vec<u8>,
}

impl Decoder {
    pub(crate) fn new(tokenizer: Tokenizer) -> Self {
        Self { tokenizer, open: Vec::new() }
    }

    /// The characters that `token` completes. Ids that are no tokens complete none.
    pub fn push(&mut self, token: u32) -> String {
        self.tokenizer.append_bytes(token, &mut self.open);
        let mut text = String::new();
        let mut from = 0;
        for chunk in self.open.utf8_chunks() {
            let broken = chunk.invalid();
            text.push_str(chunk.valid());
            from += chunk.valid().len();
            if from + broken.len() == self.open.len() && could_go_on(broken) {
                break;
            }
            text.extend((!broken.is_empty()).then_some(char::REPLACEMENT_CHARACTER));
            from += broken.len();
        }
        self.open.drain(..from);
        text
    }

    /// What is left: U+FFFD where the last character is incomplete. The decoder begins anew.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.open)).into_owned()
    }
}

/// Whether more bytes could make a character of these, at the end of what there is.
fn could_go_on(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}
