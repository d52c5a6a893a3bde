//! The forward pass: pre-norm blocks of attention and MLP, of whatever parts the geometry names.
//!
//! Axes: rows (of all sequences of the batch, one after the other), d (the residual stream), vocabulary.

use std::slice;
use std::sync::{Arc, Mutex};

use speculative::roofline::Roofs;

use crate::cost;
use crate::decoder::Batch;
use crate::description::arithmetic;
use crate::geometry::Mlp;
use crate::kernels::attention::{Attention, Projections};
use crate::kernels::matmul::{self, Sink, matmul};
use crate::kernels::rope::{self, Rotation};
use crate::kernels::{BLOCK, Buffer, Matrix, Pages, activation};
use crate::load::{Loaded, load};
use crate::weights::{Block, Kernels, Linear, Parameters};
use crate::{Compute, Decoder, Description, Error, Forward, Geometry, KvCache, LoadError, Rows, Source, roofs};

#[cfg(test)]
pub(crate) mod tests;

/// A model in memory, ready to forward.
pub struct Transformer {
    description: Description,
    geometry: Geometry,
    weights: Parameters,
    bytes: cost::Bytes,
    /// Of its caches.
    pages: Arc<Pages>,
    compute: Arc<Compute>,
    state: State,
}

impl Transformer {
    /// Reads and checks a model. It will compute on `compute`, which other models may share.
    pub fn load(source: &Source, compute: Arc<Compute>) -> Result<Transformer, LoadError> {
        let mut transformer = Transformer::new(load(source, &Kernels)?, compute);
        transformer.description.arithmetic =
            arithmetic(&mut transformer).expect("a sequence within the context and the vocabulary");
        Ok(transformer)
    }

    pub(crate) fn new(loaded: Loaded, compute: Arc<Compute>) -> Transformer {
        let device = format!("cpu {} {} threads", compute.isa(), compute.threads());
        let (description, geometry, weights) = loaded.described(device);
        let state = State::new(&geometry, compute.threads());
        let bytes = cost::Bytes::of(&weights, size_of::<f32>());
        let pages = Pages::new(geometry.shape().page_len());
        Transformer { description, geometry, weights, bytes, pages, compute, state }
    }

    /// The model's sizes and parts.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }
}

impl Decoder for Transformer {
    fn description(&self) -> &Description {
        &self.description
    }

    fn new_cache(&self) -> KvCache {
        KvCache::new(self.geometry.shape(), self.geometry.context, self.pages.clone())
    }

    fn forward(&mut self, batch: &mut [Rows<'_>]) -> Result<Forward, Error> {
        let checked = Batch::new(&self.geometry, batch, KvCache::is_paged)?;
        let _awake = self.compute.pool().forward();
        let Batch { ref parts, rows, ref wanted } = checked;
        let state = &mut self.state;
        state.reserve(rows, wanted.len());

        self.weights.embed(batch, state); // x: (rows, d)
        let rotation = self.weights.rotation(batch);
        let mut attention = Attention::new(self.geometry.shape());
        for rows in batch.iter_mut() {
            let (held, gap) = (rows.cache.len(), rows.cache.gap());
            attention.push(rows.cache.grown(rows.tokens.len()), held, gap, rows.tokens.len());
        }
        for (layer, block) in self.weights.blocks.iter().enumerate() {
            let layer = Layer { compute: &self.compute, geometry: &self.geometry, layer, block, rows };
            layer.forward(rotation.as_ref(), &mut attention, state); // x: (rows, d)
        }
        let spared = attention.spared();
        drop(attention);
        let logits = self.weights.logits(&self.compute, state, wanted); // (wanted rows, vocabulary)
        for rows in batch.iter_mut() {
            rows.cache.advance(rows.tokens.len());
        }
        let work = cost::forward(&self.geometry, &self.bytes, parts, spared);
        Ok(Forward::new(self.geometry.vocab_size, &checked.counts(), logits, work))
    }

    fn measure_roofs(&mut self) -> Option<Roofs> {
        Some(roofs::measure(&self.compute, self.weights.matrices().map(Matrix::as_bytes)))
    }
}

/// Activations, kept from forward to forward, all in lane order and padded with zeros to whole blocks.
struct State {
    /// The residual stream: (rows, d).
    x: Buffer,
    /// What a norm gives: (rows, d).
    input: Buffer,
    /// Queries, keys and values: (rows, parts of the shape).
    projections: Buffer,
    /// What the attention gives: (rows, heads · head_dim).
    attended: Buffer,
    /// What leads into the MLP: (rows, hidden), or gate and up, each as wide.
    wide: Buffer,
    /// The middle of the MLP, where it is not `wide` itself: (rows, hidden).
    hidden: Buffer,
    /// The attention's, for each thread.
    scratch: Vec<Mutex<Buffer>>,
    matmul: matmul::Scratch,
    strides: Strides,
}

/// Elements from row to row.
#[derive(Clone, Copy)]
struct Strides {
    d: usize,
    projections: usize,
    attended: usize,
    wide: usize,
    hidden: usize,
}

impl State {
    fn new(geometry: &Geometry, threads: usize) -> State {
        let hidden = geometry.hidden.next_multiple_of(BLOCK);
        State {
            x: Buffer::default(),
            input: Buffer::default(),
            projections: Buffer::default(),
            attended: Buffer::default(),
            wide: Buffer::default(),
            hidden: Buffer::default(),
            scratch: (0..threads).map(|_| Mutex::default()).collect(),
            matmul: matmul::Scratch::default(),
            strides: Strides {
                d: geometry.d_model.next_multiple_of(BLOCK),
                projections: geometry.shape().projections(),
                attended: geometry.shape().width().next_multiple_of(BLOCK),
                wide: geometry.ups() as usize * hidden,
                hidden: if geometry.mlp == Mlp::SwiGlu { hidden } else { 0 },
            },
        }
    }

    fn reserve(&mut self, rows: usize, wanted: usize) {
        let Strides { d, projections, attended, wide, hidden } = self.strides;
        self.x.reserve(rows * d);
        self.input.reserve(rows.max(wanted) * d);
        self.projections.reserve(rows * projections);
        self.attended.reserve(rows * attended);
        self.wide.reserve(rows * wide);
        self.hidden.reserve(rows * hidden);
    }
}

impl Parameters {
    /// Token and position, added.
    fn embed(&self, batch: &[Rows<'_>], state: &mut State) {
        let State { x, input, strides, .. } = state;
        let rows = batch.iter().flat_map(|rows| rows.tokens.iter().zip(rows.cache.len()..));
        for ((token, position), x) in rows.zip(x.chunks_exact_mut(strides.d)) {
            self.tokens.row(*token as usize, x);
            if let Some(positions) = &self.positions {
                let row = &mut input[..strides.d];
                positions.row(position, row);
                x.iter_mut().zip(row).for_each(|(x, p)| *x += *p);
            }
        }
    }

    /// How far the queries and keys of the new rows turn.
    fn rotation(&self, batch: &[Rows<'_>]) -> Option<Rotation> {
        let positions = batch.iter().flat_map(|rows| (rows.cache.len()..).take(rows.tokens.len()));
        (!self.frequencies.is_empty()).then(|| Rotation::new(&self.frequencies, positions))
    }

    /// The logits of the wanted rows: (wanted, vocabulary).
    fn logits(&self, compute: &Compute, state: &mut State, wanted: &[usize]) -> Vec<f32> {
        let State { x, input, matmul: scratch, .. } = state;
        self.norm.apply_rows(compute, x, input, wanted.len(), |row| wanted[row]); // (wanted, d)
        let vocab_size = self.head().outputs();
        let mut logits = vec![0.0; wanted.len() * vocab_size];
        let sink = Sink::Natural { out: &mut logits, stride: vocab_size };
        matmul(compute, slice::from_ref(self.head()), None, input, wanted.len(), sink, scratch);
        logits
    }
}

/// One block at work.
struct Layer<'a> {
    compute: &'a Compute,
    geometry: &'a Geometry,
    layer: usize,
    block: &'a Block,
    rows: usize,
}

impl Layer<'_> {
    /// x + projection(attention(norm(x))), then x + MLP(norm(x)).
    fn forward(&self, rotation: Option<&Rotation>, attention: &mut Attention<'_>, state: &mut State) {
        let Layer { compute, block, rows, .. } = *self;
        let State { x, input, projections, attended, scratch, matmul, strides, .. } = state;
        let stride = strides.projections;

        block.attention_norm.apply_rows(compute, x, input, rows, |row| row); // (rows, d)
        self.apply(&block.qkv, input, Sink::Store { out: projections, stride }, matmul); // (rows, q | k | v)
        let norms = block.head_norms.as_ref();
        rope::prepare(compute, self.geometry.shape(), norms, rotation, projections, stride, rows);
        let projections = Projections { rows: projections, stride };
        attention.run(compute, self.layer, projections, attended, strides.attended, scratch); // (rows, heads, head_dim)
        self.apply(&block.projection, attended, Sink::Add { out: x, stride: strides.d }, matmul); // (rows, d)

        block.mlp_norm.apply_rows(compute, x, input, rows, |row| row); // (rows, d)
        self.mlp(state); // (rows, d)
    }

    fn mlp(&self, state: &mut State) {
        let Layer { compute, block, rows, .. } = *self;
        let State { x, input, wide, hidden, matmul, strides, .. } = state;
        let stride = strides.wide;
        let middle: &[f32] = match self.geometry.mlp {
            Mlp::Gelu => {
                self.apply(&block.up, input, Sink::Gelu { out: wide, stride }, matmul);
                wide
            }
            Mlp::GeluTanh => {
                self.apply(&block.up, input, Sink::Store { out: wide, stride }, matmul);
                activation::gelu_tanh(compute, wide, stride, rows);
                wide
            }
            Mlp::SwiGlu => {
                self.apply(&block.up, input, Sink::Store { out: wide, stride }, matmul); // (rows, gate | up)
                activation::swiglu(compute, wide, hidden, strides.hidden, rows);
                hidden
            }
        }; // (rows, hidden)
        self.apply(&block.down, middle, Sink::Add { out: x, stride: strides.d }, matmul); // (rows, d)
    }

    fn apply(&self, linear: &Linear, input: &[f32], sink: Sink<'_>, scratch: &mut matmul::Scratch) {
        matmul(self.compute, &linear.parts, linear.bias.as_deref(), input, self.rows, sink, scratch);
    }
}
