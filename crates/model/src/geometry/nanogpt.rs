//! The geometry beside a NanoGPT's weights.

use super::Geometry;
use super::fields::{CONTEXT, Fields, HEADS, LAYERS, VOCAB, WIDTH};
use crate::LoadError;

/// Reads `vocab_size`, `n_embd`, `n_head`, `n_layer` and `max_seq_len`; further fields are ignored.
pub(crate) fn geometry(file: &str, json: &[u8]) -> Result<Geometry, LoadError> {
    let fields = Fields::parse(file, json)?;
    let d_model = fields.whole("n_embd", WIDTH)?;
    let heads = fields.whole("n_head", HEADS)?;
    fields.divides("n_head", heads, "n_embd", d_model)?;
    let vocab_size = fields.whole("vocab_size", VOCAB)?;
    let layers = fields.whole("n_layer", LAYERS)?;
    let context = fields.whole("max_seq_len", CONTEXT)?;
    Ok(Geometry::gpt(vocab_size, d_model, heads, layers, context))
}
