//! Rejection coupling: outputs are an exact sample of the target's distribution whatever the draft, what lies about its
//! samples is found out, and what holds with Gumbel coupling and can hold here holds.

use std::collections::HashMap;

use coordinator::{Access, Pair, Request};
use model::{EmbeddedModel, Limits, Worker};
use outrider_tests::cluster::{
    Embedded, Node, PATIENT, alone, assert_same, decoders,
    liar::{LIES, Liar, SAMPLED_LIES, of},
    model, request, run, sampled, spawn,
    talk::{DraftTalk, TargetTalk, channel, open},
    tokens, watch, worker,
};
use proto::v1::{self, RejectionReason};
use speculative::{Coupling, Penalties, Sampling, TokenId, policy::Gamma};
use tonic::Code;

/// Sessions at once.
const AT_ONCE: u64 = 16;

fn by_rejection(request: Request) -> Request {
    Request { coupling: Coupling::Rejection, ..request }
}

/// The smaller model as the target, for thousands of runs, beside a draft of one's own.
async fn small(draft: Worker) -> Embedded {
    Embedded::with(Node::draft(draft), Node::target(worker(EmbeddedModel::Draft))).await
}

/// The same model at a high temperature of its own: rejections are frequent.
fn disagreeing() -> Worker {
    spawn(decoders::tempered(model(EmbeddedModel::Draft), 2.5), Limits::default())
}

/// The first `length` tokens of many runs, how often each came; and the runs' acceptance rate.
async fn sample(pair: &Pair, asked: &Request, runs: u64, length: usize) -> (HashMap<Vec<TokenId>, u64>, f64) {
    let mut counts = HashMap::new();
    let (mut proposed, mut accepted) = (0, 0);
    let seeds: Vec<u64> = (0..runs).collect();
    for seeds in seeds.chunks(AT_ONCE as usize) {
        let running: Vec<_> = seeds
            .iter()
            .map(|&seed| {
                let sampling = Sampling { seed, ..asked.sampling };
                let (pair, asked) = (pair.clone(), Request { sampling, ..asked.clone() });
                tokio::spawn(async move { run(&pair, &asked).await })
            })
            .collect();
        for run in running {
            let run = run.await.expect("a run");
            *counts.entry(run.token_ids[..length].to_vec()).or_default() += 1;
            proposed += run.acceptance.proposed();
            accepted += run.acceptance.accepted();
        }
    }
    (counts, accepted as f64 / proposed as f64)
}

/// What the target says comes after `prefix`: the `kept` likeliest with their shares of them.
async fn next(pair: &Pair, asked: &Request, prefix: &[TokenId], kept: usize) -> Vec<(TokenId, f64)> {
    let prompt = [&asked.prompt[..], prefix].concat();
    let asked = Request { prompt, max_tokens: 1, top_logprobs: Some(kept), ..asked.clone() };
    let run = run(&pair.without_draft(), &alone(&asked)).await;
    let top = &run.logprobs[0].top;
    let weight = |logprob: &f32| (f64::from(*logprob) / asked.sampling.temperature).exp();
    let sum: f64 = top.iter().map(|(_, logprob)| weight(logprob)).sum();
    top.iter().map(|(token, logprob)| (*token, weight(logprob) / sum)).collect()
}

/// The probability of each sequence of `length` tokens, where each is one of the `kept` likeliest.
async fn exact(pair: &Pair, asked: &Request, kept: usize, length: usize) -> HashMap<Vec<TokenId>, f64> {
    let mut sequences = HashMap::from([(Vec::new(), 1.0)]);
    for _ in 0..length {
        let mut longer = HashMap::new();
        for (prefix, p) in sequences {
            for (token, share) in next(pair, asked, &prefix, kept).await {
                longer.insert([&prefix[..], &[token]].concat(), p * share);
            }
        }
        sequences = longer;
    }
    sequences
}

/// Pearson's test; what is rare counts as one cell, and what cannot be must not occur.
fn assert_sample_of(p: &HashMap<Vec<TokenId>, f64>, counts: &HashMap<Vec<TokenId>, u64>, what: &str) {
    let draws = counts.values().sum::<u64>() as f64;
    assert!(counts.keys().all(|sequence| p.contains_key(sequence)), "{what}: what is not kept has come");
    let (mut statistic, mut cells, mut rare) = (0.0, 0.0, (0.0, 0.0));
    let mut cell = |expected: f64, count: f64| {
        statistic += (count - expected).powi(2) / expected;
        cells += 1.0;
    };
    for (sequence, p) in p {
        let (expected, count) = (draws * p, *counts.get(sequence).unwrap_or(&0) as f64);
        match expected < 5.0 {
            true => rare = (rare.0 + expected, rare.1 + count),
            false => cell(expected, count),
        }
    }
    if rare.0 > 0.0 {
        cell(rare.0, rare.1);
    }
    let (freedom, spread) = (cells - 1.0, 2.0 / (9.0 * (cells - 1.0)));
    // Exceeded with probability 1e-4 (Wilson and Hilferty 1931).
    let limit = freedom * (1.0 - spread + 3.719_016 * f64::sqrt(spread)).powi(3);
    println!("{what}: chi-square {statistic:.1} of {limit:.1}, {cells} cells");
    assert!(statistic < limit, "{what}: chi-square {statistic:.1} of {limit:.1}");
}

/// The first tokens of thousands of runs, jointly, against the target's own probabilities: one from the prefill, then an
/// accepted token, a rejection's residual or the token after full acceptance, in all their mixtures.
#[tokio::test]
async fn outputs_are_an_exact_sample_of_the_target() {
    const RUNS: u64 = 4000;
    let truncated = Sampling { top_k: 4, ..sampled(1.0, 0) };
    let asked = by_rejection(request("ROMEO:\nI ", truncated, 5, 3));
    let embedded = small(disagreeing()).await;
    let p = exact(&embedded.pair, &asked, 4, 4).await;
    let (counts, rate) = sample(&embedded.pair, &asked, RUNS, 4).await;
    assert!((0.1..0.8).contains(&rate), "{rate} accepted");
    assert_sample_of(&p, &counts, &format!("{rate:.2} accepted"));

    // A draft that stops where it is unsure, but not for what it has drawn.
    let unsure = Request { min_confidence: 0.25, ..asked.clone() };
    let (counts, rate) = sample(&embedded.pair, &unsure, RUNS, 4).await;
    assert_sample_of(&p, &counts, &format!("unsure, {rate:.2} accepted"));

    // One that draws nothing: all of its distribution is what it looked up.
    let looking_up = small(Worker::ngram(Limits::default())).await;
    let asked = by_rejection(request("ROMEO:\nI am, I am, I ", truncated, 5, 3));
    let p = exact(&looking_up.pair, &asked, 4, 4).await;
    let (counts, rate) = sample(&looking_up.pair, &asked, RUNS, 4).await;
    assert_sample_of(&p, &counts, &format!("looked up, {rate:.2} accepted"));
}

/// All tokens are kept: each of the likeliest 20 as the second token, all others as one.
#[tokio::test]
async fn outputs_without_truncation_are_an_exact_sample_of_the_target() {
    const OTHERS: TokenId = 999;
    let embedded = small(disagreeing()).await;
    let asked = by_rejection(request("ROMEO:\nI ", sampled(1.0, 0), 3, 1));
    let likeliest = async |prefix: &[TokenId]| -> Vec<(TokenId, f64)> {
        let prompt = [&asked.prompt[..], prefix].concat();
        let asked = Request { prompt, max_tokens: 1, top_logprobs: Some(20), ..asked.clone() };
        let run = run(&embedded.pair.without_draft(), &alone(&asked)).await;
        run.logprobs[0].top.iter().map(|(token, logprob)| (*token, f64::from(*logprob).exp())).collect()
    };
    let mut p = HashMap::new();
    let firsts = likeliest(&[]).await;
    for &(first, p_first) in &firsts {
        let seconds = likeliest(&[first]).await;
        p.extend(seconds.iter().map(|(second, share)| (vec![first, *second], p_first * share)));
        p.insert(vec![first, OTHERS], p_first * (1.0 - seconds.iter().map(|(_, share)| share).sum::<f64>()));
    }
    p.insert(vec![OTHERS], 1.0 - firsts.iter().map(|(_, share)| share).sum::<f64>());
    let (counts, rate) = sample(&embedded.pair, &asked, 3000, 2).await;
    let mut known = HashMap::new();
    for (sequence, count) in counts {
        let others = if firsts.iter().any(|(first, _)| *first == sequence[0]) {
            vec![sequence[0], OTHERS]
        } else {
            vec![OTHERS]
        };
        *known.entry(if p.contains_key(&sequence) { sequence } else { others }).or_default() += count;
    }
    assert_sample_of(&p, &known, &format!("all kept, {rate:.2} accepted"));
}

/// Temperature 0 leaves nothing to chance.
#[tokio::test]
async fn greedy_output_is_that_of_ar() {
    let embedded = Embedded::start().await;
    let penalties = Penalties { frequency: 0.3, repetition: 1.2, ..Penalties::NONE };
    for sampling in [Sampling::greedy(), Sampling { penalties, ..Sampling::greedy() }] {
        for gamma in [1, 4, 16] {
            let asked = by_rejection(request("ROMEO:", sampling, 256, gamma));
            let ours = run(&embedded.pair, &asked).await;
            assert_same(&ours, &run(&embedded.pair, &alone(&asked)).await, &format!("γ {gamma}"));
            assert!(ours.acceptance.accepted() > 0 && ours.acceptance.rejections() > 0);
        }
    }
}

/// One seed, one draft and one γ give one text; of rejection coupling no more is promised.
#[tokio::test]
async fn the_same_seed_gives_the_same_bytes_again() {
    let embedded = Embedded::start().await;
    let penalties = Penalties { presence: 0.4, ..Penalties::NONE };
    for sampling in [sampled(0.8, 81), Sampling { top_p: 0.9, min_p: 0.02, penalties, ..sampled(1.2, 82) }] {
        let asked = by_rejection(request("ROMEO:", sampling, 300, 4));
        let (one, other) = (run(&embedded.pair, &asked).await, run(&embedded.pair, &asked).await);
        assert_same(&one, &other, "again");
        assert!(one.acceptance.accepted() > 0 && one.acceptance.rejections() > 0);
        let alone = run(&embedded.pair, &alone(&asked)).await;
        assert_ne!(one.token_ids, alone.token_ids, "another sample than AR's");
        let gumbel = run(&embedded.pair, &Request { coupling: Coupling::Gumbel, ..asked }).await;
        assert_same(&gumbel, &alone, "by shared noise");
        println!("by rejection {:?}, by shared noise {:?}", one.acceptance, gumbel.acceptance);
    }
}

/// γ that is chosen, a draft that is unsure, and a target that is lost on the way.
#[tokio::test]
async fn what_holds_with_shared_noise_holds_by_rejection() {
    let Embedded { draft, target: mut first, pair: _ } = Embedded::start().await;
    let second = Node::target(worker(EmbeddedModel::Target));
    let targets = format!("{},{}", first.url(), second.url());
    let pair = Pair::connect(Some(&draft.url()), &targets, &Access::default()).await.expect("the pair");
    let asked = by_rejection(request("ROMEO:", sampled(0.8, 83), 400, 4));
    let (mut alive, mut at) = (true, 0);
    let reaper = |characters| {
        if characters >= 100 && alive {
            (alive, at) = (false, characters);
            first.kill();
        }
    };
    let seen = watch(&pair, &asked, PATIENT, reaper).await.expect("a run that goes on");
    assert_eq!((seen.token_ids.len(), seen.failovers), (400, 1));
    assert!(at > 0 && seen.cycles.iter().rev().take(20).any(|cycle| cycle.accepted > 0), "drafted to the end");

    let chosen = run(&pair, &Request { gamma: Gamma::Auto, ..asked.clone() }).await;
    assert!(chosen.token_ids.len() == 400 && chosen.acceptance.proposed() > 0);
    let whole = run(&pair, &asked).await;
    let unsure = run(&pair, &Request { min_confidence: 0.7, ..asked }).await;
    assert!(unsure.acceptance.proposed() < whole.acceptance.proposed());
    assert!(unsure.acceptance.acceptance_rate() > whole.acceptance.acceptance_rate());
}

/// Whatever breaks the protocol counts as nothing proposed: what is put out is what a target says to which nothing is.
#[tokio::test]
async fn a_draft_that_lies_about_its_samples_has_proposed_nothing() {
    let Embedded { draft, target, pair } = Embedded::start().await;
    let asked = by_rejection(request("ROMEO:", sampled(0.8, 84), 48, 4));
    let nothing = run(&pair, &Request { gamma: 0.into(), ..asked.clone() }).await;
    let told_nothing = LIES.into_iter().map(|lie| (lie, false));
    for (lie, usable) in SAMPLED_LIES.into_iter().map(|lie| (lie, lie.usable)).chain(told_nothing) {
        let liar = Liar::start(pair.draft.clone().expect("a draft").description, lie).await;
        let lied_to = Pair::connect(Some(&liar.url()), &target.url(), &Access::default()).await.expect("a pair");
        let seen = run(&lied_to, &asked).await;
        assert_eq!(seen.acceptance.proposed() > 0, usable, "{}", lie.name);
        if !usable {
            assert_same(&seen, &nothing, lie.name);
        }
    }
    drop(draft);
}

/// A service that does not say that it knows rejection coupling is not asked for it.
#[tokio::test]
async fn services_that_know_shared_noise_alone_are_refused_with_their_side() {
    let Embedded { draft, target, pair } = Embedded::start().await;
    let asked = by_rejection(request("ROMEO:", sampled(0.8, 85), 16, 4));
    let older = |described: &v1::DescribeResponse| v1::DescribeResponse { couplings: Vec::new(), ..described.clone() };
    let liar = Liar::start(older(&pair.draft.clone().expect("a draft").description), LIES[0]).await;
    let older_draft = Pair::connect(Some(&liar.url()), &target.url(), &Access::default()).await.expect("a pair");
    let mut older_target = pair.clone();
    older_target.target.description = older(&pair.target.description);
    for (pair, side) in [(&older_draft, "the draft"), (&older_target, "the target")] {
        let refused = watch(pair, &asked, PATIENT, |_| ()).await.expect_err("a refusal").to_string();
        assert!(refused.contains(side) && refused.contains("allowed: those with rejection"), "{refused}");
        let gumbel = Request { coupling: Coupling::Gumbel, ..asked.clone() };
        watch(pair, &gumbel, PATIENT, |_| ()).await.expect("shared noise is known to all");
    }
    let ahead = watch(&pair, &Request { branches: 4, ..asked }, PATIENT, |_| ()).await.expect_err("a refusal");
    assert!(ahead.to_string().contains("branches (with rejection coupling) is 4, allowed: 0 to 0"), "{ahead}");
    drop(draft);
}

fn opening(coupling: v1::Coupling) -> v1::Open {
    v1::Open { coupling: coupling.into(), ..open(&tokens("ROMEO:"), sampled(0.8, 86), 40) }
}

/// Distributions travel only where they are asked for, one with each token, and each token is in its own.
#[tokio::test]
async fn a_draft_tells_what_it_sampled_from_where_it_is_asked() {
    let node = Node::draft(worker(EmbeddedModel::Draft));
    for (coupling, told) in [(v1::Coupling::Unspecified, 0), (v1::Coupling::Gumbel, 0), (v1::Coupling::Rejection, 4)] {
        let mut talk = DraftTalk::open(&channel(&node), opening(coupling)).await;
        talk.opened().await;
        talk.propose(1, 7, &[32], 4).await;
        let proposal = talk.proposal().await;
        assert_eq!((proposal.tokens.len(), proposal.distributions.len()), (4, told));
        let mut pairs = proposal.distributions.iter().zip(&proposal.tokens);
        assert!(pairs.all(|(distribution, token)| distribution.tokens.contains(token)), "{proposal:?}");
    }
}

/// Each refusal names the field, its value and what is allowed; the session goes on.
#[tokio::test]
async fn a_target_refuses_what_was_not_sampled() {
    let node = Node::target(worker(EmbeddedModel::Target));
    let mut talk = TargetTalk::open(&channel(&node), opening(v1::Coupling::Rejection)).await;
    let mut base_len = talk.opened().await.base_len as usize;
    let many = of((0..127).map(|token| (token, 1.0 / 127.0)).chain([(127, 1e-6), (128, 1e-6)]));
    let cases: [(&[v1::DraftDistribution], &[&str]); 10] = [
        (&[], &["distributions is 0", "allowed: 1"]),
        (&[of([(32, 1.0)]), of([(32, 1.0)])], &["distributions is 2", "allowed: 1"]),
        (&[of([])], &["distributions[0].tokens", "is 0", "1 to 128"]),
        (&[many], &["tokens (number) is 129", "1 to 128"]),
        (&[of([(32, 0.5), (128, 0.5)])], &["tokens (id) is 128", "0 to 127"]),
        (&[of([(33, 0.5), (32, 0.5)])], &["32 after 33", "ascending"]),
        (&[of([(32, 0.0), (33, 1.0)])], &["probabilities is 0", "above 0, up to 1"]),
        (&[of([(32, f32::NAN)])], &["probabilities is NaN", "above 0, up to 1"]),
        (&[of([(32, 0.75)])], &["(sum) is 0.75", "1 ± 0.0001"]),
        (&[of([(33, 1.0)])], &["without 32", "with the proposed token"]),
    ];
    let mut cycle = 0;
    for (distributions, words) in cases {
        cycle += 1;
        talk.verify_drafted(cycle, base_len, &[32], distributions.to_vec()).await;
        talk.refused(RejectionReason::Distribution, cycle, base_len, words).await;
        cycle += 1;
        talk.verify_drafted(cycle, base_len, &[32], vec![of([(32, 1.0)])]).await;
        base_len += talk.verdict().await.tokens.len();
    }
    let unknown = v1::Open { coupling: 3, ..opening(v1::Coupling::Rejection) };
    let ahead = v1::Open { branches: 1, ..opening(v1::Coupling::Rejection) };
    for (open, words) in
        [(unknown, "coupling is 3, allowed: 0 to 2"), (ahead, "branches (with rejection coupling) is 1")]
    {
        let status = TargetTalk::open(&channel(&node), open).await.status().await;
        assert!(status.code() == Code::InvalidArgument && status.message().contains(words), "{status:?}");
    }
}
