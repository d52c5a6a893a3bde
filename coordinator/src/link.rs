//! One session's streams: how messages go out and answers come in.

mod draft;
mod target;

use std::time::{Duration, Instant};

use proto::v1::{self, Cost};
use speculative::{Coupling, Sampling, roofline::Work};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

pub use draft::{Anticipation, AnticipationOutcome};
pub(crate) use draft::{DraftLink, Proposed, Wish};
pub(crate) use target::{Opening, TargetLink, Verified};

use crate::Leg;

/// Messages on their way out. At most `Open` and one request are ever unanswered.
const OUTBOX: usize = 2;

/// What opens a session, and until when somebody waits for it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) open: v1::Open,
    pub(crate) deadline: Option<Instant>,
}

impl Call {
    /// `messages` as a request that the service lets go of at the deadline.
    fn request<T>(deadline: Option<Instant>, messages: T) -> Request<T> {
        let mut request = Request::new(messages);
        if let Some(deadline) = deadline {
            // A deadline of none would be one that has no end.
            request.set_timeout(deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
        }
        request
    }
}

/// How tokens are chosen, as the protocol says it.
pub(crate) fn sampling(Sampling { temperature, top_k, top_p, min_p, seed, penalties }: Sampling) -> v1::Sampling {
    v1::Sampling {
        temperature,
        top_k,
        top_p: Some(top_p),
        min_p,
        seed,
        presence_penalty: penalties.presence,
        frequency_penalty: penalties.frequency,
        repetition_penalty: Some(penalties.repetition),
    }
}

/// The coupling, as the protocol says it. Gumbel's is said by silence: services that know no other hear the same.
pub(crate) fn coupling(coupling: Coupling) -> i32 {
    match coupling {
        Coupling::Gumbel => v1::Coupling::Unspecified.into(),
        Coupling::Rejection => v1::Coupling::Rejection.into(),
    }
}

/// Both directions of a session's stream.
struct Duplex<Q, A> {
    requests: mpsc::Sender<Q>,
    answers: Streaming<A>,
}

impl<Q: Send + 'static, A> Duplex<Q, A> {
    /// Queues `open` before `call` is made, so that it travels with the headers.
    async fn open(
        open: Q,
        call: impl AsyncFnOnce(ReceiverStream<Q>) -> Result<Response<Streaming<A>>, Status>,
    ) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(OUTBOX);
        requests.try_send(open).map_err(|_| Status::internal("an empty outbox has room"))?;
        let answers = call(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { requests, answers })
    }

    /// Queues a request. An outbox that is full belongs to a peer that has stopped reading.
    fn send(&self, request: Q) -> Result<(), Status> {
        self.requests.try_send(request).map_err(|_| Status::unavailable("the session's stream takes no more messages"))
    }

    /// The next answer; the end of the stream is an error.
    async fn next(&mut self) -> Result<A, Status> {
        self.answers.message().await?.ok_or_else(|| Status::unavailable("the session's stream has ended"))
    }

    /// The next answer if it is here already.
    async fn arrived(&mut self) -> Option<Result<A, Status>> {
        tokio::select! {
            biased;
            answer = self.answers.next() => {
                Some(answer.unwrap_or_else(|| Err(Status::unavailable("the session's stream has ended"))))
            }
            () = std::future::ready(()) => None,
        }
    }
}

/// Splits a round trip of so many bytes into what the service reports of itself and the rest, the network.
fn leg(sent: Instant, cost: &Cost, wire_bytes: usize) -> Leg {
    let round_trip = sent.elapsed();
    let server = Duration::from_nanos(cost.server_ns).min(round_trip);
    let queue = Duration::from_nanos(cost.queue_ns).min(server);
    Leg {
        compute: server - queue,
        queue,
        network: round_trip - server,
        forward: Duration::from_nanos(cost.forward_ns),
        select: Duration::from_nanos(cost.select_ns),
        work: Work { flops: cost.flops, bytes: cost.bytes },
        wire_bytes: wire_bytes as u64,
        others_rows: u64::from(cost.batch_rows.saturating_sub(cost.rows)),
        behind_rows: u64::from(cost.behind_rows),
    }
}

/// What makes the receiver's span a child of `span`.
pub(crate) fn trace_context(span: &telemetry::Span) -> Option<v1::TraceContext> {
    let parent = span.propagate()?;
    Some(v1::TraceContext { traceparent: parent.traceparent, tracestate: parent.tracestate })
}
