//! What sessions cost each other, from a study's cells of several sessions.

use speculative::simulation::{InvalidWorld, PassCurve};

use super::rising;
use crate::{report::mean, study::Cell};

/// Messages of a cycle that coordinator and target send and take in: the window and its verdict at both ends, and with a draft the
/// coordinator's question to it and the answer.
const PLAIN_MESSAGES: f64 = 4.0;
const MESSAGES: f64 = 6.0;

/// From how many sessions in a pass on it says what one more costs.
const LEAST_SESSIONS: f64 = 1.5;

/// What a message keeps the target's device from its passes: by so much the target's passes are longer where a draft goes ahead at
/// no distance, for each branch that it sends meanwhile. 0 where nothing shows it.
pub(super) fn handling_s(near: &[&Cell]) -> f64 {
    let of_cell = |cell: &&Cell| {
        let gamma = cell.gamma.parse::<usize>().ok().filter(|gamma| *gamma > 0 && cell.min_confidence == 0.0)?;
        let in_turn = near.iter().find(|other| other.in_turn() == Some(gamma))?;
        let branches = cell.anticipation.as_ref()?.rows as f64 / gamma as f64;
        let longer_s = cell.cycle.target_compute_s? - in_turn.cycle.target_compute_s?;
        (branches > 0.0).then_some((branches, longer_s * cell.cycles as f64))
    };
    let all = near.iter().filter_map(of_cell).reduce(|sum, of| (sum.0 + of.0, sum.1 + of.1));
    all.map_or(0.0, |(branches, longer_s)| (longer_s / branches).max(0.0))
}

/// A pass of the target that several sessions share, as it is on average.
struct Pass {
    sessions: f64,
    rows: f64,
    /// Without the messages of others that it was kept by.
    seconds: f64,
}

impl Pass {
    /// Of a cell of plain decoding or of a fixed γ in turn, where a pass takes `beside_s` beside the forward. `None` where sessions
    /// seldom meet in one.
    fn of(cell: &Cell, beside_s: f64, handling_s: f64) -> Option<Self> {
        let (window, messages) = match cell.is_ar() {
            true => (1.0, PLAIN_MESSAGES),
            false => (1.0 + cell.in_turn()? as f64, MESSAGES),
        };
        let others_rows = cell.target?.others_rows as f64 / cell.cycles as f64;
        let sessions = (1.0 + others_rows / window).min(cell.sessions as f64);
        // Those that are not in it have theirs while it lasts.
        let others_s = (cell.sessions as f64 - sessions) * messages * handling_s;
        let seconds = cell.cycle.target_forward_s? + beside_s - others_s;
        let is_told = sessions >= LEAST_SESSIONS && seconds > 0.0;
        is_told.then_some(Self { sessions, rows: window * sessions, seconds })
    }
}

/// `alone` are a pass's rows and seconds of one session, `beside_s` of these beside its forward. What one takes longer for each
/// session in it beyond the first, and the same points with those of passes of more rows than one session had.
pub(super) fn target_pass(
    alone: Vec<(f64, f64)>,
    beside_s: f64,
    several: &[&Cell],
    handling_s: f64,
) -> Result<(Vec<(f64, f64)>, f64), InvalidWorld> {
    let passes: Vec<Pass> = several.iter().filter_map(|cell| Pass::of(cell, beside_s, handling_s)).collect();
    let (most_rows, least_s) = alone.last().copied().unwrap_or_default();
    let curve = PassCurve::new(alone.clone())?;
    let (comparable, beyond): (Vec<&Pass>, Vec<&Pass>) = passes.iter().partition(|pass| pass.rows <= most_rows);
    let longer_s: Vec<f64> =
        comparable.iter().map(|pass| (pass.seconds - between(&curve, pass.rows)) / (pass.sessions - 1.0)).collect();
    let session_s = mean(&longer_s).unwrap_or(0.0).max(0.0);
    // What was measured of one session stays as it is.
    let of_one = |pass: &Pass| (pass.rows, (pass.seconds - session_s * (pass.sessions - 1.0)).max(least_s));
    let beyond = rising(beyond.into_iter().map(of_one).collect());
    Ok((alone.into_iter().chain(beyond).collect(), session_s))
}

/// A pass of as many rows on average.
fn between(curve: &PassCurve, rows: f64) -> f64 {
    let (fewer, share) = (rows.floor() as usize, rows.fract());
    (1.0 - share) * curve.seconds(fewer) + share * curve.seconds(fewer + 1)
}

/// Passes of the draft by the sessions that share one, from cells with a fixed γ in turn; a proposal takes `beside_s` beside them.
/// Each session beyond the first takes as much as those of all cells do by least squares. `None` where they seldom meet.
pub(super) fn draft_pass(step_s: f64, beside_s: f64, several: &[&Cell]) -> Option<Vec<(f64, f64)>> {
    let shared = several.iter().filter_map(|cell| {
        let gamma = cell.in_turn()? as f64;
        let sessions = 1.0 + cell.draft?.others_rows as f64 / cell.cycles as f64 / gamma;
        Some((sessions - 1.0, (cell.cycle.draft_compute_s? - beside_s) / gamma - step_s))
    });
    let shared: Vec<(f64, f64)> = shared.filter(|(others, _)| 1.0 + others >= LEAST_SESSIONS).collect();
    let most = shared.iter().map(|(others, _)| *others).reduce(f64::max)?;
    let sum = |of: fn(&(f64, f64)) -> f64| shared.iter().map(of).sum::<f64>();
    let session_s = (sum(|(others, longer_s)| others * longer_s) / sum(|(others, _)| others * others)).max(0.0);
    Some(vec![(1.0, step_s), (1.0 + most, step_s + session_s * most)])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{
        report::{Anticipated, Breakdown},
        simulate::{Fit, FittedTimes},
        study::{Begin, Findings, Forwards, Measured, Placement, Plan, Records, Round},
    };

    const PLAN: &str = r#"
        title = "Several"
        rtts = ["0"]
        sessions = [1, 2, 4]
        repetitions = 1
        [[pair]]
        name = "p"
        draft = "embedded:draft"
        target = "embedded:target"
        [[policy]]
        name = "in turn"
        gamma = [2, 4]
        [[policy]]
        name = "ahead"
        gamma = 4
        anticipate = 8
    "#;

    const CYCLES: u64 = 100;

    /// What the target's passes, the draft's and messages take: a row of a window 0.1 ms beside 0.9 ms, another session 0.2 ms; a step
    /// of the draft 0.1 ms, another session in it 0.05 ms; a message 0.02 ms.
    fn verify_s(rows: f64, sessions: f64) -> f64 {
        1e-3 * (0.9 + 0.1 * rows + 0.2 * (sessions - 1.0))
    }

    /// A run of so many sessions, of which `share` are in each pass; those that are not send their messages while it lasts.
    fn run(gamma: usize, sessions: usize, share: f64, branches: u64) -> Measured {
        let (window, messages) = (gamma as f64 + 1.0, if gamma == 0 { 4.0 } else { 6.0 });
        let kept_s = 0.02e-3 * ((sessions as f64 - share) * messages + branches as f64);
        let forward_s = verify_s(share * window, share) + kept_s;
        let drafted = |seconds: f64| (gamma > 0).then_some(seconds);
        let forwards =
            |others: f64| Forwards { flops: 1.0, bytes: 1.0, seconds: 1.0, others_rows: others.round() as u64 };
        let others = (share - 1.0) * CYCLES as f64;
        let rows = CYCLES * branches * gamma as u64;
        Measured {
            policy: ["AR", "in turn", "ahead"][usize::from(gamma > 0) + usize::from(branches > 0)].to_owned(),
            gamma: gamma.to_string(),
            cycles: CYCLES,
            survival: vec![0.8; gamma],
            cycle: Breakdown {
                draft_compute_s: drafted(1e-3 * (0.03 + gamma as f64 * (0.1 + 0.05 * (share - 1.0)))),
                draft_queue_s: drafted(0.0),
                draft_network_s: drafted(0.1e-3),
                target_compute_s: Some(forward_s + 0.04e-3),
                target_forward_s: Some(forward_s),
                target_queue_s: Some(0.0),
                target_network_s: Some(0.08e-3),
                coordinator_s: Some(0.01e-3),
                ..Breakdown::default()
            },
            anticipation: (branches > 0).then(|| Anticipated {
                hits: CYCLES,
                rows,
                drafting_s: rows as f64 * 0.06e-3,
                ..Anticipated::default()
            }),
            draft: (gamma > 0).then(|| forwards(others * gamma as f64)),
            target: Some(forwards(others * window)),
            ..Measured::default()
        }
    }

    fn fitted(shares: [f64; 2]) -> FittedTimes {
        let plan = Plan::read(PLAN).unwrap();
        let setting = &plan.settings()[0];
        let round = |sessions: usize, share: f64| Round {
            pair: "p".to_owned(),
            placement: Placement::Distributed,
            temperature: setting.temperature,
            rtt: "0".to_owned(),
            rtt_s: 0.0,
            sessions,
            repetition: 1,
            // All of plain decoding meet in a pass.
            runs: vec![
                run(0, sessions, sessions as f64, 0),
                run(2, sessions, share, 0),
                run(4, sessions, share, 0),
                run(4, sessions, share, 8),
            ],
        };
        let model = json!({
            "name": "m", "fingerprint": "", "arithmetic_fingerprint": "", "dtype": "bf16", "device": "cpu",
        });
        let facts = json!({
            "name": "p", "models": { "draft": model, "target": model }, "colocated_draft": null, "step_s": 1e-3,
            "rests": [], "accepts_by_lot": false, "draft_roofs": null, "target_roofs": null,
        });
        let records = Records {
            begin: Begin::now(PLAN),
            pairs: vec![serde_json::from_value(facts).unwrap()],
            rounds: vec![round(1, 1.0), round(2, shares[0]), round(4, shares[1])],
        };
        let fit = Fit::of(&Findings::of(&plan, &records), &plan).unwrap();
        fit.pairs[0].times.clone()
    }

    fn assert_near(seen: f64, expected: f64, what: &str) {
        assert!((seen / expected - 1.0).abs() < 0.02, "{what}: {seen} where {expected} is expected");
    }

    #[test]
    fn what_sessions_cost_each_other_is_told_apart() {
        for shares in [[1.0, 2.0], [1.5, 3.0], [2.0, 4.0]] {
            let times = fitted(shares);
            assert_near(times.handling_s, 0.02e-3, "a message");
            assert_near(times.target_session_s, 0.2e-3, "a session in a target's pass");
            for (rows, seconds) in &times.target_pass {
                assert_near(*seconds, verify_s(*rows, 1.0) + 0.04e-3, &format!("a pass of {rows} rows"));
            }
            assert_near(times.target_pass.last().unwrap().0, shares[1] * 5.0, "rows of the fullest pass");
            assert_near(times.draft_pass[0].1, 0.1e-3, "a step of the draft");
            let (sessions, seconds) = times.draft_pass[1];
            assert_near(sessions, shares[1], "sessions of the draft's fullest pass");
            assert_near(seconds, 1e-3 * (0.1 + 0.05 * (sessions - 1.0)), "it");
            assert_eq!(times.branch_pass.len(), 2);
            assert_near(times.branch_pass[1].1 / times.branch_pass[1].0, 0.06e-3, "a branch's row");
        }
    }
}
