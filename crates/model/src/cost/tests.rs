//! Against arithmetic done by hand.

use super::*;

use crate::geometry::{Biases, Mlp, Normalisation, Positions, Rotary, Scaling};

/// d 4, 2 heads, 1 layer, vocabulary 10.
fn tiny() -> Geometry {
    Geometry::gpt(10, 4, 2, 1, 8)
}

/// Not what any type would give, so that each shows: the layers, a row, the head.
const BYTES: Bytes = Bytes { layers: 1000, row: 30, head: 200, value: 4 };

/// Two sequences: one holds 3 positions and adds 2 rows, one of them with logits; one is new and adds 1, with logits.
#[test]
fn a_forward_is_counted_as_by_hand() {
    let work =
        forward(&tiny(), &BYTES, &[Part { held: 3, rows: 2, logits: 1 }, Part { held: 0, rows: 1, logits: 1 }], 0);
    // 12 · 4² = 192 weights in matrices, for 3 rows; the head, 40 weights, for 2.
    let linear = 2 * (192 * 3 + 40 * 2);
    // The rows see 4, 5 and 1 positions: 10, with a score and a value of 4 dimensions, 2 operations each.
    let attention = 10 * 4 * 2 * 2;
    assert_eq!(work.flops, linear + attention);

    let weights = 1000 + 3 * 30 + 200;
    // Read: 5 positions and 1, keys and values of 4; written: 3 positions.
    let keys_and_values = (6 + 3) * 2 * 4;
    // In and out of the matmuls, 4 + 12, 4 + 4, 4 + 16, 16 + 4, for 3 rows; of the head, 4 + 10, for 2.
    let activations = 64 * 3 + 14 * 2;
    assert_eq!(work.bytes, weights + 4 * (keys_and_values + activations));
}

#[test]
fn without_logits_the_head_is_not_read() {
    let with = forward(&tiny(), &BYTES, &[Part { held: 0, rows: 1, logits: 1 }], 0);
    let without = forward(&tiny(), &BYTES, &[Part { held: 0, rows: 1, logits: 0 }], 0);
    assert_eq!(with.flops - without.flops, 2 * 40);
    assert_eq!(with.bytes - without.bytes, 200 + 4 * 14);
}

#[test]
fn nothing_costs_nothing() {
    assert_eq!(forward(&tiny(), &BYTES, &[], 0), Work::default());
    assert_eq!(forward(&tiny(), &BYTES, &[Part { held: 5, rows: 0, logits: 0 }], 0), Work::default());
}

/// 4 heads of 6 share 2 of keys; gate and up of 10; the head is one of its own.
const GROUPED: Geometry = Geometry {
    vocab_size: 9,
    d_model: 8,
    layers: 3,
    heads: 4,
    kv_heads: 2,
    head_dim: 6,
    hidden: 10,
    context: 16,
    norm: Normalisation::Rms,
    epsilon: 1e-6,
    positions: Positions::Rotary(Rotary { theta: 10_000.0, dims: 6, scaling: Scaling::None }),
    mlp: Mlp::SwiGlu,
    biases: Biases { qkv: true, projection: false, mlp: false },
    head_norms: true,
    tied: false,
};

#[test]
fn grouped_heads_and_gates_are_counted_as_by_hand() {
    let work = forward(&GROUPED, &BYTES, &[Part { held: 5, rows: 2, logits: 1 }], 0);
    // Queries 8 · 24, keys and values 8 · 12 each, projection 24 · 8, gate and up 8 · 10 each, down 10 · 8.
    let layer = 192 + 2 * 96 + 192 + 2 * 80 + 80;
    // The rows see 6 and 7 positions, in 24 elements of queries.
    assert_eq!(work.flops, 3 * 2 * layer * 2 + 2 * 72 + 3 * 4 * 24 * 13);
    // Read: 7 positions; written: 2; keys and values of 12.
    let keys_and_values = 3 * 9 * 2 * 12;
    // 8 in, 24 + 12 + 12 out; 24, 8; 8, 10 + 10; 10, 8; of the head, 8 + 9.
    let activations = 3 * 2 * (56 + 32 + 28 + 18) + 17;
    assert_eq!(work.bytes, 1000 + 2 * 30 + 200 + 4 * (keys_and_values + activations));
}

#[test]
fn parameters_are_counted_as_by_hand() {
    // Matrices 816, biases 24 + 12 + 12, two norms of 8, two of heads' 6; embedding and head 72 each; the last norm.
    assert_eq!(GROUPED.parameters(), 3 * (816 + 48 + 16 + 12) + 2 * 72 + 8);
    // Matrices 12 · 4²; biases 12 + 4 + 16 + 4, LayerNorms 4 · 4; embeddings 40 + 32; the last LayerNorm.
    assert_eq!(tiny().parameters(), 192 + 36 + 16 + 72 + 8);
    assert_eq!(Geometry::gpt(128, 384, 6, 6, 2048).parameters(), 11_483_136);
}
