//! What can go wrong, and what is said about it.

use std::path::PathBuf;

use speculative::TokenId;

use crate::{HubError, Isa};

/// Why a forward was refused. Nothing has changed then, in no cache of the batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A sequence would outgrow its context.
    #[error("sequence {sequence}: {held} held and {tokens} new positions exceed the context of {context}")]
    Overflow {
        /// Its number in the batch.
        sequence: usize,
        /// Positions in its cache.
        held: usize,
        /// Positions to be added.
        tokens: usize,
        /// Positions allowed.
        context: usize,
    },
    /// A token is not in the vocabulary.
    #[error("sequence {sequence}: token {token} at row {row} is outside the vocabulary of {vocab_size}")]
    Token {
        /// The sequence's number in the batch.
        sequence: usize,
        /// The token's number among the sequence's rows.
        row: usize,
        /// The token.
        token: TokenId,
        /// Tokens in the vocabulary.
        vocab_size: usize,
    },
    /// Logits were asked for from beyond the last row.
    #[error("sequence {sequence}: logits from row {logits_from} of {tokens}")]
    LogitsFrom {
        /// The sequence's number in the batch.
        sequence: usize,
        /// The first row whose logits were asked for.
        logits_from: usize,
        /// Rows of the sequence.
        tokens: usize,
    },
    /// A cache was made by a model of another geometry.
    #[error("sequence {sequence}: its cache was made for another model")]
    ForeignCache {
        /// The sequence's number in the batch.
        sequence: usize,
    },
    /// The device did not compute, for want of memory for example. What the caches held before is still there.
    #[error("the device failed: {0}")]
    Device(String),
    /// The model's thread has ended.
    #[error("the model's thread has ended")]
    Stopped,
    /// A session's cache does not hold what it should; an earlier request of it was abandoned half-way.
    #[error("the session's cache holds {held} positions, {expected} are expected")]
    CacheLost {
        /// Positions in the cache.
        held: usize,
        /// Positions that the request builds on.
        expected: usize,
    },
}

/// Why a model was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A model of the hub is not here.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A file could not be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        error: std::io::Error,
    },
    /// The device cannot be used, or did not take the weights.
    #[error("the device failed: {0}")]
    Device(String),
    /// A path that no model has.
    #[error("{}: a model is a .gguf file, a folder with a config.json, or a .safetensors file with a .json file beside it", path.display())]
    Name {
        /// The path.
        path: PathBuf,
    },
    /// A geometry, configuration or index is not JSON of that kind.
    #[error("{file}: not the JSON that it should be: {error}")]
    Json {
        /// The JSON file, or the embedded model.
        file: String,
        /// What the parser says.
        #[source]
        error: serde_json::Error,
    },
    /// A field of the geometry is out of range.
    #[error("{file}: {field} is {value}, allowed is {allowed}")]
    Geometry {
        /// The JSON file, or the embedded model.
        file: String,
        /// The field.
        field: String,
        /// Its value, or that it is missing.
        value: String,
        /// What it may be.
        allowed: String,
    },
    /// A file that is longer than it may be.
    #[error("{file}: {bytes} bytes long, allowed is {allowed}")]
    Size {
        /// The weights file, or the embedded model.
        file: String,
        /// Its length.
        bytes: u64,
        /// What it may be.
        allowed: String,
    },
    /// A weights file is not well-formed.
    #[error("{file}: not a {format} file: {reason}")]
    Format {
        /// The weights file, or the embedded model.
        file: String,
        /// What it should be.
        format: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The tokenizer cannot be used.
    #[error("{file}: {error}")]
    Tokenizer {
        /// The file or folder that it is in.
        file: String,
        /// What is wrong with it.
        #[source]
        error: Box<tokenizer::Error>,
    },
    /// A tensor is missing, superfluous, or not what the geometry asks for.
    #[error("{file}: tensor {tensor}: {value}, allowed is {allowed}")]
    Tensor {
        /// The weights file, or the embedded model.
        file: String,
        /// The tensor.
        tensor: String,
        /// What was found.
        value: String,
        /// What was expected.
        allowed: String,
    },
}

/// The processor lacks the instructions that were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this processor has no {isa}")]
pub struct UnavailableIsa {
    /// The instructions.
    pub isa: Isa,
}
