//! From files to weights. Nothing in a file is believed before it is checked, and no more memory is taken than the file
//! is long: files are mapped, and what has been copied from them is let go. bf16 stays where it is.

use std::path::Path;

use sha2::{Digest, Sha256};
use tokenizer::Tokenizer;

use crate::description::hex;
use crate::geometry::{Geometry, nanogpt};
use crate::grown::grown;
use crate::synthetic::{self, SyntheticModel};
use crate::weights::{Form, Kernels, Names, Parameters};
use crate::{Description, EmbeddedModel, LoadError, Source, hub};

mod bytes;
mod convert;
mod folder;
mod gguf;
mod safetensors;
mod stored;
#[cfg(test)]
mod tests;

pub(crate) use self::bytes::Bytes;
use self::stored::Stored;

/// Noise of the grown model, with which the embedded target as its draft foresees 7 in 10 of its greedy choices. Where both
/// read text of others the two agree more often (0.78) than where the grown model goes on from its own, slightly odd
/// words (0.72), which is what a draft has to foresee. At 0.4 these are 0.68 and 0.56.
pub(crate) const GROWN_NOISE: f32 = 0.33;

/// Longest geometry or configuration, bytes.
const MAX_JSON: u64 = 1 << 16;

/// A model's files, open and well-formed.
pub(crate) struct Checkpoint {
    pub(crate) name: String,
    pub(crate) geometry: Geometry,
    pub(crate) names: Names,
    pub(crate) stored: Stored,
    pub(crate) tokenizer: Tokenizer,
}

/// A model's weights, taken over from its files.
pub(crate) struct Loaded<F: Form = Kernels> {
    pub(crate) name: String,
    pub(crate) geometry: Geometry,
    pub(crate) weights: Parameters<F>,
    /// SHA-256 over geometry and weights as stored, hexadecimal.
    pub(crate) fingerprint: String,
    pub(crate) tokenizer: Tokenizer,
    /// Whether it was made, not trained.
    pub(crate) synthetic: bool,
}

impl<F: Form> Loaded<F> {
    /// Its parts, with what it says about itself on `device`; the arithmetic is still to be found out.
    pub(crate) fn described(self, device: String) -> (Description, Geometry, Parameters<F>) {
        let Loaded { name, geometry, weights, fingerprint, tokenizer, synthetic } = self;
        let description = Description {
            name,
            fingerprint,
            arithmetic: String::new(),
            tokenizer,
            vocab_size: geometry.vocab_size,
            context: geometry.context,
            dtype: weights.dtype(),
            device,
            parameters: geometry.parameters(),
            weight_bytes: weights.bytes(),
            synthetic,
        };
        (description, geometry, weights)
    }
}

/// Reads, fetches or makes a model, its weights in the form that is wanted.
pub(crate) fn load<F: Form>(source: &Source, form: &F) -> Result<Loaded<F>, LoadError> {
    let name = source.to_string();
    match source {
        Source::Embedded(model) => {
            let (json, weights) = model.files();
            let geometry = nanogpt::geometry(&name, json)?;
            Checkpoint::nanogpt(name.clone(), name, geometry, weights.into())?.load(form)
        }
        Source::Synthetic(SyntheticModel::GrownGpt2) => {
            let (json, weights) = EmbeddedModel::Target.files();
            let (json, weights) = grown(json, weights, GROWN_NOISE, 0);
            let geometry = nanogpt::geometry(&name, &json)?;
            let loaded = Checkpoint::nanogpt(name.clone(), name, geometry, weights.into())?.load(form)?;
            Ok(Loaded { synthetic: true, ..loaded })
        }
        Source::Synthetic(SyntheticModel::Random(preset, dtype)) => {
            let (geometry, weights) = synthetic::random(form, *preset, *dtype)?;
            let fingerprint = hex(Sha256::new_with_prefix(format!("outrider model: {name}\n")));
            Ok(Loaded { name, geometry, weights, fingerprint, tokenizer: Tokenizer::ascii(), synthetic: true })
        }
        Source::Hub { repo, file } => {
            let mut shown = hub::Shown::new();
            let path = hub::fetch(repo, file.as_deref(), &mut |file, done, total| shown.update(file, done, total))?;
            Checkpoint::open(&path)?.load(form)
        }
        Source::File(path) => Checkpoint::open(path)?.load(form),
    }
}

impl Checkpoint {
    /// Opens a file or a folder.
    pub(crate) fn open(path: &Path) -> Result<Checkpoint, LoadError> {
        if path.is_dir() {
            return folder::open(path);
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") => {
                let json = path.with_extension("json");
                let geometry = nanogpt::geometry(&json.display().to_string(), &bytes::read(&json, MAX_JSON)?)?;
                Checkpoint::nanogpt(stem(path), path.display().to_string(), geometry, Bytes::map(path)?)
            }
            Some("gguf") => gguf::open(path),
            _ => Err(LoadError::Name { path: path.to_owned() }),
        }
    }

    /// A NanoGPT of this geometry, with its weights from `file`.
    fn nanogpt(name: String, file: String, geometry: Geometry, weights: Bytes) -> Result<Checkpoint, LoadError> {
        let mut stored = Stored::new();
        safetensors::add(&mut stored, file, weights)?;
        Ok(Checkpoint { name, geometry, names: Names::NANOGPT, stored, tokenizer: Tokenizer::ascii() })
    }

    /// Takes the weights over. All of them are checked: type, shape, and that they are finite numbers.
    pub(crate) fn load<F: Form>(mut self, form: &F) -> Result<Loaded<F>, LoadError> {
        let digest = Sha256::new_with_prefix(format!("outrider model: {:?}\n", self.geometry));
        self.stored.begin(digest);
        let weights = Parameters::new(&mut self.stored, form, &self.names, &self.geometry)?;
        let head = self.geometry.tied.then(|| format!("{}.weight", self.names.head));
        let fingerprint = self.stored.finish(head.as_deref())?;
        Ok(Loaded {
            name: self.name,
            geometry: self.geometry,
            weights,
            fingerprint,
            tokenizer: self.tokenizer,
            synthetic: false,
        })
    }
}

/// A file's name without its ending.
fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
