//! What answers where.

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Path, Request, State, rejection::PathRejection},
    http::{Method, StatusCode, Uri, header::CONTENT_TYPE},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::json;

use super::{App, Presence, Refusal, answer::answer, openai, parse::Endpoint};

pub(super) fn router(app: Arc<App>) -> Router {
    let api = Router::new()
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/models", get(models))
        // A model's name may have slashes in it.
        .route("/v1/models/{*model}", get(model))
        .route_layer(middleware::from_fn_with_state(app.clone(), authorised));
    api.route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/openapi.json", get(openapi))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(app.clone(), counted))
        .layer(DefaultBodyLimit::max(app.config.max_body_bytes))
        .with_state(app)
}

/// Lets those through who have a key.
async fn authorised(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, Refusal> {
    match app.keys.allow(request.headers()) {
        true => Ok(next.run(request).await),
        false => Err(Refusal::Key),
    }
}

/// Counts the answer.
async fn counted(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    // What is asked for and not served is one route: its names are the client's.
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let response = next.run(request).await;
    app.metrics.responded(&route, response.status().as_u16());
    response
}

async fn completions(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    answer(app, Endpoint::Completions, request).await
}

async fn chat(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    answer(app, Endpoint::Chat, request).await
}

async fn models(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    Ok(openai::json(StatusCode::OK, &openai::Models::of(&app.pair()?.0)))
}

async fn model(
    State(app): State<Arc<App>>,
    uri: Uri,
    model: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    let (pair, _) = &*app.pair()?;
    let Path(model) = model.map_err(|_| Refusal::Route { path: uri.path().to_owned() })?;
    let served = &pair.target.description.model;
    match &model == served {
        true => Ok(openai::json(StatusCode::OK, &openai::Model::of(pair))),
        false => Err(Refusal::Model { model, served: served.clone() }),
    }
}

/// The process runs.
async fn healthz() -> Response {
    openai::json(StatusCode::OK, &json!({ "status": "ok" }))
}

/// What has been counted, in the OpenMetrics text format.
async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    app.metrics.answer()
}

/// What is served, for machines (OpenAPI 3.1).
async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], include_str!("openapi.json"))
}

/// Requests are answered: the target is there.
async fn readyz(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    app.pair()?;
    match app.presence().await {
        Presence::Fitting => Ok(openai::json(StatusCode::OK, &json!({ "status": "ready" }))),
        Presence::Others | Presence::Nobody => Err(Refusal::NotReady),
    }
}

async fn unknown_route(uri: Uri) -> Refusal {
    Refusal::Route { path: uri.path().to_owned() }
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    Refusal::Method { method: method.to_string(), path: uri.path().to_owned() }
}
