//! Drafters without a model, and proposals that end where the draft is unsure: the bytes stay those of AR.

use coordinator::{Pair, Request, Run};
use model::{EmbeddedModel, Limits, Worker};
use outrider_tests::cluster::{
    Embedded, Node, alone, another_tokenizer_target, assert_same, request, run, sampled, worker,
};
use speculative::{Penalties, Sampling, policy::Gamma};

fn proposed(run: &Run) -> (u64, u64) {
    (run.acceptance.proposed(), run.acceptance.accepted())
}

/// Text that repeats itself is foreseen from itself; the draft knows neither model nor tokenizer.
#[tokio::test]
async fn a_text_is_its_own_draft() {
    let draft = Node::draft(Worker::ngram(Limits::default()));
    let target = Node::target(worker(EmbeddedModel::Target));
    let embedded = Embedded::with(draft, target).await;
    let repeated = "To be, or not to be, that is the question. To be, or not to be, that is the ".repeat(2);
    let liking = Penalties { frequency: -0.4, ..Penalties::NONE };
    for (prompt, sampling) in [
        (repeated.as_str(), Sampling::greedy()),
        ("ROMEO:", sampled(0.8, 61)),
        ("ROMEO:", Sampling { penalties: liking, ..Sampling::greedy() }),
    ] {
        let asked = request(prompt, sampling, 512, 8);
        let expected = run(&embedded.pair, &alone(&asked)).await;
        // It drafts nothing ahead, whatever is asked.
        let seen = run(&embedded.pair, &Request { branches: 8, ..asked }).await;
        assert_same(&seen, &expected, "looked up");
        let (proposed, accepted) = proposed(&seen);
        assert!(proposed > 100 && accepted > 20, "{accepted} of {proposed}");
        assert!(seen.cycles.iter().all(|cycle| cycle.anticipation.is_none()));
    }
}

/// The surer the draft has to be, the less it proposes and the more of it is accepted.
#[tokio::test]
async fn a_draft_that_is_unsure_proposes_less() {
    let embedded = Embedded::start().await;
    for sampling in [Sampling::greedy(), sampled(0.8, 62)] {
        let asked = request("ROMEO:", sampling, 400, 8);
        let expected = run(&embedded.pair, &alone(&asked)).await;
        let mut before: Option<(u64, f64)> = None;
        for (min_confidence, branches) in [(0.0, 0), (0.3, 0), (0.7, 16), (0.95, 0)] {
            let seen = run(&embedded.pair, &Request { min_confidence, branches, ..asked.clone() }).await;
            assert_same(&seen, &expected, &format!("at least {min_confidence}"));
            assert!(seen.cycles.iter().all(|cycle| !cycle.lacks_draft()), "unsure is not absent");
            if branches > 0 {
                continue;
            }
            let (proposed, accepted) = proposed(&seen);
            let rate = accepted as f64 / proposed as f64;
            if let Some((more, worse)) = before {
                assert!(proposed < more && rate > worse, "{rate} of {proposed} at {min_confidence}, {worse} of {more}");
            }
            before = Some((proposed, rate));
        }
    }
}

/// A draft that is never sure enough costs what is waited for it: `auto` asks it now and then.
#[tokio::test]
async fn a_draft_that_is_never_sure_is_seldom_asked() {
    let embedded = Embedded::start().await;
    let asked = Request { gamma: Gamma::Auto, min_confidence: 1.0, ..request("ROMEO:", sampled(1.2, 63), 400, 8) };
    let expected = run(&embedded.pair, &alone(&asked)).await;
    let seen = run(&embedded.pair, &asked).await;
    assert_same(&seen, &expected, "never sure");
    let wanted = seen.cycles.iter().filter(|cycle| cycle.wanted > 0).count();
    assert!((1..seen.cycles.len() / 5).contains(&wanted), "asked in {wanted} of {} cycles", seen.cycles.len());
}

/// Ids are all that it needs: it pairs with a target of any tokenizer.
#[tokio::test]
async fn it_fits_every_tokenizer() {
    let draft = Node::draft(Worker::ngram(Limits::default()));
    let target = Node::target(another_tokenizer_target());
    let pair: Pair = outrider_tests::cluster::pair(Some(&draft), &target).await;
    assert_eq!(pair.draft.expect("a draft").description.model, "ngram");
}
