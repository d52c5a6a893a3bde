//! A draft that goes on while the target verifies: the bytes stay those of AR, and verdicts are foreseen.

use std::time::Duration;

use coordinator::{Access, AnticipationOutcome, Cycle, Deadlines, Pair, Request, Run};
use model::{EmbeddedModel, Limits};
use outrider_tests::cluster::{
    Embedded, PATIENT, alone, assert_same, decoders, model, request, run, sampled, spawn, watch, worker,
};
use speculative::{Penalties, Sampling, policy::Gamma};
use telemetry::Distance;

/// The embedded pair with the draft so far away.
async fn from_afar(embedded: &Embedded, rtt: Duration) -> Pair {
    let draft_distance = Distance { rtt, ..Distance::default() };
    let access = Access { draft_distance, ..Access::default() };
    Pair::connect(Some(&embedded.draft.url()), &embedded.target.url(), &access).await.expect("the pair")
}

fn count(run: &Run, outcome: AnticipationOutcome) -> usize {
    run.cycles.iter().filter(|cycle| cycle.anticipation.is_some_and(|seen| seen.outcome == outcome)).count()
}

/// At any temperature, fan-out and distance, with penalties and truncation.
#[tokio::test]
async fn what_is_drafted_ahead_changes_no_byte() {
    let embedded = Embedded::start().await;
    let penalised = Penalties { presence: 0.4, frequency: 0.1, repetition: 1.1 };
    let mixes = [
        Sampling::greedy(),
        sampled(0.8, 41),
        sampled(1.2, 42),
        Sampling { top_k: 12, top_p: 0.9, ..sampled(0.8, 43) },
        Sampling { penalties: penalised, min_p: 0.02, ..sampled(0.8, 44) },
    ];
    for (at, sampling) in mixes.into_iter().enumerate() {
        let asked = request("ROMEO:", sampling, 512, 0);
        let expected = run(&embedded.pair, &alone(&asked)).await;
        for (rtt_ms, branches, gamma) in [(0, 16, 4), (2, 3, 4), (6, 64, 1 + at), (2, 16, 8)] {
            let pair = from_afar(&embedded, Duration::from_millis(rtt_ms)).await;
            let asked = Request { branches, gamma: gamma.into(), ..asked.clone() };
            let seen = run(&pair, &asked).await;
            let what = format!("{sampling:?}, {rtt_ms} ms, {branches} branches, γ {gamma}");
            assert_same(&seen, &expected, &what);
            let [hits, late, misses] =
                [AnticipationOutcome::Hit, AnticipationOutcome::LateHit, AnticipationOutcome::Miss]
                    .map(|outcome| count(&seen, outcome));
            println!("{what}: {hits} hits, {late} late, {misses} misses, {} cycles", seen.cycles.len());
            assert!(hits + late > 0, "{what}: nothing was foreseen");
        }
    }
}

/// Killed while it drafts ahead, started anew, and killed again; and with γ of its own.
#[tokio::test]
async fn a_draft_that_dies_while_it_goes_ahead_changes_no_byte() {
    let mut embedded = Embedded::start().await;
    let pair = from_afar(&embedded, Duration::from_millis(1)).await;
    let asked = request("JULIET:", sampled(0.8, 45), 900, 0);
    let expected = run(&pair.without_draft(), &alone(&asked)).await;
    for gamma in [Gamma::Fixed(4), Gamma::Auto] {
        let asked = Request { branches: 16, gamma, ..asked.clone() };
        let mut lives = 0;
        let grim = |characters: usize| {
            if characters / 150 > lives {
                lives = characters / 150;
                embedded.draft.kill();
                embedded.draft.restart(worker(EmbeddedModel::Draft));
            }
        };
        let seen = watch(&pair, &asked, PATIENT, grim).await.unwrap();
        assert_same(&seen, &expected, &format!("killed again and again, γ {gamma}"));
        let later = seen.cycles.iter().rev().take(seen.cycles.len() / 2);
        assert!(later.filter(|cycle| cycle.anticipation.is_some()).count() > 0, "drafted ahead again");
    }
}

/// Many sessions of one draft go ahead at once, in shared passes, beside one that asks.
#[tokio::test]
async fn sessions_that_go_ahead_do_not_touch_each_other() {
    let embedded = Embedded::start().await;
    let pair = from_afar(&embedded, Duration::from_millis(3)).await;
    let runs = (0..6).map(|seed| {
        let asked = request("ROMEO:", sampled(0.8, 50 + seed), 300, 4);
        let (pair, branches) = (pair.clone(), if seed == 0 { 0 } else { 4 * seed as usize });
        tokio::spawn(async move {
            let seen = run(&pair, &Request { branches, ..asked.clone() }).await;
            (seen, run(&pair.without_draft(), &alone(&asked)).await, branches)
        })
    });
    for running in runs.collect::<Vec<_>>() {
        let (seen, expected, branches) = running.await.unwrap();
        assert_same(&seen, &expected, &format!("{branches} branches"));
        let anticipated = seen.cycles.iter().filter(|cycle| cycle.anticipation.is_some()).count();
        assert_eq!(anticipated > 0, branches > 0, "{anticipated} with {branches} branches");
    }
}

/// Proposals that come too late, a few cycles of AR after they were asked for, and branches for what came meanwhile: the draft is
/// asked again to the end.
#[tokio::test]
async fn a_draft_that_is_always_late_is_not_silenced_by_its_branches() {
    // The target is its own draft, so what is drafted ahead is what comes.
    let slow = decoders::sleepy(model(EmbeddedModel::Target), Duration::from_millis(1));
    let embedded = Embedded::drafted_by(spawn(slow, Limits::default())).await;
    let asked = Request { branches: 16, ..request("ROMEO:", Sampling::greedy(), 600, 3) };
    let expected = run(&embedded.pair.without_draft(), &alone(&asked)).await;
    let deadlines = Deadlines { draft: Duration::from_millis(2), ..PATIENT };
    let seen = watch(&embedded.pair, &asked, deadlines, |_| ()).await.unwrap();
    assert_same(&seen, &expected, "always late");
    let asked = |cycle: &&Cycle| cycle.draft.is_some() || cycle.gamma > 0;
    let late = seen.cycles.len() * 3 / 4;
    assert!(seen.cycles[late..].iter().filter(asked).count() > 4, "not asked any more: {:?}", seen.acceptance);
}
