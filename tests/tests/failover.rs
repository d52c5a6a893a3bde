//! A replica that goes away costs time, never output: the session goes on elsewhere, with the same bytes.

use std::time::{Duration, Instant};

use coordinator::{Access, Deadlines, Error, Pair, Request, Run};
use model::{Description, EmbeddedModel, Limits, Worker};
use outrider_tests::cluster::{
    LONG, Node, PATIENT, alone, assert_same, decoders, eventually, model, pair, request, run, sampled, spawn, watch,
    within, worker,
};
use speculative::{Penalties, Sampling};
use tonic::Code;

/// Short, and yet nothing misses it that only waits for a busy machine.
const PROMPT_TARGET: Deadlines = Deadlines { target: Duration::from_secs(2), ..PATIENT };

fn target() -> Node {
    Node::target(own(EmbeddedModel::Target))
}

/// A model on a thread of its own, so that its sessions can be told from others.
fn own(embedded: EmbeddedModel) -> Worker {
    spawn(model(embedded), Limits::default())
}

async fn connect(drafts: &[&Node], targets: &[&Node]) -> Pair {
    let urls = |nodes: &[&Node]| nodes.iter().map(|node| node.url()).collect::<Vec<_>>().join(",");
    let draft = Some(urls(drafts)).filter(|urls| !urls.is_empty());
    within(LONG, Pair::connect(draft.as_deref(), &urls(targets), &Access::default()))
        .await
        .expect("services that fit together")
}

/// Runs; at every text that is longer than `at` characters for the first time `strike` is called.
async fn struck(
    pair: &Pair,
    asked: &Request,
    deadlines: Deadlines,
    at: usize,
    strike: impl FnOnce(),
) -> Result<Run, Error> {
    let mut strike = Some(strike);
    let seen = |characters| {
        if characters >= at
            && let Some(strike) = strike.take()
        {
            strike();
        }
    };
    within(LONG, watch(pair, asked, deadlines, seen)).await
}

/// What the target alone writes.
async fn truth(asked: &Request) -> Run {
    let node = Node::target(worker(EmbeddedModel::Target));
    run(&pair(None, &node).await, &alone(asked)).await
}

#[tokio::test]
async fn another_target_takes_over() {
    let draft = Node::draft(worker(EmbeddedModel::Draft));
    // With a penalty whoever takes over must know which tokens are the prompt's.
    let penalties = Penalties { frequency: 0.2, repetition: 1.2, ..Penalties::NONE };
    let penalised = Sampling { penalties, ..sampled(0.8, 62) };
    for (gamma, sampling) in [(0, sampled(0.8, 61)), (4, penalised), (16, Sampling::greedy())] {
        let (mut first, second) = (target(), target());
        let pair = connect(&[&draft], &[&first, &second]).await;
        let asked = Request { top_logprobs: Some(2), ..request("ROMEO:", sampling, 512, gamma) };
        let run = struck(&pair, &asked, PATIENT, 50, || first.kill()).await.expect("a run that goes on");
        assert_same(&run, &truth(&asked).await, &format!("γ {gamma}"));
        assert_eq!(run.logprobs.len(), 512);
        let lost = run.cycles.iter().filter(|cycle| cycle.target.compute.is_zero()).count();
        assert_eq!(lost, 1, "the cycle whose verdict was lost");
        let whole: usize = run.cycles.iter().map(|cycle| cycle.accepted + 1).sum();
        assert_eq!(whole + 1, run.token_ids.len(), "every token is of one cycle, or the first");
        if gamma > 0 {
            let mut after = run.cycles.iter().skip_while(|cycle| !cycle.target.compute.is_zero()).skip(1);
            assert!(after.any(|cycle| cycle.accepted > 0), "the draft goes on");
        }
    }
}

/// Several times, until each of three has been the one.
#[tokio::test]
async fn a_run_outlives_all_targets_but_the_last() {
    let mut nodes = vec![target(), target(), target()];
    let pair = connect(&[], &nodes.iter().collect::<Vec<_>>()).await;
    let asked = request("ROMEO:", sampled(0.8, 63), 600, 0);
    let seen = |characters| {
        if characters >= 150 * (4 - nodes.len()) && nodes.len() > 1 {
            drop(nodes.remove(0));
        }
    };
    let run = within(LONG, watch(&pair, &asked, PATIENT, seen)).await.expect("a run that goes on");
    assert_same(&run, &truth(&asked).await, "two targets lost");
}

#[tokio::test]
async fn a_target_that_is_started_anew_goes_on() {
    let mut node = target();
    let pair = connect(&[], &[&node]).await;
    let asked = request("ROMEO:", sampled(0.8, 64), 400, 0);
    let restart = || {
        node.kill();
        node.restart(own(EmbeddedModel::Target));
    };
    let run = struck(&pair, &asked, PATIENT, 50, restart).await.expect("a run that goes on");
    assert_same(&run, &truth(&asked).await, "started anew");
}

#[tokio::test]
async fn a_target_that_hangs_is_left_after_its_deadline() {
    let gate = decoders::Gate::default();
    let hanging = Node::target(spawn(decoders::gated(model(EmbeddedModel::Target), gate.clone()), Limits::default()));
    let second = target();
    let pair = connect(&[], &[&hanging, &second]).await;
    let asked = request("ROMEO:", sampled(0.8, 65), 300, 0);
    let begun = Instant::now();
    let run = struck(&pair, &asked, PROMPT_TARGET, 50, || gate.shut()).await.expect("a run that goes on");
    assert!(begun.elapsed() >= PROMPT_TARGET.target);
    assert_same(&run, &truth(&asked).await, "a target that hangs");
    gate.open();
}

/// With no replica left the error says what became of the first, in a time that is bounded.
#[tokio::test]
async fn without_a_replica_that_fits_the_request_fails() {
    let changes: [fn(&mut Description); 3] = [
        |description| description.fingerprint = "another".to_owned(),
        |description| description.arithmetic = "another".to_owned(),
        |description| description.tokenizer = decoders::another_tokenizer(),
    ];
    for (case, change) in changes.into_iter().enumerate() {
        let mut first = target();
        let unfit = spawn(decoders::plain(model(EmbeddedModel::Target)).described(change), Limits::default());
        let unfit = Node::target(unfit);
        let pair = connect(&[], &[&first, &unfit]).await;
        let asked = request("ROMEO:", sampled(0.8, 66), 1500, 0);
        let begun = Instant::now();
        match struck(&pair, &asked, PROMPT_TARGET, 50, || first.kill()).await {
            Err(Error::Target { committed, .. }) => assert!(committed > 50, "{committed}"),
            other => panic!("case {case}: the target is lost, not {other:?}"),
        }
        let took = begun.elapsed();
        assert!(took >= PROMPT_TARGET.target && took < 4 * PROMPT_TARGET.target, "{took:?}");
    }
}

/// A target that came back as another model is found out when it opens a session, if not before.
#[tokio::test]
async fn a_target_that_comes_back_as_another_model_gets_no_session() {
    let mut node = target();
    let pair = connect(&[], &[&node]).await;
    let asked = request("ROMEO:", sampled(0.8, 67), 40, 0);
    let expected = run(&pair, &asked).await;
    node.kill();
    let other = decoders::plain(model(EmbeddedModel::Target)).described(|model| model.fingerprint = "other".to_owned());
    node.restart(spawn(other, Limits::default()));
    match within(LONG, watch(&pair, &asked, PROMPT_TARGET, |_| ())).await {
        Err(Error::Target { .. }) => {}
        other => panic!("no target, not {other:?}"),
    }
    node.kill();
    node.restart(own(EmbeddedModel::Target));
    let again = within(LONG, async {
        loop {
            if let Ok(run) = watch(&pair, &asked, PROMPT_TARGET, |_| ()).await {
                break run;
            }
        }
    });
    assert_same(&again.await, &expected, "back as itself");
}

/// Where that is allowed, and then only where nobody with the same is left, another arithmetic goes on, and the run says so.
#[tokio::test]
async fn another_arithmetic_takes_over_where_that_is_allowed() {
    let other = || {
        let other =
            decoders::plain(model(EmbeddedModel::Target)).described(|model| model.arithmetic = "other".to_owned());
        Node::target(spawn(other, Limits::default()))
    };
    let access = Access { inexact_failover: true, ..Access::default() };
    let asked = request("ROMEO:", sampled(0.8, 73), 400, 0);
    let (mut first, unlike, mut second) = (target(), other(), target());
    let urls = [&first, &unlike, &second].map(Node::url).join(",");
    let pair = within(LONG, Pair::connect(None, &urls, &access)).await.expect("services that fit together");
    let run = struck(&pair, &asked, PATIENT, 50, || first.kill()).await.expect("a run that goes on");
    assert!(run.exact, "the one with the same arithmetic goes first");
    assert_same(&run, &truth(&asked).await, "the same arithmetic");
    let run = struck(&pair, &asked, PATIENT, 50, || second.kill()).await.expect("a run that goes on");
    assert!(!run.exact);
    assert_eq!(run.token_ids.len(), 400);

    // It may be another service, but not another model.
    let another =
        decoders::plain(model(EmbeddedModel::Target)).described(|model| model.fingerprint = "another".to_owned());
    let (mut first, another) = (target(), Node::target(spawn(another, Limits::default())));
    let urls = [&first, &another].map(Node::url).join(",");
    let pair = within(LONG, Pair::connect(None, &urls, &access)).await.expect("services that fit together");
    let lost = struck(&pair, &asked, PROMPT_TARGET, 50, || first.kill()).await;
    assert!(matches!(lost, Err(Error::Target { .. })), "{lost:?}");
}

#[tokio::test]
async fn sessions_go_to_the_least_loaded() {
    let workers = [own(EmbeddedModel::Target), own(EmbeddedModel::Target), own(EmbeddedModel::Target)];
    let nodes = workers.clone().map(Node::target);
    let pair = connect(&[], &nodes.each_ref()).await;
    let asked = request("ROMEO:", sampled(0.8, 68), 1900, 0);
    let mut running = Vec::new();
    for sessions in 1..=6 {
        let (pair, asked) = (pair.clone(), asked.clone());
        running.push(tokio::spawn(async move { run(&pair, &asked).await }));
        let open = || workers.each_ref().map(Worker::open_sessions);
        eventually("it is open", || open().iter().sum::<usize>() == sessions).await;
        let (least, most) = (open().into_iter().min(), open().into_iter().max());
        assert!(most <= least.map(|least| least + 1), "{:?}", open());
    }
    running.iter().for_each(tokio::task::JoinHandle::abort);
    eventually("all are freed", || workers.iter().all(|worker| worker.open_sessions() == 0)).await;
}

/// A replica that is full is no reason to fail while another has room; where all are full, that is the reason.
#[tokio::test]
async fn a_full_target_is_passed_over() {
    let limits = Limits { max_sessions: 1, admission_timeout: Duration::ZERO, ..Limits::default() };
    let workers = [0, 1].map(|_| spawn(model(EmbeddedModel::Target), limits));
    let nodes = workers.clone().map(Node::target);
    // Another coordinator, of which this one knows only what the services say.
    let (elsewhere, here) = (connect(&[], &[&nodes[0]]).await, connect(&[], &nodes.each_ref()).await);
    let asked = request("ROMEO:", sampled(0.8, 69), 1900, 0);
    let long = |pair: &Pair| {
        let (pair, asked) = (pair.clone(), asked.clone());
        tokio::spawn(async move { run(&pair, &asked).await })
    };
    let first = long(&elsewhere);
    eventually("one is full", || workers[0].open_sessions() == 1).await;
    let second = long(&here);
    eventually("both are full", || workers[1].open_sessions() == 1).await;
    match watch(&here, &asked, PATIENT, |_| ()).await {
        Err(Error::Target { status, .. }) => assert_eq!(status.code(), Code::ResourceExhausted),
        other => panic!("no place, not {other:?}"),
    }
    first.abort();
    second.abort();
}

#[tokio::test]
async fn another_draft_takes_over() {
    let (drafts, target) = ([own(EmbeddedModel::Draft), own(EmbeddedModel::Draft)], target());
    let (mut first, second) = (Node::draft(drafts[0].clone()), Node::draft(drafts[1].clone()));
    let pair = connect(&[&first, &second], &[&target]).await;
    let asked = request("ROMEO:", sampled(0.8, 70), 1200, 4);
    let run = struck(&pair, &asked, PATIENT, 50, || first.kill()).await.expect("a run that goes on");
    assert_same(&run, &truth(&asked).await, "a draft lost");
    let undrafted = run.cycles.iter().filter(|cycle| cycle.gamma == 0).count();
    assert!(run.cycles.iter().rev().take(20).any(|cycle| cycle.accepted > 0), "the second draft proposes");
    assert!(undrafted < run.cycles.len() / 2, "{undrafted} of {} cycles undrafted", run.cycles.len());
}

/// At the start one that answers is enough.
#[tokio::test]
async fn an_address_where_nobody_is_does_not_matter_while_another_answers() {
    let mut gone = target();
    let there = target();
    gone.kill();
    let pair = connect(&[], &[&gone, &there]).await;
    let asked = request("ROMEO:", sampled(0.8, 71), 40, 0);
    assert_same(&run(&pair, &asked).await, &truth(&asked).await, "one of two");
    gone.restart(own(EmbeddedModel::Target));
    drop(there);
    let again = within(LONG, watch(&pair, &asked, PATIENT, |_| ())).await.expect("the other one is back");
    assert_same(&again, &truth(&asked).await, "the other of two");
}

/// One service by two names is one replica, and `localhost` may be two addresses of which one listens.
#[tokio::test]
async fn a_name_stands_for_its_addresses() {
    let worker = own(EmbeddedModel::Target);
    let node = Node::target(worker.clone());
    let port = node.address().port();
    let urls = format!("http://localhost:{port},{}", node.url());
    let pair = within(LONG, Pair::connect(None, &urls, &Access::default())).await.expect("one that answers");
    let asked = request("ROMEO:", sampled(0.8, 72), 40, 0);
    assert_same(&run(&pair, &asked).await, &truth(&asked).await, "by name");
    match Pair::connect(None, "http://nowhere.invalid:7102", &Access::default()).await {
        Err(Error::Unreachable { url, .. }) => assert_eq!(url, "http://nowhere.invalid:7102"),
        other => panic!("nobody, not {other:?}"),
    }
}
