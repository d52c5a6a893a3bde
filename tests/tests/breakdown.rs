//! A delay that is injected into one part of the cycle is found in that part and in no other (DESIGN §8): into the links
//! by a delaying proxy, into the services by a model that sleeps.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use coordinator::{Access, Cycle, Leg, Pair, Request, Run, report};
use model::{Compute, Decoder, EmbeddedModel, Limits, Source, Transformer};
use outrider_tests::{
    cluster::{
        self, Node,
        decoders::{Wrapped, sleepy, wide},
    },
    proxy::Proxy,
};
use tokio::sync::Mutex;

const GAMMA: usize = 4;

/// What is injected into a cycle.
const DELAY: Duration = Duration::from_millis(60);

/// Runs without and with the delay, in alternation: a machine whose speed drifts moves both.
const ROUNDS: usize = 4;

/// The tests of this file measure time: one at a time.
static MEASURING: Mutex<()> = Mutex::const_new(());

type Part = fn(&Cycle) -> Duration;

const PARTS: [(&str, Part); 7] = [
    ("draft_compute", |cycle| draft(cycle).compute),
    ("draft_queue", |cycle| draft(cycle).queue),
    ("draft_network", |cycle| draft(cycle).network),
    ("target_compute", |cycle| cycle.target.compute),
    ("target_queue", |cycle| cycle.target.queue),
    ("target_network", |cycle| cycle.target.network),
    ("coordinator", Cycle::coordinator),
];

fn draft(cycle: &Cycle) -> Leg {
    cycle.draft.expect("a drafted cycle")
}

/// An embedded model that computes with one thread: on a busy machine, waking others would cost milliseconds after each
/// pause, wherever that is.
fn model(model: EmbeddedModel) -> Transformer {
    let compute = Arc::new(Compute::new(NonZeroUsize::MIN));
    Transformer::load(&Source::Embedded(model), compute).expect("the embedded pair loads")
}

/// How long a model sleeps before each forward; shared with the test that sets it.
#[derive(Clone, Debug, Default)]
struct Pause(Arc<AtomicU64>);

impl Pause {
    fn set(&self, pause: Duration) {
        self.0.store(pause.as_nanos() as u64, Relaxed);
    }

    fn sleep(&self) {
        let pause = Duration::from_nanos(self.0.load(Relaxed));
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }

    fn before(&self, inner: Transformer) -> Wrapped {
        let pause = self.clone();
        Wrapped::new(inner, move |inner, batch| {
            pause.sleep();
            inner.forward(batch)
        })
    }
}

/// The embedded pair, each service behind a link and a model that can be slowed down.
struct Rig {
    pair: Pair,
    draft_link: Proxy,
    target_link: Proxy,
    draft_pause: Pause,
    target_pause: Pause,
    _nodes: [Node; 2],
}

impl Rig {
    async fn start() -> Self {
        let (draft_pause, target_pause) = (Pause::default(), Pause::default());
        let draft = draft_pause.before(model(EmbeddedModel::Draft));
        let target = target_pause.before(model(EmbeddedModel::Target));
        let draft = Node::draft(cluster::spawn(draft, Limits::default()));
        let target = Node::target(cluster::spawn(target, Limits::default()));
        let link = async |node: &Node| Proxy::start(node.address(), Duration::ZERO).await.expect("a proxy");
        let (draft_link, target_link) = (link(&draft).await, link(&target).await);
        let pair =
            Pair::connect(Some(&draft_link.url()), &target_link.url(), &Access::default()).await.expect("the pair");
        Self { pair, draft_link, target_link, draft_pause, target_pause, _nodes: [draft, target] }
    }

    /// The cycles without and with `inject`, which is told the delay, or zero to take it away again.
    async fn cycles(&self, inject: impl Fn(&Self, Duration)) -> [Vec<Cycle>; 2] {
        let request = |injected, seed| {
            inject(self, if injected { DELAY } else { Duration::ZERO });
            request(seed)
        };
        alternated(&self.pair, ROUNDS, request).await
    }
}

fn request(seed: u64) -> Request {
    cluster::request("ROMEO:", cluster::sampled(0.8, seed), 40, GAMMA)
}

/// The cycles of `request` that proposed γ tokens.
async fn drafted(pair: &Pair, request: &Request) -> Vec<Cycle> {
    let run = cluster::run(pair, request).await;
    assert_sums(&run);
    run.cycles.into_iter().filter(|cycle| cycle.gamma == GAMMA).collect()
}

/// The same of so many requests without and with what is injected, in alternation; `request` is told which it is, and the seed.
async fn alternated(pair: &Pair, rounds: usize, request: impl Fn(bool, u64) -> Request) -> [Vec<Cycle>; 2] {
    let mut cycles = [Vec::new(), Vec::new()];
    for seed in 0..rounds as u64 {
        for (cycles, injected) in cycles.iter_mut().zip([false, true]) {
            cycles.extend(drafted(pair, &request(injected, seed)).await);
        }
    }
    cycles
}

/// The parts of each cycle add up to its wall, to the nanosecond.
fn assert_sums(run: &Run) {
    for cycle in &run.cycles {
        let drafted = cycle.draft.map_or(Duration::ZERO, |leg| leg.round_trip());
        let sum = drafted + cycle.target.round_trip() + cycle.coordinator();
        assert_eq!(sum, cycle.wall, "cycle {}: the parts and the wall", cycle.number);
    }
}

fn median(cycles: &[Cycle], part: Part) -> f64 {
    let values: Vec<f64> = cycles.iter().map(|cycle| part(cycle).as_secs_f64()).collect();
    report::median(&values).expect("cycles")
}

/// How much longer a part takes, as a share of what was injected.
fn share(without: &[Cycle], with: &[Cycle], injected: Duration, part: Part) -> f64 {
    (median(with, part) - median(without, part)) / injected.as_secs_f64()
}

fn grown(without: &[Cycle], with: &[Cycle], injected: Duration) -> [(&'static str, f64); 7] {
    PARTS.map(|(name, part)| (name, share(without, with, injected, part)))
}

/// Injects the delay and finds at least 90% of it in `expected` and at most 10% in any other part.
async fn assert_found_in(expected: &str, inject: impl Fn(&Rig, Duration)) {
    let _alone = MEASURING.lock().await;
    let [without, with] = Rig::start().await.cycles(inject).await;
    assert!(without.len() > 20 && with.len() > 20, "too few cycles to take medians of");

    let grown = grown(&without, &with, DELAY);
    for (name, share) in grown {
        let right = if name == expected { share >= 0.9 } else { share.abs() <= 0.1 };
        assert!(right, "{share:.3} of the delay is in {name}, all of it belongs in {expected}: {grown:.3?}");
    }
    let wall = share(&without, &with, DELAY, |cycle| cycle.wall);
    assert!((0.9..1.4).contains(&wall), "the cycle takes {wall:.3} of the delay longer");
}

#[tokio::test]
async fn a_slow_link_to_the_draft_is_the_drafts_network() {
    assert_found_in("draft_network", |rig, delay| rig.draft_link.set_delay(delay)).await;
}

#[tokio::test]
async fn a_slow_link_to_the_target_is_the_targets_network() {
    assert_found_in("target_network", |rig, delay| rig.target_link.set_delay(delay)).await;
}

/// γ forwards make a proposal, each of them slowed down by its share.
#[tokio::test]
async fn a_slow_draft_is_the_drafts_compute() {
    assert_found_in("draft_compute", |rig, delay| rig.draft_pause.set(delay / GAMMA as u32)).await;
}

#[tokio::test]
async fn a_slow_target_is_the_targets_compute() {
    assert_found_in("target_compute", |rig, delay| rig.target_pause.set(delay)).await;
}

/// Another session, whose text is long already and whose target is another, has its forwards at the draft to itself and asleep.
/// While this session's window is verified the other's next forward begins, and the next proposal waits for it.
#[tokio::test]
async fn waiting_for_another_sessions_forward_is_the_drafts_queue() {
    const SLEEP: Duration = Duration::from_millis(60);
    const LONG_TEXT: usize = 300;
    let _alone = MEASURING.lock().await;
    let (busy, sleeps) = (Pause::default(), Arc::new(AtomicU64::new(0)));
    let (pause, slept) = (busy.clone(), sleeps.clone());
    let draft = Wrapped::new(model(EmbeddedModel::Draft), move |inner, batch| {
        if let [alone] = batch
            && alone.cache.len() >= LONG_TEXT
        {
            slept.fetch_add(1, Relaxed);
            pause.sleep();
        }
        inner.forward(batch)
    });
    let draft = Node::draft(cluster::spawn(draft, Limits::default()));
    let [target, elsewhere] =
        [(); 2].map(|()| Node::target(cluster::spawn(model(EmbeddedModel::Target), Limits::default())));
    let pair = cluster::pair(Some(&draft), &target).await;
    let other = cluster::pair(Some(&draft), &elsewhere).await;

    let window = cluster::request("ROMEO:", cluster::sampled(0.8, 1), 60, GAMMA);
    let long = cluster::request(&"JULIET:".repeat(LONG_TEXT / 6), cluster::sampled(0.8, 2), 1500, GAMMA);
    let without = drafted(&pair, &window).await;
    busy.set(SLEEP);
    let among_others = async {
        cluster::eventually("the other is under way", || sleeps.load(Relaxed) > 0).await;
        drafted(&pair, &window).await
    };
    let with = tokio::select! {
        with = among_others => with,
        run = cluster::run(&other, &long) => panic!("the other ended first, after {} cycles", run.cycles.len()),
    };
    for (name, share) in grown(&without, &with, SLEEP) {
        // What is left of the other's sleep when this session asks, and one more where the two forwards do not meet.
        let right = if name == "draft_queue" { share >= 0.3 } else { share.abs() <= 0.25 };
        assert!(right, "{name} grew by {share:.3} of the sleep");
    }
}

/// Text that has to be looked through for more and more ends is the coordinator's own time.
#[tokio::test]
async fn many_stop_strings_are_the_coordinators() {
    const STOPS: usize = 300_000;
    let _alone = MEASURING.lock().await;
    let rig = Rig::start().await;
    let stops: Vec<String> = (0..STOPS).map(|at| format!("no text has this in it: {at}")).collect();
    let request = |injected, seed| match injected {
        false => request(seed),
        true => Request { stop: stops.clone(), ..request(seed) },
    };
    let [without, with] = &alternated(&rig.pair, ROUNDS, request).await;
    let injected = median(with, |cycle| cycle.wall) - median(without, |cycle| cycle.wall);
    assert!(injected > 0.01, "{injected} s longer");
    for (name, share) in grown(without, with, Duration::from_secs_f64(injected)) {
        let right = if name == "coordinator" { share >= 0.9 } else { share.abs() <= 0.1 };
        assert!(right, "{share:.3} of what the cycle takes longer is in {name}");
    }
}

/// To cut a vocabulary of many ids to its nucleus takes time for each row: it is found in select on both sides, as a part of what
/// they compute, and not in their forwards. The rows are wide, so that a forward, which fills them, varies: hence the margins.
#[tokio::test]
async fn a_choice_among_many_tokens_is_select() {
    const IDS: usize = 100_000;
    let _alone = MEASURING.lock().await;
    let worker = |of| cluster::spawn(wide(model(of), IDS), Limits::default());
    let (draft, target) = (Node::draft(worker(EmbeddedModel::Draft)), Node::target(worker(EmbeddedModel::Target)));
    let pair = cluster::pair(Some(&draft), &target).await;
    let request = |injected, seed| {
        let mut request = request(seed);
        request.sampling.top_p = if injected { 0.95 } else { 1.0 };
        request
    };
    let [without, with] = &alternated(&pair, 2 * ROUNDS, request).await;
    let grown = |part: Part| median(with, part) - median(without, part);
    let wall = grown(|cycle| cycle.wall);
    let select: [Part; 2] = [|cycle| self::draft(cycle).select, |cycle| cycle.target.select];
    let others: [Part; 7] = [
        |cycle| self::draft(cycle).forward,
        |cycle| self::draft(cycle).queue,
        |cycle| self::draft(cycle).network,
        |cycle| cycle.target.forward,
        |cycle| cycle.target.queue,
        |cycle| cycle.target.network,
        Cycle::coordinator,
    ];
    let (select, others) = (select.map(|part| grown(part) / wall), others.map(|part| grown(part) / wall));
    assert!(
        wall > 0.002 && select.iter().all(|share| *share > 0.2),
        "{wall} s longer, of which {select:.3?} on each side"
    );
    assert!(select.iter().sum::<f64>() >= 0.75, "{select:.3?} of what the cycle takes longer; others {others:.3?}");
    assert!(others.iter().all(|share| share.abs() <= 0.2), "{others:.3?} of what the cycle takes longer");
}

/// Another session keeps the target busy with forwards that sleep: AR, one row at a time. This session's draft takes its
/// time, so its windows come when the other's forward has begun, and wait for the model. Forwards with a window in them do
/// not sleep.
#[tokio::test]
async fn waiting_for_another_sessions_forward_is_the_queue() {
    const DRAFTING: Duration = Duration::from_millis(16);
    const SLEEP: Duration = Duration::from_millis(60);
    let _alone = MEASURING.lock().await;
    let busy = Pause::default();
    let pause = busy.clone();
    let target = Wrapped::new(model(EmbeddedModel::Target), move |inner, batch| {
        if let [alone] = batch
            && alone.tokens.len() == 1
        {
            pause.sleep();
        }
        inner.forward(batch)
    });
    let draft = sleepy(model(EmbeddedModel::Draft), DRAFTING / GAMMA as u32);
    let draft = Node::draft(cluster::spawn(draft, Limits::default()));
    let target = Node::target(cluster::spawn(target, Limits::default()));
    let pair = cluster::pair(Some(&draft), &target).await;

    let window = cluster::request("ROMEO:", cluster::sampled(0.8, 1), 60, GAMMA);
    let one_row = cluster::request("JULIET:", cluster::sampled(0.8, 2), 2000, 0);
    let without = drafted(&pair, &window).await;
    busy.set(SLEEP);
    let with = tokio::select! {
        with = drafted(&pair, &window) => with,
        run = cluster::run(&pair, &one_row) => panic!("the other ended first, after {} cycles", run.cycles.len()),
    };

    for (name, share) in grown(&without, &with, SLEEP) {
        // What is left of the other's sleep when the proposal is there: 0.73 of it, on an idle machine.
        let right = if name == "target_queue" { (0.5..1.1).contains(&share) } else { share.abs() <= 0.1 };
        assert!(right, "{name} grew by {share:.3} of the sleep");
    }
}
