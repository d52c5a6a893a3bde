//! The forward pass of a NanoGPT: pre-norm, learned positions, exact GELU, the embedding as head.
//!
//! Axes: rows (of all sequences of the batch, one after the other), d (the residual stream), vocabulary.

use std::sync::{Arc, Mutex};

use speculative::roofline::Roofs;

use crate::cost::{self, Part};
use crate::description::{TOKENIZER_SIZE, character_tokenizer};
use crate::kernels::attention::{Attention, Projections};
use crate::kernels::matmul::{Sink, matmul};
use crate::kernels::{BLOCK, Buffer, place, widen};
use crate::load::Checkpoint;
use crate::weights::{Block, Linear, NanoGpt};
use crate::{Compute, Decoder, Description, Error, Forward, Geometry, KvCache, LoadError, Rows, Source, roofs};

#[cfg(test)]
mod tests;

/// A model in memory, ready to forward.
pub struct Transformer {
    description: Description,
    geometry: Geometry,
    weights: NanoGpt,
    compute: Arc<Compute>,
    state: State,
}

impl Transformer {
    /// Reads and checks a model. It will compute on `compute`, which other models may share.
    pub fn load(source: &Source, compute: Arc<Compute>) -> Result<Transformer, LoadError> {
        let mut transformer = Transformer::new(&Checkpoint::open(source)?, compute)?;
        transformer.description.synthetic = matches!(source, Source::Synthetic(_));
        Ok(transformer)
    }

    fn new(checkpoint: &Checkpoint, compute: Arc<Compute>) -> Result<Transformer, LoadError> {
        let geometry = checkpoint.geometry;
        let weights = NanoGpt::new(&checkpoint.tensors()?, geometry.layers)?;
        let description = Description {
            name: checkpoint.name.clone(),
            fingerprint: checkpoint.fingerprint.clone(),
            tokenizer_fingerprint: character_tokenizer(),
            tokenizer_size: TOKENIZER_SIZE,
            vocab_size: geometry.vocab_size,
            context: geometry.context,
            dtype: "bf16",
            device: format!("cpu {} {} threads", compute.isa(), compute.threads()),
            parameters: geometry.parameters(),
            weight_bytes: 2 * geometry.parameters(),
            synthetic: false,
        };
        let state = State::new(compute.threads());
        Ok(Transformer { description, geometry, weights, compute, state })
    }

    /// The model's sizes.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }
}

impl Decoder for Transformer {
    fn description(&self) -> &Description {
        &self.description
    }

    fn new_cache(&self) -> KvCache {
        KvCache::new(self.geometry.shape(), self.geometry.context)
    }

    fn forward(&mut self, batch: &mut [Rows<'_>]) -> Result<Forward, Error> {
        check(&self.geometry, batch)?;
        let _awake = self.compute.pool().forward();
        let parts: Vec<Part> = batch.iter().map(part).collect();
        let rows = parts.iter().map(|part| part.rows).sum();
        let wanted = wanted_rows(&parts);
        let state = &mut self.state;
        state.reserve(&self.geometry, rows, wanted.len());

        self.weights.embed(batch, state); // x: (rows, d)
        let mut attention = Attention::new(self.geometry.shape());
        for rows in batch.iter_mut() {
            let held = rows.cache.len();
            attention.push(rows.cache.grown(rows.tokens.len()), held, rows.tokens.len());
        }
        for (layer, block) in self.weights.blocks.iter().enumerate() {
            block.forward(&self.compute, layer, &mut attention, state, rows); // x: (rows, d)
        }
        drop(attention);
        let logits = self.weights.head(&self.compute, state, &wanted); // (wanted rows, vocabulary)
        for rows in batch.iter_mut() {
            rows.cache.advance(rows.tokens.len());
        }
        let counts: Vec<usize> = parts.iter().map(|part| part.logits).collect();
        Ok(Forward::new(self.geometry.vocab_size, &counts, logits, cost::forward(&self.geometry, &parts)))
    }

    fn measure_roofs(&mut self) -> Roofs {
        roofs::measure(&self.compute, self.description.weight_bytes)
    }
}

fn check(geometry: &Geometry, batch: &[Rows<'_>]) -> Result<(), Error> {
    for (sequence, rows) in batch.iter().enumerate() {
        let tokens = rows.tokens.len();
        let Rows { cache, logits_from, .. } = rows;
        if cache.shape() != geometry.shape() || cache.context() != geometry.context {
            return Err(Error::ForeignCache { sequence });
        }
        if cache.len() + tokens > geometry.context {
            return Err(Error::Overflow { sequence, held: cache.len(), tokens, context: geometry.context });
        }
        if *logits_from > tokens {
            return Err(Error::LogitsFrom { sequence, logits_from: *logits_from, tokens });
        }
        let vocab_size = geometry.vocab_size;
        if let Some(row) = rows.tokens.iter().position(|token| *token as usize >= vocab_size) {
            return Err(Error::Token { sequence, row, token: rows.tokens[row], vocab_size });
        }
    }
    Ok(())
}

fn part(rows: &Rows<'_>) -> Part {
    Part { held: rows.cache.len(), rows: rows.tokens.len(), logits: rows.tokens.len() - rows.logits_from }
}

/// The numbers, among all rows, of those whose logits are wanted.
fn wanted_rows(parts: &[Part]) -> Vec<usize> {
    let mut wanted = Vec::new();
    let mut end = 0;
    for part in parts {
        end += part.rows;
        wanted.extend(end - part.logits..end);
    }
    wanted
}

/// Activations, kept from forward to forward, all in lane order.
struct State {
    /// The residual stream: (rows, d).
    x: Buffer,
    /// What goes into a layer's matmuls: (rows, d).
    input: Buffer,
    /// Queries, keys, values: (rows, 3 · d).
    projections: Buffer,
    /// The inner activations of the MLP: (rows, 4 · d).
    hidden: Buffer,
    /// The attention's, for each thread.
    scratch: Vec<Mutex<Buffer>>,
    /// Elements from row to row of `x` and `input`, of `projections`, and of `hidden`.
    strides: [usize; 3],
}

impl State {
    fn new(threads: usize) -> State {
        State {
            x: Buffer::default(),
            input: Buffer::default(),
            projections: Buffer::default(),
            hidden: Buffer::default(),
            scratch: (0..threads).map(|_| Mutex::default()).collect(),
            strides: [0; 3],
        }
    }

    fn reserve(&mut self, geometry: &Geometry, rows: usize, wanted: usize) {
        let d = geometry.d_model;
        self.strides = [d, 3 * d, 4 * d].map(|width| width.next_multiple_of(BLOCK));
        let [stride, projections, hidden] = self.strides;
        self.x.reserve(rows * stride);
        self.input.reserve(rows.max(wanted) * stride);
        self.projections.reserve(rows * projections);
        self.hidden.reserve(rows * hidden);
    }
}

impl NanoGpt {
    /// Token and position, added.
    fn embed(&self, batch: &[Rows<'_>], state: &mut State) {
        let stride = state.strides[0];
        let rows = batch.iter().flat_map(|rows| rows.tokens.iter().zip(rows.cache.len()..));
        self.tokens.with(|tokens| {
            self.positions.with(|positions| {
                for ((token, position), x) in rows.zip(state.x.chunks_exact_mut(stride)) {
                    let (token, position) = (tokens.row(*token as usize), positions.row(position));
                    for (i, (t, p)) in token.iter().zip(position).enumerate() {
                        x[place(i)] = widen(*t) + widen(*p);
                    }
                }
            });
        });
    }

    /// The logits of the wanted rows: (wanted, vocabulary).
    fn head(&self, compute: &Compute, state: &mut State, wanted: &[usize]) -> Vec<f32> {
        self.ln_f.apply_rows(compute, &state.x, &mut state.input, wanted.len(), |row| wanted[row]); // (wanted, d)
        self.tokens.with(|weights| {
            let vocab_size = weights.outputs();
            let mut logits = vec![0.0; wanted.len() * vocab_size];
            let sink = Sink::Natural { out: &mut logits, stride: vocab_size };
            matmul(compute, weights, None, &state.input, wanted.len(), sink);
            logits
        })
    }
}

impl Block {
    /// x + projection(attention(LN(x))), then x + down(GELU(up(LN(x)))).
    fn forward(&self, compute: &Compute, layer: usize, attention: &mut Attention<'_>, state: &mut State, rows: usize) {
        let State { x, input, projections, hidden, scratch, strides } = state;
        let [stride, projections_stride, hidden_stride] = *strides;

        self.ln_1.apply_rows(compute, x, input, rows, |row| row); // (rows, d)
        let sink = Sink::Store { out: projections, stride: projections_stride };
        self.attention.apply(compute, input, rows, sink); // (rows, 3, heads, head_dim)
        let projections = Projections { rows: projections, stride: projections_stride };
        attention.run(compute, layer, projections, input, stride, scratch); // (rows, heads, head_dim)
        self.projection.apply(compute, input, rows, Sink::Add { out: x, stride }); // (rows, d)

        self.ln_2.apply_rows(compute, x, input, rows, |row| row); // (rows, d)
        self.up.apply(compute, input, rows, Sink::Gelu { out: hidden, stride: hidden_stride }); // (rows, 4 · d)
        self.down.apply(compute, hidden, rows, Sink::Add { out: x, stride }); // (rows, d)
    }
}

impl Linear {
    fn apply(&self, compute: &Compute, input: &[f32], rows: usize, sink: Sink<'_>) {
        self.matrix.with(|weights| matmul(compute, weights, Some(&self.bias), input, rows, sink));
    }
}
