//! The thread that owns a model: it takes requests from a bounded queue and forwards all that wait in one ragged batch.
//!
//! A session's KV cache belongs to its [`Lane`] and travels with each request to the thread and back with the answer, so
//! the thread keeps nothing of a session that has gone.

mod batch;

use std::{
    fmt, io,
    sync::{
        Arc, Mutex,
        mpsc::{self, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use speculative::{Sampling, SyntheticAcceptance, TokenId, roofline::Roofs};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{Decoder, Description, Error, KvCache, Limits, Open, OpenError, session::Plan};

/// A handle on the model's thread. Cheap to clone; the thread ends with the last one.
#[derive(Clone)]
pub struct Worker {
    queue: SyncSender<Request>,
    description: Arc<Description>,
    limits: Limits,
    synthetic_acceptance: Option<SyntheticAcceptance>,
    slots: Arc<Semaphore>,
    roofs: Arc<Mutex<Option<Roofs>>>,
}

enum Request {
    Task(Box<Task>),
    MeasureRoofs(oneshot::Sender<Roofs>),
}

/// One message's work and all it needs.
struct Task {
    /// `None` before the first pass.
    cache: Option<KvCache>,
    sampling: Sampling,
    plan: Plan,
    goal: Goal,
    enqueued: Instant,
    reply: Reply,
}

/// Where an answer goes, with the cache that it leaves behind.
type Reply = oneshot::Sender<Result<(KvCache, Answer), Error>>;

/// What the forwarded tokens are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Choose `gamma` tokens, one after the other.
    Propose {
        /// Tokens to choose; with 0 the tokens are forwarded and nothing is chosen.
        gamma: usize,
    },
    /// Choose along the last `gamma` forwarded tokens, until a choice differs.
    Verify {
        /// How many of the forwarded tokens are proposed.
        gamma: usize,
    },
}

/// What the model's thread answers.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The proposed tokens, or those to commit.
    pub tokens: Vec<TokenId>,
    /// The draft's probability of each proposed token; empty for a verdict.
    pub confidences: Vec<f32>,
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

/// A session's place at the model: its KV cache, how its tokens are chosen, and its slot among the sessions.
pub(crate) struct Lane {
    /// Empty before the first pass, while a request is with the thread, and for good when that request's future was
    /// dropped: the thread then refuses to go on.
    cache: Option<KvCache>,
    sampling: Sampling,
    _slot: OwnedSemaphorePermit,
}

/// A request that is with the model's thread.
pub(crate) struct Pending(oneshot::Receiver<Result<(KvCache, Answer), Error>>);

/// The model's queue did not take a request.
pub(crate) enum Unqueued {
    /// It is full.
    Full,
    /// The thread has ended.
    Stopped,
}

impl Worker {
    /// Starts the thread, named `name`, that owns `decoder`.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn spawn(name: &str, decoder: impl Decoder, limits: Limits) -> io::Result<Self> {
        Self::spawn_accepting(name, decoder, limits, None)
    }

    /// The same, and with `synthetic_acceptance` it accepts proposals by lot, whatever their logits.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn spawn_accepting(
        name: &str,
        decoder: impl Decoder,
        limits: Limits,
        synthetic_acceptance: Option<SyntheticAcceptance>,
    ) -> io::Result<Self> {
        // One place beyond the requests, for measuring the roofs.
        let (queue, requests) = mpsc::sync_channel(limits.queue_depth + 1);
        let description = Arc::new(decoder.description().clone());
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || batch::run(decoder, synthetic_acceptance, &requests))?;
        let slots = Arc::new(Semaphore::new(limits.max_sessions));
        Ok(Self { queue, description, limits, synthetic_acceptance, slots, roofs: Arc::default() })
    }

    /// What the model is.
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
        self.limits.max_sessions - self.slots.available_permits()
    }

    /// The roofs as measured last; with `measure`, measured now unless a session is open.
    pub async fn roofs(&self, measure: bool) -> Option<Roofs> {
        if measure && self.open_sessions() == 0 {
            let (reply, roofs) = oneshot::channel();
            if self.queue.try_send(Request::MeasureRoofs(reply)).is_ok()
                && let Ok(measured) = roofs.await
            {
                *self.roofs.lock().expect("no holder of the lock panics") = Some(measured);
            }
        }
        *self.roofs.lock().expect("no holder of the lock panics")
    }

    /// Opens a session's lane and forwards its tokens.
    pub(crate) async fn prefill(&self, open: &Open, goal: Goal) -> Result<(Lane, Answer), OpenError> {
        open.validate(&self.description, &self.limits)?;
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            return Err(OpenError::Sessions { max_sessions: self.limits.max_sessions });
        };
        let mut lane = Lane { cache: None, sampling: open.sampling, _slot: slot };
        let plan = Plan { keep: 0, tokens: open.tokens.clone() };
        let pending = self.enqueue(&mut lane, plan, goal).map_err(|unqueued| match unqueued {
            Unqueued::Full => OpenError::Queue { queue_depth: self.limits.queue_depth },
            Unqueued::Stopped => OpenError::Failed(Error::Stopped),
        })?;
        let answer = pending.answer(&mut lane).await?;
        Ok((lane, answer))
    }

    /// Hands a request to the thread; a queue that does not take it leaves the lane as it was.
    pub(crate) fn enqueue(&self, lane: &mut Lane, plan: Plan, goal: Goal) -> Result<Pending, Unqueued> {
        let (reply, answer) = oneshot::channel();
        let cache = lane.cache.take();
        let task = Task { cache, sampling: lane.sampling, plan, goal, enqueued: Instant::now(), reply };
        let (request, unqueued) = match self.queue.try_send(Request::Task(Box::new(task))) {
            Ok(()) => return Ok(Pending(answer)),
            Err(mpsc::TrySendError::Full(request)) => (request, Unqueued::Full),
            Err(mpsc::TrySendError::Disconnected(request)) => (request, Unqueued::Stopped),
        };
        if let Request::Task(task) = request {
            lane.cache = task.cache;
        }
        Err(unqueued)
    }
}

impl Pending {
    /// Waits for the answer and gives the cache back to its lane.
    pub(crate) async fn answer(self, lane: &mut Lane) -> Result<Answer, Error> {
        let (cache, answer) = self.0.await.map_err(|_| Error::Stopped)??;
        lane.cache = Some(cache);
        Ok(answer)
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("model", &self.description.name).field("limits", &self.limits).finish()
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("positions", &self.cache.as_ref().map(KvCache::len)).finish()
    }
}
