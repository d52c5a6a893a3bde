//! Models that are made, not trained: what they cost means something, what they say does not.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};

use crate::LoadError;
use crate::geometry::{Biases, Geometry, Mlp, Normalisation, Positions, Rotary, Scaling};
use crate::kernels::{FloatType, Format, Matrix};
use crate::weights::{Form, Kernels, Names, Parameters, Tensors, Unusable, Wanted};

#[cfg(test)]
mod tests;

/// A model that is made in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SyntheticModel {
    /// The embedded target grown to GPT-2 small's geometry (d 768, 12 heads, 12 layers, context 4096, 88.3 million
    /// parameters), with noise such that the embedded target as its draft foresees 7 in 10 of its greedy choices.
    GrownGpt2,
    /// Random weights at a named geometry, `synthetic:PRESET[:DTYPE]`.
    Random(Preset, Dtype),
}

/// A geometry with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Preset {
    /// The seed's draft: d 384, 6 heads, 6 layers, context 2048, 128 tokens.
    NanoGpt,
    /// The seed's target: d 768, 12 heads, 12 layers, context 4096, 128 tokens.
    Gpt2Small,
    /// Llama 3.2 1B.
    Llama1b,
    /// Llama 3.2 3B.
    Llama3b,
    /// Llama 3.1 8B.
    Llama8b,
}

/// How random weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dtype(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Float(FloatType),
    Quantised(Format),
}

const PRESETS: [(&str, Preset); 5] = [
    ("nanogpt", Preset::NanoGpt),
    ("gpt2-small", Preset::Gpt2Small),
    ("llama-1b", Preset::Llama1b),
    ("llama-3b", Preset::Llama3b),
    ("llama-8b", Preset::Llama8b),
];

const KINDS: [Kind; 9] = [
    Kind::Float(FloatType::BF16),
    Kind::Float(FloatType::F16),
    Kind::Float(FloatType::F32),
    Kind::Quantised(Format::Q8_0),
    Kind::Quantised(Format::Q4_0),
    Kind::Quantised(Format::Q5_0),
    Kind::Quantised(Format::Q4K),
    Kind::Quantised(Format::Q5K),
    Kind::Quantised(Format::Q6K),
];

impl SyntheticModel {
    /// Names that are understood, for messages.
    pub const NAMES: &str = "grown-gpt2, or nanogpt, gpt2-small, llama-1b, llama-3b or llama-8b, each with :DTYPE (bf16, \
                             f16, f32, q8_0, q4_0, q5_0, q4_k, q5_k or q6_k; bf16 without)";
}

impl FromStr for SyntheticModel {
    type Err = String;

    fn from_str(name: &str) -> Result<SyntheticModel, String> {
        if name == "grown-gpt2" {
            return Ok(SyntheticModel::GrownGpt2);
        }
        let (preset, dtype) = name.split_once(':').unwrap_or((name, "bf16"));
        let preset = PRESETS.iter().find(|(known, _)| *known == preset).map(|(_, preset)| *preset);
        match (preset, dtype.parse()) {
            (Some(preset), Ok(dtype)) => Ok(SyntheticModel::Random(preset, dtype)),
            _ => Err(format!("synthetic:{name} is unknown, allowed: {}", SyntheticModel::NAMES)),
        }
    }
}

impl fmt::Display for SyntheticModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SyntheticModel::GrownGpt2 => f.write_str("synthetic:grown-gpt2"),
            SyntheticModel::Random(preset, Dtype(kind)) => {
                let name = PRESETS.iter().find(|(_, known)| known == preset).map_or("", |(name, _)| name);
                write!(f, "synthetic:{name}:{}", kind.name())
            }
        }
    }
}

impl FromStr for Dtype {
    type Err = String;

    fn from_str(name: &str) -> Result<Dtype, String> {
        let kind = KINDS.into_iter().find(|kind| kind.name() == name);
        kind.map(Dtype).ok_or_else(|| format!("{name} is unknown, allowed: {}", KINDS.map(Kind::name).join(", ")))
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Float(float) => float.name(),
            Kind::Quantised(format) => format.name(),
        }
    }
}

impl Preset {
    /// Its sizes and parts.
    pub fn geometry(self) -> Geometry {
        match self {
            Preset::NanoGpt => Geometry::gpt(128, 384, 6, 6, 2048),
            Preset::Gpt2Small => Geometry::gpt(128, 768, 12, 12, 4096),
            Preset::Llama1b => Geometry { d_model: 2048, layers: 16, heads: 32, hidden: 8192, ..llama(64, 32.0) },
            Preset::Llama3b => Geometry { d_model: 3072, layers: 28, heads: 24, hidden: 8192, ..llama(128, 32.0) },
            Preset::Llama8b => Geometry { tied: false, ..llama(128, 8.0) },
        }
    }
}

/// Llama 3.1 8B, but for its head, which is tied as in the smaller ones; low frequencies are scaled by `factor`.
fn llama(head_dim: usize, factor: f64) -> Geometry {
    let scaling = Scaling::Llama3 { factor, low: 1.0, high: 4.0, original_context: 8192.0 };
    Geometry {
        vocab_size: 128_256,
        d_model: 4096,
        layers: 32,
        heads: 32,
        kv_heads: 8,
        head_dim,
        hidden: 14_336,
        context: 131_072,
        norm: Normalisation::Rms,
        epsilon: 1e-5,
        positions: Positions::Rotary(Rotary { theta: 500_000.0, dims: head_dim, scaling }),
        mlp: Mlp::SwiGlu,
        biases: Biases { qkv: false, projection: false, mlp: false },
        head_norms: false,
        tied: true,
    }
}

/// Random weights at a preset's geometry, the same each time.
pub(crate) fn random<F: Form>(
    form: &F,
    preset: Preset,
    Dtype(kind): Dtype,
) -> Result<(Geometry, Parameters<F>), LoadError> {
    let geometry = preset.geometry();
    let names = if geometry.mlp == Mlp::SwiGlu { Names::LLAMA } else { Names::NANOGPT };
    let weights = Parameters::new(&mut Random::new(kind), form, &names, &geometry)?;
    Ok((geometry, weights))
}

/// A matrix of random weights, or why there is none.
pub(crate) fn matrix(Dtype(kind): Dtype, outputs: usize, inputs: usize) -> Result<Matrix, String> {
    Random::new(kind).matrix(&Kernels, outputs, inputs).map_err(|unusable| match unusable {
        Unusable::Weights(reason) => reason,
        Unusable::Device(error) => error.to_string(),
    })
}

/// Weights from a generator (Marsaglia's xorshift64), of such a size that activations keep theirs.
struct Random {
    kind: Kind,
    state: u64,
}

impl Random {
    fn new(kind: Kind) -> Random {
        Random { kind, state: 0x9e37_79b9_7f4a_7c15 }
    }

    fn matrix<F: Form>(&mut self, form: &F, outputs: usize, inputs: usize) -> Result<F::Matrix, Unusable> {
        let limit = (3.0 / inputs as f32).sqrt();
        match self.kind {
            Kind::Float(float) => form.float(float, &self.floats(float, outputs * inputs, limit), [outputs, inputs]),
            Kind::Quantised(format) => {
                let raw = self.blocks(format, outputs * inputs / format.block_len(), limit);
                form.quantised(format, &raw, [outputs, inputs])
            }
        }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// `len` weights of a float type, uniform in ±`limit`.
    fn floats(&mut self, float: FloatType, len: usize, limit: f32) -> Vec<u8> {
        let mut raw = Vec::with_capacity(len * float.size());
        for _ in 0..len {
            let value = limit * ((self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0);
            match float {
                FloatType::BF16 => raw.extend(bf16::from_f32(value).to_le_bytes()),
                FloatType::F16 => raw.extend(f16::from_f32(value).to_le_bytes()),
                FloatType::F32 => raw.extend(value.to_le_bytes()),
            }
        }
        raw
    }

    /// `blocks` blocks with random levels, the greatest of which mean about `limit`.
    fn blocks(&mut self, format: Format, blocks: usize, limit: f32) -> Vec<u8> {
        let mut raw = Vec::with_capacity(blocks * format.block_bytes() + 8);
        while raw.len() < blocks * format.block_bytes() {
            raw.extend(self.next().to_le_bytes());
        }
        raw.truncate(blocks * format.block_bytes());
        // Levels, times scales of 6 or 8 bits where there are some, and what centres them.
        let (d, e, at) = match format {
            Format::Q4_0 => (limit / 8.0, None, 0),
            Format::Q5_0 => (limit / 16.0, None, 0),
            Format::Q8_0 => (limit / 128.0, None, 0),
            Format::Q4K => (limit / (8.0 * 63.0), Some(limit / 63.0), 0),
            Format::Q5K => (limit / (16.0 * 63.0), Some(limit / 63.0), 0),
            Format::Q6K => (limit / (32.0 * 128.0), None, 208),
        };
        for block in raw.chunks_exact_mut(format.block_bytes()) {
            block[at..at + 2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
            if let Some(e) = e {
                block[2..4].copy_from_slice(&f16::from_f32(e).to_le_bytes());
            }
        }
        raw
    }
}

impl Tensors for Random {
    fn matrices<F: Form>(&mut self, form: &F, wanted: Wanted<'_>) -> Result<Vec<F::Matrix>, LoadError> {
        let matrices = wanted.outputs.iter().map(|outputs| self.matrix(form, *outputs, wanted.inputs));
        matrices.collect::<Result<_, _>>().map_err(|unusable| match unusable {
            Unusable::Weights(value) => LoadError::Tensor {
                file: format!("synthetic:{}", self.kind.name()),
                tensor: wanted.name.to_owned(),
                value,
                allowed: "rows of whole blocks".to_owned(),
            },
            Unusable::Device(error) => LoadError::Device(error.to_string()),
        })
    }

    /// Norms of 1, biases of 0.
    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        Ok(vec![if name.ends_with("weight") { 1.0 } else { 0.0 }; len])
    }
}
