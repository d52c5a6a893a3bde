//! The thread's loop: every pass forwards the next tokens of all requests that are here.

use std::{mem, sync::mpsc::Receiver, time::Instant};

use speculative::{Chooser, Sampling, SyntheticAcceptance, TokenId, Verdict, roofline::Roofs};
use tokio::sync::oneshot;

use super::{Answer, Goal, Pass, Reply, Request, Task};
use crate::{Decoder, Error, Forward, KvCache, Rows};

/// A request under way: what it forwards next and what it has so far.
struct Active {
    cache: KvCache,
    sampling: Sampling,
    goal: Goal,
    enqueued: Instant,
    reply: Reply,
    /// Tokens of the next pass; empty when the request is done.
    input: Vec<TokenId>,
    answer: Answer,
}

/// Runs until every handle on the queue is gone.
pub(super) fn run(
    mut decoder: impl Decoder,
    synthetic_acceptance: Option<SyntheticAcceptance>,
    requests: &Receiver<Request>,
) {
    let tokenizer_size = decoder.description().tokenizer.size();
    let mut selector = Selector { chooser: Chooser::new(), tokenizer_size, synthetic_acceptance };
    let mut active: Vec<Active> = Vec::new();
    let mut passes = 0;
    loop {
        if active.is_empty() {
            let Ok(request) = requests.recv() else { return };
            admit(&mut decoder, &mut active, request);
        }
        while let Ok(request) = requests.try_recv() {
            admit(&mut decoder, &mut active, request);
        }
        // Whoever no longer waits for the answer has gone, and its cache goes here.
        active.retain(|request| !request.reply.is_closed());
        if !active.is_empty() {
            passes += 1;
            pass(&mut decoder, &mut selector, &mut active, passes);
        }
    }
}

fn admit(decoder: &mut impl Decoder, active: &mut Vec<Active>, request: Request) {
    match request {
        Request::MeasureRoofs(reply) => measure(decoder, reply),
        Request::Task(task) => {
            let Task { cache, sampling, plan, goal, enqueued, reply } = *task;
            let mut cache = cache.unwrap_or_else(|| decoder.new_cache());
            if cache.len() < plan.keep {
                let _ = reply.send(Err(Error::CacheLost { held: cache.len(), expected: plan.keep }));
                return;
            }
            cache.truncate(plan.keep);
            let input = plan.tokens;
            active.push(Active { cache, sampling, goal, enqueued, reply, input, answer: Answer::default() });
        }
    }
}

fn measure(decoder: &mut impl Decoder, reply: oneshot::Sender<Roofs>) {
    if !reply.is_closed() {
        // An asker that has gone meanwhile does not need the answer.
        let _ = reply.send(decoder.measure_roofs());
    }
}

/// One ragged forward over all active requests; those that are done get their answers.
fn pass(decoder: &mut impl Decoder, selector: &mut Selector, active: &mut Vec<Active>, id: u64) {
    let batch_rows = active.iter().map(|request| request.input.len()).sum();
    let mut batch: Vec<Rows<'_>> = active.iter_mut().map(Active::rows).collect();
    let start = Instant::now();
    let result = decoder.forward(&mut batch);
    let span = (start, Instant::now());
    drop(batch);

    let forward = match result {
        Ok(forward) => forward,
        Err(error) => {
            // The rules of a session admit nothing that a forward refuses, so this is the model's own failure.
            for request in active.drain(..) {
                let _ = request.reply.send(Err(error.clone()));
            }
            return;
        }
    };
    for (sequence, request) in active.iter_mut().enumerate() {
        let rows = request.input.len();
        request.answer.cost.passes.push(Pass { id, span, rows, batch_rows, work: forward.work });
        request.answer.cost.forward += span.1 - span.0;
        let begun = Instant::now();
        selector.select(request, &forward, sequence);
        request.answer.cost.select += begun.elapsed();
    }
    for done in active.extract_if(.., |request| request.input.is_empty()) {
        done.finish();
    }
}

impl Active {
    fn rows(&mut self) -> Rows<'_> {
        let logits_from = match self.goal {
            Goal::Propose { gamma: 0 } => self.input.len(),
            Goal::Propose { .. } => self.input.len() - 1,
            Goal::Verify { gamma } => self.input.len() - 1 - gamma,
        };
        Rows { cache: &mut self.cache, tokens: &self.input, logits_from }
    }

    fn finish(self) {
        let Active { cache, enqueued, reply, mut answer, .. } = self;
        let spent = answer.cost.forward + answer.cost.select;
        answer.cost.queue = enqueued.elapsed().saturating_sub(spent);
        // A session that has gone meanwhile drops its cache here.
        let _ = reply.send(Ok((cache, answer)));
    }
}

/// Chooses tokens from the logits of a pass.
struct Selector {
    chooser: Chooser,
    tokenizer_size: usize,
    synthetic_acceptance: Option<SyntheticAcceptance>,
}

impl Selector {
    /// Continues or completes a request: afterwards its `input` is what to forward next.
    fn select(&mut self, request: &mut Active, forward: &Forward, sequence: usize) {
        let input = mem::take(&mut request.input);
        match request.goal {
            Goal::Propose { gamma: 0 } => {}
            Goal::Propose { gamma } => {
                let logits = forward.row(sequence, 0);
                let position = request.cache.len() as u64;
                let token = self.chooser.choose(logits, self.tokenizer_size, &request.sampling, position);
                request.answer.confidences.push(probability(&logits[..self.tokenizer_size], token));
                request.answer.tokens.push(token);
                if request.answer.tokens.len() < gamma {
                    request.input.push(token);
                }
            }
            Goal::Verify { gamma } => {
                // Row i stands at the position of the i-th proposed token's predecessor and chooses the one after it.
                let base_len = (request.cache.len() - gamma) as u64;
                let (proposed, sampling) = (&input[input.len() - gamma..], request.sampling);
                let choose = |row| {
                    let logits = forward.row(sequence, row);
                    self.chooser.choose(logits, self.tokenizer_size, &sampling, base_len + row as u64)
                };
                let verdict = match self.synthetic_acceptance {
                    Some(synthetic) => synthetic.verdict(proposed, sampling.seed, base_len, choose),
                    None => Verdict::of(proposed, choose),
                };
                request.answer.tokens = verdict.tokens;
            }
        }
    }
}

/// Softmax of `logits` at temperature 1, at `token`. It informs, and no output depends on its rounding.
fn probability(logits: &[f32], token: TokenId) -> f32 {
    let chosen = logits[token as usize];
    1.0 / logits.iter().map(|&z| (z - chosen).exp()).sum::<f32>()
}
