//! Many sessions on one service: who is let in, what waits for whom, and what prompts that begin alike share.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use model::{Decoder, EmbeddedModel, Limits, Worker};
use outrider_tests::cluster::{
    Embedded, LONG, Node, PATIENT, alone, assert_same, decoders, eventually, model, pair, request, run, sampled, spawn,
    talk::{DraftTalk, TargetTalk, channel, open},
    tokens, watch, within, worker,
};
use proto::v1::{DescribeRequest, Opened, model_service_client::ModelServiceClient};
use speculative::TokenId;
use tonic::Code;

/// Positions that a page of a cache holds.
const PAGE: usize = 64;

/// Bytes of the embedded target's KV for a page of positions: 6 layers of 6 heads of 64 dimensions, keys and values, f32.
const PAGE_BYTES: u64 = 64 * 6 * 6 * 64 * 2 * 4;

fn limited(limits: Limits) -> Worker {
    spawn(model(EmbeddedModel::Target), limits)
}

/// `length` characters of what could be a play.
fn prompt(length: usize) -> String {
    "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n\n"
        .chars()
        .cycle()
        .take(length)
        .collect()
}

async fn opened(node: &Node, tokens: &[TokenId], max_tokens: usize) -> (TargetTalk, Opened) {
    let mut talk = TargetTalk::open(&channel(node), open(tokens, sampled(0.8, 5), max_tokens)).await;
    let opened = talk.opened().await;
    (talk, opened)
}

fn cached(opened: &Opened) -> u32 {
    opened.cost.expect("a cost").cached
}

/// The target in which `rows` notes the rows of each pass.
fn noting(rows: Arc<Mutex<Vec<usize>>>) -> Worker {
    let noted = decoders::Wrapped::new(model(EmbeddedModel::Target), move |inner, batch| {
        rows.lock().unwrap().push(batch.iter().map(|rows| rows.tokens.len()).sum());
        inner.forward(batch)
    });
    spawn(noted, Limits::default())
}

/// While another session decodes, a long prompt takes its passes in pieces, and neither's output changes.
#[tokio::test]
async fn a_long_prompt_does_not_stall_those_who_decode() {
    let passes = Arc::new(Mutex::new(Vec::new()));
    let embedded =
        Embedded::with(Node::draft(worker(EmbeddedModel::Draft)), Node::target(noting(passes.clone()))).await;
    let decoding = request("ROMEO:", sampled(0.8, 51), 1200, 4);
    let long = request(&prompt(1500), sampled(0.8, 52), 64, 4);

    let beside = {
        let (pair, decoding) = (embedded.pair.clone(), decoding.clone());
        let (begun, begins) = tokio::sync::oneshot::channel();
        let mut begun = Some(begun);
        let running = tokio::spawn(async move {
            let seen = |characters| {
                if characters > 20 {
                    begun.take().map(|begun| begun.send(()));
                }
            };
            watch(&pair, &decoding, PATIENT, seen).await.expect("a run that succeeds")
        });
        begins.await.expect("the run goes on");
        passes.lock().unwrap().clear();
        let long = run(&embedded.pair, &long).await;
        let most = passes.lock().unwrap().iter().copied().max().expect("passes");
        // A chunk, and the other session's window.
        assert!((PAGE..=PAGE + 5).contains(&most), "{most} rows in a pass");
        let shared = passes.lock().unwrap().iter().filter(|&&rows| rows > PAGE).count();
        assert!(shared > 5, "the other session went on in {shared} of the prefill's passes");
        (running.await.expect("no panic"), long)
    };
    assert_same(&beside.0, &run(&embedded.pair, &alone(&decoding)).await, "beside a prefill");

    passes.lock().unwrap().clear();
    let by_itself = run(&embedded.pair, &alone(&request(&(prompt(1500) + "!"), sampled(0.8, 52), 2, 0))).await;
    assert_eq!(by_itself.token_ids.len(), 2);
    let target = Node::target(worker(EmbeddedModel::Target));
    assert_same(&beside.1, &run(&pair(None, &target).await, &alone(&long)).await, "in pieces");
}

/// Alone on the service, a prompt is forwarded in few large passes.
#[tokio::test]
async fn a_lone_prompt_is_forwarded_in_large_passes() {
    let passes = Arc::new(Mutex::new(Vec::new()));
    let node = Node::target(noting(passes.clone()));
    opened(&node, &tokens(&prompt(1300)), 4).await;
    assert_eq!(*passes.lock().unwrap(), [512, 512, 276]);
}

/// The whole pages that two prompts share are forwarded once, and the output is what it would be without.
#[tokio::test]
async fn prompts_that_begin_alike_share_pages() {
    let (node, fresh) = (Node::target(limited(Limits::default())), Node::target(worker(EmbeddedModel::Target)));
    let first = tokens(&prompt(300));
    assert_eq!(cached(&opened(&node, &first, 4).await.1), 0);
    let other_end = [&first[..200], &tokens("Another end of it.")].concat();
    for (what, tokens, expected) in [
        ("the same", first.clone(), 256),
        ("the same, which ends with a page", first[..256].to_vec(), 192),
        ("another end", other_end, 192),
        ("another beginning", first[1..].to_vec(), 0),
        ("a short one", first[..PAGE].to_vec(), 0),
    ] {
        let (mut talk, opened_here) = opened(&node, &tokens, 40).await;
        assert_eq!(cached(&opened_here), expected, "{what}");
        let cost = opened_here.cost.expect("a cost");
        assert_eq!(cost.rows as usize, tokens.len() - expected as usize, "{what}");
        let (mut truth, opened_there) = opened(&fresh, &tokens, 40).await;
        assert_eq!(opened_here.first_token, opened_there.first_token, "{what}");
        for cycle in 1..20 {
            talk.verify(cycle, tokens.len() + cycle as usize, &[]).await;
            truth.verify(cycle, tokens.len() + cycle as usize, &[]).await;
            assert_eq!(talk.verdict().await.tokens, truth.verdict().await.tokens, "{what}, cycle {cycle}");
        }
    }
}

/// Drafts share pages too, even where the first `Propose` forwards the prompt's last token again.
#[tokio::test]
async fn drafts_share_pages() {
    let node = Node::draft(spawn(model(EmbeddedModel::Draft), Limits::default()));
    let tokens = tokens(&prompt(257));
    let mut proposals = Vec::new();
    for expected in [0, 256] {
        let mut talk = DraftTalk::open(&channel(&node), open(&tokens, sampled(0.8, 5), 40)).await;
        assert_eq!(cached(&talk.opened().await), expected);
        talk.propose(1, tokens.len(), &[], 8).await;
        proposals.push(talk.proposal().await.tokens);
    }
    assert_eq!(proposals[0], proposals[1]);
}

/// A session that finds no memory waits until another has ended.
#[tokio::test]
async fn a_session_waits_for_the_memory_that_it_may_need() {
    // Three quarters are the sessions' own: 6 pages.
    let worker = limited(Limits { kv_bytes: 8 * PAGE_BYTES, ..Limits::default() });
    let node = Node::target(worker.clone());
    let prompt = tokens("ROMEO:");
    // 6 + 200 positions and a window of 33 are 4 pages; two of the smaller ones fit beside it.
    let (large, _) = opened(&node, &prompt, 200).await;
    let small = [opened(&node, &prompt, 20).await, opened(&node, &prompt, 20).await];
    let mut waiting = TargetTalk::open(&channel(&node), open(&prompt, sampled(0.8, 5), 20)).await;
    eventually("it waits", || worker.waiting_sessions() == 1).await;
    assert_eq!(worker.open_sessions(), 3);
    drop(large);
    within(LONG, waiting.opened()).await;
    assert_eq!((worker.waiting_sessions(), worker.open_sessions()), (0, 3));
    drop((small, waiting));
    eventually("all are freed", || worker.open_sessions() == 0).await;
}

/// Those who wait are let in as they came, however small.
#[tokio::test]
async fn nobody_overtakes_in_the_line() {
    let worker = limited(Limits { kv_bytes: 8 * PAGE_BYTES, ..Limits::default() });
    let node = Node::target(worker.clone());
    let prompt = tokens("ROMEO:");
    let (first, _) = opened(&node, &prompt, 200).await;
    let mut large = TargetTalk::open(&channel(&node), open(&prompt, sampled(0.8, 5), 200)).await;
    eventually("the large one waits", || worker.waiting_sessions() == 1).await;
    let mut small = TargetTalk::open(&channel(&node), open(&prompt, sampled(0.8, 5), 20)).await;
    eventually("the small one waits too", || worker.waiting_sessions() == 2).await;
    drop(first);
    within(LONG, large.opened()).await;
    within(LONG, small.opened()).await;
}

/// The line is bounded, and so is the wait; both are told by the limit that is reached.
#[tokio::test]
async fn a_line_that_is_full_or_takes_too_long_is_refused() {
    let wait = Duration::from_millis(300);
    let limits = Limits { max_sessions: 1, queue_depth: 1, admission_timeout: wait, ..Limits::default() };
    let worker = limited(limits);
    let node = Node::target(worker.clone());
    let prompt = tokens("ROMEO:");
    let (_first, _) = opened(&node, &prompt, 20).await;
    let begun = Instant::now();
    let mut patient = TargetTalk::open(&channel(&node), open(&prompt, sampled(0.8, 5), 20)).await;
    eventually("one waits", || worker.waiting_sessions() == 1).await;
    let mut refused = TargetTalk::open(&channel(&node), open(&prompt, sampled(0.8, 5), 20)).await;
    for (talk, least) in [(&mut refused, Duration::ZERO), (&mut patient, wait)] {
        let status = talk.status().await;
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "max_sessions reached, allowed: 1 sessions at once");
        assert!(begun.elapsed() >= least);
    }
    assert_eq!(worker.waiting_sessions(), 0);
}

/// Who goes away while waiting leaves the line.
#[tokio::test]
async fn whoever_goes_away_leaves_the_line() {
    let limits = Limits { max_sessions: 1, queue_depth: 1, admission_timeout: LONG, ..Limits::default() };
    let worker = limited(limits);
    let node = Node::target(worker.clone());
    let prompt = tokens("ROMEO:");
    let (first, _) = opened(&node, &prompt, 20).await;
    let waiting = TargetTalk::open(&channel(&node), open(&prompt, sampled(0.8, 5), 20)).await;
    eventually("one waits", || worker.waiting_sessions() == 1).await;
    drop(waiting);
    eventually("it has left", || worker.waiting_sessions() == 0).await;
    let mut next = TargetTalk::open(&channel(&node), open(&prompt, sampled(0.8, 5), 20)).await;
    eventually("the next one waits", || worker.waiting_sessions() == 1).await;
    drop(first);
    within(LONG, next.opened()).await;
}

/// A prefill whose client goes away stops at the next pass.
#[tokio::test]
async fn a_prefill_that_nobody_waits_for_ends() {
    let gate = decoders::Gate::default();
    let rows = Arc::new(AtomicUsize::new(0));
    let counted = rows.clone();
    let gated = gate.clone();
    let counting = decoders::Wrapped::new(model(EmbeddedModel::Target), move |inner, batch| {
        counted.fetch_add(batch.iter().map(|rows| rows.tokens.len()).sum(), Ordering::Relaxed);
        gated.wait();
        inner.forward(batch)
    });
    let worker = spawn(counting, Limits::default());
    let node = Node::target(worker.clone());
    gate.shut();
    let long = TargetTalk::open(&channel(&node), open(&tokens(&prompt(2000)), sampled(0.8, 5), 4)).await;
    eventually("the first piece is at the model", || gate.holds()).await;
    drop(long);
    eventually("the session is freed", || worker.open_sessions() == 0).await;
    gate.open();
    opened(&node, &tokens("ROMEO:"), 4).await;
    assert_eq!(rows.load(Ordering::Relaxed), 512 + 6);
}

/// A service describes a context that there is memory for, and holds sessions to it.
#[tokio::test]
async fn a_small_memory_shortens_the_context() {
    let worker = limited(Limits { kv_bytes: 4 * PAGE_BYTES, ..Limits::default() });
    let node = Node::target(worker);
    let described = ModelServiceClient::new(channel(&node)).describe(DescribeRequest::default()).await.unwrap();
    let described = described.into_inner();
    assert_eq!(described.context_length as usize, 3 * PAGE);
    let limits = described.limits.expect("limits");
    assert_eq!((limits.max_prompt_tokens as usize, limits.kv_bytes), (3 * PAGE - 1, 4 * PAGE_BYTES));
    let full = run(&pair(None, &node).await, &request("ROMEO:", sampled(0.8, 5), 1000, 0)).await;
    assert_eq!(full.token_ids.len(), 3 * PAGE - 6);

    let none = Worker::spawn("model", model(EmbeddedModel::Target), Limits { kv_bytes: 1000, ..Limits::default() });
    assert_eq!(none.unwrap_err().to_string(), format!("kv_bytes is 1000, allowed: {PAGE_BYTES} or more"));
}
