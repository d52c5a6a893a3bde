//! What a forward has to do, counted from geometry and weights (DESIGN §7).

use speculative::roofline::Work;

use crate::Geometry;
use crate::weights::{Block, Form, Parameters, Weights};

#[cfg(test)]
mod tests;

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

/// Bytes in memory: of weights, by when they are read, and of what is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes {
    /// Once in each forward.
    pub(crate) layers: u64,
    /// For each row: its token's embedding, and its position's.
    pub(crate) row: u64,
    /// Once if any logits are computed: the head and the norm before it.
    pub(crate) head: u64,
    /// An activation, a key or a value.
    pub(crate) value: u64,
}

impl Bytes {
    pub(crate) fn of<F: Form>(weights: &Parameters<F>, value: usize) -> Bytes {
        let block = |block: &Block<F>| block.matrices().map(Weights::bytes).sum::<u64>() + block.vector_bytes();
        let embeddings = [Some(&weights.tokens), weights.positions.as_ref()];
        Bytes {
            layers: weights.blocks.iter().map(block).sum(),
            row: embeddings.into_iter().flatten().map(|m| m.bytes() / m.outputs() as u64).sum(),
            head: weights.head().bytes() + F::norm_bytes(&weights.norm),
            value: value as u64,
        }
    }
}

/// Operations and bytes of a forward.
///
/// FLOPs: 2 for each weight and row, and 4 for each element of the queries and position that a row sees in a layer (scores
/// and values). Bytes: weights once, of embeddings the gathered rows, the head if any logits are computed; keys and values
/// read once for each sequence and layer, but for `spared` positions that were read for another one, and written; what goes
/// into and comes out of each matmul.
pub(crate) fn forward(geometry: &Geometry, bytes: &Bytes, parts: &[Part], spared: usize) -> Work {
    let shape = geometry.shape();
    let [d, layers, vocab, hidden] =
        [geometry.d_model, geometry.layers, geometry.vocab_size, geometry.hidden].map(|n| n as u64);
    let [width, kv_width] = [shape.width(), shape.kv_width()].map(|n| n as u64);
    let total = |count: fn(&Part) -> u64| parts.iter().map(count).sum::<u64>();
    let rows = total(|part| part.rows as u64);
    let logits = total(|part| part.logits as u64);
    // Row i of a part sees held + i + 1 positions.
    let seen = total(|part| (part.rows * part.held + part.rows * (part.rows + 1) / 2) as u64);
    let kept = total(|part| (part.held + part.rows) as u64 * u64::from(part.rows > 0));
    if rows == 0 {
        return Work::default();
    }

    let linear = layers * geometry.linear() * rows + vocab * d * logits;
    let flops = 2 * linear + layers * 4 * width * seen;

    let read = bytes.layers + bytes.row * rows + bytes.head * u64::from(logits > 0);
    let keys_and_values = layers * 2 * kv_width * (kept - spared as u64 + rows);
    // Queries, keys, values; projection; up (and gate); down; head.
    let layer = (d + width + 2 * kv_width) + (width + d) + (d + geometry.ups() * hidden) + (hidden + d);
    let activations = layers * layer * rows + (d + vocab) * logits;
    Work { flops, bytes: read + bytes.value * (keys_and_values + activations) }
}
