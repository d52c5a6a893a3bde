//! Drafts that are slow, dead or lying cost speed and never change the output; a target that is gone is a clear error.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use coordinator::{Access, Deadlines, Error, Pair, Request, Run, StopReason, generate};
use model::{EmbeddedModel, Limits, Worker};
use outrider_tests::cluster::{
    Embedded, LONG, Node, PATIENT, alone, assert_same, decoders, eventually,
    liar::{HANGS_AT_OPEN, LIES, Liar, SILENT},
    model, request, run, sampled, spawn, watch, within, worker,
};
use speculative::Sampling;
use telemetry::Tracer;
use tonic::Code;

/// Short, and yet nothing misses it that only waits for a busy machine.
const PROMPT_DRAFT: Deadlines = Deadlines { draft: Duration::from_secs(1), ..PATIENT };

/// How soon a loss has to be noticed.
const PROMPTLY: Duration = Duration::from_secs(5);

fn draft() -> model::Transformer {
    model(EmbeddedModel::Draft)
}

async fn assert_lossless(pair: &Pair, speculative: &Run, asked: &Request, what: &str) {
    let alone = run(&pair.without_draft(), &alone(asked)).await;
    assert_same(speculative, &alone, what);
}

/// Noise, and logits that no model should have.
#[tokio::test]
async fn garbage_from_the_draft_costs_speed_only() {
    for (what, logit) in [("noise", decoders::noise as fn(u64) -> f32), ("poison", decoders::poison)] {
        let garbage = spawn(decoders::garbage(draft(), logit), Limits::default());
        let embedded = Embedded::drafted_by(garbage).await;
        for (sampling, gamma) in [(Sampling::greedy(), 4), (sampled(0.8, 21), 16)] {
            let asked = request("ROMEO:", sampling, 128, gamma);
            let speculative = run(&embedded.pair, &asked).await;
            assert!(speculative.acceptance.proposed() > 0, "{what} was proposed");
            assert_lossless(&embedded.pair, &speculative, &asked, what).await;
        }
    }
}

/// A model that fails ends its stream; the session is reopened, and the cycles after that are drafted.
#[tokio::test]
async fn a_draft_whose_model_fails_now_and_then_is_reopened() {
    let failing = spawn(decoders::failing(draft(), 90), Limits::default());
    let embedded = Embedded::drafted_by(failing).await;
    let asked = request("ROMEO:", sampled(0.8, 22), 512, 4);
    let speculative = run(&embedded.pair, &asked).await;
    let resumed = speculative.cycles.windows(2).filter(|two| two[0].gamma == 0 && two[1].gamma > 0);
    assert!(resumed.count() > 0, "drafted again after a failure");
    assert_lossless(&embedded.pair, &speculative, &asked, "a failing draft").await;
}

/// One failed forward ends the sessions in it; a device that is gone for good ends the service, so that it is started anew.
#[tokio::test]
async fn a_service_whose_device_is_gone_ends() {
    let failures = Arc::new(AtomicUsize::new(0));
    let target = Node::target(spawn(decoders::on_a_device(draft(), failures.clone()), Limits::default()));
    let pair = within(LONG, Pair::connect(None, &target.url(), &Access::default())).await.unwrap();
    let asked = request("ROMEO:", Sampling::greedy(), 16, 0);
    run(&pair, &asked).await;

    failures.store(1, Ordering::Relaxed);
    watch(&pair, &asked, PATIENT, |_| {}).await.unwrap_err();
    run(&pair, &asked).await;

    failures.store(usize::MAX, Ordering::Relaxed);
    watch(&pair, &asked, PATIENT, |_| {}).await.unwrap_err();
    let ended = within(LONG, target.ended()).await;
    assert!(matches!(ended, Err(service::Error::Stopped)), "{ended:?}");
}

/// One proposal misses its deadline. The cycles until it comes neither wait nor ask; those after it are drafted.
#[tokio::test]
async fn a_late_draft_is_not_waited_for_and_proposes_again() {
    let gate = decoders::Gate::default();
    let embedded = Embedded::drafted_by(spawn(decoders::gated(draft(), gate.clone()), Limits::default())).await;
    let asked = request("ROMEO:", sampled(0.8, 23), 800, 4);
    let gatekeeper = |characters| match characters {
        50..150 => gate.shut(),
        _ => gate.open(),
    };
    let speculative = watch(&embedded.pair, &asked, PROMPT_DRAFT, gatekeeper).await.unwrap();
    assert_lossless(&embedded.pair, &speculative, &asked, "a late draft").await;

    let cycles = &speculative.cycles;
    let missed = cycles
        .iter()
        .position(|cycle| cycle.draft.is_some_and(|leg| leg.network >= PROMPT_DRAFT.draft))
        .expect("a proposal that missed its deadline");
    let alone = cycles[missed + 1..].iter().take_while(|cycle| cycle.gamma == 0);
    let alone: Vec<_> = alone.collect();
    assert!(alone.len() >= 50, "{} cycles without the draft", alone.len());
    for cycle in &alone {
        assert!(cycle.draft.is_none(), "cycle {} asked a draft that was still busy", cycle.number);
        assert!(cycle.wall < PROMPT_DRAFT.draft, "cycle {} waited", cycle.number);
    }
    let later = &cycles[missed + 1 + alone.len()..];
    assert!(later.iter().any(|cycle| cycle.accepted > 0), "the late answer frees the draft");
}

/// Kills the draft after 50 characters, and after 100 has `revive` do what it likes with its port.
async fn bereaved(embedded: Embedded, asked: &Request, mut revive: impl FnMut(&mut Node)) -> (Run, Embedded) {
    let Embedded { mut draft, target, pair } = embedded;
    let (mut killed, mut revived) = (false, false);
    let grim = |characters| {
        if characters >= 50 && !killed {
            killed = true;
            draft.kill();
        }
        if characters >= 100 && !revived {
            revived = true;
            revive(&mut draft);
        }
    };
    let speculative = within(LONG, watch(&pair, asked, PROMPT_DRAFT, grim)).await.unwrap();
    (speculative, Embedded { draft, target, pair })
}

/// The tokens after which the draft is back for certain, less the first few pauses.
fn proposed_after(run: &Run, characters: usize) -> usize {
    let mut emitted = 1;
    let mut proposed = 0;
    for cycle in &run.cycles {
        if emitted > characters {
            proposed += cycle.gamma;
        }
        emitted += cycle.accepted + 1;
    }
    proposed
}

/// Killed, connections and all, and started again on its port.
#[tokio::test]
async fn a_draft_that_is_killed_and_restarted_proposes_again() {
    let asked = request("ROMEO:", sampled(0.8, 24), 1500, 4);
    let revive = |draft: &mut Node| draft.restart(worker(EmbeddedModel::Draft));
    let (speculative, embedded) = bereaved(Embedded::start().await, &asked, revive).await;
    assert!(proposed_after(&speculative, 100) > 0, "the restarted draft proposes");
    let without = speculative.cycles.iter().filter(|cycle| cycle.gamma == 0).count();
    assert!(without > 20, "only {without} cycles without the dead draft");
    assert_lossless(&embedded.pair, &speculative, &asked, "a draft that was killed").await;
}

/// Its fingerprint is compared again before it may propose.
#[tokio::test]
async fn a_draft_that_comes_back_with_another_tokenizer_stays_away() {
    let stranger = decoders::plain(draft()).described(|draft| draft.tokenizer = decoders::another_tokenizer());
    let stranger = spawn(stranger, Limits::default());
    let asked = request("ROMEO:", sampled(0.8, 24), 1500, 4);
    let revive = |draft: &mut Node| draft.restart(stranger.clone());
    let (speculative, embedded) = bereaved(Embedded::start().await, &asked, revive).await;
    assert!(speculative.acceptance.proposed() > 0, "drafted before");
    assert_eq!(proposed_after(&speculative, 100), 0, "the stranger proposes nothing");
    assert_lossless(&embedded.pair, &speculative, &asked, "a draft that comes back as another").await;
}

/// Something accepts connections on the draft's port and never says a word.
#[tokio::test]
async fn a_draft_that_comes_back_mute_is_not_waited_for() {
    let asked = request("ROMEO:", sampled(0.8, 25), 600, 4);
    let mut mute = None;
    let revive = |draft: &mut Node| mute = Some(TcpListener::bind(draft.address()).unwrap());
    let (speculative, embedded) = bereaved(Embedded::start().await, &asked, revive).await;
    assert!(speculative.cycles.iter().all(|cycle| cycle.wall < PROMPT_DRAFT.draft));
    assert_lossless(&embedded.pair, &speculative, &asked, "a mute draft").await;
    drop(mute);
}

/// At any moment of a cycle, again and again.
#[tokio::test]
async fn a_draft_that_is_killed_again_and_again_changes_nothing() {
    let Embedded { mut draft, target, pair } = Embedded::start().await;
    let over = Arc::new(AtomicBool::new(false));
    let reaper = thread::spawn({
        let over = over.clone();
        move || {
            for pause in (7..).step_by(11).map(|ms| Duration::from_millis(ms % 60)) {
                if over.load(Ordering::Relaxed) {
                    return draft;
                }
                thread::sleep(pause);
                draft.kill();
                draft.restart(worker(EmbeddedModel::Draft));
            }
            unreachable!("the pauses never end")
        }
    });
    let asked = request("ROMEO:", sampled(0.8, 26), 1000, 8);
    let speculative = within(LONG, watch(&pair, &asked, PROMPT_DRAFT, |_| ())).await.unwrap();
    over.store(true, Ordering::Relaxed);
    assert_lossless(&pair, &speculative, &asked, "a draft killed again and again").await;
    drop((reaper.join(), target));
}

/// Too many tokens, wrong ids, wrong cycles, refusals, errors: the oracle holds, and what broke the protocol counts as
/// none.
#[tokio::test]
async fn a_lying_draft_changes_nothing() {
    let Embedded { draft, target, pair } = Embedded::start().await;
    let asked = request("ROMEO:", sampled(0.8, 27), 64, 4);
    for lie in LIES {
        let liar = Liar::start(pair.draft.clone().unwrap().description, lie).await;
        let lied_to = Pair::connect(Some(&liar.url()), &target.url(), &Access::default()).await.unwrap();
        let speculative = within(LONG, watch(&lied_to, &asked, PATIENT, |_| ())).await;
        let speculative = speculative.unwrap_or_else(|error| panic!("{}: {error}", lie.name));
        assert_eq!(speculative.acceptance.proposed() > 0, lie.usable, "{}", lie.name);
        assert_lossless(&pair, &speculative, &asked, lie.name).await;
    }
    drop(draft);
}

/// It opens and then says nothing, or does not even open: one deadline is waited for, once.
#[tokio::test]
async fn a_silent_draft_is_waited_for_once() {
    let deadlines = Deadlines { draft: Duration::from_millis(200), ..PATIENT };
    let Embedded { draft, target, pair } = Embedded::start().await;
    let asked = request("ROMEO:", sampled(0.8, 28), 128, 4);
    for lie in [SILENT, HANGS_AT_OPEN] {
        let liar = Liar::start(pair.draft.clone().unwrap().description, lie).await;
        let lied_to = Pair::connect(Some(&liar.url()), &target.url(), &Access::default()).await.unwrap();
        let speculative = watch(&lied_to, &asked, deadlines, |_| ()).await.unwrap();
        let waits = speculative.cycles.iter().filter(|cycle| cycle.draft.is_some()).count();
        let prefill = usize::from(speculative.warm >= deadlines.draft);
        assert_eq!((waits, prefill), if lie.name == SILENT.name { (1, 0) } else { (0, 1) }, "{}", lie.name);
        assert_lossless(&pair, &speculative, &asked, lie.name).await;
    }
    drop(draft);
}

/// With a draft and without one.
#[tokio::test]
async fn a_target_that_is_killed_for_good_is_a_clear_error() {
    let deadlines = Deadlines { target: Duration::from_secs(1), ..PATIENT };
    for gamma in [0, 4] {
        let Embedded { draft, mut target, pair } = Embedded::start().await;
        let asked = request("ROMEO:", sampled(0.8, 29), 1500, gamma);
        let mut seen = (0, Instant::now());
        let grim = |characters| {
            seen = (characters, Instant::now());
            if characters >= 50 {
                target.kill();
            }
        };
        let failed = within(LONG, watch(&pair, &asked, deadlines, grim)).await;
        let (characters, killed) = seen;
        assert!(killed.elapsed() < PROMPTLY);
        match failed {
            Err(error @ Error::Target { committed, .. }) => {
                assert_eq!(committed, asked.prompt.len() + characters);
                assert!(error.to_string().starts_with("the target is lost after"), "{error}");
            }
            other => panic!("the target is lost, not {other:?}"),
        }
        drop(draft);
    }
}

/// In the middle, and at `Open`.
#[tokio::test]
async fn a_target_that_hangs_is_gone_after_its_deadline() {
    let gate = decoders::Gate::default();
    let gated = decoders::gated(model(EmbeddedModel::Target), gate.clone());
    let target = Node::target(spawn(gated, Limits::default()));
    let embedded = Embedded::with(Node::draft(worker(EmbeddedModel::Draft)), target).await;
    let deadlines = Deadlines { target: Duration::from_secs(1), ..PATIENT };
    let asked = request("ROMEO:", sampled(0.8, 30), 500, 4);
    for least in [50, 0] {
        if least == 0 {
            gate.shut();
        }
        let mut seen = (0, Instant::now());
        let gatekeeper = |characters| {
            seen = (characters, Instant::now());
            if characters >= least {
                gate.shut();
            }
        };
        let failed = within(LONG, watch(&embedded.pair, &asked, deadlines, gatekeeper)).await;
        let waited = seen.1.elapsed();
        assert!((deadlines.target..PROMPTLY).contains(&waited), "noticed after {waited:?}");
        match failed {
            Err(Error::TargetDeadline { committed, deadline_s }) => {
                assert_eq!((committed, deadline_s), (asked.prompt.len() + seen.0, 1.0));
            }
            other => panic!("the target's deadline, not {other:?}"),
        }
        gate.open();
    }
}

/// Eight at once, each with its own prompt, seed and γ, some in the same forward pass: each is as if it were alone.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_at_once_do_not_touch_each_other() {
    let most = Arc::new(AtomicUsize::new(0));
    let counting = decoders::counting(model(EmbeddedModel::Target), most.clone());
    let target = Node::target(spawn(counting, Limits::default()));
    let embedded = Embedded::with(Node::draft(worker(EmbeddedModel::Draft)), target).await;
    let prompts = ["A", "ROMEO:", "To be, or not", "\n\n", "KING:\nMy lord", "O", "GLOUCESTER:\n", "Enter "];
    let asked: Vec<Request> = (0..8)
        .map(|i| {
            request(prompts[i], sampled([0.0, 0.8, 1.2][i % 3], i as u64), 160 + 10 * i, [4, 0, 16, 1, 8, 2, 3, 7][i])
        })
        .collect();
    let running: Vec<_> = asked
        .iter()
        .map(|asked| {
            let (pair, asked) = (embedded.pair.clone(), asked.clone());
            tokio::spawn(async move { run(&pair, &asked).await })
        })
        .collect();
    let mut together = Vec::new();
    for running in running {
        together.push(running.await.unwrap());
    }
    assert!(most.load(Ordering::Relaxed) > 1, "no two sessions shared a pass");
    for (asked, together) in asked.iter().zip(&together) {
        assert_lossless(&embedded.pair, together, asked, &format!("{asked:?}")).await;
    }
}

fn limited(model: EmbeddedModel, max_sessions: usize) -> Worker {
    let limits = Limits { max_sessions, admission_timeout: Duration::ZERO, ..Limits::default() };
    spawn(outrider_tests::cluster::model(model), limits)
}

/// A run over the target's limit fails with the limit's name; over the draft's it is plain AR. Runs that have ended,
/// failed or been dropped leave no session behind.
#[tokio::test]
async fn the_limit_of_sessions_holds_and_sessions_are_freed() {
    let (few, fewer) = (limited(EmbeddedModel::Target, 2), limited(EmbeddedModel::Draft, 1));
    let embedded = Embedded::with(Node::draft(fewer.clone()), Node::target(few.clone())).await;
    let asked = request("ROMEO:", sampled(0.8, 31), 1500, 4);
    let long = |gamma: usize| {
        let (pair, asked) = (embedded.pair.clone(), Request { gamma: gamma.into(), ..asked.clone() });
        tokio::spawn(async move { run(&pair, &asked).await })
    };
    let (drafted, undrafted) = (long(4), long(0));
    eventually("both run", || few.open_sessions() == 2 && fewer.open_sessions() == 1).await;
    match watch(&embedded.pair, &asked, PATIENT, |_| ()).await {
        Err(Error::Target { status, .. }) => {
            assert_eq!(status.code(), Code::ResourceExhausted);
            assert_eq!(status.message(), "max_sessions reached, allowed: 2 sessions at once");
        }
        other => panic!("no session, not {other:?}"),
    }
    undrafted.abort();
    eventually("the dropped run's session is freed", || few.open_sessions() == 1).await;
    let short = Request { max_tokens: 40, ..asked.clone() };
    assert_eq!(run(&embedded.pair, &short).await.acceptance.proposed(), 0, "the draft has no session left");
    drafted.abort();
    eventually("all are freed", || few.open_sessions() + fewer.open_sessions() == 0).await;
    assert!(run(&embedded.pair, &short).await.acceptance.proposed() > 0);
    eventually("all are freed", || few.open_sessions() + fewer.open_sessions() == 0).await;
}

/// A cancelled run keeps what it has, which is a prefix of the whole, and frees its sessions.
#[tokio::test]
async fn a_cancelled_run_ends_with_what_is_committed() {
    let (target, draft) = (limited(EmbeddedModel::Target, 1), limited(EmbeddedModel::Draft, 1));
    let embedded = Embedded::with(Node::draft(draft.clone()), Node::target(target.clone())).await;
    let asked = request("ROMEO:", sampled(0.8, 32), 300, 4);
    let (enough, cancelled) = tokio::sync::oneshot::channel();
    let (mut enough, mut emitted) = (Some(enough), String::new());
    let emit = |piece: coordinator::text::Piece| {
        emitted.push_str(&piece.text);
        if emitted.len() >= 100 {
            enough.take().map(|enough| enough.send(()));
        }
    };
    let cancel = async { drop(cancelled.await) };
    let cancelled = generate(&embedded.pair, asked.clone(), PATIENT, &Tracer::off(), emit, cancel).await.unwrap();
    assert_eq!(cancelled.stop_reason, StopReason::Cancelled);
    assert!((100..300).contains(&cancelled.token_ids.len()));
    assert_eq!(cancelled.text, emitted, "all that is committed was emitted");
    eventually("freed", || target.open_sessions() + draft.open_sessions() == 0).await;
    let whole = run(&embedded.pair, &alone(&asked)).await;
    assert!(whole.token_ids.starts_with(&cancelled.token_ids));
}
