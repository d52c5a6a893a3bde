//! Why a model of the hub is not here.

use std::path::PathBuf;

use hf_hub::api::sync::ApiError;

use super::Hub;

/// Why a model was not fetched from the hub.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A word of `hf:REPO[:FILE]` that the hub has no such names as.
    #[error("hf: {field} is {value:?}, allowed is {allowed}")]
    Name {
        /// `repository` or `file`.
        field: &'static str,
        /// What was given.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// A variable of the environment that cannot be used.
    #[error("{variable} is {value:?}, allowed is {allowed}")]
    Environment {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The hub does not answer, or stopped half-way.
    #[error("{repo}: {file} cannot be fetched from {endpoint}, and the cache lacks the model: {reason}")]
    Unreachable {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// The hub.
        endpoint: String,
        /// What failed.
        reason: String,
    },
    /// The hub answers that it will not.
    #[error("{repo}: {endpoint} refuses {file} with status {status}{}", hint(*status))]
    Refused {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// The hub.
        endpoint: String,
        /// Its HTTP status.
        status: u16,
    },
    /// The hub answers something that cannot be used.
    #[error("{repo}: {endpoint} gives {file} in a way that cannot be used: {reason}")]
    Answer {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// The hub.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The repository lacks the file.
    #[error("{repo} has no {file}; its .gguf files: {}", listed(ggufs))]
    NoFile {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// The files that a name could choose.
        ggufs: Vec<String>,
    },
    /// Offline, and not in the cache.
    #[error("{repo}: {file} is not in the cache at {}, and {endpoint} is not asked while HF_HUB_OFFLINE is set", cache.display())]
    NotCached {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// The hub.
        endpoint: String,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// The index of shards cannot be used.
    #[error("{}: not an index of shards: {reason}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The cache cannot be written or read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or the cache.
        path: PathBuf,
        /// The system's reason.
        #[source]
        error: std::io::Error,
    },
}

fn hint(status: u16) -> &'static str {
    match status {
        401 | 403 => ": there is no such repository, or it is private or gated (HF_TOKEN names who asks)",
        404 => ": there is no such repository or file",
        _ => "",
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl Hub {
    /// An answer that cannot be used.
    pub(super) fn odd(&self, repo: &str, file: &str, reason: String) -> HubError {
        HubError::Answer { repo: repo.to_owned(), file: file.to_owned(), endpoint: self.endpoint.clone(), reason }
    }

    /// What an error of the client means here.
    pub(super) fn failed(&self, repo: &str, file: &str, error: ApiError) -> HubError {
        let (repo, file, endpoint) = (repo.to_owned(), file.to_owned(), self.endpoint.clone());
        match error {
            // Busy, or broken for the moment: as good as not there.
            ApiError::RequestError(error) => match *error {
                ureq::Error::StatusCode(status) if status < 500 && status != 408 && status != 429 => {
                    HubError::Refused { repo, file, endpoint, status }
                }
                error => HubError::Unreachable { repo, file, endpoint, reason: error.to_string() },
            },
            ApiError::IoError(error) if is_local(&error) => HubError::Io { path: self.cache.clone(), error },
            ApiError::IoError(error) => HubError::Unreachable { repo, file, endpoint, reason: error.to_string() },
            error => HubError::Answer { repo, file, endpoint, reason: error.to_string() },
        }
    }
}

/// Whether an error is of the disk: the client reports the network's in the same type.
fn is_local(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), NotFound | PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull)
}
