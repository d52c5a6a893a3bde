//! Where a model comes from.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::HubError;
use crate::hub;

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

/// Where a model comes from: `embedded:target`, `embedded:draft`, a Hugging Face folder, or the path of a GGUF file or of
/// `x.safetensors` with `x.json` beside it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The pair in the binary.
    Embedded(EmbeddedModel),
    /// A file or a folder.
    File(PathBuf),
    /// A model of the Hugging Face hub, `hf:OWNER/NAME[:FILE]`.
    Hub {
        /// `OWNER/NAME`.
        repo: String,
        /// A .gguf file of it; a folder of safetensors, or its only .gguf file, where there is none.
        file: Option<String>,
    },
}

impl Source {
    /// Checks the words of a hub's model. A file is looked for when it is loaded.
    ///
    /// # Errors
    /// A repository or file that the hub has no such names as.
    pub fn check(&self) -> Result<(), HubError> {
        match self {
            Source::Hub { repo, file } => hub::check(repo, file.as_deref()),
            Source::Embedded(_) | Source::File(_) => Ok(()),
        }
    }
}

impl FromStr for Source {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Source, Infallible> {
        Ok(match text {
            "embedded:target" => Source::Embedded(EmbeddedModel::Target),
            "embedded:draft" => Source::Embedded(EmbeddedModel::Draft),
            text => match text.strip_prefix("hf:") {
                Some(name) => {
                    let (repo, file) = name.split_once(':').map_or((name, None), |(repo, file)| (repo, Some(file)));
                    Source::Hub { repo: repo.to_owned(), file: file.map(str::to_owned) }
                }
                None => Source::File(text.into()),
            },
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Embedded(model) => model.fmt(f),
            Source::File(path) => path.display().fmt(f),
            Source::Hub { repo, file: None } => write!(f, "hf:{repo}"),
            Source::Hub { repo, file: Some(file) } => write!(f, "hf:{repo}:{file}"),
        }
    }
}
