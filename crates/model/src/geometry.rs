//! What defines a model beside its weights: sizes, and which of the usual parts it is made of.

use crate::kernels::attention::Shape;

pub(crate) mod fields;
pub(crate) mod hugging_face;
pub(crate) mod nanogpt;

/// A decoder-only transformer's sizes and parts. Families are values of this, not code of their own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// Rows of the token embedding, and logits.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Layers.
    pub layers: usize,
    /// Heads of queries in a layer.
    pub heads: usize,
    /// Heads of keys and values in a layer, a divisor of `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width inside the MLP.
    pub hidden: usize,
    /// Positions of a sequence.
    pub context: usize,
    /// What normalises before attention, MLP and head.
    pub norm: Normalisation,
    /// Added to the mean square (or variance) that a norm divides by.
    pub epsilon: f32,
    /// How a row knows its position.
    pub positions: Positions,
    /// What is in the MLP.
    pub mlp: Mlp,
    /// Which linear layers have a bias.
    pub biases: Biases,
    /// Whether each head of queries and of keys is normalised (Qwen3).
    pub head_norms: bool,
    /// Whether the token embedding is the head too.
    pub tied: bool,
}

/// A kind of norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalisation {
    /// LayerNorm, with scale and bias.
    Layer,
    /// RMSNorm, with scale.
    Rms,
}

/// How a row knows its position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Positions {
    /// An embedding of positions is added to that of tokens.
    Learned,
    /// Queries and keys turn.
    Rotary(Rotary),
}

/// How queries and keys turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotary {
    /// The base of the frequencies, θ.
    pub theta: f64,
    /// Dimensions of a head that turn, an even number; the rest stays.
    pub dims: usize,
    /// How frequencies are stretched for contexts longer than those first trained on.
    pub scaling: Scaling,
}

/// How frequencies are stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All by one factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// As Llama 3.1 does: low frequencies by a factor, high ones not, those between in part.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Turns within the original context below which a frequency is low.
        low: f64,
        /// Turns within the original context above which a frequency is high.
        high: f64,
        /// The context first trained on.
        original_context: f64,
    },
    /// Each by its own factor, which stands beside the weights.
    Stored,
}

/// The middle of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mlp {
    /// GELU, exact.
    Gelu,
    /// GELU by its tanh approximation (GPT-2's `gelu_new`).
    GeluTanh,
    /// SiLU(gate) · up.
    SwiGlu,
}

/// Which linear layers have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Biases {
    /// Those of queries, keys and values.
    pub qkv: bool,
    /// That after the attention.
    pub projection: bool,
    /// Those of the MLP.
    pub mlp: bool,
}

impl Geometry {
    /// A GPT of LayerNorm, learned positions, biases and a tied head: NanoGPT's and GPT-2's form.
    pub fn gpt(vocab_size: usize, d_model: usize, heads: usize, layers: usize, context: usize) -> Geometry {
        Geometry {
            vocab_size,
            d_model,
            layers,
            heads,
            kv_heads: heads,
            head_dim: d_model / heads,
            hidden: 4 * d_model,
            context,
            norm: Normalisation::Layer,
            epsilon: 1e-5,
            positions: Positions::Learned,
            mlp: Mlp::Gelu,
            biases: Biases { qkv: true, projection: true, mlp: true },
            head_norms: false,
            tied: true,
        }
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        let [d, hidden] = [self.d_model, self.hidden].map(|size| size as u64);
        let shape = self.shape();
        let [width, kv_width] = [shape.width(), shape.kv_width()].map(|size| size as u64);
        let norm = self.norm_vectors() * d;
        let biases = u64::from(self.biases.qkv) * (width + 2 * kv_width)
            + u64::from(self.biases.projection) * d
            + u64::from(self.biases.mlp) * (self.ups() * hidden + d);
        let head_norms = u64::from(self.head_norms) * 2 * self.head_dim as u64;
        let layer = self.linear() + 2 * norm + biases + head_norms;
        let embeddings = (2 - u64::from(self.tied)) * self.vocab_size as u64 * d
            + u64::from(self.positions == Positions::Learned) * self.context as u64 * d;
        embeddings + self.layers as u64 * layer + norm
    }

    /// Weights of a layer's matrices.
    pub(crate) fn linear(&self) -> u64 {
        let shape = self.shape();
        let attention = 2 * shape.width() + 2 * shape.kv_width();
        self.d_model as u64 * (attention as u64 + (self.ups() + 1) * self.hidden as u64)
    }

    /// Matrices that lead into the MLP.
    pub(crate) fn ups(&self) -> u64 {
        if self.mlp == Mlp::SwiGlu { 2 } else { 1 }
    }

    /// Vectors of a norm.
    fn norm_vectors(&self) -> u64 {
        if self.norm == Normalisation::Layer { 2 } else { 1 }
    }

    pub(crate) fn shape(&self) -> Shape {
        Shape { layers: self.layers, heads: self.heads, kv_heads: self.kv_heads, head_dim: self.head_dim }
    }
}

impl Rotary {
    /// Radians for each position, one for each pair of dimensions; `stored` are the factors that stand beside the
    /// weights.
    pub(crate) fn frequencies(&self, stored: Option<&[f32]>) -> Vec<f64> {
        let frequency = |pair: usize| {
            let frequency = libm::pow(self.theta, -2.0 * pair as f64 / self.dims as f64);
            match self.scaling {
                Scaling::None => frequency,
                Scaling::Linear { factor } => frequency / factor,
                Scaling::Llama3 { factor, low, high, original_context } => {
                    let turns = original_context * frequency / std::f64::consts::TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    frequency * ((1.0 - kept) / factor + kept)
                }
                Scaling::Stored => frequency / stored.map_or(1.0, |factors| f64::from(factors[pair])),
            }
        };
        (0..self.dims / 2).map(frequency).collect()
    }
}
