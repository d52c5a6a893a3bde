//! What a model says about itself.

use sha2::{Digest, Sha256};
use speculative::TokenId;
use tokenizer::Tokenizer;

use crate::{Decoder, Rows};

/// The probe behind the arithmetic's fingerprint: this many rows, whose tokens are multiples of a prime.
const PROBE_ROWS: usize = 16;
const PROBE_STEP: usize = 7919;

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

/// A fingerprint of the logits that a fixed sequence gives, all rows of it.
pub(crate) fn arithmetic(decoder: &mut impl Decoder) -> Result<String, crate::Error> {
    let Description { vocab_size, tokenizer, context, .. } = decoder.description();
    let ids = tokenizer.size().min(*vocab_size);
    let tokens = (1..).map(|i| (i * PROBE_STEP % ids) as TokenId);
    let tokens: Vec<TokenId> = tokens.take(PROBE_ROWS.min(*context)).collect();
    let mut cache = decoder.new_cache();
    cache.reserve(tokens.len())?;
    let forward = decoder.forward(&mut [Rows { cache: &mut cache, tokens: &tokens, logits_from: 0 }])?;
    let mut digest = Sha256::new();
    for row in 0..forward.rows(0) {
        forward.row(0, row).iter().for_each(|logit| digest.update(logit.to_bits().to_le_bytes()));
    }
    Ok(hex(digest))
}

/// A digest in hexadecimal.
pub(crate) fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
