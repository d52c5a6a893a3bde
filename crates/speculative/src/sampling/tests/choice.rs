use proptest::prelude::*;

use super::{PLAIN, choose, vectors};
use crate::portable::{exp, ln};
use crate::{Chooser, History, Penalties, Sampling, TokenId, gumbel};

#[test]
fn choices_agree_with_an_independent_implementation() {
    let mut chooser = Chooser::new();
    let mut checked = 0;
    for fields in vectors("choice") {
        let sampling = Sampling {
            temperature: fields[0].parse().unwrap(),
            top_k: fields[1].parse().unwrap(),
            top_p: fields[2].parse().unwrap(),
            min_p: fields[3].parse().unwrap(),
            seed: fields[4].parse().unwrap(),
            penalties: Penalties::NONE,
        };
        let position = fields[5].parse().unwrap();
        let tokenizer_size = fields[6].parse().unwrap();
        let expected: TokenId = fields[7].parse().unwrap();
        let bits = fields[8..].iter().map(|bits| u32::from_str_radix(bits, 16).unwrap());
        let logits: Vec<f32> = bits.map(f32::from_bits).collect();
        let choice = chooser.choose(&logits, tokenizer_size, &sampling, position);
        assert_eq!(choice, expected, "{sampling:?} at {position}, {tokenizer_size} of {logits:?}");
        checked += 1;
    }
    assert!(checked >= 300);
}

/// The definition of DESIGN.md, section 3, word for word: everything sorted, all noise computed.
fn defined(logits: &[f32], tokenizer_size: usize, sampling: &Sampling, position: u64) -> TokenId {
    let logits = &logits[..tokenizer_size.min(logits.len())];
    let unless_nan = |z: f64| if z.is_nan() { f64::NEG_INFINITY } else { z };
    let divisor = if sampling.temperature == 0.0 { 1.0 } else { sampling.temperature };
    let mut kept: Vec<(f64, TokenId)> =
        (0..).zip(logits).map(|(token, &logit)| (unless_nan(f64::from(logit) / divisor), token)).collect();
    kept.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap().then(a.1.cmp(&b.1)));
    let Some(&(max, first)) = kept.first() else { return 0 };
    if sampling.temperature == 0.0 {
        return first;
    }
    if sampling.top_k > 0 {
        kept.truncate(sampling.top_k as usize);
    }
    if sampling.top_p < 1.0 {
        let weights: Vec<f64> = kept.iter().map(|&(z, _)| if z == max { 1.0 } else { exp(z - max) }).collect();
        let sum = weights.iter().fold(0.0, |sum, weight| sum + weight);
        let mut running = 0.0;
        let reaches = |weight: &f64| {
            running += weight;
            running >= sampling.top_p * sum
        };
        kept.truncate(weights.iter().position(reaches).unwrap() + 1);
    }
    if sampling.min_p > 0.0 {
        kept.retain(|&(z, _)| z >= max + ln(sampling.min_p));
    }
    let perturbed = kept.iter().map(|&(z, token)| (z + gumbel(sampling.seed, position, token), token));
    perturbed.reduce(|a, b| if b.0 > a.0 || (b.0 == a.0 && b.1 < a.1) { b } else { a }).unwrap().1
}

fn samplings() -> impl Strategy<Value = Sampling> {
    let temperature = prop_oneof![1 => Just(0.0), 8 => 0.05..3.0f64, 1 => Just(100.0), 1 => Just(1e-300)];
    let top_k = prop_oneof![2 => Just(0u32), 3 => 1..12u32, 2 => 1..3000u32];
    let top_p = prop_oneof![2 => Just(1.0), 3 => 0.001..1.0f64];
    let min_p = prop_oneof![2 => Just(0.0), 2 => 0.0..1.0f64, 1 => Just(1.0)];
    (temperature, top_k, top_p, min_p, any::<u64>()).prop_map(|(temperature, top_k, top_p, min_p, seed)| Sampling {
        temperature,
        top_k,
        top_p,
        min_p,
        seed,
        penalties: Penalties::NONE,
    })
}

/// Smooth rows, rows full of equal logits, and rows with what no model should return.
fn rows(size: usize) -> impl Strategy<Value = Vec<f32>> {
    let coarse = (-6..6i8).prop_map(|step| f32::from(step) / 2.0);
    let odd = prop_oneof![
        6 => -9.0..9.0f32,
        1 => Just(f32::NAN),
        1 => Just(f32::NEG_INFINITY),
        1 => Just(-0.0f32),
        1 => prop_oneof![Just(f32::INFINITY), Just(f32::MAX), Just(f32::MIN), Just(f32::MIN_POSITIVE)],
    ];
    prop_oneof![
        prop::collection::vec(-9.0..9.0f32, 0..size),
        prop::collection::vec(coarse, 0..size),
        prop::collection::vec(odd, 0..size.min(40)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn the_choice_is_the_defined_one(
        logits in rows(150), tokenizer_size in 0..200usize, sampling in samplings(), position in any::<u64>()
    ) {
        let choice = Chooser::new().choose(&logits, tokenizer_size, &sampling, position);
        prop_assert_eq!(choice, defined(&logits, tokenizer_size, &sampling, position));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Large enough that the nucleus is looked for in growing heads.
    #[test]
    fn the_choice_is_the_defined_one_in_a_large_vocabulary(
        logits in rows(5000), sampling in samplings(), position in any::<u64>()
    ) {
        prop_assert_eq!(choose(&logits, &sampling, position), defined(&logits, usize::MAX, &sampling, position));
    }
}

/// Logits of one value make every prefix sum a whole number, and a nucleus's end exact.
#[test]
fn the_nucleus_of_equal_logits_ends_where_its_share_does() {
    let logits = [0.0; 4096];
    for (top_p, size) in [(0.5, 2048), (0.25, 1024), (1.0 / 4096.0, 1), (0.750_000_001, 3073)] {
        let sampling = Sampling { top_p, ..PLAIN };
        let kept = &logits[..size];
        for position in 0..20 {
            assert_eq!(choose(&logits, &sampling, position), choose(kept, &PLAIN, position));
        }
    }
}

#[test]
fn scratch_memory_does_not_leak_from_one_choice_into_the_next() {
    let mut chooser = Chooser::new();
    let wide: Vec<f32> = (0..500u16).map(|t| f32::from(t % 17)).collect();
    for top_k in [3, 0, 400, 1] {
        for logits in [&wide[..], &wide[..20]] {
            let sampling = Sampling { top_k, top_p: 0.9, ..PLAIN };
            assert_eq!(chooser.choose(logits, 500, &sampling, 9), choose(logits, &sampling, 9));
        }
    }
}

#[test]
fn ties_go_to_the_lowest_token() {
    assert_eq!(choose(&[1.0, 5.0, 5.0, 2.0], &Sampling::greedy(), 0), 1);
    assert_eq!(choose(&[-0.0, 0.0], &Sampling::greedy(), 0), 0);
    assert_eq!(choose(&[1.0, 5.0, 5.0, 5.0], &Sampling { top_k: 1, ..PLAIN }, 0), 1);
    // Noise is lost beside an infinite logit.
    assert_eq!(choose(&[0.0, f32::INFINITY, f32::INFINITY], &PLAIN, 0), 1);
}

#[test]
fn nan_counts_as_minus_infinity() {
    let nan = f32::NAN;
    for sampling in [Sampling::greedy(), PLAIN, Sampling { top_k: 2, top_p: 0.5, min_p: 0.5, ..PLAIN }] {
        assert_eq!(choose(&[nan, -3.0, nan], &sampling, 0), 1);
        assert_eq!(choose(&[nan, nan, nan], &sampling, 0), 0);
        assert_eq!(choose(&[f32::NEG_INFINITY; 3], &sampling, 0), 0);
        assert_eq!(choose(&[], &sampling, 0), 0);
    }
}

/// Padding of the vocabulary, on one side only, changes no choice.
#[test]
fn tokens_beyond_the_tokenizer_are_masked() {
    let padded = [0.5, 1.0, -1.0, 99.0, f32::INFINITY];
    for sampling in [Sampling::greedy(), PLAIN, Sampling { top_k: 2, ..PLAIN }, Sampling { top_p: 0.9, ..PLAIN }] {
        for position in 0..50 {
            let choice = Chooser::new().choose(&padded, 3, &sampling, position);
            assert_eq!(choice, choose(&padded[..3], &sampling, position));
        }
    }
}

/// The ranking begins with the choice, and each further place is the choice among what is left.
#[test]
fn a_ranking_is_a_choice_after_the_other() {
    let history = History::default();
    let mut chooser = Chooser::new();
    let logits: Vec<f32> = (0..97_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as f32 / 512.0).collect();
    let truncated = Sampling { top_k: 40, top_p: 0.9, ..PLAIN };
    for sampling in [PLAIN, truncated, Sampling { min_p: 0.01, ..PLAIN }, Sampling { temperature: 0.0, ..PLAIN }] {
        for position in 0..50 {
            let ranked = chooser.rank_after(&history, &logits, 90, &sampling, position, 5);
            assert_eq!(ranked[0].token, chooser.choose(&logits, 90, &sampling, position), "{sampling:?}");
            assert!(ranked.is_sorted_by(|a, b| a.value >= b.value), "{ranked:?}");
            assert!(ranked.len() == 5 && ranked.iter().all(|ranked| ranked.token < 90));
            if (sampling.top_k, sampling.top_p) == (0, 1.0) {
                let mut left = logits.clone();
                left[ranked[0].token as usize] = f32::NEG_INFINITY;
                assert_eq!(chooser.choose(&left, 90, &sampling, position), ranked[1].token);
            }
        }
    }
}
