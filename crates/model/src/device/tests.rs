//! The forward of a GPU, on candle's CPU: it computes what our kernels compute, in whatever calls it is cut into.

use std::num::NonZeroUsize;
use std::path::Path;

use candle_core::DType;

use super::*;
use crate::transformer::tests::{model, odd, random, tokens};
use crate::{EmbeddedModel, Error, Forward, Isa, KvCache, Rows, SyntheticModel};

const CPU: OnDevice = OnDevice { device: candle_core::Device::Cpu };

fn ours(source: &Source) -> Transformer {
    Transformer::load(source, Arc::new(Compute::new(NonZeroUsize::new(2).unwrap()))).unwrap()
}

/// The same model for candle; with activations of f32 what is left are different orders of the same sums.
fn theirs(source: &Source, dtype: Option<DType>) -> DeviceTransformer {
    DeviceTransformer::new(load::load(source, &CPU).unwrap(), Device::CandleCpu, &CPU.device, dtype).unwrap()
}

fn forward(model: &mut dyn Decoder, cache: &mut KvCache, tokens: &[u32]) -> Forward {
    model.forward(&mut [Rows { cache, tokens, logits_from: 0 }]).unwrap()
}

/// In one forward, with a cache of its own.
fn prefill(model: &mut dyn Decoder, tokens: &[u32]) -> Forward {
    let mut cache = model.new_cache();
    forward(model, &mut cache, tokens)
}

/// The greatest difference between the logits of two forwards of one sequence.
fn distance(one: &Forward, other: &Forward) -> f32 {
    assert_eq!(one.rows(0), other.rows(0));
    let rows = (0..one.rows(0)).flat_map(|row| one.row(0, row).iter().zip(other.row(0, row)));
    rows.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// All parts that a geometry may have, over several tiles and pages.
#[test]
fn odd_geometries_compute_what_our_kernels_compute() {
    for geometry in odd() {
        let mut ours = model(geometry, Isa::best(), 2);
        let mut theirs =
            DeviceTransformer::new(random(&CPU, geometry), Device::CandleCpu, &CPU.device, Some(DType::F32)).unwrap();
        let tokens = tokens(3, 140);
        let expected = prefill(&mut ours, &tokens);
        let whole = prefill(&mut theirs, &tokens);
        assert!(distance(&whole, &expected) < 1e-3, "{geometry:?}: {}", distance(&whole, &expected));

        // Windows of 5 rows, one of which went astray, beside another session.
        let (mut cache, mut other) = (theirs.new_cache(), theirs.new_cache());
        let mut astray = tokens.clone();
        astray[62] += 1;
        forward(&mut theirs, &mut cache, &astray[..70]);
        cache.truncate(60);
        for from in (60..140).step_by(5) {
            let window = Rows { cache: &mut cache, tokens: &tokens[from..from + 5], logits_from: 1 };
            let beside = Rows { cache: &mut other, tokens: &tokens[from..from + 3], logits_from: 3 };
            let forward = theirs.forward(&mut [beside, window]).unwrap();
            assert_eq!((forward.rows(0), forward.rows(1)), (0, 4));
            for row in 0..4 {
                let (one, whole) = (forward.row(1, row), expected.row(0, from + 1 + row));
                let off = one.iter().zip(whole).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off < 1e-3, "{geometry:?}, row {}: {off}", from + 1 + row);
            }
        }
        assert_eq!((cache.len(), other.len()), (140, 48));
    }
}

/// Files of each family, as they lie: transposed, split, with heads of their own.
#[test]
fn the_families_files_compute_what_our_kernels_compute() {
    for family in ["gpt2", "llama", "llama3-rope", "qwen2", "qwen3"] {
        let source = Source::File(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny").join(family));
        let (mut ours, mut theirs) = (ours(&source), theirs(&source, Some(DType::F32)));
        let tokens: Vec<u32> = (0..96).map(|i| i * 37 % 320).collect();
        let expected = prefill(&mut ours, &tokens);
        let off = distance(&prefill(&mut theirs, &tokens), &expected);
        assert!(off < 1e-3, "{family}: {off}");
        assert_eq!(theirs.description().fingerprint, ours.description().fingerprint, "the same model");
        assert_ne!(theirs.description().arithmetic, ours.description().arithmetic, "another arithmetic");
    }
}

/// In the types that models come in, activations included.
#[test]
fn other_types_come_close() {
    let text: Vec<u32> = "ROMEO:\nBut soft, what light through yonder window breaks?".bytes().map(u32::from).collect();
    let source = Source::Embedded(EmbeddedModel::Target);
    let expected = prefill(&mut ours(&source), &text);
    for (dtype, most) in [(None, 0.5), (Some(DType::F16), 0.05), (Some(DType::F32), 1e-3)] {
        let mut theirs = theirs(&source, dtype);
        let off = distance(&prefill(&mut theirs, &text), &expected);
        assert!(off > 0.0 && off < most, "{dtype:?}: {off}");
    }
    assert_eq!(theirs(&source, None).description().dtype, "bf16");
}

/// Every format of GGUF that the kernels have.
#[test]
fn quantised_weights_come_close() {
    // A K-quant's rows are multiples of 256 wide.
    let narrow = ["q8_0", "q4_0", "q5_0"].map(|format| ("nanogpt", format, 70));
    let wide = ["q4_k", "q5_k", "q6_k"].map(|format| ("gpt2-small", format, 12));
    for (preset, format, rows) in narrow.into_iter().chain(wide) {
        let source = Source::Synthetic(format!("{preset}:{format}").parse::<SyntheticModel>().unwrap());
        let tokens = tokens(5, rows);
        let expected = prefill(&mut ours(&source), &tokens);
        let mut theirs = theirs(&source, None);
        let scale = expected.row(0, 0).iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
        let off = distance(&prefill(&mut theirs, &tokens), &expected);
        assert!(off < 0.05 * scale, "{format}: {off} of {scale}");
        assert_eq!(theirs.description().dtype, format);
    }
}

/// The memory for a session is taken at once, for what it was let in with.
#[test]
fn a_cache_takes_what_was_reserved() {
    let mut model = theirs(&Source::Embedded(EmbeddedModel::Draft), None);
    let mut cache = model.new_cache();
    assert_eq!(cache.bytes(), 0);
    cache.reserve(100).unwrap();
    assert_eq!(cache.bytes(), 2 * cache.page_bytes() as u64);
    // Keys and values of 4 layers, 64 positions of 4 heads of 32, bf16.
    assert_eq!(cache.page_bytes(), 2 * 4 * 64 * 128 * 2);

    let expected = prefill(&mut model, &tokens(1, 150));
    let mut grown = model.new_cache();
    grown.reserve(64).unwrap();
    forward(&mut model, &mut grown, &tokens(1, 150)[..64]);
    let rest = forward(&mut model, &mut grown, &tokens(1, 150)[64..]);
    let off = rest.row(0, 85).iter().zip(expected.row(0, 149)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off < 0.1, "more than was reserved still works: {off}");
}

#[test]
fn caches_of_other_devices_are_refused() {
    let source = Source::Embedded(EmbeddedModel::Draft);
    let (mut ours, mut theirs) = (ours(&source), theirs(&source, None));
    let mut cache = Decoder::new_cache(&ours);
    let refused = theirs.forward(&mut [Rows { cache: &mut cache, tokens: &[1], logits_from: 0 }]);
    assert_eq!(refused, Err(Error::ForeignCache { sequence: 0 }));
    let mut cache = theirs.new_cache();
    let refused = ours.forward(&mut [Rows { cache: &mut cache, tokens: &[1], logits_from: 0 }]);
    assert_eq!(refused, Err(Error::ForeignCache { sequence: 0 }));
}

/// A call's rows see the same number of positions, which follows from where they are.
#[test]
fn windows_are_cut_at_pages() {
    assert_eq!(attention::cut(0, 0..5), [(0, 0, 5)]);
    assert_eq!(attention::cut(62, 3..8), [(3, 62, 2), (5, 64, 3)]);
    assert_eq!(attention::cut(60, 0..40), [(0, 60, 4), (4, 64, 16), (20, 80, 16), (36, 96, 4)]);
    assert_eq!(attention::cut(7, 2..2), []);
}

#[test]
fn devices_have_names() {
    for (name, device) in [
        ("cpu", Device::Cpu),
        ("candle-cpu", Device::CandleCpu),
        ("cuda", Device::Cuda(0)),
        ("cuda:3", Device::Cuda(3)),
        ("metal:1", Device::Metal(1)),
    ] {
        assert_eq!(name.parse(), Ok(device));
        assert_eq!(device.to_string().parse(), Ok(device));
    }
    for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "candle-cpu:1", "CUDA"] {
        assert_eq!(wrong.parse::<Device>(), Err(InvalidDevice), "{wrong}");
    }
}

/// What is not compiled in says so, and with what it would be.
#[cfg(not(any(feature = "cuda", feature = "metal")))]
#[test]
fn devices_that_are_not_in_the_build_are_refused() {
    let compute = Arc::new(Compute::new(NonZeroUsize::MIN));
    for (device, said) in [(Device::Cuda(1), "--features cuda"), (Device::Metal(0), "--features metal")] {
        let refused = device.load(&Source::Embedded(EmbeddedModel::Draft), Arc::clone(&compute));
        let refused = refused.err().unwrap().to_string();
        assert!(refused.contains(said) && refused.contains(&device.to_string()), "{refused}");
    }
}

#[test]
fn roofs_are_measured() {
    let roofs = theirs(&Source::Embedded(EmbeddedModel::Draft), None).measure_roofs().unwrap();
    for roof in [roofs.flops_per_s, roofs.bytes_per_s, roofs.memory_bytes_per_s] {
        assert!(roof > 1e6, "{roofs:?}");
    }
}
