//! Tiny models of each family, as transformers saves them, against its own logits in float32.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Compute, Decoder, Rows, Source, Transformer};
use safetensors::SafeTensors;

#[path = "support/close.rs"]
mod close;

use close::assert_close;

const FAMILIES: [&str; 5] = ["gpt2", "llama", "llama3-rope", "qwen2", "qwen3"];

/// A model, tokens, and the logits after each of them.
struct Case {
    family: &'static str,
    model: Transformer,
    tokens: Vec<u32>,
    logits: Vec<Vec<f32>>,
}

fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny").join(family)
}

fn cases() -> impl Iterator<Item = Case> {
    FAMILIES.into_iter().map(|family| {
        let bytes = std::fs::read(folder(family).join("reference.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let words = |name| {
            let tensor = file.tensor(name).unwrap();
            let words = tensor.data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap()));
            (words.collect::<Vec<u32>>(), *tensor.shape().last().unwrap())
        };
        let (logits, vocab_size) = words("logits");
        let logits: Vec<f32> = logits.into_iter().map(f32::from_bits).collect();
        let compute = Arc::new(Compute::new(NonZeroUsize::new(2).unwrap()));
        Case {
            family,
            model: Transformer::load(&Source::File(folder(family)), compute).unwrap(),
            tokens: words("tokens").0,
            logits: logits.chunks_exact(vocab_size).map(<[f32]>::to_vec).collect(),
        }
    })
}

#[test]
fn prefills_agree_with_transformers() {
    for Case { family, mut model, tokens, logits } in cases() {
        let mut cache = model.new_cache();
        let forward = model.forward(&mut [Rows { cache: &mut cache, tokens: &tokens, logits_from: 0 }]).unwrap();
        for (i, reference) in logits.iter().enumerate() {
            assert_close(forward.row(0, i), reference, &format!("{family}, row {i}"));
        }
    }
}

#[test]
fn decoding_agrees_with_transformers() {
    for Case { family, mut model, tokens, logits } in cases() {
        let mut cache = model.new_cache();
        for (i, (token, reference)) in tokens.iter().zip(&logits).enumerate() {
            let forward = model.forward(&mut [Rows { cache: &mut cache, tokens: &[*token], logits_from: 0 }]).unwrap();
            assert_close(forward.row(0, 0), reference, &format!("{family}, row {i}"));
        }
    }
}

/// A sequence that went astray, was cut back, and went on.
#[test]
fn truncated_sequences_agree_with_transformers() {
    const KEPT: usize = 40;
    for Case { family, mut model, tokens, logits } in cases() {
        let mut cache = model.new_cache();
        let astray: Vec<u32> = tokens[..KEPT].iter().copied().chain([7; 90]).collect();
        model.forward(&mut [Rows { cache: &mut cache, tokens: &astray, logits_from: astray.len() }]).unwrap();
        cache.truncate(KEPT);
        let rows = Rows { cache: &mut cache, tokens: &tokens[KEPT..], logits_from: 0 };
        let forward = model.forward(&mut [rows]).unwrap();
        for (i, reference) in logits[KEPT..].iter().enumerate() {
            assert_close(forward.row(0, i), reference, &format!("{family}, row {}", KEPT + i));
        }
    }
}
