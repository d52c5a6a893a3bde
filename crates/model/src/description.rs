//! What a model says about itself.

use sha2::{Digest, Sha256};
use tokenizer::Tokenizer;

/// Ids that the character tokenizer knows: ASCII.
pub(crate) const TOKENIZER_SIZE: usize = 128;

/// A model's identity and measures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The file's name without its ending, or as in `embedded:target`.
    pub name: String,
    /// SHA-256 over geometry and weights, hexadecimal: equal for equal models, wherever their files lie.
    pub fingerprint: String,
    /// SHA-256 over the bits of the logits of a built-in probe, hexadecimal: equal where outputs are.
    pub arithmetic: String,
    /// Text to tokens and back. Logits from its size on belong to padding and are to be masked.
    pub tokenizer: Tokenizer,
    /// Logits of a row.
    pub vocab_size: usize,
    /// Positions of a sequence.
    pub context: usize,
    /// Type of the weights in memory.
    pub dtype: &'static str,
    /// Where it runs: instructions and threads.
    pub device: String,
    /// Number of weights.
    pub parameters: u64,
    /// Bytes of all weights.
    pub weight_bytes: u64,
    /// Made, not trained: what it accepts means nothing about text.
    pub synthetic: bool,
}

/// A digest in hexadecimal.
pub(crate) fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
