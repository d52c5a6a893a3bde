//! From files to tensors. Nothing in a file is believed before it is checked, and no more memory is taken than the file
//! is long and its geometry allows.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use candle_core::safetensors::SliceSafetensors;
use candle_core::{DType, Device, Tensor};
use half::bf16;
use half::slice::HalfFloatSliceExt;
use sha2::{Digest, Sha256};

use crate::description::hex;
use crate::{Geometry, LoadError, Source};

#[cfg(test)]
mod tests;

/// Longest geometry file, bytes.
const MAX_JSON: u64 = 1 << 16;

/// Longest header of a weights file, bytes: some 80 for each tensor.
const MAX_HEADER: u64 = 1 << 20;

/// Bytes of a stored weight.
const WEIGHT: u64 = 2;

/// A model's files, read and checked.
pub(crate) struct Checkpoint {
    pub(crate) name: String,
    pub(crate) geometry: Geometry,
    /// SHA-256 over geometry and weights, hexadecimal.
    pub(crate) fingerprint: String,
    file: String,
    bytes: Cow<'static, [u8]>,
}

impl Checkpoint {
    pub(crate) fn open(source: &Source) -> Result<Checkpoint, LoadError> {
        match source {
            Source::Embedded(model) => {
                let (json, bytes) = model.files();
                let name = model.to_string();
                let geometry = Geometry::from_json(&name, json)?;
                Checkpoint::check(name.clone(), name, geometry, Cow::Borrowed(bytes))
            }
            Source::Synthetic(model) => {
                let (json, bytes) = model.files();
                let name = model.to_string();
                let geometry = Geometry::from_json(&name, &json)?;
                Checkpoint::check(name.clone(), name, geometry, Cow::Owned(bytes))
            }
            Source::File(path) => {
                if path.extension().is_none_or(|extension| extension != "safetensors") {
                    return Err(LoadError::Name { path: path.clone() });
                }
                let json = path.with_extension("json");
                let geometry = Geometry::from_json(&json.display().to_string(), &read(&json, 0, MAX_JSON)?)?;
                let weights = WEIGHT * geometry.parameters();
                let bytes = read(path, weights, weights + MAX_HEADER + 8)?;
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                Checkpoint::check(name, path.display().to_string(), geometry, Cow::Owned(bytes))
            }
        }
    }

    /// Checks what was read.
    pub(crate) fn check(
        name: String,
        file: String,
        geometry: Geometry,
        bytes: Cow<'static, [u8]>,
    ) -> Result<Checkpoint, LoadError> {
        let mut checkpoint = Checkpoint { name, geometry, fingerprint: String::new(), file, bytes };
        checkpoint.fingerprint = checkpoint.tensors()?.check(&geometry)?;
        Ok(checkpoint)
    }

    pub(crate) fn tensors(&self) -> Result<Tensors<'_>, LoadError> {
        let file = SliceSafetensors::new(&self.bytes)
            .map_err(|error| LoadError::Format { file: self.file.clone(), reason: error.to_string() })?;
        Ok(Tensors { name: &self.file, file })
    }
}

/// Reads a file of at least `least` and at most `most` bytes.
fn read(path: &Path, least: u64, most: u64) -> Result<Vec<u8>, LoadError> {
    let io = |error| LoadError::Io { path: path.to_owned(), error };
    let file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let refuse = |bytes| LoadError::Size {
        file: path.display().to_string(),
        bytes,
        allowed: format!("{least} to {most} for this geometry"),
    };
    if !(least..=most).contains(&size) {
        return Err(refuse(size));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    // A file may grow while it is read.
    file.take(most + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > most { Err(refuse(bytes.len() as u64)) } else { Ok(bytes) }
}

/// The tensors of a well-formed file.
pub(crate) struct Tensors<'a> {
    name: &'a str,
    file: SliceSafetensors<'a>,
}

impl Tensors<'_> {
    /// A tensor as it is stored: bf16.
    pub(crate) fn load(&self, name: &str) -> Result<Tensor, LoadError> {
        let tensor = self.file.load(name, &Device::Cpu);
        tensor.map_err(|error| self.refuse(name, error.to_string(), "a readable tensor".to_owned()))
    }

    /// A vector, widened exactly.
    pub(crate) fn vector(&self, name: &str) -> Result<Vec<f32>, LoadError> {
        let values = self.load(name)?.to_vec1::<bf16>();
        let values = values.map_err(|error| self.refuse(name, error.to_string(), "a bf16 vector".to_owned()))?;
        Ok(values.to_f32_vec())
    }

    pub(crate) fn refuse(&self, tensor: &str, value: String, allowed: String) -> LoadError {
        LoadError::Tensor { file: self.name.to_owned(), tensor: tensor.to_owned(), value, allowed }
    }

    /// Checks that these are the tensors of `geometry`, no more and no less, bf16 and finite; gives the fingerprint.
    fn check(&self, geometry: &Geometry) -> Result<String, LoadError> {
        let expected = geometry.tensors();
        let mut digest = Sha256::new_with_prefix("outrider nanogpt bf16: sizes, tensors\n");
        let Geometry { vocab_size, d_model, heads, layers, context } = *geometry;
        for size in [vocab_size, d_model, heads, layers, context] {
            digest.update((size as u64).to_le_bytes());
        }
        for (name, shape) in &expected {
            digest.update(self.check_tensor(name, shape)?);
        }
        let superfluous = self.file.tensors().into_iter().find(|(name, _)| !expected.iter().any(|(e, _)| e == name));
        match superfluous {
            Some((name, _)) => {
                Err(self.refuse(&name, "present".to_owned(), "no such tensor in a NanoGPT of this geometry".to_owned()))
            }
            None => Ok(hex(digest)),
        }
    }

    /// Checks one tensor; gives its bytes.
    fn check_tensor(&self, name: &str, shape: &[usize]) -> Result<&[u8], LoadError> {
        let view =
            self.file.get(name).map_err(|_| self.refuse(name, "missing".to_owned(), format!("bf16 {shape:?}")))?;
        if DType::try_from(view.dtype()).ok() != Some(DType::BF16) {
            return Err(self.refuse(name, format!("of type {:?}", view.dtype()), "BF16".to_owned()));
        }
        if view.shape() != shape {
            return Err(self.refuse(name, format!("of shape {:?}", view.shape()), format!("{shape:?}")));
        }
        // A weight that is not finite would spread to every logit; nothing downstream could choose then.
        let finite = |pair: &[u8]| bf16::from_le_bytes([pair[0], pair[1]]).is_finite();
        match view.data().chunks_exact(2).position(|pair| !finite(pair)) {
            Some(at) => Err(self.refuse(name, format!("not finite at element {at}"), "finite weights".to_owned())),
            None => Ok(view.data()),
        }
    }
}
