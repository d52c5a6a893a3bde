//! Where a model comes from.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::grown::grown;

/// A model of the pair that every binary carries: characters, trained on TinyShakespeare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EmbeddedModel {
    /// 11.5 million parameters: d 384, 6 heads, 6 layers, context 2048.
    Target,
    /// 1.1 million parameters, distilled from the target: d 128, 4 heads, 4 layers, context 2048.
    Draft,
}

impl EmbeddedModel {
    /// Its geometry (JSON) and its weights (safetensors).
    pub(crate) fn files(self) -> (&'static [u8], &'static [u8]) {
        match self {
            EmbeddedModel::Target => {
                (include_bytes!("../embedded/target.json"), include_bytes!("../embedded/target.safetensors"))
            }
            EmbeddedModel::Draft => {
                (include_bytes!("../embedded/draft.json"), include_bytes!("../embedded/draft.safetensors"))
            }
        }
    }
}

impl fmt::Display for EmbeddedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EmbeddedModel::Target => "embedded:target",
            EmbeddedModel::Draft => "embedded:draft",
        })
    }
}

/// A model that is made, not trained: what it costs means something, what it says does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SyntheticModel {
    /// The embedded target grown to GPT-2 small's geometry (d 768, 12 heads, 12 layers, context 4096, 88.3 million
    /// parameters), with noise such that its greedy choice is the embedded target's about 7 times in 10.
    GrownGpt2,
}

impl SyntheticModel {
    /// Its geometry (JSON) and its weights (safetensors).
    pub(crate) fn files(self) -> (Vec<u8>, Vec<u8>) {
        match self {
            SyntheticModel::GrownGpt2 => {
                let (json, weights) = EmbeddedModel::Target.files();
                grown(json, weights, 0.4, 0)
            }
        }
    }
}

impl fmt::Display for SyntheticModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SyntheticModel::GrownGpt2 => "synthetic:grown-gpt2",
        })
    }
}

/// Where a model comes from: `embedded:target`, `embedded:draft`, `synthetic:grown-gpt2`, or the path of `x.safetensors` with `x.json` beside it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The pair in the binary.
    Embedded(EmbeddedModel),
    /// Made in memory.
    Synthetic(SyntheticModel),
    /// A file.
    File(PathBuf),
}

impl FromStr for Source {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Source, Infallible> {
        Ok(match text {
            "embedded:target" => Source::Embedded(EmbeddedModel::Target),
            "embedded:draft" => Source::Embedded(EmbeddedModel::Draft),
            "synthetic:grown-gpt2" => Source::Synthetic(SyntheticModel::GrownGpt2),
            path => Source::File(path.into()),
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Embedded(model) => model.fmt(f),
            Source::Synthetic(model) => model.fmt(f),
            Source::File(path) => path.display().fmt(f),
        }
    }
}
