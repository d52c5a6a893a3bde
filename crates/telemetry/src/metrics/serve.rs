//! `/metrics` of a service that has no other HTTP.

use std::{future::Future, sync::Arc, time::Duration};

use axum::{Router, extract::State, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use tokio::net::TcpListener;

use super::Metrics;
use crate::{connections::Door, http};

/// How long a connection may take to bring the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Answers `GET /metrics` on `listener` until `stop` resolves.
pub async fn serve(listener: TcpListener, door: Door, metrics: Arc<Metrics>, stop: impl Future<Output = ()>) {
    let routes = Router::new().route("/metrics", get(answer)).with_state(metrics);
    http::serve(listener, door, routes, HEADER_TIMEOUT, stop).await;
}

/// What has been counted, in the OpenMetrics text format.
async fn answer(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    metrics.answer()
}

impl Metrics {
    /// Their text, as the answer to a request for it.
    pub fn answer(&self) -> impl IntoResponse + use<> {
        ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], self.text())
    }
}
