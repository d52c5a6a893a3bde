//! Tensors where they lie, and how they are taken over: checked, copied into the kernels' form, and let go.

use std::collections::BTreeMap;
use std::ops::Range;

use sha2::{Digest, Sha256};

use super::bytes::Bytes;
use crate::LoadError;
use crate::description::hex;
use crate::kernels::{FloatType, Matrix};
use crate::weights::{Layout, Tensors, Wanted};

/// The tensors of a model's files.
pub(crate) struct Stored {
    files: Vec<(String, Bytes)>,
    /// By name: which file has it, where, and whether it was taken.
    tensors: BTreeMap<String, (usize, Entry, bool)>,
    digest: Sha256,
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
    /// What no matrix is made of.
    Other(String),
}

impl Stored {
    pub(super) fn new() -> Stored {
        Stored { files: Vec::new(), tensors: BTreeMap::new(), digest: Sha256::new() }
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
            None => Ok(hex(self.digest)),
        }
    }

    fn refuse_in(&self, file: usize, tensor: &str, value: String, allowed: String) -> LoadError {
        LoadError::Tensor { file: self.files[file].0.clone(), tensor: tensor.to_owned(), value, allowed }
    }

    /// Finds a tensor, checks its shape, and adds it to the fingerprint.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<(usize, Entry), LoadError> {
        let Some((file, entry, taken)) = self.tensors.get_mut(name) else {
            return Err(self.refuse_in(0, name, "missing".to_owned(), format!("a tensor of shape {shape:?}")));
        };
        *taken = true;
        let (file, entry) = (*file, entry.clone());
        if entry.shape != shape {
            return Err(self.refuse_in(file, name, format!("of shape {:?}", entry.shape), format!("{shape:?}")));
        }
        self.digest.update(name);
        self.digest.update(&self.files[file].1[entry.range.clone()]);
        Ok((file, entry))
    }

    /// A tensor's bytes and type, if it is one of finite floats.
    fn floats(&self, name: &str, file: usize, entry: &Entry) -> Result<(FloatType, &[u8]), LoadError> {
        let Kind::Float(dtype) = &entry.kind else {
            let Kind::Other(kind) = &entry.kind else { unreachable!("either a float or not") };
            return Err(self.refuse_in(file, name, format!("of type {kind}"), "BF16, F16 or F32".to_owned()));
        };
        let bytes = &self.files[file].1[entry.range.clone()];
        // A weight that is not finite would spread to every logit; nothing downstream could choose then.
        match dtype.first_not_finite(bytes) {
            Some(at) => {
                let (value, allowed) = (format!("not finite at element {at}"), "finite weights".to_owned());
                Err(self.refuse_in(file, name, value, allowed))
            }
            None => Ok((*dtype, bytes)),
        }
    }
}

impl Tensors for Stored {
    fn matrices(&mut self, wanted: Wanted<'_>) -> Result<Vec<Matrix>, LoadError> {
        let Wanted { name, outputs, inputs, layout } = wanted;
        let all: usize = outputs.iter().sum();
        let shape = if layout == Layout::Transposed { [inputs, all] } else { [all, inputs] };
        let (file, entry) = self.take(name, &shape)?;
        let (dtype, bytes) = self.floats(name, file, &entry)?;
        let mut matrices = Vec::with_capacity(outputs.len());
        let mut first = 0;
        for &outputs in outputs {
            let part = match layout {
                Layout::Rows => &bytes[first * inputs * dtype.size()..][..outputs * inputs * dtype.size()],
                _ => &rearranged(bytes, dtype.size(), first..first + outputs, inputs, layout),
            };
            matrices.push(Matrix::float(dtype, part, outputs, inputs));
            first += outputs;
        }
        self.files[file].1.release(&entry.range);
        Ok(matrices)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        let (file, entry) = self.take(name, &[len])?;
        let (dtype, bytes) = self.floats(name, file, &entry)?;
        Ok(dtype.widen(bytes))
    }
}

/// The rows of some outputs one after the other, wherever their elements of `size` bytes are stored.
fn rearranged(bytes: &[u8], size: usize, outputs: Range<usize>, inputs: usize, layout: Layout) -> Vec<u8> {
    let mut rows = Vec::with_capacity(outputs.len() * inputs * size);
    match layout {
        Layout::Transposed => {
            let stride = bytes.len() / inputs;
            for output in outputs {
                for input in 0..inputs {
                    rows.extend_from_slice(&bytes[input * stride + output * size..][..size]);
                }
            }
        }
        Layout::Rows | Layout::Interleaved { .. } => {
            for row in 0..outputs.len() {
                let stored = outputs.start + layout.stored(row, outputs.len());
                rows.extend_from_slice(&bytes[stored * inputs * size..][..inputs * size]);
            }
        }
    }
    rows
}

/// What older models of transformers were saved with, though it is no weight.
fn carried_along(name: &str) -> bool {
    [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"].iter().any(|end| name.ends_with(end))
}
