//! A stream's life: `Open`, then messages and their answers, until either side ends it.
//!
//! Headers go out at once; the session then runs in a task of its own and dies with the stream.

use std::{
    collections::VecDeque,
    fmt,
    future::{self, Future},
    pin::pin,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use model::{Answer, BranchCost, Cost, Open, OpenError, Pass, Refusal, Worker};
use opentelemetry::Value;
use proto::v1;
use speculative::roofline::{Placement, Roofs};
use telemetry::{
    Reference, Span, TraceParent,
    connections::Peer,
    logs,
    names::{convention, roofline, span, spec},
    server,
};
use tokio::{sync::mpsc, task, time};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use crate::{Host, wire};

/// A stream that has not opened its session by then is ended.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers that may wait for a peer that reads slowly; all branches that grow together have room.
const OUTBOX: usize = 4;

/// Spans of shared forwards that are kept: more than one pass has sessions.
const MOST_SHARED_FORWARDS: usize = 1024;

/// Branches of a session whose spans are kept: more than may wait for their verdict.
const MOST_BRANCH_SPANS: usize = 256;

/// What a stream of answers looks like to tonic.
pub type Answers<T> = ReceiverStream<Result<T, Status>>;

/// One side of the protocol: how its messages are opened and answered.
pub trait Role: Sized + Send + 'static {
    /// What the coordinator sends.
    type Request: Send + 'static;
    /// What it gets back.
    type Response: Send + 'static;
    /// The stream's service and method, for spans.
    const METHOD: &'static str;

    /// The `Open` in a message, if it is one.
    fn as_open(request: Self::Request) -> Option<v1::Open>;

    /// Opens the session; the answer holds the first token where there is one.
    fn open(worker: &Worker, open: Open) -> impl Future<Output = Result<(Self, Answer), OpenError>> + Send;

    /// Wraps the answer to `Open`.
    fn opened(opened: v1::Opened) -> Self::Response;

    /// Committed tokens.
    fn base_len(&self) -> usize;

    /// What is sent unasked, when it is there; may never be. Loses nothing where it is dropped.
    fn ahead(&mut self) -> impl Future<Output = Result<Unasked<Self::Response>, Status>> + Send;

    /// Answers a message. `None` drops it: it is stale, a duplicate, or of a kind that this version does not know.
    fn answer(
        &mut self,
        request: Self::Request,
        desk: &mut Desk,
    ) -> impl Future<Output = Result<Option<Self::Response>, Status>> + Send;
}

/// A branch that goes out unasked.
#[derive(Debug)]
pub struct Unasked<R> {
    /// The message.
    pub response: R,
    /// The branch's number in the session.
    pub id: u64,
    /// What it cost.
    pub cost: BranchCost,
    /// Whether another one follows at once.
    pub is_followed: bool,
}

/// Starts the session of a stream and returns its answers; its headers go out now.
///
/// # Errors
/// A peer that has as many sessions as it may have.
pub fn start<R: Role>(
    host: &Host,
    request: Request<Streaming<R::Request>>,
) -> Result<Response<Answers<R::Response>>, Status> {
    let share = host.admit(request.extensions().get::<Peer>())?;
    let (outbox, answers) = mpsc::channel(OUTBOX);
    let deadline = server::timeout(request.metadata()).map(|timeout| Instant::now() + timeout);
    let session = run::<R>(host.clone(), request.into_inner(), deadline, outbox);
    let session = async move {
        session.await;
        drop(share);
    };
    tokio::spawn(session.instrument(logs::of_trace_to_come()));
    Ok(Response::new(ReceiverStream::new(answers)))
}

async fn run<R: Role>(
    host: Host,
    mut requests: Streaming<R::Request>,
    deadline: Option<Instant>,
    outbox: mpsc::Sender<Result<R::Response, Status>>,
) {
    let ended = tokio::select! {
        ended = exchange::<R>(&host, &mut requests, &outbox) => ended,
        () = outbox.closed() => Ok(()),
        () = passed(deadline) => Err(Status::deadline_exceeded("nobody waits for the session any more")),
        () = host.closing() => Err(Status::unavailable("the service is stopping")),
    };
    if let Err(status) = ended {
        tracing::debug!(code = ?status.code(), message = status.message(), "session ended");
        // A peer whose outbox is full does not read; the end of the stream tells it as much.
        let _ = outbox.try_send(Err(status));
    }
}

/// Resolves at the deadline, and never without one.
async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline.into()).await,
        None => future::pending().await,
    }
}

async fn exchange<R: Role>(
    host: &Host,
    requests: &mut Streaming<R::Request>,
    outbox: &mpsc::Sender<Result<R::Response, Status>>,
) -> Result<(), Status> {
    let Ok(first) = time::timeout(OPEN_TIMEOUT, requests.message()).await else {
        return Err(Status::deadline_exceeded(format!("no open within {} s", OPEN_TIMEOUT.as_secs())));
    };
    let Some(first) = first? else { return Ok(()) };
    let mut desk = Desk::new(host.clone(), R::METHOD);
    let (mut role, opened) = open::<R>(host, first, &mut desk).await?;
    send(outbox, opened).await?;
    desk.file();
    loop {
        let Some(request) = next::<R>(requests, &mut role, &mut desk, outbox).await? else { return Ok(()) };
        if let Some(answer) = role.answer(request, &mut desk).await? {
            send(outbox, answer).await?;
        }
        desk.file();
    }
}

/// The next message, or the end of a session that has been silent for too long. Meanwhile it goes on ahead.
async fn next<R: Role>(
    requests: &mut Streaming<R::Request>,
    role: &mut R,
    desk: &mut Desk,
    outbox: &mpsc::Sender<Result<R::Response, Status>>,
) -> Result<Option<R::Request>, Status> {
    let limit = desk.host.worker()?.limits().idle_timeout;
    let mut silence = pin!(time::sleep(limit));
    loop {
        // Nothing is prepared for a peer that does not read.
        let unasked = async {
            let place = outbox.reserve().await.map_err(|_| Status::cancelled("the peer has gone"))?;
            let Unasked { response, id, cost, is_followed } = role.ahead().await?;
            place.send(Ok(response));
            Ok::<_, Status>((id, cost, is_followed))
        };
        tokio::select! {
            biased;
            request = requests.message() => return request,
            sent = unasked => {
                let (id, cost, is_followed) = sent?;
                desk.file_branch(id, cost);
                // What grew together is written together: it wakes the peer once.
                if is_followed {
                    continue;
                }
            }
            () = &mut silence => {
                let problem = format!("no message within idle_timeout, allowed: {} s", limit.as_secs_f64());
                return Err(Status::deadline_exceeded(problem));
            }
        }
        // The connection gets its turn to write it.
        task::yield_now().await;
    }
}

async fn open<R: Role>(host: &Host, first: R::Request, desk: &mut Desk) -> Result<(R, R::Response), Status> {
    let worker = host.worker()?;
    let Some(open) = R::as_open(first) else {
        return Err(Status::invalid_argument("the first message of a session must be open"));
    };
    let (open, trace) = wire::open(open)?;
    if let Some(trace_id) = trace.as_ref().and_then(TraceParent::trace_id) {
        logs::now_of_trace(&trace_id);
    }
    let exchange = desk.take_up(span::PREFILL, 0, trace);
    exchange.tell(convention::USAGE_INPUT_TOKENS, open.tokens.len() as i64);
    let (role, answer) = R::open(worker, open).await.map_err(|error| {
        host.metrics().refused(&error);
        exchange.fail(&error);
        wire::open_status(&error)
    })?;
    host.metrics().opened();
    let opened = v1::Opened {
        first_token: answer.tokens.first().copied(),
        first_logprobs: answer.logprobs.into_iter().next().map(wire::logprobs),
        base_len: role.base_len() as u32,
        cost: Some(exchange.cost(answer.cost)),
        incarnation_id: host.incarnation().to_owned(),
    };
    Ok((role, R::opened(opened)))
}

async fn send<T>(outbox: &mpsc::Sender<Result<T, Status>>, answer: T) -> Result<(), Status> {
    outbox.send(Ok(answer)).await.map_err(|_| Status::cancelled("the peer has gone"))?;
    // The connection gets its turn to write it before the session goes on.
    task::yield_now().await;
    Ok(())
}

/// What the answers of one session have in common.
#[derive(Debug)]
pub struct Desk {
    host: Host,
    method: &'static str,
    last_answered: u64,
    /// The message that is being answered, until its answer is on its way.
    exchange: Option<Exchange>,
    /// The cycles that were asked for last, and when: what grew in one belongs to it, though it may be sent in the next.
    cycles: [Option<(Instant, TraceParent)>; 2],
    /// The span of the branches that grew together last, and when they began.
    growth: Option<(Instant, Reference)>,
    /// The spans of the last branches.
    branches: VecDeque<(u64, Reference)>,
}

impl Desk {
    fn new(host: Host, method: &'static str) -> Self {
        Self {
            host,
            method,
            last_answered: 0,
            exchange: None,
            cycles: [None, None],
            growth: None,
            branches: VecDeque::new(),
        }
    }

    /// Takes up the message of `cycle`, unless it is stale or a duplicate; its number is used up either way.
    pub fn begin(&mut self, name: &'static str, cycle: u64, trace: Option<v1::TraceContext>) -> Option<&mut Exchange> {
        if cycle <= self.last_answered {
            return None;
        }
        self.last_answered = cycle;
        let exchange = self.take_up(name, cycle, trace.map(wire::trace_parent));
        exchange.tell(spec::CYCLE, cycle as i64);
        Some(exchange)
    }

    fn take_up(&mut self, name: &'static str, cycle: u64, parent: Option<TraceParent>) -> &mut Exchange {
        let parent = parent.filter(|_| self.host.tracer().is_on());
        let received = Instant::now();
        self.cycles.swap(0, 1);
        self.cycles[1] = parent.clone().map(|parent| (received, parent));
        self.exchange.insert(Exchange {
            name,
            received,
            cycle,
            parent,
            told: Vec::new(),
            failure: None,
            answered: None,
            adopted: None,
        })
    }

    /// Makes the spans of the message that was answered, and counts it. Nobody waits for that: its answer is on its way.
    fn file(&mut self) {
        let Some(Exchange { name, received, parent, told, failure, answered, adopted, .. }) = self.exchange.take()
        else {
            return;
        };
        let mut span = self.host.tracer().child_of_remote(name, parent.as_ref(), received);
        span.set(convention::RPC_SYSTEM, "grpc");
        span.set(convention::RPC_METHOD, self.method);
        told.into_iter().for_each(|(key, value)| span.set(key, value));
        if let Some(failure) = failure {
            span.fail(failure);
        }
        if let Some((_, grown)) = adopted.and_then(|id| self.branches.iter().find(|(branch, _)| *branch == id)) {
            span.link(grown);
        }
        let Some((at, cost)) = answered else { return };
        if span.is_recording() {
            self.record(&span, received, &cost);
        }
        self.host.metrics().answered(name, at - received, cost.queue, span.trace_id().as_deref());
        span.end(at);
    }

    /// Makes the span of the branches that grew together, with the first of them.
    fn file_branch(&mut self, id: u64, cost: BranchCost) {
        let BranchCost { begun, server, batch_rows, .. } = cost;
        if self.growth.as_ref().is_none_or(|(at, _)| *at != begun) {
            let grew_in = self.cycles.iter().rev().flatten().find(|(asked, _)| *asked <= begun);
            let parent = grew_in.map(|(_, parent)| parent);
            let mut span = self.host.tracer().child_of_remote(span::ANTICIPATE, parent, begun);
            span.set(convention::RPC_SYSTEM, "grpc");
            span.set(convention::RPC_METHOD, self.method);
            span.set(spec::BATCH_ROWS, batch_rows as i64);
            self.growth = span.reference().map(|reference| (begun, reference));
            span.end(begun + server);
        }
        let Some((_, reference)) = &self.growth else { return };
        if self.branches.len() == MOST_BRANCH_SPANS {
            self.branches.pop_front();
        }
        self.branches.push_back((id, reference.clone()));
    }

    /// Queue and forwards become spans.
    fn record(&self, span: &Span, received: Instant, cost: &Cost) {
        let Some(first) = cost.passes.first() else { return };
        let behind = (cost.behind_rows > 0).then(|| (spec::BEHIND_ROWS, (cost.behind_rows as i64).into()));
        span.record_child(span::QUEUE, (received, first.span.0), behind, &[]);
        let roofs = self.host.worker().ok().and_then(Worker::known_roofs);
        for pass in &cost.passes {
            let shared = pass.batch_rows > pass.rows;
            let others = if shared { self.host.forwards().of(pass.id) } else { Vec::new() };
            let forward = span.record_child(span::FORWARD, pass.span, attributes(pass, roofs), &others);
            if let Some(forward) = forward.filter(|_| shared) {
                self.host.forwards().add(pass.id, forward);
            }
        }
    }
}

impl Drop for Desk {
    /// A session that ends in the middle of an answer tells of it all the same.
    fn drop(&mut self) {
        self.file();
    }
}

/// One message and its answer.
#[derive(Debug)]
pub struct Exchange {
    name: &'static str,
    received: Instant,
    cycle: u64,
    parent: Option<TraceParent>,
    told: Vec<(&'static str, Value)>,
    failure: Option<String>,
    /// When it was answered, and what that cost.
    answered: Option<(Instant, Cost)>,
    /// The branch that it takes for its proposal.
    adopted: Option<u64>,
}

impl Exchange {
    /// Something for its span to tell.
    pub fn tell(&mut self, key: &'static str, value: impl Into<Value>) {
        if self.parent.is_some() {
            self.told.push((key, value.into()));
        }
    }

    /// The cost to answer with, now.
    pub fn cost(&mut self, cost: Cost) -> v1::Cost {
        let now = Instant::now();
        let told = wire::cost(&cost, now - self.received);
        self.answered = Some((now, cost));
        told
    }

    /// The refusal to answer with.
    pub fn refuse(&mut self, refusal: Refusal) -> v1::Rejected {
        self.tell(spec::REJECTED, refusal.detail.clone());
        wire::rejected(self.cycle, refusal)
    }

    /// A branch that was sent before is its answer: its span is tied to that one's.
    pub fn adopt(&mut self, branch: Option<u64>) {
        self.adopted = branch;
    }

    /// It could not be answered.
    pub fn fail(&mut self, error: &impl fmt::Display) {
        self.failure = Some(error.to_string());
    }
}

/// What a forward's span tells.
fn attributes(pass: &Pass, roofs: Option<Roofs>) -> impl Iterator<Item = (&'static str, Value)> {
    let seconds = (pass.span.1 - pass.span.0).as_secs_f64();
    let placement = roofs.map(|roofs| Placement::of(pass.work, seconds, &roofs));
    let counted = [
        (spec::FORWARD_ID, (pass.id as i64).into()),
        (spec::ROWS, (pass.rows as i64).into()),
        (spec::BATCH_ROWS, (pass.batch_rows as i64).into()),
        (spec::SHARE, (pass.rows as f64 / pass.batch_rows as f64).into()),
        (roofline::FLOPS, (pass.work.flops as i64).into()),
        (roofline::BYTES, (pass.work.bytes as i64).into()),
        (roofline::INTENSITY, pass.work.intensity().into()),
    ];
    let placed = placement.map(|placement| {
        [(roofline::UTILISATION, placement.utilisation.into()), (roofline::BOUND, placement.bound.as_str().into())]
    });
    counted.into_iter().chain(placed.into_iter().flatten())
}

/// The last spans of forwards that several sessions shared, so that each is tied to those before it by links.
#[derive(Debug, Default)]
pub(crate) struct SharedForwards(Mutex<VecDeque<(u64, Reference)>>);

impl SharedForwards {
    /// The spans of forward `id` in other traces so far.
    fn of(&self, id: u64) -> Vec<Reference> {
        let forwards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        forwards.iter().filter(|(of, _)| *of == id).map(|(_, reference)| reference.clone()).collect()
    }

    fn add(&self, id: u64, forward: Reference) {
        let mut forwards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if forwards.len() == MOST_SHARED_FORWARDS {
            forwards.pop_front();
        }
        forwards.push_back((id, forward));
    }
}

/// The status for an `Open` on a stream that has its session.
pub fn opened_twice() -> Status {
    Status::invalid_argument("a session opens once")
}
