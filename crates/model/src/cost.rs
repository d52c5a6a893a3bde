//! What a forward has to do, counted from the geometry (DESIGN §7).

use speculative::roofline::Work;

use crate::Geometry;

#[cfg(test)]
mod tests;

/// Bytes of a stored weight (bf16), and of an activation, a key or a value (f32).
const WEIGHT: u64 = 2;
const VALUE: u64 = 4;

/// One sequence's part in a forward.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Positions that its cache held.
    pub(crate) held: usize,
    /// New rows.
    pub(crate) rows: usize,
    /// Rows whose logits are computed.
    pub(crate) logits: usize,
}

/// Operations and bytes of a forward.
///
/// FLOPs: 2 for each weight and row, and 4 · d for each position that a row sees in a layer (scores and values). Bytes:
/// weights once, of embeddings the gathered rows, the head if any logits are computed; keys and values read once for
/// each sequence and layer, and written; what goes into and comes out of each matmul.
pub(crate) fn forward(geometry: &Geometry, parts: &[Part]) -> Work {
    let [d, layers, vocab] = [geometry.d_model, geometry.layers, geometry.vocab_size].map(|size| size as u64);
    let total = |count: fn(&Part) -> u64| parts.iter().map(count).sum::<u64>();
    let rows = total(|part| part.rows as u64);
    let logits = total(|part| part.logits as u64);
    // Row i of a part sees held + i + 1 positions.
    let seen = total(|part| (part.rows * part.held + part.rows * (part.rows + 1) / 2) as u64);
    let kept = total(|part| (part.held + part.rows) as u64 * u64::from(part.rows > 0));
    if rows == 0 {
        return Work::default();
    }

    let linear = layers * 12 * d * d * rows + vocab * d * logits;
    let flops = 2 * linear + layers * 4 * d * seen;

    let vectors = layers * 13 * d + 2 * d * u64::from(logits > 0);
    let head = vocab * d * u64::from(logits > 0);
    let weights = layers * 12 * d * d + vectors + head + 2 * d * rows;
    let keys_and_values = layers * 2 * d * (kept + rows);
    // qkv: d in, 3d out; projection: d, d; up: d, 4d; down: 4d, d; head: d, vocabulary.
    let activations = layers * 16 * d * rows + (d + vocab) * logits;
    Work { flops, bytes: WEIGHT * weights + VALUE * (keys_and_values + activations) }
}
