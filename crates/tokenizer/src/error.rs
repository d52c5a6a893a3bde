//! What can go wrong, and what is said about it.

use std::fmt::Debug;

/// Why a tokenizer was refused, or could not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A character that no token spells.
    #[error("text holds {character:?} at byte {at}, allowed: {allowed}")]
    Character {
        /// The first such character.
        character: char,
        /// Where it stands.
        at: usize,
        /// What the tokenizer knows.
        allowed: &'static str,
    },
    /// A document that cannot be read.
    #[error("{document} cannot be read: {problem}")]
    Document {
        /// Which one.
        document: &'static str,
        /// What is wrong, and where.
        problem: String,
    },
    /// A part of a tokenizer that does not fit.
    #[error("the tokenizer's {field} is {value}, allowed: {allowed}")]
    Field {
        /// The part's name in its file.
        field: String,
        /// Its value, shortened.
        value: String,
        /// What this crate knows.
        allowed: &'static str,
    },
    /// The tokenizer's own parts do not work together.
    #[error("the tokenizer cannot be used: {0}")]
    Unusable(String),
    /// There is no chat template.
    #[error("the tokenizer {tokenizer} has no chat template")]
    NoChatTemplate {
        /// Its name.
        tokenizer: String,
    },
    /// The chat template refuses the messages or is broken.
    #[error("the chat template cannot be rendered: {0}")]
    ChatTemplate(String),
}

impl Error {
    /// A field with its value, of which at most the beginning is shown.
    pub(crate) fn field(field: impl Into<String>, value: impl Debug, allowed: &'static str) -> Self {
        const SHOWN: usize = 60;
        let mut value = format!("{value:?}");
        if let Some((cut, _)) = value.char_indices().nth(SHOWN) {
            value.truncate(cut);
            value.push('…');
        }
        Self::Field { field: field.into(), value, allowed }
    }

    pub(crate) fn document(document: &'static str, problem: impl Into<String>) -> Self {
        Self::Document { document, problem: problem.into() }
    }
}
