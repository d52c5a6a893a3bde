//! The oracle: same prompt, same sampling, same seed ⇒ the same tokens as plain autoregressive decoding, whatever is
//! proposed.

use coordinator::{Request, StopReason};
use model::{EmbeddedModel, Limits};
use outrider_tests::cluster::{Embedded, alone, assert_same, decoders, model, request, run, sampled, spawn};
use speculative::{Penalties, Sampling};

const TOKENS: usize = 512;

/// Runs `base` for every γ and compares with the target alone, which runs once.
async fn equals_ar(base: Request, gammas: &[usize]) {
    let pair = Embedded::start().await;
    let alone = run(&pair.pair, &alone(&base)).await;
    assert_eq!(alone.token_ids.len(), base.max_tokens);
    assert_eq!(alone.acceptance.proposed(), 0);
    for &gamma in gammas {
        let what = format!("γ = {gamma}, {:?}, prompt of {}", base.sampling, base.prompt.len());
        let speculative = run(&pair.pair, &Request { gamma: gamma.into(), ..base.clone() }).await;
        assert_same(&speculative, &alone, &what);
        assert!(speculative.acceptance.accepted() > 0, "{what}: nothing was accepted");
        let mut emitted = 1;
        for cycle in &speculative.cycles {
            let wanted = base.max_tokens - emitted;
            assert_eq!(cycle.gamma, gamma.min(wanted - 1), "{what}: cycle {}", cycle.number);
            emitted += cycle.accepted + 1;
        }
        assert_eq!(emitted, speculative.token_ids.len(), "{what}: each token once");
    }
}

/// Greedy decoding, from a prompt of one token and from a longer one.
#[tokio::test]
async fn greedy_output_is_the_targets_own() {
    for prompt in ["\n", "KING RICHARD II:\nO, "] {
        equals_ar(request(prompt, Sampling::greedy(), TOKENS, 0), &[1, 2, 4, 8, 16]).await;
    }
}

/// At the temperature of every day. Over both temperatures, each truncation meets every γ.
#[tokio::test]
async fn sampled_output_is_the_targets_own() {
    let gammas: [&[usize]; 5] = [&[1, 4, 16], &[2, 8], &[1, 4, 16], &[2, 8], &[1, 4, 16]];
    for ((prompt, sampling), gammas) in mixes(0.8).into_iter().zip(gammas) {
        equals_ar(request(prompt, sampling, TOKENS, 0), gammas).await;
    }
}

/// Hot: more proposals are wrong, so more cycles roll back.
#[tokio::test]
async fn hot_output_is_the_targets_own() {
    let gammas: [&[usize]; 5] = [&[2, 8], &[1, 4, 16], &[2, 8], &[1, 4, 16], &[2, 8]];
    for ((prompt, sampling), gammas) in mixes(1.2).into_iter().zip(gammas) {
        equals_ar(request(prompt, sampling, TOKENS, 0), gammas).await;
    }
}

/// No truncation, each of them, and all of them, each from its own prompt and seed.
fn mixes(temperature: f64) -> [(&'static str, Sampling); 5] {
    let seed = (temperature * 10.0) as u64;
    let sampling = |seed| sampled(temperature, seed);
    let (k, p, all) = (sampling(u64::MAX - seed), sampling(seed << 40), sampling(7 * seed));
    [
        ("ROMEO:", sampling(seed)),
        ("First Citizen:\nBefore we proceed any further, ", Sampling { top_k: 20, ..k }),
        ("O", Sampling { top_p: 0.9, ..p }),
        ("JULIET:\n", Sampling { min_p: 0.05, ..p }),
        ("QUEEN MARGARET:\nO thou ", Sampling { top_k: 50, top_p: 0.95, min_p: 0.02, ..all }),
    ]
}

/// Each penalty, and all of them, on both models' rows: what a window holds already counts at its later rows.
#[tokio::test]
async fn penalised_output_is_the_targets_own() {
    let presence = Penalties { presence: 1.5, ..Penalties::NONE };
    let frequency = Penalties { frequency: 0.3, ..Penalties::NONE };
    let repetition = Penalties { repetition: 1.3, ..Penalties::NONE };
    let rewarded = Penalties { presence: -0.7, frequency: -0.1, repetition: 0.9 };
    for (penalties, gammas) in [(presence, [1, 16]), (frequency, [4, 8]), (repetition, [2, 16]), (rewarded, [4, 16])] {
        for temperature in [0.0, 0.8] {
            let sampling = Sampling { penalties, ..sampled(temperature, 17) };
            equals_ar(request(PARTING, sampling, 200, 0), &gammas).await;
        }
    }
}

/// The draft is penalised as the target is: it would be wrong far more often if it were not.
#[tokio::test]
async fn penalties_reach_the_draft() {
    let embedded = Embedded::start().await;
    let plain = request(PARTING, sampled(0.8, 18), 400, 4);
    let penalties = Penalties { frequency: 0.5, ..Penalties::NONE };
    let penalised = Request { sampling: Sampling { penalties, ..plain.sampling }, ..plain.clone() };
    let (plain, penalised) = (run(&embedded.pair, &plain).await, run(&embedded.pair, &penalised).await);
    assert_ne!(plain.text, penalised.text);
    let letters = |run: &coordinator::Run| run.token_ids.iter().collect::<std::collections::BTreeSet<_>>().len();
    assert!(letters(&penalised) > letters(&plain), "what was written often makes way for what was not");
    let rate = penalised.acceptance.acceptance_rate().expect("proposals");
    assert!(rate > 0.4, "{rate}");
}

/// A prompt of hundreds of tokens, of which the target writes the first ones itself.
#[tokio::test]
async fn a_long_prompt_changes_nothing() {
    let pair = Embedded::start().await;
    let written = run(&pair.pair, &request("ROMEO:", sampled(0.8, 1), 600, 8)).await.text;
    for sampling in [Sampling::greedy(), Sampling { min_p: 0.05, ..sampled(1.2, 3) }] {
        equals_ar(request(&written, sampling, 128, 0), &[4, 16]).await;
    }
}

/// A prompt that leaves less of the context than is asked for: the run ends where the context does, on the last token
/// that fits.
#[tokio::test]
async fn a_full_context_ends_the_run_with_every_gamma() {
    let embedded = Embedded::start().await;
    let context = embedded.pair.target.description.context_length as usize;
    let prompt = PARTING.repeat(context / PARTING.len() + 1);
    for (left, gamma) in [(120, 4), (120, 16), (17, 16), (2, 4), (1, 4)] {
        let asked = request(&prompt[..context - left], sampled(0.8, 5), TOKENS, gamma);
        let alone = run(&embedded.pair, &alone(&asked)).await;
        assert_eq!(alone.stop_reason, StopReason::Length);
        assert_eq!(alone.token_ids.len(), left, "the context is full to the last position");
        let speculative = run(&embedded.pair, &asked).await;
        assert_same(&speculative, &alone, &format!("γ = {gamma}, {left} positions left"));
    }
}

const PARTING: &str =
    "Good night, good night! parting is such sweet sorrow,\nThat I shall say good night till it be morrow.\n";

/// The text ends before the stop string, the tokens with the one that completed it, wherever in a window it falls.
#[tokio::test]
async fn a_stop_string_ends_both_at_the_same_token() {
    let embedded = Embedded::start().await;
    let base = request("ROMEO:", sampled(0.8, 11), 200, 0);
    let whole = run(&embedded.pair, &base).await.text;
    for (at, length) in [(40, 1), (61, 3), (90, 8), (150, 2)] {
        let stop = vec!["never written".to_owned(), whole[at..at + length].to_owned()];
        let ends = whole.find(&stop[1]).expect("it is in the text");
        let base = Request { stop, ..base.clone() };
        let alone = run(&embedded.pair, &base).await;
        assert_eq!(alone.text, whole[..ends]);
        assert_eq!(alone.token_ids.len(), ends + length, "the completing token is the last");
        assert_eq!(alone.stop_reason, StopReason::Stop);
        for gamma in [1, 3, 8, 16] {
            let speculative = run(&embedded.pair, &Request { gamma: gamma.into(), ..base.clone() }).await;
            assert_same(&speculative, &alone, &format!("γ = {gamma}, stop at {ends}"));
        }
    }
}

/// Where the draft's context is full and the target's is not, cycles go on without a proposal.
#[tokio::test]
async fn a_draft_with_a_smaller_context_rides_until_it_is_full() {
    const CONTEXT: usize = 100;
    let small = decoders::plain(model(EmbeddedModel::Draft)).described(|draft| draft.context = CONTEXT);
    let embedded = Embedded::drafted_by(spawn(small, Limits::default())).await;
    let asked = request("ROMEO:", sampled(0.8, 2), 200, 4);
    let speculative = run(&embedded.pair, &asked).await;
    assert_same(&speculative, &run(&embedded.pair, &alone(&asked)).await, "a small draft");

    let mut base_len = asked.prompt.len() + 1;
    for cycle in &speculative.cycles {
        let room = CONTEXT.saturating_sub(base_len);
        assert!(cycle.gamma <= room, "{} proposed into room for {room}", cycle.gamma);
        assert_eq!(cycle.draft.is_some(), room > 0, "asked after {base_len} tokens");
        base_len += cycle.accepted + 1;
    }

    let filled = request(&PARTING[..CONTEXT], sampled(0.8, 2), 50, 4);
    let speculative = run(&embedded.pair, &filled).await;
    assert_same(&speculative, &run(&embedded.pair, &alone(&filled)).await, "a prompt that fills the draft");
    assert_eq!(speculative.acceptance.proposed(), 0);
}
