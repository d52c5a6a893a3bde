use super::*;
use crate::{Chooser, History};

fn distribution(logits: &[f32], sampling: &Sampling) -> Distribution {
    Chooser::new().distribution_after(&History::default(), logits, logits.len(), sampling)
}

fn sampled(temperature: f64) -> Sampling {
    Sampling { temperature, ..Sampling::greedy() }
}

fn weights(weights: &[(TokenId, f64)]) -> Distribution {
    Distribution::new(weights.iter().copied())
}

fn drafted(tokens: &[TokenId], probabilities: &[f32]) -> DraftDistribution {
    DraftDistribution { tokens: tokens.to_vec(), probabilities: probabilities.to_vec() }
}

#[test]
fn couplings_are_spelled_as_they_are_read() {
    for coupling in [Coupling::Gumbel, Coupling::Rejection] {
        assert_eq!(coupling.to_string().parse(), Ok(coupling));
    }
    assert_eq!("both".parse::<Coupling>(), Err("allowed: gumbel, rejection".to_owned()));
}

/// The running sum of 0.25, 0.25, 0.5: what lies on a border belongs to the next token.
#[test]
fn a_number_falls_to_the_token_whose_part_it_lies_in() {
    let p = weights(&[(3, 1.0), (4, 0.0), (7, 1.0), (9, 2.0)]);
    let just_below_1 = 1.0 - f64::EPSILON / 2.0;
    for (u, token) in [(0.0, 3), (0.2499, 3), (0.25, 7), (0.4999, 7), (0.5, 9), (just_below_1, 9)] {
        assert_eq!(p.at(u), token, "{u}");
    }
    assert_eq!([3, 4, 7, 9, 2].map(|token| p.probability(token)), [0.25, 0.0, 0.25, 0.5, 0.0]);
}

#[test]
fn the_residual_is_what_the_target_holds_likelier() {
    let p = weights(&[(1, 0.4), (2, 0.4), (5, 0.2)]);
    let q = weights(&[(0, 0.1), (1, 0.6), (2, 0.2), (9, 0.1)]);
    let residual = p.residual(&q);
    for (token, expected) in [(0, 0.0), (1, 0.0), (2, 0.5), (5, 0.5), (9, 0.0)] {
        assert!((residual.probability(token) - expected).abs() < 1e-15, "{token}");
    }
    assert_eq!(p.residual(&p), p, "nothing is left");
}

#[test]
fn greedy_is_the_argmax_and_so_is_an_infinite_row() {
    let logits = [0.5, 2.0, 2.0, f32::NAN, -1.0];
    assert_eq!(distribution(&logits, &Sampling::greedy()), Distribution::certain(1));
    assert_eq!(distribution(&[0.0, f32::INFINITY, f32::INFINITY], &sampled(1.0)), Distribution::certain(1));
    assert_eq!(distribution(&[f32::NEG_INFINITY, f32::NAN], &sampled(1.0)), Distribution::certain(0));
}

/// Among so many at most, the likeliest; the target keeps all.
#[test]
fn a_draft_samples_among_the_likeliest() {
    let logits: Vec<f32> = (0..1000_u16).map(|token| f32::from(token * 7 % 1000) / 200.0).collect();
    let target = sampled(1.0);
    let q = DraftDistribution::from(&distribution(&logits, &DraftDistribution::sampling(&target)));
    assert_eq!(q.tokens.len(), DraftDistribution::MOST_TOKENS);
    let least = q.tokens.iter().map(|&token| logits[token as usize]).fold(f32::INFINITY, f32::min);
    assert!(logits.iter().filter(|&&logit| logit > least).count() < DraftDistribution::MOST_TOKENS);
    assert!(q.tokens.iter().all(|&token| q.check(token, 1000) == Ok(())));
    assert!(distribution(&logits, &target).probability(0) > 0.0);
    for (top_k, kept) in [(1, 1), (40, 40), (500, 128)] {
        assert_eq!(DraftDistribution::sampling(&Sampling { top_k, ..target }).top_k, kept);
    }
}

/// The target reads what the draft has sampled, bit by bit.
#[test]
fn what_travels_is_what_was_sampled() {
    let q = distribution(&[1.0, -3.0, 2.0, 0.3, -200.0], &sampled(0.7));
    let told = DraftDistribution::from(&q);
    assert_eq!(told.tokens, [0, 1, 2, 3], "what rounds to 0 is left out");
    let read = Distribution::from(&told);
    assert_eq!(DraftDistribution::from(&read).tokens, told.tokens);
    for token in 0..5 {
        assert!((read.probability(token) - q.probability(token)).abs() < 1e-7);
    }
}

#[test]
fn draws_belong_to_seed_position_and_index() {
    let q = DraftDistribution::from(&distribution(&[0.0; 100], &sampled(1.0)));
    let draw = |seed, position, index| q.propose(seed, position, index);
    let many = |of: &dyn Fn(u64) -> TokenId| (0..64).map(of).collect::<Vec<_>>();
    let once = many(&|position| draw(1, position, 0));
    assert_eq!(once, many(&|position| draw(1, position, 0)));
    assert_ne!(once, many(&|position| draw(2, position, 0)));
    assert_ne!(once, many(&|position| draw(1, position | 1 << 32, 0)));
    assert_ne!(once, many(&|position| draw(1, position, 1)), "proposed again, it is drawn anew");
}

#[test]
fn what_no_token_can_have_been_sampled_from_is_named() {
    let most = DraftDistribution::MOST_TOKENS;
    let refused = |told: DraftDistribution| told.check(2, 100).unwrap_err().to_string();
    assert_eq!(drafted(&[2, 7], &[0.25, 0.75]).check(2, 100), Ok(()));
    assert_eq!(DraftDistribution::certain(2).check(2, 100), Ok(()));
    assert_eq!(drafted(&[2, 7], &[0.25, 0.750_09]).check(2, 100), Ok(()), "rounded");
    let long: Vec<TokenId> = (0..=most as TokenId).collect();
    for (told, words) in [
        (drafted(&[], &[]), "tokens (number) is 0, allowed: 1 to 128"),
        (drafted(&long, &vec![1.0; most + 1]), "tokens (number) is 129, allowed: 1 to 128"),
        (drafted(&[2, 7], &[1.0]), "probabilities (number) is 1, allowed: 2, that of tokens"),
        (drafted(&[2, 100], &[0.5, 0.5]), "tokens (id) is 100, allowed: 0 to 99"),
        (drafted(&[7, 2], &[0.5, 0.5]), "tokens (order) is 2 after 7, allowed: ascending ids"),
        (drafted(&[2, 2], &[0.5, 0.5]), "tokens (order) is 2 after 2, allowed: ascending ids"),
        (drafted(&[2, 7], &[0.0, 1.0]), "probabilities is 0, allowed: above 0, up to 1"),
        (drafted(&[2, 7], &[-0.5, 1.0]), "probabilities is -0.5, allowed: above 0, up to 1"),
        (drafted(&[2, 7], &[1.5, 0.5]), "probabilities is 1.5, allowed: above 0, up to 1"),
        (drafted(&[2, 7], &[f32::NAN, 0.5]), "probabilities is NaN, allowed: above 0, up to 1"),
        (drafted(&[2, 7], &[0.5, 0.25]), "probabilities (sum) is 0.75, allowed: 1 ± 0.0001"),
        (drafted(&[3, 7], &[0.5, 0.5]), "tokens is without 2, allowed: with the proposed token"),
    ] {
        assert_eq!(refused(told), words);
    }
}
