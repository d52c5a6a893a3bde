//! Coupled choices as random variables: exact samples of their own distribution, and how often two agree.
//!
//! Seeds are fixed, so every test gives the same answer on every run.

use speculative::{Chooser, Distribution, DraftDistribution, History, Penalties, Sampling, Verdict, philox, rejection};

const LOGITS: [f32; 12] = [1.5, -0.3, 2.2, 0.0, 0.9, -2.0, 1.5, 0.4, -1.1, 1.9, -0.6, 0.2];
const OTHERS: [f32; 12] = [1.1, 0.3, 2.4, -0.5, 1.2, -1.0, 0.9, 0.8, -1.9, 1.0, 0.1, 0.7];
const DRAWS: u64 = 200_000;

fn samplings() -> Vec<Sampling> {
    let plain =
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0x5eed_0001, penalties: Penalties::NONE };
    vec![
        plain,
        Sampling { temperature: 0.5, ..plain },
        Sampling { temperature: 0.8, seed: u64::MAX - 3, ..plain },
        Sampling { temperature: 2.5, seed: 0, ..plain },
        Sampling { top_k: 5, ..plain },
        Sampling { temperature: 0.8, top_p: 0.8, ..plain },
        Sampling { temperature: 1.3, min_p: 0.15, ..plain },
        Sampling { temperature: 1.3, top_k: 9, top_p: 0.9, min_p: 0.05, seed: 77, ..plain },
    ]
}

/// The processed distribution, from its definition and with the standard library's `exp`.
fn processed(logits: &[f32], sampling: &Sampling) -> Vec<f64> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let weight = |token: usize| (f64::from(logits[token] - logits[order[0]]) / sampling.temperature).exp();
    let count = if sampling.top_k == 0 { order.len() } else { sampling.top_k as usize };
    let sum: f64 = order[..count].iter().map(|&token| weight(token)).sum();
    let mut kept = vec![0.0; logits.len()];
    let mut running = 0.0;
    for &token in &order[..count] {
        if running < sampling.top_p * sum && weight(token) >= sampling.min_p {
            kept[token] = weight(token);
        }
        running += weight(token);
    }
    let total: f64 = kept.iter().sum();
    kept.iter().map(|weight| weight / total).collect()
}

/// The value that a chi-square variable exceeds with probability 1e-4 (Wilson and Hilferty 1931).
fn critical(freedom: f64) -> f64 {
    const NORMAL_QUANTILE: f64 = 3.719_016;
    let spread = 2.0 / (9.0 * freedom);
    freedom * (1.0 - spread + NORMAL_QUANTILE * spread.sqrt()).powi(3)
}

/// Pearson's test of `counts` against `p`; what p excludes must not occur.
fn assert_sample_of(p: &[f64], counts: &[u64], label: &str) {
    let draws = counts.iter().sum::<u64>() as f64;
    let mut statistic = 0.0;
    let mut cells = 0.0;
    for (token, (&p, &count)) in p.iter().zip(counts).enumerate() {
        if p == 0.0 {
            assert_eq!(count, 0, "{label}: token {token} is not kept");
            continue;
        }
        let expected = draws * p;
        assert!(expected >= 5.0, "{label}: too few draws for token {token}");
        statistic += (count as f64 - expected).powi(2) / expected;
        cells += 1.0;
    }
    let limit = critical(cells - 1.0);
    assert!(statistic < limit, "{label}: chi-square {statistic:.1} of {limit:.1}");
}

#[test]
fn critical_values_are_those_of_the_tables() {
    assert!((critical(4.0) / 23.51 - 1.0).abs() < 0.03);
    assert!((critical(11.0) / 37.37 - 1.0).abs() < 0.03);
}

/// One seed, consecutive positions: what a generation does.
#[test]
fn choices_over_positions_are_an_exact_sample() {
    let mut chooser = Chooser::new();
    for sampling in samplings() {
        let mut counts = [0; LOGITS.len()];
        for position in 0..DRAWS {
            counts[chooser.choose(&LOGITS, LOGITS.len(), &sampling, position) as usize] += 1;
        }
        assert_sample_of(&processed(&LOGITS, &sampling), &counts, &format!("{sampling:?}"));
    }
}

/// One position, consecutive seeds: what many clients do.
#[test]
fn choices_over_seeds_are_an_exact_sample() {
    let mut chooser = Chooser::new();
    for sampling in samplings() {
        let mut counts = [0; LOGITS.len()];
        for seed in 0..DRAWS {
            let sampling = Sampling { seed, ..sampling };
            counts[chooser.choose(&LOGITS, LOGITS.len(), &sampling, 17) as usize] += 1;
        }
        assert_sample_of(&processed(&LOGITS, &sampling), &counts, &format!("{sampling:?}"));
    }
}

/// Neighbouring positions share no noise: pairs of choices are samples of the product.
#[test]
fn choices_at_neighbouring_positions_are_independent() {
    let logits = &LOGITS[..5];
    let sampling = samplings()[0];
    let p = processed(logits, &sampling);
    let pairs: Vec<f64> = p.iter().flat_map(|a| p.iter().map(move |b| a * b)).collect();
    let mut counts = vec![0; pairs.len()];
    let mut chooser = Chooser::new();
    for pair in 0..DRAWS {
        let first = chooser.choose(logits, 5, &sampling, 2 * pair) as usize;
        let second = chooser.choose(logits, 5, &sampling, 2 * pair + 1) as usize;
        counts[first * 5 + second] += 1;
    }
    assert_sample_of(&pairs, &counts, "pairs");
}

/// P(agree) = Σ_v 1 / Σ_u max(p_u / p_v, q_u / q_v), over what both keep; at least (1 − TV) / (1 + TV).
/// Daliri et al. 2024 (arXiv 2408.07978).
#[test]
fn draft_and_target_agree_as_often_as_theory_says() {
    let (mut target, mut draft) = (Chooser::new(), Chooser::new());
    for sampling in samplings() {
        let (p, q) = (processed(&LOGITS, &sampling), processed(&OTHERS, &sampling));
        let agreed = (0..DRAWS).filter(|&position| {
            let proposed = draft.choose(&OTHERS, OTHERS.len(), &sampling, position);
            target.choose(&LOGITS, LOGITS.len(), &sampling, position) == proposed
        });
        let share = agreed.count() as f64 / DRAWS as f64;
        let both = (0..p.len()).filter(|&v| p[v] > 0.0 && q[v] > 0.0);
        let theory: f64 =
            both.map(|v| 1.0 / p.iter().zip(&q).map(|(pu, qu)| (pu / p[v]).max(qu / q[v])).sum::<f64>()).sum();
        let four_sigma = 4.0 * (theory * (1.0 - theory) / DRAWS as f64).sqrt();
        assert!((share - theory).abs() < four_sigma, "{sampling:?}: {share} of {theory} ± {four_sigma}");
        let distance = p.iter().zip(&q).map(|(p, q)| (p - q).abs()).sum::<f64>() / 2.0;
        assert!(theory >= (1.0 - distance) / (1.0 + distance) - 1e-12);
        assert!(share >= (1.0 - distance) / (1.0 + distance) - four_sigma);
    }
}

/// Logits from -3 to 3 that belong to `seed`.
fn made(seed: u32) -> Vec<f32> {
    let word = |token| philox::philox4x32_10([token, 0, 0, 0], [seed, 0x0bad])[0];
    (0..LOGITS.len() as u32).map(|token| (f64::from(word(token)) / f64::from(u32::MAX) * 6.0 - 3.0) as f32).collect()
}

fn of(logits: &[f32], sampling: &Sampling) -> Distribution {
    Chooser::new().distribution_after(&History::default(), logits, logits.len(), sampling)
}

/// Target and draft, each by its own logits and truncation.
fn pairs() -> Vec<([Vec<f32>; 2], [Sampling; 2])> {
    let samplings = samplings();
    let random = (0..16).map(|at| {
        let all = [at, 3 * at + 1].map(|at| samplings[at % samplings.len()]);
        ([made(2 * at as u32), made(2 * at as u32 + 1)], [all[0], Sampling { seed: all[0].seed, ..all[1] }])
    });
    let alike = samplings.iter().map(|&sampling| ([LOGITS.to_vec(), OTHERS.to_vec()], [sampling; 2]));
    alike.chain(random).collect()
}

#[test]
fn a_distribution_is_what_choices_are_a_sample_of() {
    for (logits, samplings) in pairs() {
        for (logits, sampling) in logits.iter().zip(samplings) {
            let (p, expected) = (of(logits, &sampling), processed(logits, &sampling));
            for (token, expected) in (0..).zip(expected) {
                assert!((p.probability(token) - expected).abs() < 1e-6, "{sampling:?}: token {token}");
            }
        }
    }
}

/// Whatever the draft, and accepted as often as theory says: Σ min(p, q).
#[test]
fn outputs_by_rejection_are_an_exact_sample() {
    const DRAWS: u64 = 60_000;
    for ([target, draft], [of_target, of_draft]) in pairs() {
        let label = format!("{of_target:?}, drafted by {of_draft:?}");
        let (p, drafted) = (of(&target, &of_target), DraftDistribution::from(&of(&draft, &of_draft)));
        let (mut counts, mut accepted) = ([0; LOGITS.len()], 0);
        for position in 0..DRAWS {
            let x = drafted.propose(of_target.seed, position, 0);
            let told = std::slice::from_ref(&drafted);
            let verdict = rejection::verdict(&[x], told, of_target.seed, position, |_| p.clone());
            counts[verdict.tokens[0] as usize] += 1;
            accepted += verdict.accepted;
        }
        let (p, q) = (processed(&target, &of_target), processed(&draft, &of_draft));
        let merged = merge_rare(&p, &counts, DRAWS);
        assert_sample_of(&merged.0, &merged.1, &label);
        let theory: f64 = p.iter().zip(&q).map(|(p, q)| p.min(*q)).sum();
        let (share, error) = (accepted as f64 / DRAWS as f64, (theory * (1.0 - theory) / DRAWS as f64).sqrt());
        assert!((share - theory).abs() <= 4.0 * error + 1e-6, "{label}: {share} of {theory} accepted");
    }
}

/// Cells that too few draws are expected in, as one with the likeliest.
fn merge_rare(p: &[f64], counts: &[u64], draws: u64) -> (Vec<f64>, Vec<u64>) {
    let (mut kept_p, mut kept, mut rest) = (Vec::new(), Vec::new(), (0.0, 0));
    for (&p, &count) in p.iter().zip(counts) {
        if p > 0.0 && p * (draws as f64) < 5.0 {
            rest = (rest.0 + p, rest.1 + count);
        } else {
            kept_p.push(p);
            kept.push(count);
        }
    }
    let likeliest = (0..kept_p.len()).max_by(|&a, &b| kept_p[a].total_cmp(&kept_p[b])).expect("a token");
    kept_p[likeliest] += rest.0;
    kept[likeliest] += rest.1;
    (kept_p, kept)
}

/// A whole session: tokens are proposed again after a rejection, final tokens follow full acceptance, and neighbours are
/// samples of the product.
#[test]
fn outputs_by_rejection_are_independent_over_cycles() {
    let sampling = samplings()[0];
    let (p, q) = (of(&LOGITS[..5], &sampling), DraftDistribution::from(&of(&OTHERS[4..9], &sampling)));
    let mut output = Vec::new();
    while output.len() < 2 * DRAWS as usize {
        let base_len = output.len() as u64;
        let proposed: Vec<_> = (0..3).map(|index| q.propose(sampling.seed, base_len + index as u64, index)).collect();
        let drafted = vec![q.clone(); proposed.len()];
        output.extend(rejection::verdict(&proposed, &drafted, sampling.seed, base_len, |_| p.clone()).tokens);
    }
    let p = processed(&LOGITS[..5], &sampling);
    let pairs: Vec<f64> = p.iter().flat_map(|a| p.iter().map(move |b| a * b)).collect();
    for begin in 0..2 {
        let mut counts = vec![0; pairs.len()];
        output[begin..].chunks_exact(2).for_each(|pair| counts[(pair[0] * 5 + pair[1]) as usize] += 1);
        assert_sample_of(&pairs, &counts, "pairs");
    }
}

#[test]
fn what_is_alike_is_accepted_and_what_has_nothing_in_common_is_rejected() {
    let three = Sampling { top_k: 3, ..samplings()[0] };
    let contrary: Vec<f32> = LOGITS.iter().map(|logit| -logit).collect();
    for (draft, accepted) in [(&LOGITS[..], 1), (&contrary, 0)] {
        let (p, q) = (of(&LOGITS, &three), DraftDistribution::from(&of(draft, &three)));
        for position in 0..DRAWS {
            let x = q.propose(9, position, 0);
            let verdict = rejection::verdict(&[x], std::slice::from_ref(&q), 9, position, |_| p.clone());
            assert_eq!(verdict.accepted, accepted, "at {position}");
        }
    }
}

/// At temperature 0 all rows are certain: the target's own choices, as with Gumbel coupling.
#[test]
fn greedy_by_rejection_is_greedy() {
    let greedy = Sampling::greedy();
    for window in 0..200 {
        let rows: Vec<Vec<f32>> = (0..5).map(|row| made(10 * window + row)).collect();
        let own: Vec<u32> = rows.iter().map(|row| Chooser::new().choose(row, row.len(), &greedy, 0)).collect();
        let mut proposed = own[..4].to_vec();
        if window % 5 < 4 {
            proposed[window as usize % 5] += 1;
        }
        let drafted: Vec<_> = proposed.iter().map(|&token| DraftDistribution::certain(token)).collect();
        let verdict = rejection::verdict(&proposed, &drafted, 3, 17, |row| of(&rows[row], &greedy));
        assert_eq!(verdict, Verdict::of(&proposed, |row| own[row]));
    }
}
