//! The embedded target against PyTorch, float32 arithmetic on the same bf16 weights.

use std::num::NonZeroUsize;
use std::sync::Arc;

use model::{Compute, Decoder, EmbeddedModel, Rows, Source, Transformer};
use safetensors::SafeTensors;

#[path = "support/close.rs"]
mod close;

use close::assert_close;

/// A prompt, and the logits of its last rows.
struct Case {
    tokens: Vec<u32>,
    logits: Vec<Vec<f32>>,
}

fn cases() -> Vec<Case> {
    let file = SafeTensors::deserialize(include_bytes!("data/reference.safetensors")).unwrap();
    (0..5)
        .map(|k| {
            let tokens = file.tensor(&format!("tokens.{k}")).unwrap();
            let logits = file.tensor(&format!("logits.{k}")).unwrap();
            let values: Vec<f32> =
                logits.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            Case {
                tokens: tokens.data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect(),
                logits: values.chunks_exact(logits.shape()[1]).map(<[f32]>::to_vec).collect(),
            }
        })
        .collect()
}

fn target() -> Transformer {
    let compute = Arc::new(Compute::new(NonZeroUsize::new(2).unwrap()));
    Transformer::load(&Source::Embedded(EmbeddedModel::Target), compute).unwrap()
}

/// Each prompt in one forward.
#[test]
fn prefills_agree_with_pytorch() {
    let mut target = target();
    for (k, case) in cases().iter().enumerate() {
        let logits_from = case.tokens.len() - case.logits.len();
        let mut cache = target.new_cache();
        let rows = Rows { cache: &mut cache, tokens: &case.tokens, logits_from };
        let forward = target.forward(&mut [rows]).unwrap();
        for (i, reference) in case.logits.iter().enumerate() {
            assert_close(forward.row(0, i), reference, &format!("prompt {k}, row {i}"));
        }
    }
}

/// The shorter prompts, one token after the other.
#[test]
fn decoding_agrees_with_pytorch() {
    let mut target = target();
    for (k, case) in cases().iter().enumerate().take(4) {
        let logits_from = case.tokens.len() - case.logits.len();
        let mut cache = target.new_cache();
        for (i, token) in case.tokens.iter().enumerate() {
            let rows = Rows { cache: &mut cache, tokens: &[*token], logits_from: 0 };
            let forward = target.forward(&mut [rows]).unwrap();
            if let Some(row) = i.checked_sub(logits_from) {
                assert_close(forward.row(0, 0), &case.logits[row], &format!("prompt {k}, row {row}"));
            }
        }
    }
}

/// A sequence that went astray, was cut back, and went on.
#[test]
fn truncated_sequences_agree_with_pytorch() {
    let mut target = target();
    let case = &cases()[3];
    let logits_from = case.tokens.len() - case.logits.len();
    let mut cache = target.new_cache();
    let astray: Vec<u32> = case.tokens[..logits_from].iter().copied().chain([7; 90]).collect();
    target.forward(&mut [Rows { cache: &mut cache, tokens: &astray, logits_from: astray.len() }]).unwrap();
    cache.truncate(logits_from);
    let tokens = &case.tokens[logits_from..];
    let forward = target.forward(&mut [Rows { cache: &mut cache, tokens, logits_from: 0 }]).unwrap();
    for (i, reference) in case.logits.iter().enumerate() {
        assert_close(forward.row(0, i), reference, &format!("row {i}"));
    }
}
