//! A model's weights, as the forward pass wants them, and how they are put together from named tensors.

use crate::LoadError;
use crate::geometry::{Geometry, Normalisation, Positions, Scaling};
use crate::kernels::{Matrix, Norm, in_lane_order};

mod names;

pub(crate) use names::Names;

/// A matrix that is wanted from a file, or several that are stored as one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) name: &'a str,
    /// Outputs of each matrix; in the file they stand one after the other.
    pub(crate) outputs: &'a [usize],
    pub(crate) inputs: usize,
    pub(crate) layout: Layout,
}

/// How a matrix is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// (outputs, inputs)
    Rows,
    /// (inputs, outputs), as GPT-2's.
    Transposed,
    /// (outputs, inputs), but the outputs of each of `heads` heads alternate between its first half and its second: GGUF
    /// stores the queries and keys of Llama so.
    Interleaved { heads: usize },
}

impl Layout {
    /// Where row `row` of `rows` stands.
    pub(crate) fn stored(self, row: usize, rows: usize) -> usize {
        match self {
            Layout::Rows | Layout::Transposed => row,
            Layout::Interleaved { heads } => {
                let half = rows / heads / 2;
                let (head, i) = (row / (2 * half), row % (2 * half));
                head * 2 * half + i % half * 2 + i / half
            }
        }
    }
}

/// Where weights come from: files, or nothing at all for models that are made up.
pub(crate) trait Tensors {
    fn matrices(&mut self, wanted: Wanted<'_>) -> Result<Vec<Matrix>, LoadError>;

    /// `len` numbers, widened exactly.
    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, LoadError>;
}

/// Matrices with the same inputs, applied together.
pub(crate) struct Linear {
    pub(crate) parts: Vec<Matrix>,
    /// Lane order, each part padded with zeros to whole blocks.
    pub(crate) bias: Option<Vec<f32>>,
}

/// One layer of the transformer.
pub(crate) struct Block {
    pub(crate) attention_norm: Norm,
    /// Queries, keys, values.
    pub(crate) qkv: Linear,
    /// For each head of queries, and of keys.
    pub(crate) head_norms: Option<[Norm; 2]>,
    pub(crate) projection: Linear,
    pub(crate) mlp_norm: Norm,
    /// Up, or gate and up.
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

/// All of a model.
pub(crate) struct Parameters {
    /// (vocabulary, d): the embedding, and the head where there is no other.
    pub(crate) tokens: Matrix,
    /// (context, d)
    pub(crate) positions: Option<Matrix>,
    /// Radians for each position that pairs of dimensions turn by; none where they don't.
    pub(crate) frequencies: Vec<f64>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: Norm,
    /// (vocabulary, d)
    pub(crate) head: Option<Matrix>,
}

impl Parameters {
    pub(crate) fn new(tensors: &mut impl Tensors, names: &Names, geometry: &Geometry) -> Result<Parameters, LoadError> {
        let mut builder = Builder { tensors, names, geometry };
        let (vocab_size, d) = (geometry.vocab_size, geometry.d_model);
        Ok(Parameters {
            tokens: builder.matrix(&names.outside(names.tokens, "weight"), vocab_size, d)?,
            positions: match geometry.positions {
                Positions::Learned => {
                    Some(builder.matrix(&names.outside(names.positions, "weight"), geometry.context, d)?)
                }
                Positions::Rotary(_) => None,
            },
            frequencies: builder.frequencies()?,
            blocks: (0..geometry.layers).map(|layer| builder.block(layer)).collect::<Result<_, _>>()?,
            norm: builder.norm(|part| names.outside(names.norm, part))?,
            head: match geometry.tied {
                true => None,
                false => Some(builder.matrix(&format!("{}.weight", names.head), vocab_size, d)?),
            },
        })
    }

    /// The matrix of the logits.
    pub(crate) fn head(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.tokens)
    }

    /// All matrices.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let blocks = self.blocks.iter().flat_map(Block::matrices);
        blocks.chain([&self.tokens]).chain(&self.positions).chain(&self.head)
    }

    /// Bytes of all weights in memory.
    pub(crate) fn bytes(&self) -> u64 {
        let vectors = self.blocks.iter().map(Block::vector_bytes).sum::<u64>() + norm_bytes(&self.norm);
        self.matrices().map(Matrix::bytes).sum::<u64>() + vectors
    }

    /// The type that most of the weights are stored in.
    pub(crate) fn dtype(&self) -> &'static str {
        let mut types: Vec<(&'static str, u64)> = Vec::new();
        for matrix in self.matrices() {
            match types.iter_mut().find(|(dtype, _)| *dtype == matrix.dtype()) {
                Some((_, bytes)) => *bytes += matrix.bytes(),
                None => types.push((matrix.dtype(), matrix.bytes())),
            }
        }
        types.into_iter().max_by_key(|(_, bytes)| *bytes).map_or("bf16", |(dtype, _)| dtype)
    }
}

impl Block {
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        [&self.qkv, &self.projection, &self.up, &self.down].into_iter().flat_map(|linear| &linear.parts)
    }

    /// Bytes of norms and biases in memory.
    pub(crate) fn vector_bytes(&self) -> u64 {
        let biases = [&self.qkv, &self.projection, &self.up, &self.down].into_iter().filter_map(|l| l.bias.as_ref());
        let norms = [&self.attention_norm, &self.mlp_norm].into_iter().chain(self.head_norms.iter().flatten());
        biases.map(|bias| size_of_val(&bias[..]) as u64).sum::<u64>() + norms.map(norm_bytes).sum::<u64>()
    }
}

/// Bytes of a norm's numbers in memory.
pub(crate) fn norm_bytes(norm: &Norm) -> u64 {
    (norm.parameters() * size_of::<f32>()) as u64
}

struct Builder<'a, T> {
    tensors: &'a mut T,
    names: &'a Names,
    geometry: &'a Geometry,
}

impl<T: Tensors> Builder<'_, T> {
    fn block(&mut self, layer: usize) -> Result<Block, LoadError> {
        let Geometry { d_model, hidden, biases, .. } = *self.geometry;
        let shape = self.geometry.shape();
        let names = self.names;
        let (width, kv_width) = (shape.width(), shape.kv_width());
        let qkv = [(width, shape.heads), (kv_width, shape.kv_heads), (kv_width, shape.kv_heads)];
        let up = vec![(hidden, 1); self.geometry.ups() as usize];
        Ok(Block {
            attention_norm: self.norm(|part| names.inside(layer, names.attention_norm, part))?,
            qkv: self.linear(layer, names.qkv, &qkv, d_model, biases.qkv)?,
            head_norms: match self.geometry.head_norms {
                true => Some([self.head_norm(layer, names.query_norm)?, self.head_norm(layer, names.key_norm)?]),
                false => None,
            },
            projection: self.linear(layer, &[names.projection], &[(d_model, 1)], width, biases.projection)?,
            mlp_norm: self.norm(|part| names.inside(layer, names.mlp_norm, part))?,
            up: self.linear(layer, names.up, &up, d_model, biases.mlp)?,
            down: self.linear(layer, &[names.down], &[(d_model, 1)], hidden, biases.mlp)?,
        })
    }

    fn matrix(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Matrix, LoadError> {
        let wanted = Wanted { name, outputs: &[outputs], inputs, layout: Layout::Rows };
        Ok(self.tensors.matrices(wanted)?.swap_remove(0))
    }

    /// `parts`: outputs and heads of each matrix. They are stored one by one, or all under one name.
    fn linear(
        &mut self,
        layer: usize,
        stored: &[&str],
        parts: &[(usize, usize)],
        inputs: usize,
        biased: bool,
    ) -> Result<Linear, LoadError> {
        let mut linear = Linear { parts: Vec::new(), bias: biased.then(Vec::new) };
        let together = parts.len() / stored.len();
        for (number, (name, parts)) in stored.iter().zip(parts.chunks(together)).enumerate() {
            let layout = match (self.names.transposed, self.names.interleaved && stored.len() == 3 && number < 2) {
                (true, _) => Layout::Transposed,
                (false, true) => Layout::Interleaved { heads: parts[0].1 },
                (false, false) => Layout::Rows,
            };
            let outputs: Vec<usize> = parts.iter().map(|(outputs, _)| *outputs).collect();
            let weight = self.names.inside(layer, name, "weight");
            linear.parts.extend(self.tensors.matrices(Wanted { name: &weight, outputs: &outputs, inputs, layout })?);
            if let Some(bias) = &mut linear.bias {
                let stored = self.tensors.vector(&self.names.inside(layer, name, "bias"), outputs.iter().sum())?;
                append_biases(bias, &stored, &outputs, layout);
            }
        }
        Ok(linear)
    }

    fn norm(&mut self, name: impl Fn(&str) -> String) -> Result<Norm, LoadError> {
        let (d, epsilon) = (self.geometry.d_model, self.geometry.epsilon);
        let scale = self.tensors.vector(&name("weight"), d)?;
        Ok(match self.geometry.norm {
            Normalisation::Layer => Norm::layer(&scale, &self.tensors.vector(&name("bias"), d)?, epsilon),
            Normalisation::Rms => Norm::rms(&scale, epsilon),
        })
    }

    fn head_norm(&mut self, layer: usize, name: &str) -> Result<Norm, LoadError> {
        let scale = self.tensors.vector(&self.names.inside(layer, name, "weight"), self.geometry.head_dim)?;
        Ok(Norm::rms(&scale, self.geometry.epsilon))
    }

    fn frequencies(&mut self) -> Result<Vec<f64>, LoadError> {
        let Positions::Rotary(rotary) = self.geometry.positions else { return Ok(Vec::new()) };
        let stored = match rotary.scaling {
            Scaling::Stored => Some(self.tensors.vector(&format!("{}.weight", self.names.factors), rotary.dims / 2)?),
            _ => None,
        };
        Ok(rotary.frequencies(stored.as_deref()))
    }
}

/// Appends the biases of parts with `outputs` each, in lane order, padded to whole blocks.
fn append_biases(to: &mut Vec<f32>, stored: &[f32], outputs: &[usize], layout: Layout) {
    let mut from = 0;
    for &outputs in outputs {
        let part: Vec<f32> = (0..outputs).map(|row| stored[from + layout.stored(row, outputs)]).collect();
        to.extend(in_lane_order(&part));
        from += outputs;
    }
}
