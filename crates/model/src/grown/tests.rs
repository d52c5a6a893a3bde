//! The grown model beside the one that it was grown from.

use std::num::NonZeroUsize;
use std::sync::Arc;

use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

use super::*;
use crate::description::hex;
use crate::load::GROWN_NOISE;
use crate::{Compute, Decoder, EmbeddedModel, Preset, Rows, Source, SyntheticModel, Transformer};

fn compute() -> Arc<Compute> {
    Arc::new(Compute::new(thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)))
}

/// The embedded target, grown with this noise and written to a file, as it loads.
fn load(sigma: f32) -> Transformer {
    let (json, weights) = EmbeddedModel::Target.files();
    let (json, weights) = grown(json, weights, sigma, 0);
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("grown.safetensors");
    std::fs::write(path.with_extension("json"), json).unwrap();
    std::fs::write(&path, weights).unwrap();
    Transformer::load(&Source::File(path), compute()).unwrap()
}

/// The first characters of the longest prompt of the reference.
fn text() -> Vec<u32> {
    let file = SafeTensors::deserialize(include_bytes!("../../tests/data/reference.safetensors")).unwrap();
    let tokens = file.tensor("tokens.4").unwrap();
    tokens.data().chunks_exact(4).take(600).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn logits(model: &mut Transformer, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut cache = model.new_cache();
    let forward = model.forward(&mut [Rows { cache: &mut cache, tokens, logits_from: 0 }]).unwrap();
    (0..tokens.len()).map(|row| forward.row(0, row).to_vec()).collect()
}

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

fn embedded() -> Vec<Vec<f32>> {
    let mut target = Transformer::load(&Source::Embedded(EmbeddedModel::Target), compute()).unwrap();
    logits(&mut target, &text())
}

/// Doubling duplicates what is added, and nothing more: only the order of the sums differs.
#[test]
fn without_noise_the_grown_model_is_the_old_function() {
    let (old, mut grown) = (embedded(), load(0.0));
    for (i, (new, old)) in logits(&mut grown, &text()).iter().zip(&old).enumerate() {
        let worst = new.iter().zip(old).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-3, "row {i} is off by {worst}");
        assert_eq!(argmax(new), argmax(old), "row {i}");
    }
    assert_eq!(grown.geometry(), Preset::Gpt2Small.geometry());
}

#[test]
fn with_its_noise_the_grown_model_agrees_about_3_times_in_4_on_text_of_others() {
    let mut grown = Transformer::load(&Source::Synthetic(SyntheticModel::GrownGpt2), compute()).unwrap();
    let description = grown.description();
    assert_eq!((description.parameters, description.synthetic), (88_300_032, true));
    assert_eq!(description.name, "synthetic:grown-gpt2");
    let (old, new) = (embedded(), logits(&mut grown, &text()));
    let same = old.iter().zip(&new).filter(|(old, new)| argmax(old) == argmax(new)).count();
    let share = same as f64 / old.len() as f64;
    assert!((0.70..=0.84).contains(&share), "{share}");
}

/// On every machine: the fingerprint is part of what a benchmark reports.
#[test]
fn the_bytes_are_pinned() {
    let (json, weights) = EmbeddedModel::Target.files();
    let (json, weights) = grown(json, weights, GROWN_NOISE, 0);
    let digest = hex(Sha256::new().chain_update(&json).chain_update(&weights));
    assert_eq!(digest, "75f3217cc173136bc6858763cfb98fce0640773c7a631c8cf284e7f1cabc1109");
}

#[test]
fn another_seed_gives_other_noise_of_the_deviation_that_was_asked_for() {
    let noise = |seed: u64, tensor: u32| -> Vec<f32> {
        let noise = Noise { deviation: 0.25, seed, tensor };
        (0..10_000).flat_map(|at| noise.quad(at / 100, at % 100)).collect()
    };
    let values = noise(1, 0);
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len() as f64;
    assert!(mean.abs() < 5e-3, "{mean}");
    assert!((root_mean_square(&values) - 0.25).abs() < 5e-3, "{}", root_mean_square(&values));
    for other in [noise(2, 0), noise(1 << 32 | 1, 0), noise(1, 1)] {
        assert_ne!(values, other);
    }
    assert_eq!(values, noise(1, 0));
}
