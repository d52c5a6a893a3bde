use proptest::prelude::*;

use super::{CycleTimes, expected_tokens, expected_tokens_constant};

const TIMES: CycleTimes = CycleTimes {
    t_ar_s: 0.010,
    t_draft_s: 0.001,
    t_verify_s: 0.012,
    rtt_draft_s: 0.003,
    rtt_target_s: 0.002,
    overhead_s: 0.0005,
};

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * a.abs().max(b.abs()).max(1.0)
}

#[test]
fn expected_tokens_at_the_ends() {
    assert_eq!(expected_tokens(&[]), 1.0);
    assert_eq!(expected_tokens(&[1.0; 4]), 5.0);
    assert_eq!(expected_tokens_constant(0.0, 4), 1.0);
    assert_eq!(expected_tokens_constant(1.0, 4), 5.0);
    assert_eq!(expected_tokens_constant(0.7, 0), 1.0);
}

/// DESIGN.md, section 2: at a = 0.7 and γ = 4 the acceptance rate is 0.44.
#[test]
fn conditional_acceptance_is_not_the_acceptance_rate() {
    let rate = (expected_tokens_constant(0.7, 4) - 1.0) / 4.0;
    assert!((rate - 0.44).abs() < 0.005, "{rate}");
}

proptest! {
    #[test]
    fn constant_acceptance_is_a_geometric_series(a in 0.0..0.999f64, gamma in 0..40u32) {
        let closed = (1.0 - a.powi(gamma as i32 + 1)) / (1.0 - a);
        let survival: Vec<f64> = (1..=gamma as i32).map(|i| a.powi(i)).collect();
        prop_assert!(close(expected_tokens_constant(a, gamma), closed));
        prop_assert!(close(expected_tokens(&survival), closed));
    }

    #[test]
    fn at_the_break_even_rtt_the_speedup_is_one(a in 0.1..0.95f64, gamma in 1..32u32, overhead_s in 0.0..0.001f64) {
        let expected = expected_tokens_constant(a, gamma);
        let times = CycleTimes { overhead_s, ..TIMES };
        let rtt_draft_s = times.break_even_draft_rtt_s(expected, gamma);
        let at = CycleTimes { rtt_draft_s, ..times };
        prop_assert!(close(at.speedup(expected, gamma), 1.0));
        let further = CycleTimes { rtt_draft_s: rtt_draft_s + 1e-6, ..at };
        prop_assert!(further.speedup(expected, gamma) < 1.0);
    }
}

#[test]
fn speedups_by_hand() {
    // A cycle takes 4 + 12 + 3 + 2 + 0.5 = 21.5 ms.
    assert!(close(TIMES.speedup(3.0, 4), 3.0 * 12.5 / 21.5));
    assert!(close(TIMES.speedup_at_target(3.0, 4), 3.0 * 10.0 / 21.5));
}

/// The seed's 2.1 at α = 0.7, γ = 4 needs c of about 0.08, with v = 1 and no network.
#[test]
fn the_seeds_example() {
    let near = CycleTimes {
        t_draft_s: 0.0008,
        t_verify_s: 0.010,
        rtt_draft_s: 0.0,
        rtt_target_s: 0.0,
        overhead_s: 0.0,
        ..TIMES
    };
    let speedup = near.speedup(expected_tokens_constant(0.7, 4), 4);
    assert!((speedup - 2.1).abs() < 0.01, "{speedup}");
    assert!(close(speedup, near.speedup_at_target(expected_tokens_constant(0.7, 4), 4)));
}

#[test]
fn a_draft_that_is_never_right_pays_nowhere() {
    // AR takes 12.5 ms, the cycle without its draft's RTT 4 + 12 + 2 + 0.5.
    assert!(close(TIMES.break_even_draft_rtt_s(1.0, 4), 0.0125 - 0.0185));
}
