//! Row invariance of whole models: however a sequence is cut, batched, taken back or computed, its logits are the same
//! bits.

use std::num::NonZeroUsize;

use half::bf16;
use proptest::prelude::*;
use tokenizer::Tokenizer;

use super::*;
use crate::geometry::{Biases, Normalisation, Positions, Rotary, Scaling};
use crate::kernels::FloatType;
use crate::weights::{Form, Names, Tensors, Wanted};
use crate::{EmbeddedModel, Isa};

/// The rotating, grouped, gated kind.
const LLAMA: Geometry = Geometry {
    vocab_size: 131,
    d_model: 36,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    head_dim: 10,
    hidden: 50,
    context: 150,
    norm: Normalisation::Rms,
    epsilon: 1e-5,
    positions: Positions::Rotary(Rotary { theta: 10_000.0, dims: 10, scaling: Scaling::None }),
    mlp: Mlp::SwiGlu,
    biases: Biases { qkv: false, projection: false, mlp: false },
    head_norms: false,
    tied: true,
};

/// Nothing in them is a multiple of a vector. GPTs with 3 heads of 12, of 20 (padded to 32) and of 48; then heads of keys
/// that 2, 3, 7 and all of the heads of queries share, with and without biases, norms of heads and a head of their own.
pub(crate) fn odd() -> Vec<Geometry> {
    let rotary = |dims, scaling| Positions::Rotary(Rotary { theta: 500.0, dims, scaling });
    let llama3 = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_context: 64.0 };
    vec![
        Geometry::gpt(131, 36, 3, 2, 150),
        Geometry { mlp: Mlp::GeluTanh, hidden: 70, ..Geometry::gpt(128, 60, 3, 2, 150) },
        Geometry::gpt(129, 144, 3, 1, 150),
        LLAMA,
        Geometry {
            heads: 9,
            kv_heads: 3,
            biases: Biases { qkv: true, projection: false, mlp: false },
            positions: rotary(6, llama3),
            ..LLAMA
        },
        Geometry {
            heads: 7,
            kv_heads: 1,
            head_dim: 34,
            positions: rotary(34, Scaling::Linear { factor: 4.0 }),
            head_norms: true,
            tied: false,
            ..LLAMA
        },
        Geometry {
            heads: 3,
            kv_heads: 3,
            head_dim: 16,
            biases: Biases { qkv: true, projection: true, mlp: true },
            positions: rotary(16, Scaling::None),
            ..LLAMA
        },
    ]
}

fn compute(isa: Isa, threads: usize) -> Arc<Compute> {
    Arc::new(Compute::with_isa(NonZeroUsize::new(threads).unwrap(), isa).unwrap())
}

/// Weights that are as good as random.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

impl Tensors for Random {
    fn matrices<F: Form>(&mut self, form: &F, wanted: Wanted<'_>) -> Result<Vec<F::Matrix>, LoadError> {
        let scale = 2.0 / (wanted.inputs as f32).sqrt();
        let mut matrix = |outputs: usize| {
            let numbers = (0..outputs * wanted.inputs).map(|_| bf16::from_f32(scale * self.uniform()));
            let raw: Vec<u8> = numbers.flat_map(bf16::to_le_bytes).collect();
            form.float(FloatType::BF16, &raw, [outputs, wanted.inputs]).unwrap()
        };
        Ok(wanted.outputs.iter().map(|outputs| matrix(*outputs)).collect())
    }

    fn vector(&mut self, _: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        Ok((0..len).map(|_| 0.5 * self.uniform()).collect())
    }
}

/// Random weights, the same for a geometry.
pub(crate) fn random<F: Form>(form: &F, geometry: Geometry) -> Loaded<F> {
    let names = if geometry.mlp == Mlp::SwiGlu { Names::LLAMA } else { Names::NANOGPT };
    let weights = Parameters::new(&mut Random(88_172_645_463_325_252), form, &names, &geometry).unwrap();
    let (name, fingerprint) = ("random".to_owned(), String::new());
    Loaded { name, geometry, weights, fingerprint, tokenizer: Tokenizer::ascii(), synthetic: true }
}

pub(crate) fn model(geometry: Geometry, isa: Isa, threads: usize) -> Transformer {
    Transformer::new(random(&Kernels, geometry), compute(isa, threads))
}

fn embedded(which: EmbeddedModel, isa: Isa, threads: usize) -> Transformer {
    Transformer::load(&Source::Embedded(which), compute(isa, threads)).unwrap()
}

/// Tokens that are as good as random.
pub(crate) fn tokens(seed: u64, len: usize) -> Vec<u32> {
    (0..len as u64).map(|i| ((seed + i * i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 57) as u32).collect()
}

fn bits(row: &[f32]) -> Vec<u32> {
    assert!(row.iter().all(|logit| logit.is_finite()));
    row.iter().map(|logit| logit.to_bits()).collect()
}

/// Forwards `tokens` and gives the bits of all their rows.
fn extend(model: &mut Transformer, cache: &mut KvCache, tokens: &[u32]) -> Vec<Vec<u32>> {
    let forward = model.forward(&mut [Rows { cache, tokens, logits_from: 0 }]).unwrap();
    (0..tokens.len()).map(|i| bits(forward.row(0, i))).collect()
}

/// The logits of each position, computed one by one on one thread.
fn one_by_one(model: &mut Transformer, tokens: &[u32]) -> Vec<Vec<u32>> {
    let mut cache = model.new_cache();
    tokens.iter().flat_map(|token| extend(model, &mut cache, &[*token])).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Windows of any lengths, on any path and number of threads.
    #[test]
    fn windows_do_not_show(geometry in prop::sample::select(odd()), cuts in prop::collection::vec(1_usize..40, 1..8),
                           threads in 1_usize..=4, seed in 0_u64..100) {
        let tokens = tokens(seed, cuts.iter().sum::<usize>().min(geometry.context));
        let expected = one_by_one(&mut model(geometry, Isa::Portable, 1), &tokens);
        for isa in Isa::available() {
            let mut model = model(geometry, isa, threads);
            let mut cache = model.new_cache();
            for cut in &cuts {
                let start = cache.len();
                let end = (start + cut).min(tokens.len());
                prop_assert_eq!(&extend(&mut model, &mut cache, &tokens[start..end])[..], &expected[start..end]);
            }
        }
    }

    /// Sessions of any lengths side by side, each with its own window, some without rows or without logits.
    #[test]
    fn neighbours_do_not_show(geometry in prop::sample::select(odd()),
                              sessions in prop::collection::vec((0_usize..90, 0_usize..9, 0_usize..9), 1..6),
                              threads in 1_usize..=4) {
        let mut model = model(geometry, Isa::best(), threads);
        let texts: Vec<Vec<u32>> = (0..).zip(&sessions).map(|(seed, (held, rows, _))| tokens(seed, held + rows)).collect();
        let expected: Vec<_> = texts.iter().map(|text| one_by_one(&mut model, text)).collect();
        let mut caches: Vec<KvCache> = sessions.iter().map(|_| model.new_cache()).collect();
        for ((cache, text), (held, ..)) in caches.iter_mut().zip(&texts).zip(&sessions) {
            extend(&mut model, cache, &text[..*held]);
        }
        let mut batch: Vec<Rows<'_>> = caches.iter_mut().zip(&texts).zip(&sessions)
            .map(|((cache, text), (held, rows, from))| Rows { cache, tokens: &text[*held..], logits_from: *from.min(rows) })
            .collect();
        let forward = model.forward(&mut batch).unwrap();
        for (s, (held, rows, from)) in sessions.iter().enumerate() {
            let from = *from.min(rows);
            prop_assert_eq!(forward.rows(s), rows - from);
            for i in from..*rows {
                prop_assert_eq!(&bits(forward.row(s, i - from)), &expected[s][held + i]);
            }
            prop_assert_eq!(caches[s].len(), held + rows);
        }
    }

    /// A sequence that is cut back and goes on elsewhere forgets what it held, were it NaN.
    #[test]
    fn what_was_truncated_does_not_show(geometry in prop::sample::select(odd()), held in 0_usize..120,
                                        kept in 0_usize..120, rows in 1_usize..30, threads in 1_usize..=4) {
        let mut model = model(geometry, Isa::best(), threads);
        let kept = kept.min(held);
        let text: Vec<u32> = tokens(1, kept).into_iter().chain(tokens(2, rows)).collect();
        let expected = one_by_one(&mut model, &text);
        let mut cache = model.new_cache();
        extend(&mut model, &mut cache, &tokens(1, held));
        cache.truncate(kept);
        cache.poison();
        prop_assert_eq!(cache.len(), kept);
        prop_assert_eq!(&extend(&mut model, &mut cache, &text[kept..])[..], &expected[kept..]);
    }
}

/// The shipped models: a prefill equals decoding, and windows of five after it, on every number of threads.
#[test]
fn the_embedded_pair_is_invariant() {
    for which in [EmbeddedModel::Draft, EmbeddedModel::Target] {
        let text = tokens(3, 200);
        let expected = one_by_one(&mut embedded(which, Isa::best(), 1), &text);
        for threads in 1..=4 {
            let mut model = embedded(which, Isa::best(), threads);
            let mut cache = model.new_cache();
            assert_eq!(extend(&mut model, &mut cache, &text[..130]), expected[..130], "{threads} threads");
            for start in (130..200).step_by(5) {
                assert_eq!(extend(&mut model, &mut cache, &text[start..start + 5]), expected[start..start + 5]);
            }
        }
        let mut portable = embedded(which, Isa::Portable, 2);
        let mut cache = portable.new_cache();
        assert_eq!(extend(&mut portable, &mut cache, &text[..20]), expected[..20], "portable");
    }
}

/// Two models on one pool, each on its own thread, as in a process that serves both.
#[test]
fn models_share_a_pool() {
    let compute = compute(Isa::best(), 3);
    std::thread::scope(|scope| {
        for which in [EmbeddedModel::Draft, EmbeddedModel::Target] {
            let compute = Arc::clone(&compute);
            scope.spawn(move || {
                let mut model = Transformer::load(&Source::Embedded(which), compute).unwrap();
                let text = tokens(4, 60);
                let expected = one_by_one(&mut model, &text);
                for _ in 0..5 {
                    assert_eq!(one_by_one(&mut model, &text), expected);
                }
            });
        }
    });
}

#[test]
fn a_cache_is_bounded_by_the_context() {
    let mut model = model(odd()[0], Isa::best(), 1);
    let mut full = model.new_cache();
    let mut other = model.new_cache();
    assert_eq!((full.context(), full.bytes(), full.is_empty()), (150, 0, true));
    extend(&mut model, &mut full, &tokens(5, 148));
    let page = full.bytes() / 3;
    assert_eq!(full.bytes(), 3 * page, "148 positions are 3 pages of 64");
    let batch = &mut [
        Rows { cache: &mut other, tokens: &[1], logits_from: 0 },
        Rows { cache: &mut full, tokens: &[1, 2, 3], logits_from: 0 },
    ];
    let error = model.forward(batch).unwrap_err();
    assert_eq!(error, Error::Overflow { sequence: 1, held: 148, tokens: 3, context: 150 });
    assert_eq!((full.len(), other.len(), other.bytes()), (148, 0, 0), "nothing has changed");
    extend(&mut model, &mut full, &[1, 2]);
    assert_eq!((full.len(), full.bytes()), (150, 3 * page));
}

#[test]
fn what_no_model_can_forward_is_refused() {
    let mut small = model(odd()[0], Isa::best(), 1);
    let mut cache = small.new_cache();
    let mut refusal = |tokens: &[u32], logits_from| {
        let mut other = small.new_cache();
        let rows = Rows { cache: &mut cache, tokens, logits_from };
        let batch = &mut [Rows { cache: &mut other, tokens: &[1], logits_from: 1 }, rows];
        let error = small.forward(batch).err();
        assert_eq!((other.len(), cache.len()), if error.is_some() { (0, 0) } else { (1, tokens.len()) });
        cache.truncate(0);
        error
    };
    assert_eq!(refusal(&[1, 131], 0), Some(Error::Token { sequence: 1, row: 1, token: 131, vocab_size: 131 }));
    assert_eq!(
        refusal(&[1, u32::MAX], 0),
        Some(Error::Token { sequence: 1, row: 1, token: u32::MAX, vocab_size: 131 })
    );
    assert_eq!(refusal(&[1, 2], 3), Some(Error::LogitsFrom { sequence: 1, logits_from: 3, tokens: 2 }));
    assert_eq!(refusal(&[130, 2], 2), None);
    let mut foreign = model(odd()[3], Isa::best(), 1).new_cache();
    let error = small.forward(&mut [Rows { cache: &mut foreign, tokens: &[1], logits_from: 0 }]).unwrap_err();
    assert_eq!(error, Error::ForeignCache { sequence: 0 });
    let nothing = small.forward(&mut []).unwrap();
    assert_eq!(nothing.work, speculative::roofline::Work::default());
}

#[test]
fn a_model_describes_itself() {
    let model = Transformer::load(&"embedded:target".parse().unwrap(), compute(Isa::best(), 2)).unwrap();
    let description = model.description();
    assert_eq!(description.name, "embedded:target");
    assert_eq!((description.parameters, description.weight_bytes), (11_483_136, 23_027_712));
    assert_eq!((description.vocab_size, description.tokenizer.size(), description.context), (128, 128, 2048));
    assert_eq!(description.device, format!("cpu {} 2 threads", Isa::best()));
    assert_eq!(description.fingerprint.len(), 64);
    assert_eq!(description.tokenizer, Tokenizer::ascii());
    let draft = Transformer::load(&"embedded:draft".parse().unwrap(), compute(Isa::best(), 1)).unwrap();
    assert_eq!(draft.description().tokenizer, description.tokenizer);
    assert_ne!(draft.description().fingerprint, description.fingerprint);
    assert_eq!(draft.description().parameters, 1_071_872);
}

#[test]
fn roofs_are_plausible_and_soon_known() {
    let mut model = model(odd()[0], Isa::best(), 2);
    let start = std::time::Instant::now();
    let roofs = model.measure_roofs().unwrap();
    assert!(start.elapsed().as_secs_f64() < 5.0, "even where others compute");
    assert!(roofs.flops_per_s > 1e8 && roofs.bytes_per_s > 1e7 && roofs.memory_bytes_per_s > 1e7, "{roofs:?}");
}

/// A branch computes what the sequence would compute, but for the order of its sums; its trunk and its siblings do not see it.
#[test]
fn branches_share_what_is_before_them() {
    let forward = |model: &mut Transformer, cache: &mut KvCache, tokens: &[u32]| {
        model.forward(&mut [Rows { cache, tokens, logits_from: 0 }]).unwrap()
    };
    for geometry in odd() {
        let mut model = model(geometry, Isa::best(), 2);
        let tokens = tokens(5, 150);
        // Where a page ends, in the middle of one, and at a page's first position.
        for at in [64, 90, 65, 128] {
            let mut straight = Decoder::new_cache(&model);
            let whole = forward(&mut model, &mut straight, &tokens[..at + 12]);
            let mut trunk = Decoder::new_cache(&model);
            forward(&mut model, &mut trunk, &tokens[..at + 3]);
            let held = trunk.bytes();
            let mut branch = trunk.branch(at);
            let mut sibling = trunk.branch(at + 1);
            forward(&mut model, &mut sibling, &[1, 2, 3]);
            forward(&mut model, &mut branch, &tokens[at..at + 4]);
            // A branch of a branch, and further rows of both beside each other.
            let mut twig = branch.branch(at + 2);
            let rows = [
                Rows { cache: &mut branch, tokens: &tokens[at + 4..at + 8], logits_from: 0 },
                Rows { cache: &mut twig, tokens: &tokens[at + 2..at + 8], logits_from: 0 },
                Rows { cache: &mut trunk, tokens: &tokens[at + 3..at + 5], logits_from: 0 },
            ];
            let seen = model.forward(&mut { rows }).unwrap();
            let off = |sequence: usize, row: usize, at: usize| {
                let rows = seen.row(sequence, row).iter().zip(whole.row(0, at));
                rows.map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
            };
            for row in 0..4 {
                assert!(off(0, row, at + 4 + row) < 1e-4, "{geometry:?} at {at}, row {row}");
                assert!(off(1, row + 2, at + 4 + row) < 1e-4, "{geometry:?} at {at}, twig's row {row}");
            }
            assert!(seen.row(2, 1) == whole.row(0, at + 4), "the trunk's own bits, {geometry:?} at {at}");
            assert!(trunk.bytes() <= held + trunk.page_bytes() as u64);

            // The sequence goes on as the branch did.
            trunk.absorb(&branch);
            assert_eq!(trunk.len(), at + 8);
            let seen = forward(&mut model, &mut trunk, &tokens[at + 8..at + 12]);
            for row in 0..4 {
                let rows = seen.row(0, row).iter().zip(whole.row(0, at + 8 + row));
                let off = rows.map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
                assert!(off < 1e-4, "{geometry:?} absorbed at {at}, row {row}: {off}");
            }
        }
    }
}

/// Forwards one row of each cache at a time, all together and each alone, and holds them to each other.
fn assert_same_bits(model: &mut Transformer, together: &mut [KvCache], alone: &mut [KvCache], what: &str) -> u64 {
    let mut bytes = 0;
    for step in 0..3 {
        let each: Vec<[u32; 1]> = (0..together.len() as u32).map(|which| [3 * step + which]).collect();
        let rows = together.iter_mut().zip(&each);
        let mut rows: Vec<_> = rows.map(|(cache, tokens)| Rows { cache, tokens, logits_from: 0 }).collect();
        let forward = model.forward(&mut rows).unwrap();
        bytes += forward.work.bytes;
        let seen: Vec<_> = (0..each.len()).map(|sequence| bits(forward.row(sequence, 0))).collect();
        for (which, (cache, tokens)) in alone.iter_mut().zip(&each).enumerate() {
            assert!(seen[which] == extend(model, cache, tokens).remove(0), "{what}, sequence {which}, step {step}");
        }
    }
    bytes
}

/// Rows of sequences that begin in the same pages are read together, and each is what it is alone: by twos to fives and more, where
/// what is shared ends in the same page or in others, in the middle of one or with it, and with a sequence beside that begins
/// otherwise or shares little.
#[test]
fn rows_that_are_read_together_keep_their_bits() {
    for geometry in odd() {
        for isa in Isa::available() {
            let mut model = model(geometry, isa, 2);
            let tokens = tokens(6, 148);
            let mut trunk = model.new_cache();
            extend(&mut model, &mut trunk, &tokens[..140]);
            let mut other = model.new_cache();
            extend(&mut model, &mut other, &tokens[20..120]);
            for ats in [
                &[140, 140][..],
                &[139, 131, 140, 140, 133],
                &[128, 139, 131, 129, 130],
                &[70, 140, 90, 129, 65, 138, 127, 128, 139],
                &[30, 140, 64, 63],
            ] {
                for place in [0, ats.len() / 2, ats.len()] {
                    let caches = || {
                        let mut caches: Vec<_> = ats.iter().map(|&at| trunk.branch(at)).collect();
                        caches.insert(place, other.branch(100));
                        caches
                    };
                    let what = format!("{geometry:?} on {isa}, {ats:?}, another at {place}");
                    assert_same_bits(&mut model, &mut caches(), &mut caches(), &what);
                }
            }
        }
    }
}

/// Windows of several rows, cut into units that end with a single one, and sequences without any, are no neighbours of a row that
/// begins as they do.
#[test]
fn a_single_row_beside_many_or_none_is_on_its_own() {
    for geometry in odd() {
        let mut model = model(geometry, Isa::best(), 2);
        let tokens = tokens(7, 150);
        let mut trunk = model.new_cache();
        extend(&mut model, &mut trunk, &tokens[..122]);
        for many in [2, 17, 33, 65] {
            let at = 122.min(150 - many);
            let [mut long, mut one, mut none, mut last] = [at, 120, 119, 121].map(|at| trunk.branch(at));
            let rows = &tokens[150 - many..];
            let mut batch = [
                Rows { cache: &mut long, tokens: rows, logits_from: 0 },
                Rows { cache: &mut one, tokens: &[5], logits_from: 0 },
                Rows { cache: &mut none, tokens: &[], logits_from: 0 },
                Rows { cache: &mut last, tokens: &[6], logits_from: 0 },
            ];
            let forward = model.forward(&mut batch).unwrap();
            let [long, one, last] = [(0, many - 1), (1, 0), (3, 0)].map(|(which, row)| bits(forward.row(which, row)));
            let mut alone = |at: usize, tokens: &[u32]| extend(&mut model, &mut trunk.branch(at), tokens).pop();
            assert!(Some(long) == alone(at, rows), "{geometry:?}, {many} rows");
            assert!(Some(one) == alone(120, &[5]), "{geometry:?}, one beside {many} rows");
            assert!(Some(last) == alone(121, &[6]), "{geometry:?}, one beside none");
        }
    }
}

/// What is read once for several is counted once.
#[test]
fn what_is_read_together_is_counted_once() {
    let mut model = model(odd()[0], Isa::best(), 1);
    let mut trunk = model.new_cache();
    extend(&mut model, &mut trunk, &tokens(8, 140));
    let mut of = |ats: &[usize]| {
        let caches = || ats.iter().map(|&at| trunk.branch(at)).collect::<Vec<_>>();
        assert_same_bits(&mut model, &mut caches(), &mut caches(), "one trunk")
    };
    let (one, two) = (of(&[140]), of(&[140, 138]));
    let other = of(&[138]);
    let Geometry { layers, .. } = odd()[0];
    let weights = 3 * model.bytes.layers + 3 * model.bytes.head;
    let shared = 3 * 138 * layers * 2 * odd()[0].shape().kv_width() * 4;
    assert_eq!(one + other - weights - two, shared as u64);
}
