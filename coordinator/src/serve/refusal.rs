//! Why there is no answer: a status and OpenAI's error object.

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tonic::Code;

use super::{openai, parse::Names};
use crate::Error;

/// When a client that was turned away may come again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Why a request has no answer. What it says names no address of a service: those who ask need not know them.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the request has no API key that is known, allowed: the header Authorization: Bearer KEY")]
    Key,
    #[error("{problem}")]
    Field { field: String, problem: String },
    #[error("the body is no request: {0}")]
    Body(String),
    #[error("the body is larger than {most} bytes")]
    BodySize { most: usize },
    #[error("the body has not come within {} s", limit.as_secs_f64())]
    SlowBody { limit: Duration },
    #[error("the model {model} is not served, allowed: {served}")]
    Model { model: String, served: String },
    #[error("nothing is served at {path}")]
    Route { path: String },
    #[error("the method {method} is not allowed at {path}")]
    Method { method: String, path: String },
    #[error("{most} choices are generated already, which is the most")]
    Busy { most: usize },
    #[error("the answer has taken longer than {} s", limit.as_secs_f64())]
    Timeout { limit: Duration },
    #[error("the models are loading")]
    Loading,
    #[error("the target does not answer")]
    NotReady,
    #[error("the service is stopping")]
    Stopping,
    #[error("the service has failed")]
    Panicked,
    #[error("{}", told(error, *names))]
    Failed { error: Box<Error>, names: Names },
}

/// What is told of a failed run.
fn told(error: &Error, names: Names) -> String {
    match error {
        Error::PromptLength { tokens, most, .. } => {
            format!("{} has {tokens} tokens, allowed: 1 to {most}", names.prompt)
        }
        Error::Limit { field, value, least, most, .. } => {
            format!("{} is {value}, allowed: {least} to {most}", names.of(field))
        }
        Error::Prompt(error) => format!("{} cannot be encoded: {error}", names.prompt),
        Error::Chat(error) => format!("{} cannot be put into a chat: {error}", names.prompt),
        Error::Sampling(invalid) => invalid.to_string(),
        Error::Target { status, .. } if status.code() == Code::ResourceExhausted => "the target is busy".to_owned(),
        Error::Target { committed, .. } | Error::TargetDeadline { committed, .. } => {
            format!("the target is lost after {committed} tokens")
        }
        Error::Refused { .. } | Error::Protocol { .. } => "the target did not do what it was asked".to_owned(),
        Error::Address { .. }
        | Error::Unreachable { .. }
        | Error::Mismatch { .. }
        | Error::Unsupported { .. }
        | Error::Tokenizer { .. }
        | Error::Embedded { .. }
        | Error::Sidecar { .. } => "the models cannot be used".to_owned(),
    }
}

impl Refusal {
    pub(super) fn failed(error: Error, names: Names) -> Self {
        Self::Failed { error: Box::new(error), names }
    }

    pub(super) fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Field { field: field.into(), problem: problem.into() }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Key => StatusCode::UNAUTHORIZED,
            Self::Field { .. } | Self::Body(_) => StatusCode::BAD_REQUEST,
            Self::BodySize { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowBody { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Model { .. } | Self::Route { .. } => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Loading | Self::NotReady | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Failed { error, .. } => failure_status(error),
        }
    }

    /// The field that is wrong.
    fn param(&self) -> Option<&str> {
        match self {
            Self::Field { field, .. } => Some(field),
            Self::Model { .. } => Some("model"),
            Self::Failed { error, names } => match &**error {
                Error::PromptLength { .. } | Error::Prompt(_) | Error::Chat(_) => Some(names.prompt),
                Error::Limit { field, .. } => Some(names.of(field)),
                Error::Sampling(invalid) => Some(invalid.field),
                _ => None,
            },
            _ => None,
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::Key => Some("invalid_api_key"),
            Self::Model { .. } => Some("model_not_found"),
            Self::Busy { .. } => Some("rate_limit_exceeded"),
            Self::Failed { error, .. } if matches!(**error, Error::PromptLength { .. }) => {
                Some("context_length_exceeded")
            }
            _ => None,
        }
    }

    /// OpenAI's error object.
    pub(super) fn object(&self) -> impl Serialize {
        let kind = match self.status() {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        openai::Error::new(self.to_string(), kind, self.param().map(str::to_owned), self.code())
    }

    /// Logs what is the service's own fault. Neither prompts nor outputs are in it.
    pub(super) fn log(&self) {
        match self {
            Self::Failed { error, .. } if self.status().is_server_error() => tracing::warn!(%error, "a request failed"),
            // Probes ask all the time while these last, and the start and the stop are logged already.
            Self::Loading | Self::Stopping => tracing::debug!(refusal = %self, "a request was refused"),
            refusal if refusal.status().is_server_error() => tracing::warn!(%refusal, "a request failed"),
            _ => tracing::debug!(status = self.status().as_u16(), param = self.param(), "a request was refused"),
        }
    }
}

fn failure_status(error: &Error) -> StatusCode {
    match error {
        Error::Prompt(_) | Error::Chat(_) | Error::PromptLength { .. } | Error::Limit { .. } | Error::Sampling(_) => {
            StatusCode::BAD_REQUEST
        }
        Error::Target { status, .. } if status.code() == Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Error::Target { .. } | Error::TargetDeadline { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Error::Refused { .. } | Error::Protocol { .. } => StatusCode::BAD_GATEWAY,
        Error::Address { .. }
        | Error::Unreachable { .. }
        | Error::Mismatch { .. }
        | Error::Unsupported { .. }
        | Error::Tokenizer { .. }
        | Error::Embedded { .. }
        | Error::Sidecar { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.log();
        let status = self.status();
        let mut response = openai::json(status, &self.object());
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}
