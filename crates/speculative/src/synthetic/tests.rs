use super::SyntheticAcceptance;
use crate::Acceptance;

fn at(rate: f64) -> SyntheticAcceptance {
    SyntheticAcceptance::new(rate).expect("a rate from 0 to 1")
}

/// Cycles of γ 4 from position 100 on, as a session has them.
fn cycles(rate: f64, seed: u64, count: usize) -> Acceptance {
    let (mut acceptance, mut base_len) = (Acceptance::new(), 100);
    for _ in 0..count {
        let verdict = at(rate).verdict(&[1, 2, 3, 4], seed, base_len, |_| 9);
        acceptance.record(4, verdict.accepted);
        base_len += verdict.tokens.len() as u64;
    }
    acceptance
}

/// Within four standard errors, at every place of the window: the lots are independent.
#[test]
fn tokens_are_accepted_with_the_chance_that_was_asked_for() {
    for rate in [0.3, 0.7, 0.95] {
        let acceptance = cycles(rate, 7, 20_000);
        let tried = (acceptance.accepted() + acceptance.rejections()) as f64;
        let a = acceptance.conditional_acceptance().expect("tokens were proposed");
        assert!((a - rate).abs() < 4.0 * (rate * (1.0 - rate) / tried).sqrt(), "{a} for {rate}");
        for (i, survival) in (1..).zip(acceptance.survival()) {
            let expected = rate.powi(i);
            let error = (expected * (1.0 - expected) / 20_000.0).sqrt();
            assert!((survival - expected).abs() < 4.0 * error, "survival({i}) is {survival}, not {expected}");
        }
    }
}

#[test]
fn nothing_is_accepted_at_0_and_everything_at_1() {
    assert_eq!(cycles(0.0, 1, 1000).accepted(), 0);
    assert_eq!(cycles(1.0, 1, 1000).rejections(), 0);
}

#[test]
fn the_verdict_is_the_accepted_prefix_and_the_targets_own_choice_after_it() {
    for base_len in 0..200 {
        let verdict = at(0.6).verdict(&[10, 11, 12], 3, base_len, |row| 50 + row as u32);
        let expected: Vec<u32> = (10..10 + verdict.accepted as u32).chain([50 + verdict.accepted as u32]).collect();
        assert_eq!(verdict.tokens, expected);
    }
    assert_eq!(at(0.6).verdict(&[], 3, 5, |row| 50 + row as u32).tokens, [50]);
}

#[test]
fn lots_belong_to_seed_and_position_and_to_nothing_else() {
    let accepted = |seed: u64| -> Vec<bool> { (0..256).map(|position| at(0.5).accepts(seed, position)).collect() };
    assert_eq!(accepted(1), accepted(1));
    for other in [2, 1 << 32 | 1] {
        assert_ne!(accepted(1), accepted(other));
    }
    let far: Vec<bool> = (0..256).map(|position| at(0.5).accepts(1, position | 1 << 32)).collect();
    assert_ne!(accepted(1), far);
}

#[test]
fn a_rate_outside_0_to_1_is_none() {
    for rate in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert_eq!(SyntheticAcceptance::new(rate), None);
    }
}
