//! The session with the draft. Whatever goes wrong here costs speed, never output.
//!
//! At most one `Propose` is unanswered. Past its deadline cycles go on without a proposal and do not wait; the draft's
//! late answer, or a reopened stream, brings the next `Propose`.

use std::time::{Duration, Instant};

use prost::Message as _;
use proto::v1::{self, Branch, DescribeResponse, DraftSessionRequest, Proposal, Propose, draft_session_request};
use speculative::{Coupling, DraftDistribution, TokenId};
use telemetry::{
    Span,
    names::{convention, event, spec},
};
use tokio::{
    task::JoinHandle,
    time::{self, timeout_at},
};
use tonic::Status;
use tracing::Instrument;

use super::{Call, leg, trace_context};
use crate::{Deadlines, Leg, Request, Service};
pub use ahead::{Anticipation, AnticipationOutcome};
use patience::Patience;
use stream::{Asked, Come, Stream};

mod ahead;
mod patience;
mod stream;

/// The first pause before a lost session is reopened; it doubles with every failure.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// One session with the draft, over as many streams as it takes.
pub(crate) struct DraftLink {
    service: Service,
    target: DescribeResponse,
    patience: Patience,
    state: State,
    /// Pause before the next attempt to reopen.
    pause: Duration,
    wish: Wish,
}

/// What is wanted of proposals beside their length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// Branches that the draft may draft ahead.
    branches: usize,
    min_confidence: f32,
    /// Under rejection coupling a proposal has to say what it was sampled from.
    coupling: Coupling,
}

impl Wish {
    pub(crate) fn of(request: &Request) -> Self {
        let Request { branches, min_confidence, coupling, .. } = *request;
        Self { branches, min_confidence, coupling }
    }
}

enum State {
    /// A task opens a stream.
    Opening(JoinHandle<Result<Stream, Status>>),
    /// The draft waits for a `Propose`.
    Ready(Stream),
    /// A `Propose` missed its deadline and is still unanswered.
    Late(Stream, Asked),
    /// The stream is lost; it is reopened at the next cycle after `retry_at`.
    Down { retry_at: Instant },
}

impl State {
    /// The stream of a draft that waits; the session is down until it is put back.
    fn take_ready(&mut self) -> Option<Stream> {
        match std::mem::replace(self, Self::Down { retry_at: Instant::now() }) {
            Self::Ready(stream) => Some(stream),
            away => {
                *self = away;
                None
            }
        }
    }
}

/// Why a `Propose` brings nothing.
enum Unanswered {
    /// The answer was not there within so long.
    Late(Duration),
    Lost(Status),
}

impl From<Status> for Unanswered {
    fn from(status: Status) -> Self {
        Self::Lost(status)
    }
}

/// What the draft proposed, and what that cost.
#[derive(Debug, Default)]
pub(crate) struct Proposed {
    pub(crate) tokens: Vec<TokenId>,
    /// Under rejection coupling, what each of them was sampled from.
    pub(crate) distributions: Vec<v1::DraftDistribution>,
    pub(crate) leg: Option<Leg>,
    /// What became of what was drafted ahead, where something was.
    pub(crate) anticipation: Option<Anticipation>,
}

impl DraftLink {
    /// Begins to open the session; [`DraftLink::opened`] waits for it.
    pub(crate) fn open(
        service: Service,
        target: DescribeResponse,
        call: Call,
        deadlines: Deadlines,
        wish: Wish,
    ) -> Self {
        let state = State::Opening(tokio::spawn(Stream::open(service.clone(), call).in_current_span()));
        let most = service.description.limits.unwrap_or_default().max_branches as usize;
        let wish = Wish { branches: wish.branches.min(most), ..wish };
        Self { service, target, patience: Patience::new(deadlines), state, pause: FIRST_PAUSE, wish }
    }

    /// Waits until the prefill is done, the attempt has failed, or `deadline` has passed.
    pub(crate) async fn opened(&mut self, deadline: time::Instant) {
        if let State::Opening(task) = &mut self.state
            && let Ok(outcome) = timeout_at(deadline, task).await
        {
            self.state = self.outcome(outcome.unwrap_or_else(|_| Err(Status::internal("opening panicked"))));
        }
    }

    /// The most tokens that the draft can propose after `base_len` committed ones.
    pub(crate) fn room(&self, base_len: usize) -> usize {
        (self.service.description.context_length as usize).saturating_sub(base_len)
    }

    /// Notes what a cycle brought and how long its verdict took.
    pub(crate) fn learn(&mut self, proposed: usize, accepted: usize, verdict: Duration) {
        self.patience.learn(proposed, accepted, verdict);
    }

    /// Asks for γ tokens after the committed ones; a branch that was drafted ahead may have more, up to `most`. Nothing is
    /// proposed by a draft that is away, late, or lying.
    pub(crate) async fn propose(
        &mut self,
        cycle: u64,
        committed: &[TokenId],
        [gamma, most]: [usize; 2],
        open: impl FnOnce() -> Call,
        span: &mut Span,
    ) -> Proposed {
        self.settle(open, span).await;
        if self.patience.rests() {
            return Proposed::default();
        }
        let Some(mut stream) = self.state.take_ready() else { return Proposed::default() };
        let tokens = committed[stream.known_len..].to_vec();
        let asked = Asked { cycle, base_len: committed.len(), gamma, most, tokens };
        let sent = Instant::now();
        let unanswered = match self.ask(&mut stream, &asked, span).await {
            Ok(proposed) => {
                self.state = State::Ready(stream);
                return proposed;
            }
            Err(unanswered) => unanswered,
        };
        match unanswered {
            Unanswered::Late(deadline) => {
                tracing::debug!(cycle, deadline_ms = deadline.as_millis() as u64, "the draft missed its deadline");
                span.event(event::DRAFT_LATE, [(spec::DEADLINE_NS, (deadline.as_nanos() as i64).into())]);
                self.patience.missed();
                self.state = State::Late(stream, asked);
            }
            Unanswered::Lost(status) => {
                stream.placed.failed();
                self.lost(&status, span);
            }
        }
        Proposed { leg: Some(Leg::waited(sent)), ..Proposed::default() }
    }

    /// A branch that is here already, and the draft told of it; otherwise what the draft answers in time.
    async fn ask(&mut self, stream: &mut Stream, asked: &Asked, span: &Span) -> Result<Proposed, Unanswered> {
        let sent = Instant::now();
        let deadline = self.patience.deadline(asked.gamma);
        let foreseen = stream.foreseen(&asked.tokens, self.wish.branches).await?;
        let foreseen = foreseen.and_then(|branch| self.honest_branch(asked, branch));
        let (is_expected, mut cost) = (stream.ahead.is_expected(), stream.ahead.take_cost());
        let propose = Propose {
            cycle: asked.cycle,
            base_len: asked.base_len as u32,
            tokens: asked.tokens.clone(),
            gamma: asked.gamma as u32,
            trace: trace_context(span),
            branches: self.wish.branches as u32,
            verifying: foreseen.as_ref().map(|branch| v1::Verifying { tokens: branch.tokens.clone() }),
            min_confidence: self.wish.min_confidence,
        };
        let asked_bytes = propose.encoded_len();
        stream.duplex.send(DraftSessionRequest { message: Some(draft_session_request::Message::Propose(propose)) })?;
        if let Some(branch) = foreseen {
            stream.adopted(asked, &branch);
            let anticipation = Some(Anticipation::of(AnticipationOutcome::Hit, Some(&branch), cost));
            return Ok(Proposed { tokens: branch.tokens, anticipation, ..Proposed::default() });
        }
        let answer = timeout_at((sent + deadline).into(), stream.answer(asked)).await;
        Ok(match answer.map_err(|_| Unanswered::Late(deadline))?? {
            Some(Come::Proposal(proposal)) => {
                self.patience.kept();
                let wire_bytes = asked_bytes + proposal.encoded_len();
                let leg = leg(sent, &proposal.cost.unwrap_or_default(), wire_bytes);
                let anticipation = is_expected.then(|| Anticipation::of(AnticipationOutcome::Miss, None, cost));
                Proposed { leg: Some(leg), anticipation, ..self.checked(asked, proposal) }
            }
            Some(Come::Branch(branch)) => {
                self.patience.kept();
                // It was drafted before it was asked for: all of the wait is the way of it.
                let leg = Leg { wire_bytes: (asked_bytes + branch.encoded_len()) as u64, ..Leg::waited(sent) };
                cost += stream.ahead.take_cost();
                let anticipation = Some(Anticipation::of(AnticipationOutcome::LateHit, Some(&branch), cost));
                stream.adopted(asked, &branch);
                let tokens = self.honest_branch(asked, branch).map(|branch| branch.tokens).unwrap_or_default();
                Proposed { tokens, leg: Some(leg), anticipation, ..Proposed::default() }
            }
            None => Proposed { leg: Some(Leg::waited(sent)), ..Proposed::default() },
        })
    }

    /// Takes what has happened since the last cycle, without waiting: an opened stream, a late answer, a pause that is
    /// over.
    async fn settle(&mut self, open: impl FnOnce() -> Call, span: &mut Span) {
        let state = std::mem::replace(&mut self.state, State::Down { retry_at: Instant::now() });
        self.state = match state {
            State::Opening(task) if task.is_finished() => {
                let outcome = task.await.unwrap_or_else(|_| Err(Status::internal("opening panicked")));
                match &outcome {
                    Ok(_) => span.event(event::DRAFT_BACK, []),
                    Err(status) => span.event(event::DRAFT_LOST, [error_type(status)]),
                }
                self.outcome(outcome)
            }
            State::Late(mut stream, asked) => match stream.late(&asked).await {
                Ok(true) => State::Ready(stream),
                Ok(false) => State::Late(stream, asked),
                Err(status) => {
                    stream.placed.failed();
                    self.lost(&status, span);
                    return;
                }
            },
            State::Down { retry_at } if retry_at <= Instant::now() => {
                State::Opening(tokio::spawn(Stream::open(self.service.clone(), open()).in_current_span()))
            }
            unchanged => unchanged,
        };
    }

    fn outcome(&mut self, outcome: Result<Stream, Status>) -> State {
        match outcome {
            Ok(stream) => {
                self.pause = FIRST_PAUSE;
                State::Ready(stream)
            }
            Err(status) => self.down(&status),
        }
    }

    fn lost(&mut self, status: &Status, span: &mut Span) {
        span.event(event::DRAFT_LOST, [error_type(status)]);
        self.state = self.down(status);
    }

    fn down(&mut self, status: &Status) -> State {
        tracing::warn!(url = self.service.url, code = ?status.code(), message = status.message(), "the draft is away");
        let retry_at = Instant::now() + self.pause;
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        State::Down { retry_at }
    }

    /// What is proposed: nothing where the proposal breaks the protocol.
    fn checked(&self, asked: &Asked, proposal: Proposal) -> Proposed {
        let Proposal { tokens, distributions, .. } = proposal;
        let continues = tokens.len() <= asked.gamma && proposal.base_len as usize == asked.base_len;
        let honest = continues && self.are_known(&tokens);
        match self.wish.coupling {
            Coupling::Gumbel if honest => Proposed { tokens, ..Proposed::default() },
            Coupling::Rejection if honest && self.are_samples(&tokens, &distributions) => {
                Proposed { tokens, distributions, ..Proposed::default() }
            }
            Coupling::Gumbel | Coupling::Rejection => {
                tracing::warn!(cycle = asked.cycle, "the draft's proposal breaks the protocol and counts as none");
                Proposed::default()
            }
        }
    }

    /// Whether each token can have been sampled from what it is told to be.
    fn are_samples(&self, tokens: &[TokenId], distributions: &[v1::DraftDistribution]) -> bool {
        let size = self.target.tokenizer_size as usize;
        let is_sample = |(&token, told): (&TokenId, &v1::DraftDistribution)| {
            let v1::DraftDistribution { tokens, probabilities } = told.clone();
            DraftDistribution { tokens, probabilities }.check(token, size).is_ok()
        };
        tokens.len() == distributions.len() && tokens.iter().zip(distributions).all(is_sample)
    }

    /// A branch as far as it may be proposed now; `None` where it breaks the protocol.
    fn honest_branch(&self, asked: &Asked, mut branch: Branch) -> Option<Branch> {
        branch.tokens.truncate(asked.most);
        let honest = self.are_known(&branch.tokens);
        if !honest {
            tracing::warn!(cycle = asked.cycle, "the draft's branch breaks the protocol and counts as none");
        }
        honest.then_some(branch)
    }

    fn are_known(&self, tokens: &[TokenId]) -> bool {
        tokens.iter().all(|&token| token < self.target.tokenizer_size)
    }
}

impl Drop for DraftLink {
    fn drop(&mut self) {
        if let State::Opening(task) = &self.state {
            task.abort();
        }
    }
}

/// Why the stream is lost, as an attribute.
fn error_type(status: &Status) -> (&'static str, opentelemetry::Value) {
    (convention::ERROR_TYPE, format!("{:?}", status.code()).into())
}
