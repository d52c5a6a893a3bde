//! Why a request failed.

use std::{io, path::PathBuf};

use speculative::InvalidSampling;
use tonic::{Code, Status};

/// Why a request failed. A draft that fails is none of these: it costs speed only.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address that is no URL.
    #[error("{side} address {url} cannot be used: {problem}, allowed: http://HOST:PORT or https://HOST:PORT")]
    Address {
        /// Draft or target.
        side: &'static str,
        /// As given.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A service that does not answer `Describe`.
    #[error("the {side} at {url} does not answer: {}", describe(.status))]
    Unreachable {
        /// Draft or target.
        side: &'static str,
        /// Its address.
        url: String,
        /// What the call ended with.
        status: Box<Status>,
    },
    /// Two services that do not fit together.
    #[error(
        "draft and target do not fit together: {what} is {draft} at the draft {draft_url} and {target} at the target {target_url}"
    )]
    Mismatch {
        /// The field that differs.
        what: &'static str,
        /// The draft's value.
        draft: String,
        /// The draft's address.
        draft_url: String,
        /// The target's value.
        target: String,
        /// The target's address.
        target_url: String,
    },
    /// A service that this coordinator cannot talk to.
    #[error("the {side} at {url} has {what} {value}, allowed: {allowed}")]
    Unsupported {
        /// Draft or target.
        side: &'static str,
        /// Its address.
        url: String,
        /// The field.
        what: &'static str,
        /// Its value.
        value: String,
        /// What this coordinator knows.
        allowed: &'static str,
    },
    /// A service whose tokenizer cannot be had.
    #[error("the {side} at {url} hands out no tokenizer that can be used: {problem}")]
    Tokenizer {
        /// Draft or target.
        side: &'static str,
        /// Its address.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A prompt that the tokenizer does not know.
    #[error("prompt cannot be encoded: {0}")]
    Prompt(tokenizer::Error),
    /// Messages that the model's chat template does not take.
    #[error("prompt cannot be put into a chat: {0}")]
    Chat(tokenizer::Error),
    /// A prompt of no tokens or of too many.
    #[error("prompt has {tokens} tokens, allowed: 1 to {most} (the target at {url})")]
    PromptLength {
        /// Its length.
        tokens: usize,
        /// The most that the target takes.
        most: usize,
        /// The target's address.
        url: String,
    },
    /// A request that is over a limit of a service.
    #[error("{field} is {value}, allowed: {least} to {most} (the {side} at {url})")]
    Limit {
        /// The field.
        field: &'static str,
        /// Its value.
        value: usize,
        /// The least that is allowed.
        least: usize,
        /// The most that the service takes.
        most: usize,
        /// Draft or target.
        side: &'static str,
        /// Its address.
        url: String,
    },
    /// Sampling parameters out of range.
    #[error(transparent)]
    Sampling(#[from] InvalidSampling),
    /// The target ended the session or cannot be reached any more.
    #[error("the target is lost after {committed} tokens: {}", describe(.status))]
    Target {
        /// Committed tokens at that point, prompt included.
        committed: usize,
        /// What the stream ended with.
        status: Box<Status>,
    },
    /// The target did not answer in time.
    #[error("the target is lost after {committed} tokens: no answer within {deadline_s} s")]
    TargetDeadline {
        /// Committed tokens at that point, prompt included.
        committed: usize,
        /// The deadline.
        deadline_s: f64,
    },
    /// The target refused a cycle.
    #[error("the target refused to go on after {committed} tokens: {detail}")]
    Refused {
        /// Committed tokens at that point, prompt included.
        committed: usize,
        /// The field that it refused, its value and what is allowed.
        detail: String,
    },
    /// The target answered something that does not fit what it was sent.
    #[error("the target broke the protocol after {committed} tokens: {what}")]
    Protocol {
        /// Committed tokens at that point, prompt included.
        committed: usize,
        /// What it did.
        what: String,
    },
    /// A service of this process did not start.
    #[error("the {side} in this process did not start: {problem}")]
    Embedded {
        /// Draft or target.
        side: &'static str,
        /// Why.
        problem: String,
    },
    /// A roofline file, or its directory, cannot be written.
    #[error("the sidecar {} cannot be written: {error}", path.display())]
    Sidecar {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        error: io::Error,
    },
}

impl Error {
    /// What kind of failure of the target it is, in a word.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Target { status, .. } => format!("{:?}", status.code()),
            Self::TargetDeadline { .. } => "DeadlineExceeded".to_owned(),
            Self::Protocol { .. } => "Protocol".to_owned(),
            _ => "Other".to_owned(),
        }
    }

    /// Whether another replica of the target may do better.
    pub(crate) fn is_replicas_own(&self) -> bool {
        match self {
            Self::Target { status, .. } => status.code() != Code::InvalidArgument,
            Self::TargetDeadline { .. } | Self::Protocol { .. } => true,
            _ => false,
        }
    }
}

/// A status in a few words: its message, and the transport's own reason where tonic hides that in the source.
pub(crate) fn describe(status: &Status) -> String {
    let mut words = vec![status.message().to_owned()];
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let word = error.to_string();
        if !words.contains(&word) {
            words.push(word);
        }
        source = error.source();
    }
    words.retain(|word| !word.is_empty());
    match words.is_empty() {
        true => format!("{:?}", status.code()),
        false => words.join(": "),
    }
}
