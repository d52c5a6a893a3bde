//! Against arithmetic done by hand.

use super::*;

/// d 4, 2 heads, 1 layer, vocabulary 10.
const TINY: Geometry = Geometry { vocab_size: 10, d_model: 4, heads: 2, layers: 1, context: 8 };

/// Two sequences: one holds 3 positions and adds 2 rows, one of them with logits; one is new and adds 1, with logits.
#[test]
fn a_forward_is_counted_as_by_hand() {
    let work = forward(&TINY, &[Part { held: 3, rows: 2, logits: 1 }, Part { held: 0, rows: 1, logits: 1 }]);
    // 12 · 4² = 192 weights in matrices, for 3 rows; the head, 40 weights, for 2.
    let linear = 2 * (192 * 3 + 40 * 2);
    // The rows see 4, 5 and 1 positions: 10, with a score and a value of 4 dimensions, 2 operations each.
    let attention = 10 * 4 * 2 * 2;
    assert_eq!(work.flops, linear + attention);

    // Matrices 192; biases 12 + 4 + 16 + 4, LayerNorms 4 · 4 and the last 2 · 4; head 40; embeddings 3 rows of 4, twice.
    let weights = 192 + 36 + 16 + 8 + 40 + 24;
    // Read: 5 positions and 1, keys and values of 4; written: 3 positions.
    let keys_and_values = (6 + 3) * 2 * 4;
    // In and out of the matmuls, 4 + 12, 4 + 4, 4 + 16, 16 + 4, for 3 rows; of the head, 4 + 10, for 2.
    let activations = 64 * 3 + 14 * 2;
    assert_eq!(work.bytes, 2 * weights + 4 * (keys_and_values + activations));
}

#[test]
fn without_logits_the_head_is_not_read() {
    let with = forward(&TINY, &[Part { held: 0, rows: 1, logits: 1 }]);
    let without = forward(&TINY, &[Part { held: 0, rows: 1, logits: 0 }]);
    assert_eq!(with.flops - without.flops, 2 * 40);
    assert_eq!(with.bytes - without.bytes, 2 * (40 + 8) + 4 * 14);
}

#[test]
fn nothing_costs_nothing() {
    assert_eq!(forward(&TINY, &[]), Work::default());
    assert_eq!(forward(&TINY, &[Part { held: 5, rows: 0, logits: 0 }]), Work::default());
}
