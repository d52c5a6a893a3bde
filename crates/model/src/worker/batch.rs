//! The thread's loop: every pass forwards the next tokens of the requests that are here.
//!
//! Long inputs, which are prompts, go in chunks, one prompt after the other, so that they do not stall the sessions that
//! decode: a row's logits are the same bits in whatever pass it is computed.

use std::{
    mem,
    sync::{Arc, mpsc::Receiver},
    time::Instant,
};

use speculative::{Coupling, History, Sampling, TokenId, roofline::Roofs};
use tokio::sync::oneshot;

use super::{
    Answer, Goal, Pass, Reply, Request, Task, admission::Admission, growth::Growth, prefixes::Prefixes,
    selector::Selector, usage::Counters,
};
use crate::{Decoder, Error, KvCache, Rows};

/// Inputs up to this length are forwarded whole; a window and a draft's catching up are shorter.
const SHORT_ROWS: usize = 64;

/// Rows of long inputs in one pass where other sessions may want to go on meanwhile, and where there are none.
const SHARED_CHUNK_ROWS: usize = 64;
const LONE_CHUNK_ROWS: usize = 512;

/// A request under way: what it forwards next and what it has so far.
pub(super) struct Active {
    pub(super) cache: KvCache,
    pub(super) history: History,
    pub(super) sampling: Sampling,
    pub(super) coupling: Coupling,
    pub(super) top_logprobs: Option<usize>,
    pub(super) goal: Goal,
    enqueued: Instant,
    reply: Reply,
    /// Whether it may begin with pages of another prompt: a prefill that has not begun.
    fresh: bool,
    /// The tokens of a prefill that has begun, to be found by others; empty for all else.
    prompt: Vec<TokenId>,
    /// Tokens that are still to be forwarded; empty when the request is done.
    pub(super) input: Vec<TokenId>,
    /// How many of them the pass takes.
    rows: usize,
    pub(super) answer: Answer,
}

/// The model with all that its thread keeps.
pub(super) struct Batcher<D> {
    pub(super) decoder: D,
    pub(super) selector: Selector,
    pub(super) prefixes: Prefixes,
    pub(super) admission: Arc<Admission>,
    pub(super) counters: Arc<Counters>,
    /// When the last pass ended, and its rows.
    pub(super) last: Option<(Instant, usize)>,
    /// Why its device may be gone.
    pub(super) doubt: Option<Error>,
    /// What grows while nothing else is to be done.
    pub(super) growths: Vec<Growth>,
}

impl<D: Decoder> Batcher<D> {
    /// Runs until every handle on the queue is gone, or the model's device.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        let mut active: Vec<Active> = Vec::new();
        let mut passes = 0;
        loop {
            if active.is_empty() && self.growths.is_empty() {
                let Ok(request) = requests.recv() else { return };
                self.admit(&mut active, request);
            }
            while let Ok(request) = requests.try_recv() {
                self.admit(&mut active, request);
            }
            // Whoever no longer waits for the answer has gone, and its cache goes here.
            active.retain(|request| !request.reply.is_closed());
            self.growths.extract_if(.., |growth| growth.is_over()).for_each(Growth::end);
            if !active.is_empty() {
                passes += 1;
                self.pass(&mut active, passes);
            } else if !self.growths.is_empty() {
                passes += 1;
                self.grow();
            }
            if let Some(error) = self.doubt.take()
                && !self.works()
            {
                tracing::error!(%error, "the device computes nothing any more");
                return;
            }
        }
    }

    fn admit(&mut self, active: &mut Vec<Active>, request: Request) {
        match request {
            Request::MeasureRoofs(reply) => measure(&mut self.decoder, reply),
            Request::Growth(growth) => self.growths.push(*growth),
            Request::Task(task) => {
                let Task { cache, positions, history, sampling, coupling, top_logprobs, plan, goal, enqueued, reply } =
                    *task;
                let fresh = cache.is_none();
                let mut cache = match cache.map_or_else(|| self.reserved(positions), Ok) {
                    Ok(cache) => cache,
                    Err(error) => return self.fail(reply, error),
                };
                if cache.len() < plan.keep {
                    let _ = reply.send(Err(Error::CacheLost { held: cache.len(), expected: plan.keep }));
                    return;
                }
                cache.truncate(plan.keep);
                let mut answer = Answer::default();
                answer.cost.behind_rows = self.last.filter(|(ended, _)| *ended > enqueued).map_or(0, |(_, rows)| rows);
                active.push(Active {
                    cache,
                    history,
                    sampling,
                    coupling,
                    top_logprobs,
                    goal,
                    enqueued,
                    reply,
                    fresh,
                    prompt: Vec::new(),
                    input: plan.tokens,
                    rows: 0,
                    answer,
                });
            }
        }
    }

    /// A cache of a session that may come to hold so many positions. One that there is no memory for fails alone.
    fn reserved(&self, positions: usize) -> Result<KvCache, Error> {
        let mut cache = self.decoder.new_cache();
        cache.reserve(positions)?;
        Ok(cache)
    }

    fn fail<T>(&mut self, reply: oneshot::Sender<Result<T, Error>>, error: Error) {
        if matches!(error, Error::Device(_)) {
            self.doubt = Some(error.clone());
        }
        let _ = reply.send(Err(error));
    }

    /// Whether one token can be forwarded.
    fn works(&mut self) -> bool {
        let mut cache = self.decoder.new_cache();
        self.decoder.forward(&mut [Rows { cache: &mut cache, tokens: &[0], logits_from: 1 }]).is_ok()
    }

    /// Says how many rows of each request the pass takes.
    fn share_out(&mut self, active: &mut [Active]) {
        let alone = self.admission.open_sessions() <= 1;
        let mut left = if alone { LONE_CHUNK_ROWS } else { SHARED_CHUNK_ROWS };
        for request in active {
            if request.input.len() > SHORT_ROWS && left == 0 {
                request.rows = 0;
                continue;
            }
            if mem::take(&mut request.fresh) {
                self.adopt(request);
            }
            request.rows = match request.input.len() {
                short @ ..=SHORT_ROWS => short,
                long => {
                    let rows = long.min(left);
                    left -= rows;
                    rows
                }
            };
        }
    }

    /// One ragged forward over all that grows: a row of each.
    fn grow(&mut self) {
        let mut batch: Vec<Rows<'_>> = self.growths.iter_mut().flat_map(Growth::rows).collect();
        let rows = batch.len();
        let start = Instant::now();
        let result = self.decoder.forward(&mut batch);
        let took = start.elapsed();
        drop(batch);
        match result {
            Ok(forward) => {
                self.counters.forward(took, rows, forward.work);
                let mut sequence = 0;
                for growth in &mut self.growths {
                    sequence = growth.select(&forward, sequence, took, &mut self.selector);
                }
            }
            Err(error) => {
                for growth in mem::take(&mut self.growths) {
                    self.fail(growth.reply, error.clone());
                }
            }
        }
    }

    /// Begins a prefill with the pages that others of the same beginning have left.
    fn adopt(&mut self, request: &mut Active) {
        // The last token is forwarded in any case, as its row chooses the first token.
        let pages = self.prefixes.longest(&request.input[..request.input.len() - 1]);
        request.cache.adopt(pages);
        request.answer.cost.cached = request.cache.len();
        request.prompt = mem::take(&mut request.input);
        request.input = request.prompt[request.cache.len()..].to_vec();
        self.counters.prompt(request.cache.len(), request.input.len());
    }

    /// One ragged forward over all active requests; those that are done get their answers.
    fn pass(&mut self, active: &mut Vec<Active>, id: u64) {
        self.share_out(active);
        let batch_rows = active.iter().map(|request| request.rows).sum();
        let mut batch: Vec<Rows<'_>> = active.iter_mut().filter(|request| request.rows > 0).map(Active::rows).collect();
        let start = Instant::now();
        let result = self.decoder.forward(&mut batch);
        let span = (start, Instant::now());
        drop(batch);

        let forward = match result {
            Ok(forward) => forward,
            Err(error) => {
                // The rules of a session admit nothing that a forward refuses, so this is the model's own failure, or its
                // device's.
                for request in active.extract_if(.., |request| request.rows > 0) {
                    self.fail(request.reply, error.clone());
                }
                return;
            }
        };
        self.counters.forward(span.1 - span.0, batch_rows, forward.work);
        self.last = Some((span.1, batch_rows));
        let took_part = active.iter_mut().filter(|request| request.rows > 0);
        for (sequence, request) in took_part.enumerate() {
            let rows = request.rows;
            request.answer.cost.passes.push(Pass { id, span, rows, batch_rows, work: forward.work });
            request.answer.cost.forward += span.1 - span.0;
            if rows < request.input.len() {
                request.input.drain(..rows);
                continue;
            }
            self.prefixes.keep(&request.prompt, &request.cache);
            self.counters.share(self.prefixes.held());
            let begun = Instant::now();
            self.selector.select(request, &forward, sequence);
            let took = begun.elapsed();
            self.counters.select(took);
            request.answer.cost.select += took;
        }
        for done in active.extract_if(.., |request| request.input.is_empty()) {
            done.finish();
        }
    }
}

fn measure(decoder: &mut impl Decoder, reply: oneshot::Sender<Option<Roofs>>) {
    if !reply.is_closed() {
        // An asker that has gone meanwhile does not need the answer.
        let _ = reply.send(decoder.measure_roofs());
    }
}

impl Active {
    fn rows(&mut self) -> Rows<'_> {
        let tokens = &self.input[..self.rows];
        let chosen_from = match self.goal {
            _ if tokens.len() < self.input.len() => 0,
            Goal::Propose { gamma: 0, .. } => 0,
            Goal::Propose { .. } => 1,
            Goal::Verify { gamma, .. } => 1 + gamma,
        };
        Rows { cache: &mut self.cache, tokens, logits_from: tokens.len() - chosen_from }
    }

    fn finish(self) {
        let Active { cache, history, enqueued, reply, mut answer, .. } = self;
        let spent = answer.cost.forward + answer.cost.select;
        answer.cost.queue = enqueued.elapsed().saturating_sub(spent);
        // A session that has gone meanwhile drops its cache here.
        let _ = reply.send(Ok((cache, history, answer)));
    }
}
