//! A larger target grown from the embedded one: twice as wide and twice as deep, and at first the same function.
//!
//! Net2Net (Chen, Goodfellow, Shlens 2016, arXiv 1511.05641). The residual stream x becomes [x, x]; every matrix becomes
//! four halves of itself, so that each copy of an output is the mean of what both copies of the input give; the heads are
//! the old ones twice. An old layer becomes two, the second of which adds nothing. Then noise is added to the matrices
//! of the layers, so that the target and the model that it was grown from agree as often as one wishes.

use std::sync::Mutex;
use std::thread;

use candle_core::safetensors::SliceSafetensors;
use half::bf16;
use serde::{Deserialize, Serialize};
use speculative::philox::{philox4x32_10, stream};
use speculative::portable::normal_quantile;

#[cfg(test)]
mod tests;

/// Rows that a thread fills at a time.
const ROWS: usize = 64;

/// Bytes of a stored weight.
const WEIGHT: usize = 2;

/// The fields of a geometry's JSON.
#[derive(Clone, Copy, Deserialize, Serialize)]
struct Sizes {
    vocab_size: usize,
    n_embd: usize,
    n_head: usize,
    n_layer: usize,
    max_seq_len: usize,
}

/// Grows a NanoGPT, given as its geometry (JSON) and its weights (safetensors, bf16), and gives the same two of the
/// grown one. `sigma` is the noise's standard deviation in units of the old matrix's root mean square.
///
/// The same bytes on every machine, with any number of threads.
///
/// # Panics
/// The model is not well-formed; the embedded ones are.
pub(crate) fn grown(json: &[u8], weights: &[u8], sigma: f32, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let old: Sizes = serde_json::from_slice(json).expect("a geometry");
    let file = SliceSafetensors::new(weights).expect("a safetensors file");
    let new = Sizes {
        n_embd: 2 * old.n_embd,
        n_head: 2 * old.n_head,
        n_layer: 2 * old.n_layer,
        max_seq_len: 2 * old.max_seq_len,
        ..old
    };
    let tensors = Plan { file: &file, old, sigma, seed }.tensors();
    (serde_json::to_vec(&new).expect("numbers are JSON"), assemble(&tensors))
}

/// A tensor of the grown model, as what its elements are made of.
struct Grown {
    name: String,
    /// Rows of the new tensor; a vector's elements are rows of one column.
    rows: usize,
    /// The old tensor: (old rows, columns).
    old: Vec<f32>,
    columns: usize,
    /// Each old row stands in its new one this many times.
    copies: usize,
    /// Old rows that are duplicated as one, in this order: the new rows are group 0, group 0, group 1, group 1, ….
    group: usize,
    scale: f32,
    noise: Option<Noise>,
}

/// Independent normal variates.
struct Noise {
    deviation: f32,
    seed: u64,
    /// Tells the tensors apart.
    tensor: u32,
}

/// What the tensors are planned from.
struct Plan<'a> {
    file: &'a SliceSafetensors<'a>,
    old: Sizes,
    sigma: f32,
    seed: u64,
}

impl Plan<'_> {
    fn tensors(&self) -> Vec<Grown> {
        let Sizes { vocab_size, n_embd: d, n_layer, max_seq_len, .. } = self.old;
        let mut tensors = vec![
            Grown { rows: vocab_size, ..self.embedding("wte.weight") },
            Grown { rows: 2 * max_seq_len, ..self.embedding("wpe.weight") },
        ];
        for layer in 0..2 * n_layer {
            // The second of two adds nothing to the stream.
            let outgoing = if layer % 2 == 0 { 1.0 } else { 0.0 };
            tensors.extend(self.norm(layer, "ln_1"));
            tensors.extend(self.linear(layer, "attn.c_attn", 0, d, 1.0)); // queries, keys, values
            tensors.extend(self.linear(layer, "attn.c_proj", 1, d, outgoing));
            tensors.extend(self.norm(layer, "ln_2"));
            tensors.extend(self.linear(layer, "mlp.0", 2, 4 * d, 1.0));
            tensors.extend(self.linear(layer, "mlp.2", 3, d, outgoing));
        }
        // The tied head sums both copies.
        let halved = |name| Grown { scale: 0.5, ..self.vector(name, name, d) };
        tensors.extend([halved("ln_f.weight"), halved("ln_f.bias")]);
        tensors
    }

    fn read(&self, name: &str) -> (Vec<f32>, usize) {
        let view = self.file.get(name).expect("a tensor of this geometry");
        let values = view.data().chunks_exact(WEIGHT).map(|pair| bf16::from_le_bytes([pair[0], pair[1]]).to_f32());
        (values.collect(), view.shape()[0])
    }

    fn embedding(&self, name: &str) -> Grown {
        let (old, rows) = self.read(name);
        let columns = old.len() / rows;
        Grown { name: name.to_owned(), rows, old, columns, copies: 2, group: rows, scale: 1.0, noise: None }
    }

    fn vector(&self, from: &str, name: &str, group: usize) -> Grown {
        let (old, rows) = self.read(from);
        Grown { name: name.to_owned(), rows: 2 * rows, old, columns: 1, copies: 1, group, scale: 1.0, noise: None }
    }

    fn norm(&self, layer: usize, name: &str) -> [Grown; 2] {
        ["weight", "bias"].map(|part| {
            let from = format!("blocks.{}.{name}.{part}", layer / 2);
            self.vector(&from, &format!("blocks.{layer}.{name}.{part}"), self.old.n_embd)
        })
    }

    /// A linear layer whose old outputs are duplicated in groups; `matrix` is its number in the layer.
    fn linear(&self, layer: usize, name: &str, matrix: usize, group: usize, scale: f32) -> [Grown; 2] {
        let (from, to) = (format!("blocks.{}.{name}", layer / 2), format!("blocks.{layer}.{name}"));
        let weight = self.embedding(&format!("{from}.weight"));
        let noise = Some(Noise {
            deviation: self.sigma * root_mean_square(&weight.old),
            seed: self.seed,
            tensor: (4 * layer + matrix) as u32,
        });
        let rows = 2 * weight.rows;
        let bias = self.vector(&format!("{from}.bias"), &format!("{to}.bias"), group);
        [
            Grown { name: format!("{to}.weight"), rows, group, scale: 0.5 * scale, noise, ..weight },
            Grown { scale, ..bias },
        ]
    }
}

/// In the order of the elements, so that it rounds the same everywhere.
fn root_mean_square(values: &[f32]) -> f32 {
    let sum: f64 = values.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    (sum / values.len() as f64).sqrt() as f32
}

impl Grown {
    fn width(&self) -> usize {
        self.columns * self.copies
    }

    fn bytes(&self) -> usize {
        self.rows * self.width() * WEIGHT
    }

    fn shape(&self) -> Vec<usize> {
        if self.columns == 1 { vec![self.rows] } else { vec![self.rows, self.width()] }
    }

    /// Writes the new rows that begin with `row`.
    fn fill(&self, row: usize, out: &mut [u8]) {
        for (row, out) in (row..).zip(out.chunks_exact_mut(self.width() * WEIGHT)) {
            let from = (row / (2 * self.group) * self.group + row % self.group) * self.columns;
            let old = self.old[from..][..self.columns].iter().cycle();
            let mut weights = old.map(|&weight| self.scale * weight);
            // Four at a time, as the noise comes.
            for (quad, out) in out.chunks_mut(4 * WEIGHT).enumerate() {
                let noise = self.noise.as_ref().map_or([0.0; 4], |noise| noise.quad(row, quad));
                for ((out, weight), noise) in out.chunks_exact_mut(WEIGHT).zip(&mut weights).zip(noise) {
                    out.copy_from_slice(&bf16::from_f32(weight + noise).to_le_bytes());
                }
            }
        }
    }
}

impl Noise {
    /// Of columns 4 · quad to 4 · quad + 3.
    fn quad(&self, row: usize, quad: usize) -> [f32; 4] {
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        let words = philox4x32_10([quad as u32, row as u32, self.tensor, stream::WEIGHTS], key);
        words.map(|word| {
            let u = (2.0 * f64::from(word) + 1.0) * (0.5 / 4_294_967_296.0); // odd · 2⁻³³, never 0 or 1
            self.deviation * normal_quantile(u) as f32
        })
    }
}

/// The safetensors file of these tensors: the header's length, the header, the data.
fn assemble(tensors: &[Grown]) -> Vec<u8> {
    let (mut header, mut end) = (String::new(), 0);
    for tensor in tensors {
        let start = end;
        end += tensor.bytes();
        let (name, shape) = (&tensor.name, tensor.shape());
        let separator = if header.is_empty() { '{' } else { ',' };
        header +=
            &format!(r#"{separator}"{name}":{{"dtype":"BF16","shape":{shape:?},"data_offsets":[{start},{end}]}}"#);
    }
    let mut header = (header + "}").into_bytes();
    // The data is aligned to 8 bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = vec![0; 8 + header.len() + end];
    let (length, rest) = file.split_at_mut(8);
    let (head, data) = rest.split_at_mut(header.len());
    length.copy_from_slice(&(header.len() as u64).to_le_bytes());
    head.copy_from_slice(&header);
    fill(tensors, data);
    file
}

/// Fills `data` with all threads that there are.
fn fill(tensors: &[Grown], mut data: &mut [u8]) {
    let mut jobs: Vec<(&Grown, usize, &mut [u8])> = Vec::new();
    for tensor in tensors {
        let (own, rest) = data.split_at_mut(tensor.bytes());
        data = rest;
        let chunks = own.chunks_mut(ROWS * tensor.width() * WEIGHT).enumerate();
        jobs.extend(chunks.map(|(chunk, out)| (tensor, ROWS * chunk, out)));
    }
    let jobs = Mutex::new(jobs.into_iter());
    let next = || jobs.lock().expect("no holder of the lock panics").next();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((tensor, row, out)) = next() {
                    tensor.fill(row, out);
                }
            });
        }
    });
}
