//! Speculation over a distance: the bytes stay those of AR, and the distance is where it was put.

use std::time::Duration;

use coordinator::{Access, Pair, Request, report::median};
use model::{EmbeddedModel, Limits};
use outrider_tests::cluster::{
    Embedded, Node, alone, assert_same, decoders, model, request, run, sampled, spawn, worker,
};
use speculative::{Sampling, policy::Gamma};
use telemetry::Distance;

const RTT: Duration = Duration::from_millis(12);

/// The embedded pair as it is seen from so far away.
async fn seen_from(embedded: &Embedded, access: Access) -> Pair {
    Pair::connect(Some(&embedded.draft.url()), &embedded.target.url(), &access).await.expect("the pair")
}

/// Each leg waits for its own distance, in real time, and for no other.
#[tokio::test]
async fn an_emulated_distance_is_the_network_of_its_leg() {
    let embedded = Embedded::start().await;
    let asked = request("ROMEO:", sampled(0.8, 31), 96, 4);
    let expected = run(&embedded.pair, &alone(&asked)).await;
    let far = Distance { rtt: RTT, ..Distance::default() };
    for (draft_distance, target_distance) in [(far, Distance::default()), (Distance::default(), far)] {
        let pair = seen_from(&embedded, Access { draft_distance, target_distance, ..Access::default() }).await;
        let seen = run(&pair, &asked).await;
        assert_same(&seen, &expected, "at a distance");
        let network = |leg: fn(&coordinator::Cycle) -> Duration| {
            Duration::from_secs_f64(
                median(&seen.cycles.iter().map(|cycle| leg(cycle).as_secs_f64()).collect::<Vec<_>>()).unwrap(),
            )
        };
        let draft = network(|cycle| cycle.draft.map_or(Duration::ZERO, |leg| leg.network));
        let target = network(|cycle| cycle.target.network);
        let (away, near) = if draft_distance == far { (draft, target) } else { (target, draft) };
        assert!((RTT..2 * RTT).contains(&away), "{away:?}");
        assert!(near < RTT / 2, "{near:?}");
    }
}

/// Jitter and a thin link change times only.
#[tokio::test]
async fn what_travels_badly_arrives_all_the_same() {
    let embedded = Embedded::start().await;
    let asked = request("ROMEO:", sampled(0.8, 32), 96, 4);
    let expected = run(&embedded.pair, &alone(&asked)).await;
    let bad = Distance { rtt: RTT / 4, jitter: RTT / 4, bits_per_s: Some(1e6) };
    let access = Access { draft_distance: bad, target_distance: bad, ..Access::default() };
    let pair = seen_from(&embedded, access).await;
    assert_same(&run(&pair, &asked).await, &expected, "over bad links");
}

/// γ follows the distance: as far away as this no proposal pays, and near it does. The bytes do not change.
#[tokio::test]
async fn gamma_follows_the_distance() {
    // A target whose passes are long enough that what else the machine does is small beside them.
    let slow = decoders::sleepy(model(EmbeddedModel::Target), Duration::from_millis(5));
    let target = Node::target(spawn(slow, Limits::default()));
    let embedded = Embedded::with(Node::draft(worker(EmbeddedModel::Draft)), target).await;
    for sampling in [Sampling::greedy(), sampled(0.8, 33)] {
        let asked = Request { gamma: Gamma::Auto, ..request("ROMEO:", sampling, 600, 0) };
        let expected = run(&embedded.pair, &alone(&asked)).await;
        let far = Distance { rtt: 100 * RTT, ..Distance::default() };
        let access = Access { draft_distance: far, ..Access::default() };
        for (pair, pays) in [(embedded.pair.clone(), true), (seen_from(&embedded, access).await, false)] {
            let seen = run(&pair, &asked).await;
            assert_same(&seen, &expected, "γ of its own");
            let later = &seen.cycles[seen.cycles.len() / 2..];
            let drafted = later.iter().filter(|cycle| cycle.wanted > 0).count();
            let most = if pays { later.len() } else { later.len() / 20 };
            let least = if pays { later.len() / 2 } else { 0 };
            assert!((least..=most).contains(&drafted), "{drafted} of {} cycles drafted, near: {pays}", later.len());
        }
    }
}
