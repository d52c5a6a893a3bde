//! Where a model comes from.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::synthetic::SyntheticModel;
use crate::{HubError, hub};

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

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The pair in the binary: `embedded:target`, `embedded:draft`.
    Embedded(EmbeddedModel),
    /// Made in memory: `synthetic:NAME[:DTYPE]`.
    Synthetic(SyntheticModel),
    /// A model of the Hugging Face hub: `hf:OWNER/NAME[:FILE]`.
    Hub {
        /// `OWNER/NAME`.
        repo: String,
        /// A .gguf file of it; a folder of safetensors, or its only .gguf file, where there is none.
        file: Option<String>,
    },
    /// A GGUF file, a Hugging Face folder, or `x.safetensors` with `x.json` beside it. It is looked for when it is loaded.
    File(PathBuf),
}

/// Words that name no source of a model.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSource {
    /// No word at all, or an embedded model that there is not.
    #[error(
        "allowed: embedded:target, embedded:draft, synthetic:NAME[:DTYPE], hf:OWNER/NAME[:FILE], a .gguf file, a Hugging \
         Face folder, or a .safetensors file with its .json beside it"
    )]
    Unknown,
    /// A synthetic model that there is not.
    #[error("{0}")]
    Synthetic(String),
    /// A repository or file that the hub has no such names as.
    #[error(transparent)]
    Hub(#[from] HubError),
}

impl FromStr for Source {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Source, InvalidSource> {
        match text.split_once(':') {
            _ if text.is_empty() => Err(InvalidSource::Unknown),
            Some(("embedded", "target")) => Ok(Source::Embedded(EmbeddedModel::Target)),
            Some(("embedded", "draft")) => Ok(Source::Embedded(EmbeddedModel::Draft)),
            Some(("embedded", _)) => Err(InvalidSource::Unknown),
            Some(("synthetic", name)) => name.parse().map(Source::Synthetic).map_err(InvalidSource::Synthetic),
            Some(("hf", name)) => {
                let (repo, file) = name.split_once(':').map_or((name, None), |(repo, file)| (repo, Some(file)));
                hub::check(repo, file)?;
                Ok(Source::Hub { repo: repo.to_owned(), file: file.map(str::to_owned) })
            }
            _ => Ok(Source::File(text.into())),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Embedded(model) => model.fmt(f),
            Source::Synthetic(model) => model.fmt(f),
            Source::File(path) => path.display().fmt(f),
            Source::Hub { repo, file: None } => write!(f, "hf:{repo}"),
            Source::Hub { repo, file: Some(file) } => write!(f, "hf:{repo}:{file}"),
        }
    }
}
