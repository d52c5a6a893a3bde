//! Draft and target in this process: each on port 0 and on a runtime of its own, so that one can be killed, connections
//! and all, and started again on its port.
//!
//! # Layout
//! - [`Node`]: one service
//! - [`worker`], [`model()`], [`spawn`]: the embedded pair, shared or with [`decoders`] around it
//! - [`request`], [`run`], [`watch`]: what is generated
//! - [`liar`]: a draft that breaks the protocol; [`talk`]: raw sessions that do

pub mod decoders;
pub mod liar;
pub mod talk;

use std::{
    future,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    sync::{Arc, LazyLock},
    thread,
    time::Duration,
};

use coordinator::{Access, Deadlines, Error, Pair, Request, Run, generate, text};
use model::{Compute, Decoder, EmbeddedModel, Limits, Source, Transformer, Worker};
use speculative::{Sampling, TokenId};
use telemetry::{Tracer, server};
use tokenizer::Tokenizer;
use tokio::{
    runtime::{self, Runtime},
    sync::oneshot,
    task::JoinHandle,
};

/// Beyond what any step of a test takes on a busy machine.
pub const LONG: Duration = Duration::from_secs(60);

/// Deadlines that nothing misses.
pub const PATIENT: Deadlines = Deadlines { draft: LONG, draft_adapts: false, target: LONG };

static COMPUTE: LazyLock<Arc<Compute>> = LazyLock::new(|| {
    let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    Arc::new(Compute::new(threads))
});

static DRAFT: LazyLock<Worker> = LazyLock::new(|| spawn(model(EmbeddedModel::Draft), Limits::default()));

static TARGET: LazyLock<Worker> = LazyLock::new(|| spawn(model(EmbeddedModel::Target), Limits::default()));

/// An embedded model on the threads that all models of a test share.
pub fn model(model: EmbeddedModel) -> Transformer {
    Transformer::load(&Source::Embedded(model), COMPUTE.clone()).expect("the embedded pair loads")
}

/// Puts a model on a thread of its own.
pub fn spawn(decoder: impl Decoder, limits: Limits) -> Worker {
    Worker::spawn("model", decoder, limits).expect("a thread for the model")
}

/// An embedded model's thread, which all tests of a binary share, as do their sessions its batches.
pub fn worker(model: EmbeddedModel) -> Worker {
    match model {
        EmbeddedModel::Draft => DRAFT.clone(),
        EmbeddedModel::Target => TARGET.clone(),
    }
}

/// A target whose ids stand for something else than the embedded pair's.
pub fn another_tokenizer_target() -> Worker {
    let renamed = decoders::plain(model(EmbeddedModel::Target))
        .described(|model| model.tokenizer = decoders::another_tokenizer());
    spawn(renamed, Limits::default())
}

/// Which of the two services a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It proposes.
    Draft,
    /// It verifies.
    Target,
}

/// How a node is served.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Makes its spans.
    pub tracer: Tracer,
    /// How it is reached, and how it ends.
    pub server: server::Config,
}

impl Setup {
    /// Open sessions may go on for `grace` once it stops.
    pub fn with_grace(grace: Duration) -> Self {
        Self { tracer: Tracer::off(), server: server::Config { grace, ..server::Config::default() } }
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self::with_grace(Duration::from_secs(1))
    }
}

/// One running service. Dropping it kills it.
#[derive(Debug)]
pub struct Node {
    side: Side,
    setup: Setup,
    address: SocketAddr,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    runtime: Runtime,
    /// Dropping it stops the service.
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<(), service::Error>>,
}

impl Node {
    /// A draft that proposes with `worker`'s model.
    pub fn draft(worker: Worker) -> Self {
        Self::start(Side::Draft, Setup::default(), future::ready(Ok(worker)))
    }

    /// A target that verifies with `worker`'s model.
    pub fn target(worker: Worker) -> Self {
        Self::start(Side::Target, Setup::default(), future::ready(Ok(worker)))
    }

    /// A service whose model comes from `load`.
    pub fn start(
        side: Side,
        setup: Setup,
        load: impl Future<Output = Result<Worker, service::Error>> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let running = Some(serve(side, &setup, listener, load));
        Self { side, setup, address, running }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as the coordinator takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends it as a crash would: every connection is cut, nobody is told.
    pub fn kill(&mut self) {
        if let Some(Running { runtime, .. }) = self.running.take() {
            // A runtime must not be waited for by a thread that serves another one.
            let ending = thread::spawn(move || runtime.shutdown_timeout(LONG));
            ending.join().expect("a runtime that ends");
        }
    }

    /// Starts it again on its port, after [`Node::kill`].
    pub fn restart(&mut self, worker: Worker) {
        let listener = TcpListener::bind(self.address).expect("the port that it had");
        let load = future::ready(Ok(worker));
        self.running = Some(serve(self.side, &self.setup, listener, load));
    }

    /// Asks it to stop; resolves when it has.
    pub async fn stop(mut self) -> Result<(), service::Error> {
        if let Some(running) = &mut self.running {
            running.stop = None;
        }
        self.ended().await
    }

    /// Resolves when it has ended.
    pub async fn ended(mut self) -> Result<(), service::Error> {
        let Running { runtime, served, stop } = self.running.take().expect("a node that runs");
        let outcome = served.await.expect("a service that does not panic");
        drop(stop);
        runtime.shutdown_background();
        outcome
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn serve(
    side: Side,
    setup: &Setup,
    listener: TcpListener,
    load: impl Future<Output = Result<Worker, service::Error>> + Send + 'static,
) -> Running {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let (stop, stopped) = oneshot::channel::<()>();
    let Setup { tracer, server } = setup.clone();
    let served = runtime.spawn(async move {
        listener.set_nonblocking(true).expect("a socket that need not block");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a socket for the runtime");
        let stop = async { drop(stopped.await) };
        match side {
            Side::Draft => draft_svc::serve(listener, load, tracer, stop, server).await,
            Side::Target => target_svc::serve(listener, load, tracer, stop, server).await,
        }
    });
    let stop = Some(stop);
    Running { runtime, stop, served }
}

/// Connects to a draft, if there is one, and a target.
pub async fn pair(draft: Option<&Node>, target: &Node) -> Pair {
    let draft = draft.map(Node::url);
    Pair::connect(draft.as_deref(), &target.url(), &Access::default()).await.expect("services that fit together")
}

/// The embedded pair, connected, with what keeps it alive.
#[derive(Debug)]
pub struct Embedded {
    /// The draft.
    pub draft: Node,
    /// The target.
    pub target: Node,
    /// The connections to both.
    pub pair: Pair,
}

impl Embedded {
    /// Starts the embedded pair.
    pub async fn start() -> Self {
        Self::with(Node::draft(worker(EmbeddedModel::Draft)), Node::target(worker(EmbeddedModel::Target))).await
    }

    /// The embedded target beside a draft of one's own.
    pub async fn drafted_by(draft: Worker) -> Self {
        Self::with(Node::draft(draft), Node::target(worker(EmbeddedModel::Target))).await
    }

    /// Two nodes, connected.
    pub async fn with(draft: Node, target: Node) -> Self {
        let pair = pair(Some(&draft), &target).await;
        Self { draft, target, pair }
    }
}

/// Sampling without truncation.
pub fn sampled(temperature: f64, seed: u64) -> Sampling {
    Sampling { temperature, seed, ..Sampling::greedy() }
}

/// The character models' tokens of a prompt.
pub fn tokens(prompt: &str) -> Vec<TokenId> {
    Tokenizer::ascii().encode(prompt).expect("an ASCII prompt")
}

/// What to generate.
pub fn request(prompt: &str, sampling: Sampling, max_tokens: usize, gamma: usize) -> Request {
    Request { max_tokens, gamma: gamma.into(), ..Request::new(tokens(prompt), sampling) }
}

/// The same request for the target alone.
pub fn alone(request: &Request) -> Request {
    request.clone().alone()
}

/// Generates with patience.
pub async fn run(pair: &Pair, request: &Request) -> Run {
    watch(pair, request, PATIENT, |_| ()).await.expect("a run that succeeds")
}

/// Generates; `seen` gets the number of characters, which is that of the tokens, as it grows.
pub async fn watch(
    pair: &Pair,
    request: &Request,
    deadlines: Deadlines,
    seen: impl FnMut(usize),
) -> Result<Run, Error> {
    watch_traced(pair, request, deadlines, &Tracer::off(), seen).await
}

/// The same with its spans.
pub async fn watch_traced(
    pair: &Pair,
    request: &Request,
    deadlines: Deadlines,
    tracer: &Tracer,
    mut seen: impl FnMut(usize),
) -> Result<Run, Error> {
    let mut characters = 0;
    let emit = |piece: text::Piece| {
        characters += piece.text.len();
        seen(characters);
    };
    generate(pair, request.clone(), deadlines, tracer, emit, future::pending()).await
}

/// Fails where `work` takes longer than anything should.
pub async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| panic!("not done within {limit:?}"))
}

/// Waits until `holds`, which no message announces.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let polling = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let in_time = tokio::time::timeout(LONG, polling).await;
    assert!(in_time.is_ok(), "{what}: still not after {LONG:?}");
}

/// Fails where two runs differ in what they put out.
#[track_caller]
pub fn assert_same(speculative: &Run, alone: &Run, what: &str) {
    let (ours, theirs) = (&speculative.token_ids, &alone.token_ids);
    let differ = ours.iter().zip(theirs).position(|(ours, theirs)| ours != theirs);
    assert_eq!(differ, None, "{what}: the first token that differs");
    assert_eq!(ours.len(), theirs.len(), "{what}: number of tokens");
    assert_eq!(speculative.text, alone.text, "{what}: text");
    assert!(speculative.logprobs == alone.logprobs, "{what}: log-probabilities");
    assert_eq!(speculative.stop_reason, alone.stop_reason, "{what}: stop reason");
}
