//! The session with the draft. Whatever goes wrong here costs speed, never output.
//!
//! At most one `Propose` is unanswered. Past its deadline cycles go on without a proposal and do not wait; the draft's
//! late answer, or a reopened stream, brings the next `Propose`.

use std::time::{Duration, Instant};

use prost::Message as _;
use proto::v1::{
    self, Branch, DescribeResponse, DraftSessionRequest, DraftSessionResponse, Proposal, Propose,
    draft_service_client::DraftServiceClient, draft_session_request, draft_session_response,
};
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

use super::{Call, Duplex, leg, trace_context};
use crate::{Deadlines, Leg, Request, Service, replicas::Placed};
use ahead::Ahead;
pub use ahead::{Anticipation, AnticipationOutcome};
use patience::Patience;

mod ahead;
mod patience;

/// The first pause before a lost session is reopened; it doubles with every failure.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A session that takes longer to reopen is given up, to be tried again.
const OPENING_LIMIT: Duration = Duration::from_secs(30);

/// Messages beside branches that may be there between two cycles.
const SPARE_MESSAGES: usize = 8;

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

type Messages = Duplex<DraftSessionRequest, DraftSessionResponse>;

struct Stream {
    duplex: Messages,
    /// Committed tokens that the draft knows.
    known_len: usize,
    placed: Placed,
    /// What it drafted ahead.
    ahead: Ahead,
}

/// What settles a `Propose`.
enum Come {
    Proposal(Proposal),
    /// Drafted ahead for the verdict that it told of.
    Branch(Branch),
}

/// The unanswered `Propose`.
#[derive(Clone)]
struct Asked {
    cycle: u64,
    base_len: usize,
    gamma: usize,
    /// Tokens that a branch may have.
    most: usize,
    /// The tokens that it told were committed.
    tokens: Vec<TokenId>,
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
        let state = State::Opening(tokio::spawn(open_stream(service.clone(), call).in_current_span()));
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
        let deadline = self.patience.deadline(gamma);
        let (mut stream, sent) = match std::mem::replace(&mut self.state, State::Down { retry_at: Instant::now() }) {
            State::Ready(stream) => (stream, Instant::now()),
            away => {
                self.state = away;
                return Proposed::default();
            }
        };
        stream.ahead.allow(self.wish.branches);
        let tokens = committed[stream.known_len..].to_vec();
        let asked = Asked { cycle, base_len: committed.len(), gamma, most, tokens };
        let foresaw = match stream.foreseen(&asked.tokens).await {
            Ok(foreseen) => foreseen.and_then(|branch| self.honest_branch(&asked, branch)),
            Err(status) => {
                stream.placed.failed();
                self.lost(&status, span);
                return Proposed::default();
            }
        };
        let (anticipated, rows) = (stream.ahead.is_expected(), stream.ahead.rows());
        let mut propose = Propose {
            cycle,
            base_len: committed.len() as u32,
            tokens: asked.tokens.clone(),
            gamma: gamma as u32,
            trace: trace_context(span),
            branches: self.wish.branches as u32,
            verifying: None,
            min_confidence: self.wish.min_confidence,
        };
        if let Some(branch) = foresaw {
            let tokens = branch.tokens.clone();
            propose.verifying = Some(v1::Verifying { tokens: tokens.clone() });
            let message = Some(draft_session_request::Message::Propose(propose));
            if let Err(status) = stream.duplex.send(DraftSessionRequest { message }) {
                stream.placed.failed();
                self.lost(&status, span);
            } else {
                stream.adopted(&asked, &branch);
                self.state = State::Ready(stream);
            }
            return Proposed {
                tokens,
                anticipation: Some(Anticipation::of(AnticipationOutcome::Hit, Some(&branch), rows)),
                ..Proposed::default()
            };
        }
        let asked_bytes = propose.encoded_len();
        let message = Some(draft_session_request::Message::Propose(propose));
        let answer = match stream.duplex.send(DraftSessionRequest { message }) {
            Ok(()) => timeout_at((sent + deadline).into(), stream.answer(&asked)).await,
            Err(status) => Ok(Err(status)),
        };
        match answer {
            Ok(Ok(Some(Come::Proposal(proposal)))) => {
                let wire_bytes = asked_bytes + proposal.encoded_len();
                let leg = leg(sent, proposal.cost.as_ref().unwrap_or(&v1::Cost::default()), wire_bytes);
                self.patience.kept();
                self.state = State::Ready(stream);
                let anticipation = anticipated.then(|| Anticipation::of(AnticipationOutcome::Miss, None, rows));
                Proposed { leg: Some(leg), anticipation, ..self.checked(&asked, proposal) }
            }
            Ok(Ok(Some(Come::Branch(branch)))) => {
                // It was drafted before it was asked for: all of the wait is the way of it.
                self.patience.kept();
                let leg = Leg { wire_bytes: (asked_bytes + branch.encoded_len()) as u64, ..Leg::waited(sent) };
                let tokens = self.honest_branch(&asked, branch.clone()).map(|branch| branch.tokens).unwrap_or_default();
                let rows = rows + stream.ahead.rows();
                stream.adopted(&asked, &branch);
                self.state = State::Ready(stream);
                Proposed {
                    tokens,
                    leg: Some(leg),
                    anticipation: Some(Anticipation::of(AnticipationOutcome::LateHit, Some(&branch), rows)),
                    ..Proposed::default()
                }
            }
            Ok(Ok(None)) => {
                self.state = State::Ready(stream);
                Proposed { leg: Some(Leg::waited(sent)), ..Proposed::default() }
            }
            Ok(Err(status)) => {
                stream.placed.failed();
                self.lost(&status, span);
                Proposed { leg: Some(Leg::waited(sent)), ..Proposed::default() }
            }
            Err(_) => {
                tracing::debug!(cycle, deadline_ms = deadline.as_millis() as u64, "the draft missed its deadline");
                span.event(event::DRAFT_LATE, [(spec::DEADLINE_NS, (deadline.as_nanos() as i64).into())]);
                self.patience.missed();
                self.state = State::Late(stream, asked);
                Proposed { leg: Some(Leg::waited(sent)), ..Proposed::default() }
            }
        }
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
                State::Opening(tokio::spawn(open_stream(self.service.clone(), open()).in_current_span()))
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

impl Stream {
    /// The branch that was drafted for the verdict that committed `tokens`, if it is here already.
    async fn foreseen(&mut self, tokens: &[TokenId]) -> Result<Option<Branch>, Status> {
        // What a draft may send ahead and a little more; one that sends without end does not hold the cycle.
        for _ in 0..self.ahead.most() + SPARE_MESSAGES {
            match self.duplex.arrived().await.transpose()? {
                Some(answer) => {
                    if let Some(draft_session_response::Message::Branch(branch)) = answer.message {
                        self.ahead.take(branch);
                    }
                }
                None => break,
            }
        }
        Ok(self.ahead.settle(tokens))
    }

    /// The answer to `asked`; `None` where the draft refused it. Answers to earlier cycles are dropped.
    async fn answer(&mut self, asked: &Asked) -> Result<Option<Come>, Status> {
        loop {
            let answer = self.duplex.next().await?;
            if let Some(come) = self.take(answer, asked)? {
                return Ok(come);
            }
        }
    }

    /// A branch is the proposal of a cycle.
    fn adopted(&mut self, asked: &Asked, branch: &Branch) {
        self.known_len = asked.base_len;
        self.ahead.adopt(branch);
    }

    /// Whether the late answer to `asked` has come; it is worth nothing any more, but the draft is free again.
    async fn late(&mut self, asked: &Asked) -> Result<bool, Status> {
        while let Some(answer) = self.duplex.arrived().await {
            match self.take(answer?, asked)? {
                Some(Some(Come::Branch(branch))) => {
                    self.adopted(asked, &branch);
                    return Ok(true);
                }
                Some(_) => return Ok(true),
                None => {}
            }
        }
        Ok(false)
    }

    /// `Some` where `answer` settles `asked`: with what is proposed, or with none where it was refused.
    fn take(&mut self, answer: DraftSessionResponse, asked: &Asked) -> Result<Option<Option<Come>>, Status> {
        match answer.message {
            Some(draft_session_response::Message::Branch(branch)) => {
                self.ahead.take(branch);
                Ok(self.ahead.settle(&asked.tokens).map(|branch| Some(Come::Branch(branch))))
            }
            Some(draft_session_response::Message::Proposal(proposal)) if proposal.cycle == asked.cycle => {
                self.known_len = asked.base_len;
                self.ahead.plant(&proposal);
                Ok(Some(Some(Come::Proposal(proposal))))
            }
            Some(draft_session_response::Message::Rejected(rejected)) if rejected.cycle == asked.cycle => {
                tracing::warn!(cycle = asked.cycle, detail = rejected.detail, "the draft refused to propose");
                match rejected.base_len as usize == self.known_len {
                    true => Ok(Some(None)),
                    // It has lost the thread: a new stream gives it all committed tokens again.
                    false => Err(Status::aborted("the draft's committed prefix is not the coordinator's")),
                }
            }
            _ => Ok(None),
        }
    }
}

/// Why the stream is lost, as an attribute.
fn error_type(status: &Status) -> (&'static str, opentelemetry::Value) {
    (convention::ERROR_TYPE, format!("{:?}", status.code()).into())
}

async fn open_stream(service: Service, call: Call) -> Result<Stream, Status> {
    let placed = service.replicas.place(&[]).await?;
    let opened = time::timeout(OPENING_LIMIT, open_on(&service, &placed, call)).await;
    match opened.unwrap_or_else(|_| Err(Status::deadline_exceeded("the draft does not open the session"))) {
        Ok((duplex, known_len)) => Ok(Stream { duplex, known_len, placed, ahead: Ahead::default() }),
        Err(status) => {
            placed.failed();
            Err(status)
        }
    }
}

async fn open_on(service: &Service, placed: &Placed, call: Call) -> Result<(Messages, usize), Status> {
    let Call { open, deadline } = call;
    let known_len = open.tokens.len();
    let mut client = DraftServiceClient::new(placed.channel());
    let message = Some(draft_session_request::Message::Open(open));
    let call = async |requests| client.draft_session(Call::request(deadline, requests)).await;
    let mut duplex = Duplex::open(DraftSessionRequest { message }, call).await?;
    match duplex.next().await?.message {
        Some(draft_session_response::Message::Opened(opened)) => {
            service.replicas.confirm(placed, &opened.incarnation_id).await?;
            Ok((duplex, known_len))
        }
        _ => Err(Status::internal("open was not answered by opened")),
    }
}
