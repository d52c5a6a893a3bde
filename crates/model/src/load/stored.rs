//! Tensors where they lie, and how they are taken over: checked, copied into the kernels' form where they do not have it
//! already, and let go.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::thread;

use candle_core::quantized::GgmlDType;
use sha2::{Digest, Sha256};

use super::bytes::Bytes;
use super::convert;
use crate::LoadError;
use crate::description::hex;
use crate::kernels::{FloatType, Format};
use crate::weights::{Form, Layout, Tensors, Unusable, Wanted, Weights};

/// The tensors of a model's files.
pub(crate) struct Stored {
    files: Vec<(String, Bytes)>,
    /// By name: which file has it, where, and whether it was taken.
    tensors: BTreeMap<String, (usize, Entry, bool)>,
    digest: Sha256,
    /// Types that were converted, and how many tensors of each.
    converted: BTreeMap<String, usize>,
}

/// A tensor in a file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its bytes, which lie within the file and are as many as kind and shape ask for.
    pub(super) range: Range<usize>,
    pub(super) kind: Kind,
    /// The outermost axis first.
    pub(super) shape: Vec<usize>,
}

/// What a tensor's elements are.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Float(FloatType),
    /// Blocks that the kernels know.
    Quantised(Format),
    /// Blocks that are converted.
    Foreign(GgmlDType),
    /// What no matrix is made of.
    Other(String),
}

impl Stored {
    pub(super) fn new() -> Stored {
        Stored { files: Vec::new(), tensors: BTreeMap::new(), digest: Sha256::new(), converted: BTreeMap::new() }
    }

    /// Adds a file and its tensors.
    pub(super) fn add(&mut self, file: String, bytes: Bytes, entries: Vec<(String, Entry)>) -> Result<(), LoadError> {
        let number = self.files.len();
        self.files.push((file, bytes));
        for (name, entry) in entries {
            if let Some((first, ..)) = self.tensors.get(&name) {
                let first = &self.files[*first].0;
                return Err(self.refuse_in(
                    number,
                    &name,
                    format!("in {first} too"),
                    "one tensor of a name".to_owned(),
                ));
            }
            self.tensors.insert(name, (number, entry, false));
        }
        Ok(())
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// What the fingerprint is to begin with.
    pub(super) fn begin(&mut self, digest: Sha256) {
        self.digest = digest;
    }

    /// Checks that all tensors were taken but those that a model may carry along (`head` among them, where a tied one is
    /// stored twice); gives the fingerprint.
    pub(super) fn finish(self, head: Option<&str>) -> Result<String, LoadError> {
        let superfluous = self
            .tensors
            .iter()
            .find(|(name, (.., taken))| !taken && !carried_along(name) && head != Some(name.as_str()));
        match superfluous {
            Some((name, (file, ..))) => {
                let allowed = "no such tensor in a model of this geometry".to_owned();
                Err(self.refuse_in(*file, name, "present".to_owned(), allowed))
            }
            None => {
                for (from, tensors) in &self.converted {
                    let to = convert::TO;
                    tracing::warn!(
                        file = self.files[0].0,
                        from,
                        ?to,
                        tensors,
                        "converted: there are no kernels for this type"
                    );
                }
                Ok(hex(self.digest))
            }
        }
    }

    fn refuse_in(&self, file: usize, tensor: &str, value: String, allowed: String) -> LoadError {
        LoadError::Tensor { file: self.files[file].0.clone(), tensor: tensor.to_owned(), value, allowed }
    }

    /// Finds a tensor and checks its shape.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<(usize, Entry), LoadError> {
        let Some((file, entry, taken)) = self.tensors.get_mut(name) else {
            return Err(self.refuse_in(0, name, "missing".to_owned(), format!("a tensor of shape {shape:?}")));
        };
        *taken = true;
        let (file, entry) = (*file, entry.clone());
        if entry.shape != shape {
            return Err(self.refuse_in(file, name, format!("of shape {:?}", entry.shape), format!("{shape:?}")));
        }
        Ok((file, entry))
    }

    /// A matrix of `rows` of a tensor.
    fn matrix<F: Form>(
        &self,
        form: &F,
        tensor: &Tensor<'_>,
        rows: &Rows<'_>,
        shape: [usize; 2],
    ) -> Result<F::Matrix, LoadError> {
        let Tensor { name, file, kind } = *tensor;
        let raw = &*rows.bytes;
        let made = match kind {
            Kind::Float(dtype) => match dtype.first_not_finite(raw) {
                // A weight that is not finite would spread to every logit; nothing downstream could choose then.
                Some(at) => {
                    let (row, column) = (at / shape[1], at % shape[1]);
                    Err(Unusable::Weights(format!("not finite at row {row}, column {column}")))
                }
                None => {
                    let in_file = rows.at.and_then(|at| form.in_file(&self.files[file].1, *dtype, at, shape));
                    in_file.map_or_else(|| form.float(*dtype, raw, shape), Ok)
                }
            },
            Kind::Quantised(format) => form.quantised(*format, raw, shape),
            Kind::Foreign(dtype) => convert::to_q8_0(*dtype, raw, shape[1])
                .map_err(Unusable::Weights)
                .and_then(|raw| form.quantised(Format::Q8_0, &raw, shape)),
            Kind::Other(kind) => {
                return Err(self.refuse_in(file, name, format!("of type {kind}"), "BF16, F16 or F32".to_owned()));
            }
        };
        made.map_err(|unusable| match unusable {
            Unusable::Weights(reason) => self.refuse_in(file, name, reason, "finite weights".to_owned()),
            Unusable::Device(error) => LoadError::Device(error.to_string()),
        })
    }
}

/// A tensor that is taken over.
#[derive(Clone, Copy)]
struct Tensor<'a> {
    name: &'a str,
    /// The number of its file.
    file: usize,
    kind: &'a Kind,
}

/// Some rows of a tensor.
struct Rows<'a> {
    bytes: Cow<'a, [u8]>,
    /// Where they begin in the file, if they stand there in this order.
    at: Option<usize>,
}

impl Rows<'_> {
    fn moved(bytes: Vec<u8>) -> Self {
        Rows { bytes: Cow::Owned(bytes), at: None }
    }
}

impl Stored {
    /// The matrices that a tensor's rows are divided among.
    fn cut<F: Form>(
        &self,
        form: &F,
        tensor: &Tensor<'_>,
        (outputs, inputs): (&[usize], usize),
        layout: Layout,
    ) -> Result<Vec<F::Matrix>, LoadError> {
        let range = self.tensors[tensor.name].1.range.clone();
        let bytes = &self.files[tensor.file].1[range.clone()];
        let all: usize = outputs.iter().sum();
        let row = bytes.len() / all;
        let mut first = 0;
        let matrices = outputs.iter().map(|&outputs| {
            let rows = match layout {
                Layout::Rows => {
                    let bytes = &bytes[first * row..][..outputs * row];
                    Rows { bytes: Cow::Borrowed(bytes), at: Some(range.start + first * row) }
                }
                Layout::Transposed => Rows::moved(transposed(bytes, [inputs, all], first..first + outputs)),
                Layout::Interleaved { .. } => {
                    let rows = (0..outputs).map(|output| first + layout.stored(output, outputs));
                    Rows::moved(rows.flat_map(|stored| &bytes[stored * row..][..row]).copied().collect())
                }
            };
            first += outputs;
            self.matrix(form, tensor, &rows, [outputs, inputs])
        });
        matrices.collect()
    }
}

impl Tensors for Stored {
    fn matrices<F: Form>(&mut self, form: &F, wanted: Wanted<'_>) -> Result<Vec<F::Matrix>, LoadError> {
        let Wanted { name, outputs, inputs, layout } = wanted;
        let all: usize = outputs.iter().sum();
        let shape = if layout == Layout::Transposed { [inputs, all] } else { [all, inputs] };
        let (file, entry) = self.take(name, &shape)?;
        let bytes = &self.files[file].1[entry.range.clone()];
        let mut digest = std::mem::take(&mut self.digest);
        let (matrices, digest) = thread::scope(|scope| {
            let hashed = scope.spawn(move || {
                digest.update(name);
                digest.update(bytes);
                digest
            });
            let tensor = Tensor { name, file, kind: &entry.kind };
            let matrices = self.cut(form, &tensor, (outputs, inputs), layout);
            (matrices, hashed.join().expect("hashing does not panic"))
        });
        self.digest = digest;
        let matrices = matrices?;
        if let Kind::Foreign(dtype) = entry.kind {
            *self.converted.entry(format!("{dtype:?}")).or_default() += 1;
        }
        if !matrices.iter().any(Weights::is_mapped) {
            self.files[file].1.release(&entry.range);
        }
        Ok(matrices)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        let (file, entry) = self.take(name, &[len])?;
        let Kind::Float(dtype) = entry.kind else {
            let kind = format!("of type {:?}", entry.kind);
            return Err(self.refuse_in(file, name, kind, "BF16, F16 or F32".to_owned()));
        };
        let bytes = &self.files[file].1[entry.range];
        self.digest.update(name);
        self.digest.update(bytes);
        match dtype.first_not_finite(bytes) {
            Some(at) => {
                let (value, allowed) = (format!("not finite at element {at}"), "finite weights".to_owned());
                Err(self.refuse_in(file, name, value, allowed))
            }
            None => Ok(dtype.widen(bytes)),
        }
    }
}

/// Rows of outputs that are stored as columns: (inputs, all outputs), of floats.
fn transposed(bytes: &[u8], [inputs, all]: [usize; 2], outputs: Range<usize>) -> Vec<u8> {
    let columns = bytes.len() / inputs;
    let size = columns / all;
    let mut rows = Vec::with_capacity(outputs.len() * inputs * size);
    for output in outputs {
        for input in 0..inputs {
            rows.extend_from_slice(&bytes[input * columns + output * size..][..size]);
        }
    }
    rows
}

/// What older models of transformers were saved with, though it is no weight.
fn carried_along(name: &str) -> bool {
    [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"].iter().any(|end| name.ends_with(end))
}
