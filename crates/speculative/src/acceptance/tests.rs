use proptest::prelude::*;

use super::Acceptance;
use crate::cost::expected_tokens;

fn of(cycles: &[(usize, usize)]) -> Acceptance {
    let mut acceptance = Acceptance::new();
    for &(proposed, accepted) in cycles {
        acceptance.record(proposed, accepted);
    }
    acceptance
}

#[test]
fn nothing_recorded_has_no_rates() {
    let none = Acceptance::new();
    assert_eq!((none.cycles(), none.drafts(), none.proposed(), none.accepted(), none.rejections()), (0, 0, 0, 0, 0));
    assert_eq!(none.acceptance_rate(), None);
    assert_eq!(none.conditional_acceptance(), None);
    assert_eq!(none.mean_acceptance_length(), None);
    assert_eq!(none.avg_accepted_per_cycle(), None);
    assert!(none.survival().is_empty());
}

#[test]
fn plain_decoding_proposes_nothing() {
    let plain = of(&[(0, 0), (0, 0)]);
    assert_eq!((plain.cycles(), plain.drafts(), plain.rejections()), (2, 0, 0));
    assert_eq!(plain.acceptance_rate(), None);
    assert_eq!(plain.mean_acceptance_length(), None);
    assert_eq!(plain.avg_accepted_per_cycle(), Some(0.0));
}

#[test]
fn a_run_by_hand() {
    let run = of(&[(4, 4), (4, 1), (2, 0), (0, 0), (4, 3)]);
    assert_eq!((run.cycles(), run.drafts(), run.proposed(), run.accepted(), run.rejections()), (5, 4, 14, 8, 3));
    assert_eq!(run.acceptance_rate(), Some(8.0 / 14.0));
    assert_eq!(run.conditional_acceptance(), Some(8.0 / 11.0));
    assert_eq!(run.mean_acceptance_length(), Some(3.0));
    assert_eq!(run.avg_accepted_per_cycle(), Some(1.6));
    assert_eq!(run.survival(), [0.75, 0.5, 2.0 / 3.0, 1.0 / 3.0]);
}

fn cycles(gammas: std::ops::Range<usize>) -> impl Strategy<Value = Vec<(usize, usize)>> {
    let cycle = gammas.prop_flat_map(|proposed| (Just(proposed), 0..=proposed));
    prop::collection::vec(cycle, 0..60)
}

proptest! {
    #[test]
    fn counts_are_the_sums(cycles in cycles(0..9)) {
        let run = of(&cycles);
        prop_assert_eq!(run.cycles(), cycles.len() as u64);
        prop_assert_eq!(run.drafts(), cycles.iter().filter(|cycle| cycle.0 > 0).count() as u64);
        prop_assert_eq!(run.proposed(), cycles.iter().map(|cycle| cycle.0 as u64).sum::<u64>());
        prop_assert_eq!(run.accepted(), cycles.iter().map(|cycle| cycle.1 as u64).sum::<u64>());
        prop_assert_eq!(run.rejections(), cycles.iter().filter(|cycle| cycle.1 < cycle.0).count() as u64);
    }

    #[test]
    fn merging_is_recording_all(a in cycles(0..9), b in cycles(0..5)) {
        let mut merged = of(&a);
        merged.merge(&of(&b));
        prop_assert_eq!(merged, of(&[a.clone(), b.clone()].concat()));
    }

    /// With one γ throughout, E(γ) is the mean acceptance length, and the acceptance rate the mean survival.
    #[test]
    fn survival_explains_the_means(cycles in cycles(6..7)) {
        prop_assume!(!cycles.is_empty());
        let run = of(&cycles);
        let survival = run.survival();
        prop_assert!(survival.is_sorted_by(|a, b| a >= b));
        prop_assert!((expected_tokens(&survival) - run.mean_acceptance_length().unwrap()).abs() < 1e-12);
        prop_assert!((survival.iter().sum::<f64>() / 6.0 - run.acceptance_rate().unwrap()).abs() < 1e-12);
        prop_assert!(run.conditional_acceptance().unwrap() >= run.acceptance_rate().unwrap());
    }
}
