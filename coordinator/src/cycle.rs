//! The loop of speculative decoding (Leviathan et al. 2023, algorithm 1, with the target's own choices as the output):
//! propose γ tokens → verify them in one pass of the target → commit `accepted + 1` tokens.
//!
//! A target that is lost is replaced: another replica, or the same started anew, opens with all committed tokens, and its
//! first token is the one that the lost verdict would have begun with.

use std::{
    future::{self, Future},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use opentelemetry::{Array, Value, trace::SpanKind};
use proto::v1;
use speculative::{Acceptance, Logprobs, TokenId, Verdict, policy::Gamma};
use telemetry::{
    Span, Tracer, logs,
    names::{convention, event, span, spec},
};
use tracing::Instrument;

mod failover;
mod record;
mod request;

pub use record::{Cycle, Leg, Part, Run, StopReason};
pub use request::{Request, TraceCycles};

use crate::{
    AnticipationOutcome, Deadlines, Error, Pair, PairRoofs,
    link::{Call, DraftLink, Opening, Proposed, TargetLink, Verified, Wish, trace_context},
    text::{Piece, Text},
};

/// Generates from `request`; every piece of text goes to `emit` as soon as it is certain. When `cancel` resolves the run
/// ends with what is committed by then.
///
/// # Errors
/// A request over a service's limits, or a target that fails. A draft that fails costs speed only.
pub async fn generate(
    pair: &Pair,
    request: Request,
    deadlines: Deadlines,
    tracer: &Tracer,
    mut emit: impl FnMut(Piece),
    cancel: impl Future<Output = ()>,
) -> Result<Run, Error> {
    let emit = |piece| {
        emit(piece);
        future::ready(())
    };
    generate_paced(pair, request, deadlines, tracer, emit, cancel).await
}

/// The same at the pace of its reader: the next cycle waits until `emit` has taken what the last one brought. `cancel` is
/// not heard meanwhile, so an `emit` whose reader is gone must resolve.
///
/// # Errors
/// As [`generate`].
pub async fn generate_paced<E: Future<Output = ()>>(
    pair: &Pair,
    request: Request,
    deadlines: Deadlines,
    tracer: &Tracer,
    emit: impl FnMut(Piece) -> E,
    cancel: impl Future<Output = ()>,
) -> Result<Run, Error> {
    request.check(pair)?;
    let generation = Generation::begin(pair, request, deadlines, tracer);
    let scope = generation.span.trace_id().map_or_else(tracing::Span::none, |trace_id| logs::of_trace(&trace_id));
    generation.run(emit, cancel).instrument(scope).await
}

/// One request under way.
struct Generation<'a> {
    pair: &'a Pair,
    deadlines: Deadlines,
    request: Request,
    draft: Option<DraftLink>,
    /// `None` until the prefill.
    target: Option<TargetLink>,
    committed: Vec<TokenId>,
    /// `committed` may grow to this length.
    longest: usize,
    /// Whether all targets had the same arithmetic so far.
    exact: bool,
    /// Of what is committed beyond the prompt, where they are asked for, and perhaps of a little more.
    logprobs: Vec<Logprobs>,
    /// Tokens that have gone to `emit`.
    released: usize,
    text: Text,
    span: Span,
    begun: Instant,
    /// Spans both prefills; ends when both are done.
    prefill_span: Span,
    /// The last cycle's, until what it brought is emitted.
    cycle_span: Span,
    roofs: PairRoofs,
    /// How long that took; `None` until then.
    warm: Option<Duration>,
    time_to_first_token: Option<Duration>,
    cached_tokens: usize,
    cycles: Vec<Cycle>,
    acceptance: Acceptance,
    /// Held while it chooses γ with others.
    joined: Option<Arc<()>>,
    /// How often the target was lost.
    failovers: u64,
}

/// What a cycle does next, or why the run stops.
type Step = Result<Option<StopReason>, Error>;

impl<'a> Generation<'a> {
    async fn run<E: Future<Output = ()>>(
        mut self,
        mut emit: impl FnMut(Piece) -> E,
        cancel: impl Future<Output = ()>,
    ) -> Result<Run, Error> {
        let mut cancel = pin!(cancel);
        let outcome = loop {
            let step = async {
                match (&self.target, self.warm) {
                    (None, _) => self.prefill().await,
                    (Some(_), None) => self.await_draft().await,
                    (Some(_), Some(_)) => self.cycle().await,
                }
            };
            let outcome = tokio::select! {
                biased;
                () = &mut cancel => Ok(Some(StopReason::Cancelled)),
                outcome = step => outcome,
            };
            let released = self.released;
            for piece in self.release(matches!(outcome, Ok(Some(_)))) {
                emit(piece).await;
            }
            self.emitted(self.released - released);
            match outcome {
                Ok(None) => {}
                Ok(Some(reason)) => break Ok(reason),
                Err(error) => break Err(error),
            }
        };
        self.end(outcome)
    }

    fn begin(pair: &'a Pair, request: Request, deadlines: Deadlines, tracer: &Tracer) -> Self {
        let begun = Instant::now();
        let context = pair.target.description.context_length as usize;
        let mut span = tracer.request(span::GENERATE, SpanKind::Client, request.parent.as_ref());
        let roofs = PairRoofs::described(pair);
        if span.is_recording() {
            record::describe_request(&mut span, &request, pair, &roofs);
        }
        Self {
            pair,
            deadlines,
            draft: None,
            target: None,
            committed: request.prompt.clone(),
            longest: context.min(request.prompt.len() + request.max_tokens),
            exact: true,
            logprobs: Vec::new(),
            released: 0,
            text: Text::new(pair.tokenizer.decoder(), &request.stop),
            span,
            begun,
            prefill_span: Span::off(),
            cycle_span: Span::off(),
            roofs,
            warm: None,
            time_to_first_token: None,
            cached_tokens: 0,
            cycles: Vec::new(),
            acceptance: Acceptance::new(),
            joined: None,
            failovers: 0,
            request,
        }
    }

    /// Opens both sessions at the same time; the target's brings the first token.
    async fn prefill(&mut self) -> Step {
        self.prefill_span = self.span.child(span::PREFILL);
        if let Some(draft) = self.pair.draft.clone().filter(|_| !self.request.gamma.is_ar()) {
            let call = self.open(&self.prefill_span);
            // A prompt that the draft does not take leaves nothing for it to propose.
            if call.open.tokens.len() <= draft.description.limits.unwrap_or_default().max_prompt_tokens as usize {
                let target = self.pair.target.description.clone();
                self.draft = Some(DraftLink::open(draft, target, call, self.deadlines, Wish::of(&self.request)));
            }
        }
        let call = self.open(&self.prefill_span);
        let Opening { first, logprobs, cached, exact } = self.open_target(call).await?;
        self.logprobs.extend(logprobs);
        self.placed(exact);
        self.cached_tokens = cached;
        self.time_to_first_token = Some(self.begun.elapsed());
        Ok(self.emit(&Verdict { accepted: 0, tokens: vec![first] }))
    }

    /// Notes what arithmetic goes on.
    fn placed(&mut self, exact: bool) {
        if !exact && std::mem::replace(&mut self.exact, false) {
            self.span.set(spec::INEXACT, true);
            tracing::warn!("a target with another arithmetic goes on: the output may differ from one target's");
        }
    }

    /// Gives the draft what is left of its deadline to prefill. The first token is with the client already.
    async fn await_draft(&mut self) -> Step {
        if let Some(draft) = &mut self.draft {
            draft.opened((self.begun + self.deadlines.draft).into()).await;
            self.joined = (self.request.gamma == Gamma::Auto).then(|| self.pair.join(&self.request));
        }
        self.prefill_span = Span::off();
        self.warm = Some(self.begun.elapsed());
        Ok(None)
    }

    /// One cycle: propose → verify → commit.
    async fn cycle(&mut self) -> Step {
        let number = self.cycles.len() as u64 + 1;
        let traced = self.request.trace_cycles.includes(number);
        let span = if traced { self.span.child(span::CYCLE) } else { Span::off() };
        let mut cycle = Cycle::begin(number, span);
        let mut proposal = self.propose(&mut cycle).await;
        let verdict = match self.verify(&mut cycle, &proposal).await {
            Ok(verdict) => verdict,
            Err(error) => {
                // What was proposed goes unverified.
                proposal = Proposed::default();
                self.fail_over(&mut cycle, error).await?
            }
        };
        Ok(self.commit(cycle, &proposal.tokens, &verdict))
    }

    /// Up to γ tokens from the draft, as far as the request and both contexts still want them.
    async fn propose(&mut self, cycle: &mut Cycle) -> Proposed {
        let base_len = self.committed.len();
        let wanted = self.longest - base_len;
        // Taken out for as long as it borrows the rest; a run that is cancelled meanwhile needs no draft any more.
        let Some(mut draft) = self.draft.take() else {
            return Proposed::default();
        };
        let most = (wanted - 1).min(draft.room(base_len)).min(self.pair.most_gamma());
        let (gamma, most) = match self.request.gamma {
            Gamma::Fixed(gamma) => (gamma.min(most), gamma.min(most)),
            Gamma::Auto => {
                let (gamma, sessions) = self.pair.gamma(&self.request, most);
                cycle.sessions = sessions;
                (gamma, most)
            }
        };
        cycle.wanted = gamma;
        let mut proposal = Proposed::default();
        if gamma > 0 {
            let open = || self.open(&self.span);
            proposal = draft.propose(cycle.number, &self.committed, [gamma, most], open, &mut cycle.span).await;
            cycle.draft = proposal.leg;
            cycle.anticipation = proposal.anticipation;
            if cycle.lacks_draft() && proposal.tokens.is_empty() {
                cycle.span.set(spec::DRAFT_ABSENT, true);
            }
        }
        self.draft = Some(draft);
        proposal
    }

    /// The target's verdict on `proposal`, from one forward pass.
    async fn verify(&mut self, cycle: &mut Cycle, proposal: &Proposed) -> Result<Verdict, Error> {
        let sent = Instant::now();
        let target = self.target.as_mut().expect("the prefill has opened the session");
        let deadline = self.deadlines.target;
        let verified = target.verify(cycle.number, self.committed.len(), proposal, deadline, &cycle.span).await;
        let Verified { verdict, logprobs, leg } = verified.inspect_err(|error| {
            cycle.target = Leg::waited(sent);
            cycle.span.fail(error);
        })?;
        cycle.target = leg;
        self.logprobs.extend(logprobs);
        Ok(verdict)
    }

    /// Makes the verdict's tokens final.
    fn commit(&mut self, mut cycle: Cycle, proposal: &[TokenId], verdict: &Verdict) -> Option<StopReason> {
        let stop = self.emit(verdict);
        self.acceptance.record(proposal.len(), verdict.accepted);
        if let Some(draft) = &mut self.draft {
            draft.learn(proposal.len(), verdict.accepted, cycle.target.round_trip());
        }
        cycle.end(proposal.len(), verdict.accepted);
        let observed = cycle.observed(self.cycles.last(), self.request.branches > 0);
        if cycle.anticipation.is_some_and(|anticipation| anticipation.outcome != AnticipationOutcome::Miss) {
            let usual_s = self.pair.draft_s(&self.request, proposal.len());
            cycle.saved = Duration::from_secs_f64((usual_s - observed.waited_s).max(0.0));
        }
        // A target that was lost has given no verdict: what it took says nothing of those to come.
        if !cycle.target.compute.is_zero() {
            self.pair.learn(&self.request, &observed);
        }
        self.cycle_span = cycle.tell(self.committed.len(), &self.roofs);
        self.cycles.push(cycle);
        stop
    }

    /// Notes that so many tokens have gone to the client, which ends the cycle's span.
    fn emitted(&mut self, tokens: usize) {
        let mut span = std::mem::replace(&mut self.cycle_span, Span::off());
        if tokens > 0 {
            span.event(event::EMIT, [(spec::TOKENS, (tokens as i64).into())]);
        }
    }

    /// Commits tokens one by one until one of them ends the text.
    fn emit(&mut self, verdict: &Verdict) -> Option<StopReason> {
        for (at, &token) in verdict.tokens.iter().enumerate() {
            self.committed.push(token);
            if self.pair.tokenizer.end_tokens().contains(&token) {
                self.text.push_end(token);
                return Some(StopReason::Eos);
            }
            if self.text.push(token, at < verdict.accepted) {
                return Some(StopReason::Stop);
            }
        }
        (self.committed.len() >= self.longest).then_some(StopReason::Length)
    }

    /// The text that has become certain, with its tokens.
    fn release(&mut self, ended: bool) -> Vec<Piece> {
        let mut pieces = self.text.release(ended);
        for piece in &mut pieces {
            let told = self.released..self.released + piece.tokens.len();
            self.released = told.end;
            piece.logprobs = self.logprobs.get(told).unwrap_or_default().to_vec();
        }
        pieces
    }

    /// What a session starts from now, for as long as somebody waits for more.
    fn open(&self, span: &Span) -> Call {
        let open = v1::Open {
            tokens: self.committed.clone(),
            prompt_len: self.request.prompt.len() as u32,
            sampling: Some(crate::link::sampling(self.request.sampling)),
            max_tokens: (self.longest - self.committed.len()) as u32,
            trace: trace_context(span),
            top_logprobs: self.request.top_logprobs.map(|top| top as u32),
            branches: self.request.branches as u32,
            coupling: crate::link::coupling(self.request.coupling),
        };
        Call { open, deadline: self.request.deadline }
    }

    fn end(mut self, outcome: Result<StopReason, Error>) -> Result<Run, Error> {
        // A run that ends in its prefill has that span open still, and a child ends before its parent.
        self.prefill_span = Span::off();
        let stop_reason = outcome.inspect_err(|error| self.span.fail(error))?;
        let token_ids = self.committed.split_off(self.request.prompt.len());
        self.logprobs.truncate(token_ids.len());
        self.span.set(convention::USAGE_OUTPUT_TOKENS, token_ids.len() as i64);
        self.span.set(spec::CYCLES, self.cycles.len() as i64);
        self.span.set(spec::PROPOSED_TOKENS, self.acceptance.proposed() as i64);
        self.span.set(spec::ACCEPTED_TOKENS, self.acceptance.accepted() as i64);
        let reasons = Array::String(vec![stop_reason.as_str().into()]);
        self.span.set(convention::RESPONSE_FINISH_REASONS, Value::Array(reasons));
        let text = self.text.into_string();
        if self.request.record_content && self.span.is_recording() {
            record::record_content(&mut self.span, &self.request, self.pair, &text, stop_reason);
        }
        Ok(Run {
            policy: self.request.gamma,
            sampling: self.request.sampling,
            coupling: self.request.coupling,
            prompt: self.request.prompt,
            text,
            token_ids,
            logprobs: self.logprobs,
            exact: self.exact,
            stop_reason,
            trace_id: self.span.trace_id(),
            warm: self.warm.unwrap_or_else(|| self.begun.elapsed()),
            time_to_first_token: self.time_to_first_token,
            cached_tokens: self.cached_tokens,
            cycles: self.cycles,
            acceptance: self.acceptance,
            failovers: self.failovers,
        })
    }
}
