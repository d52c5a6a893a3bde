//! The thread that owns a model: it takes requests from a queue and forwards all that wait in one ragged batch.
//!
//! A session's KV cache belongs to its [`Lane`] and travels with each request to the thread and back with the answer, so
//! the thread keeps nothing of a session that has gone, but for whole pages of its prompt that others may share.

mod admission;
mod batch;
mod growth;
mod lookup;
mod prefixes;
mod selector;
mod usage;

use std::{
    fmt, future, io, mem,
    sync::{
        Arc,
        atomic::AtomicBool,
        mpsc::{self, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use speculative::{
    Coupling, DraftDistribution, History, Logprobs, Ranked, Sampling, SyntheticAcceptance, TokenId, roofline::Roofs,
};
use tokenizer::Tokenizer;
use tokio::sync::{Mutex, oneshot, watch};

use self::{
    admission::{Admission, Admitted, Budget},
    batch::Batcher,
    growth::Growth,
    prefixes::Prefixes,
    selector::Selector,
    usage::Counters,
};
use crate::{Decoder, Description, Error, KvCache, Limits, Open, OpenError, session::Plan};
pub(crate) use growth::{Grown, Stem};
pub use usage::Usage;

/// The longest text that is looked through.
const LONGEST_TEXT: usize = 1 << 20;

/// A handle on the model's thread. Cheap to clone; the thread ends with the last one.
#[derive(Clone)]
pub struct Worker {
    engine: Engine,
    description: Arc<Description>,
    limits: Limits,
    synthetic_acceptance: Option<SyntheticAcceptance>,
    admission: Arc<Admission>,
    counters: Arc<Counters>,
    page_bytes: usize,
    /// Held while they are measured, so that nobody else measures meanwhile.
    roofs: Arc<Mutex<Option<Roofs>>>,
}

/// What answers.
#[derive(Clone)]
enum Engine {
    /// A model's thread.
    Thread {
        /// Never long: a session has at most one request in it.
        queue: Sender<Request>,
        /// Its sender is the thread's.
        running: watch::Receiver<()>,
    },
    /// The text itself; nobody waits for it.
    Lookup,
}

enum Request {
    Task(Box<Task>),
    MeasureRoofs(oneshot::Sender<Option<Roofs>>),
    Growth(Box<Growth>),
}

/// One message's work and all it needs.
struct Task {
    /// `None` before the first pass.
    cache: Option<KvCache>,
    /// Positions that the session may come to hold.
    positions: usize,
    history: History,
    sampling: Sampling,
    coupling: Coupling,
    top_logprobs: Option<usize>,
    plan: Plan,
    goal: Goal,
    enqueued: Instant,
    reply: Reply,
}

/// Where an answer goes, with the cache and the history that it leaves behind.
type Reply = oneshot::Sender<Result<(KvCache, History, Answer), Error>>;

/// What the forwarded tokens are for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Goal {
    /// Choose `gamma` tokens, one after the other.
    Propose {
        /// Tokens to choose; with 0 the tokens are forwarded and nothing is chosen.
        gamma: usize,
        /// Tokens of the ranking behind each choice that are wanted.
        ranked: usize,
        /// The first choice that the model holds less likely than this is not proposed, nor is anything after it. Under
        /// rejection coupling the first place with no token as likely as this.
        min_confidence: f32,
    },
    /// Choose along the last `gamma` forwarded tokens, until a choice differs.
    Verify {
        /// How many of the forwarded tokens are proposed.
        gamma: usize,
        /// Under rejection coupling, what each of those was sampled from.
        drafted: Vec<DraftDistribution>,
    },
}

/// What the model's thread answers.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The proposed tokens, or those to commit.
    pub tokens: Vec<TokenId>,
    /// The draft's probability of each proposed token; empty for a verdict.
    pub confidences: Vec<f32>,
    /// Under rejection coupling, what each proposed token was sampled from.
    pub drafted: Vec<DraftDistribution>,
    /// The ranking behind each proposed token, where it is asked for.
    pub ranked: Vec<Vec<Ranked>>,
    /// Of each token of a verdict, where they are asked for.
    pub logprobs: Vec<Logprobs>,
    /// What it cost.
    pub cost: Cost,
}

/// What a request cost on the model's thread.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// From being queued to its answer, less forward and select: waiting for other sessions.
    pub queue: Duration,
    /// In forward passes.
    pub forward: Duration,
    /// Choosing tokens.
    pub select: Duration,
    /// Each forward pass.
    pub passes: Vec<Pass>,
    /// Positions of the prompt that were not forwarded, because another prompt began alike.
    pub cached: usize,
    /// Rows of the pass, of other sessions, that was under way when the request was queued; 0 where none was.
    pub behind_rows: usize,
}

/// One forward pass that a request took part in.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Number of the pass on its thread; equal where sessions shared it.
    pub id: u64,
    /// When it began and ended.
    pub span: (Instant, Instant),
    /// Rows of this session.
    pub rows: usize,
    /// Rows of the whole batch.
    pub batch_rows: usize,
    /// Counted work of the whole batch.
    pub work: speculative::roofline::Work,
}

/// A session's lane at the model: its KV cache, how its tokens are chosen and after which, and its place among the
/// sessions.
pub(crate) struct Lane {
    /// Empty before the first pass, while a request is with the thread, and for good when that request's future was
    /// dropped: the thread then refuses to go on.
    pub(crate) cache: Option<KvCache>,
    /// What the session's sequence holds, where it is looked up.
    text: Vec<TokenId>,
    /// Positions that it was let in with.
    positions: usize,
    /// Travels as the cache does.
    history: History,
    sampling: Sampling,
    coupling: Coupling,
    top_logprobs: Option<usize>,
    _admitted: Admitted,
}

impl Worker {
    /// Starts the thread, named `name`, that owns `decoder`.
    ///
    /// # Errors
    /// The operating system gives no thread, or `kv_bytes` of the limits hold no page.
    pub fn spawn(name: &str, decoder: impl Decoder, limits: Limits) -> io::Result<Self> {
        Self::spawn_accepting(name, decoder, limits, None)
    }

    /// The same, and with `synthetic_acceptance` it accepts proposals by lot, whatever their logits.
    ///
    /// # Errors
    /// As [`Worker::spawn`].
    pub fn spawn_accepting(
        name: &str,
        decoder: impl Decoder,
        limits: Limits,
        synthetic_acceptance: Option<SyntheticAcceptance>,
    ) -> io::Result<Self> {
        let (queue, requests) = mpsc::channel();
        let cache = decoder.new_cache();
        let page_bytes = cache.page_bytes();
        let budget = Budget::of(limits.kv_bytes, &cache);
        if budget.own == 0 {
            let problem = format!("kv_bytes is {}, allowed: {} or more", limits.kv_bytes, cache.page_bytes());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let mut description = decoder.description().clone();
        description.context = description.context.min(budget.positions());
        let limits = Limits { max_branches: if cache.branches() { limits.max_branches } else { 0 }, ..limits };
        let selector = Selector::new(description.tokenizer.size(), synthetic_acceptance);
        let admission = Arc::new(Admission::new(limits, budget));
        let prefixes = Prefixes::new(budget.shared);
        let counters = Arc::<Counters>::default();
        let batcher = Batcher {
            decoder,
            selector,
            prefixes,
            admission: admission.clone(),
            counters: counters.clone(),
            last: None,
            doubt: None,
            growths: Vec::new(),
        };
        let (alive, running) = watch::channel(());
        let thread = move || {
            let _alive = alive;
            batcher.run(&requests);
        };
        thread::Builder::new().name(name.to_owned()).spawn(thread)?;
        let description = Arc::new(description);
        let roofs = Arc::default();
        let engine = Engine::Thread { queue, running };
        Ok(Self { engine, description, limits, synthetic_acceptance, admission, counters, page_bytes, roofs })
    }

    /// A drafter without a model: it looks up how the session's own text went on when its last tokens stood in it before. It
    /// works with the ids of any tokenizer.
    pub fn ngram(limits: Limits) -> Self {
        let limits = Limits { max_branches: 0, ..limits };
        // It has no caches, so sessions alone are counted.
        let budget = Budget { own: u32::MAX as usize, shared: 0 };
        let description = Description {
            name: "ngram".to_owned(),
            fingerprint: "ngram".to_owned(),
            arithmetic: "ngram".to_owned(),
            tokenizer: Tokenizer::any(),
            vocab_size: u32::MAX as usize,
            context: LONGEST_TEXT,
            dtype: "none",
            device: "cpu".to_owned(),
            parameters: 0,
            weight_bytes: 0,
            synthetic: false,
        };
        Self {
            engine: Engine::Lookup,
            description: Arc::new(description),
            limits,
            synthetic_acceptance: None,
            admission: Arc::new(Admission::new(limits, budget)),
            counters: Arc::default(),
            page_bytes: 0,
            roofs: Arc::default(),
        }
    }

    /// Resolves when the thread has ended, and with it all that it answers: its device computes nothing any more, or it
    /// panicked.
    pub async fn stopped(&self) {
        match &self.engine {
            Engine::Thread { running, .. } => drop(running.clone().changed().await),
            Engine::Lookup => future::pending().await,
        }
    }

    /// What the model is; its context is no longer than what there is memory for.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// How proposals are accepted by lot, where they are.
    pub fn synthetic_acceptance(&self) -> Option<SyntheticAcceptance> {
        self.synthetic_acceptance
    }

    /// What is refused.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Sessions that are open now.
    pub fn open_sessions(&self) -> usize {
        self.admission.open_sessions()
    }

    /// Sessions that wait to be opened.
    pub fn waiting_sessions(&self) -> usize {
        self.admission.waiting()
    }

    /// What its thread has done, and the memory that its sessions take.
    pub fn usage(&self) -> Usage {
        let (reserved, most) = self.admission.pages();
        self.counters.usage(self.page_bytes, reserved, most)
    }

    /// The roofs as measured last, unless they are being measured now.
    pub fn known_roofs(&self) -> Option<Roofs> {
        *self.roofs.try_lock().ok()?
    }

    /// The roofs as measured last; with `measure`, measured now unless a session is open.
    pub async fn roofs(&self, measure: bool) -> Option<Roofs> {
        let mut roofs = self.roofs.lock().await;
        if measure && self.open_sessions() == 0 {
            let (reply, measured) = oneshot::channel();
            if self.send(Request::MeasureRoofs(reply)).is_ok()
                && let Ok(Some(measured)) = measured.await
            {
                *roofs = Some(measured);
            }
        }
        *roofs
    }

    /// Opens a session's lane and forwards its tokens.
    pub(crate) async fn prefill(&self, open: &Open, goal: Goal) -> Result<(Lane, Answer), OpenError> {
        open.validate(&self.description, &self.limits)?;
        let enqueued = Instant::now();
        let positions = open.tokens.len() + open.max_tokens + self.limits.max_gamma;
        let positions = positions.min(self.description.context);
        let admitted = self.admission.admit(positions, open.branches.min(self.limits.max_branches)).await?;
        let history = History::new(&open.sampling.penalties, &open.tokens, open.prompt_len);
        let Open { sampling, coupling, top_logprobs, .. } = *open;
        let text = Vec::new();
        let mut lane =
            Lane { cache: None, text, positions, history, sampling, coupling, top_logprobs, _admitted: admitted };
        let plan = Plan { keep: 0, tokens: open.tokens.clone() };
        let answer = self.answer_since(enqueued, &mut lane, plan, goal).await?;
        Ok((lane, answer))
    }

    /// Has the thread carry out a request.
    pub(crate) async fn answer(&self, lane: &mut Lane, plan: Plan, goal: Goal) -> Result<Answer, Error> {
        self.answer_since(Instant::now(), lane, plan, goal).await
    }

    /// Has the thread grow sequences beside the lane's own, while nobody needs the model, until all are grown or `recalled` is
    /// set.
    pub(crate) fn grow(
        &self,
        lane: &Lane,
        stems: Vec<Stem>,
        recalled: Arc<AtomicBool>,
    ) -> oneshot::Receiver<Result<Grown, Error>> {
        let (reply, growing) = oneshot::channel();
        let (history, sampling) = (lane.history.clone(), lane.sampling);
        let growth = Growth { stems, history, sampling, recalled, grown: Grown::default(), reply };
        // Where the thread has ended, the receiver hears of it.
        let _ = self.send(Request::Growth(Box::new(growth)));
        growing
    }

    fn send(&self, request: Request) -> Result<(), Error> {
        match &self.engine {
            Engine::Thread { queue, .. } => queue.send(request).map_err(|_| Error::Stopped),
            Engine::Lookup => Err(Error::Stopped),
        }
    }

    async fn answer_since(&self, enqueued: Instant, lane: &mut Lane, plan: Plan, goal: Goal) -> Result<Answer, Error> {
        if matches!(self.engine, Engine::Lookup) {
            return Ok(lane.look_up(plan, &goal));
        }
        let (reply, answer) = oneshot::channel();
        let (cache, history) = (lane.cache.take(), mem::take(&mut lane.history));
        let Lane { positions, sampling, coupling, top_logprobs, .. } = *lane;
        let task = Task { cache, positions, history, sampling, coupling, top_logprobs, plan, goal, enqueued, reply };
        self.send(Request::Task(Box::new(task)))?;
        let (cache, history, answer) = answer.await.map_err(|_| Error::Stopped)??;
        (lane.cache, lane.history) = (Some(cache), history);
        Ok(answer)
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("model", &self.description.name).field("limits", &self.limits).finish()
    }
}

impl Lane {
    /// Continues the session's own text.
    fn look_up(&mut self, plan: Plan, goal: &Goal) -> Answer {
        let begun = Instant::now();
        self.text.truncate(plan.keep);
        self.text.extend(plan.tokens);
        let tokens = match goal {
            Goal::Propose { gamma, .. } => lookup::propose(&self.text, *gamma),
            Goal::Verify { .. } => Vec::new(),
        };
        // As a cache would, it holds what leads to the last proposed token.
        self.text.extend(&tokens[..tokens.len().saturating_sub(1)]);
        let drafted = match self.coupling {
            Coupling::Gumbel => Vec::new(),
            Coupling::Rejection => tokens.iter().map(|&token| DraftDistribution::certain(token)).collect(),
        };
        Answer { tokens, drafted, cost: Cost { select: begun.elapsed(), ..Cost::default() }, ..Answer::default() }
    }

    /// Counts tokens that were committed elsewhere than by an answer.
    pub(crate) fn commit(&mut self, tokens: &[TokenId]) {
        self.history.extend(tokens);
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("positions", &self.cache.as_ref().map(KvCache::len)).finish()
    }
}
