//! The draft service: proposes tokens.
//!
//! # Layout
//! - [`serve`]: the service on a listener, with a model that `load` brings
//! - `service`: `DraftService`, decode → session → encode

mod service;

use std::future::Future;

use ::service::{Describe, Error, Host};
use model::Worker;
use proto::v1::{
    Role,
    draft_service_server::{self, DraftServiceServer},
    model_service_server::{self, ModelServiceServer},
};
use telemetry::{Tracer, names, server};
use tokio::net::TcpListener;
use tonic::service::Routes;

/// Serves on `listener` until `stop` resolves; then open sessions get the grace period to end.
///
/// # Errors
/// A model that cannot be loaded or whose thread ends, or a server that fails.
pub async fn serve(
    listener: TcpListener,
    load: impl Future<Output = Result<Worker, Error>>,
    tracer: Tracer,
    stop: impl Future<Output = ()>,
    config: server::Config,
) -> Result<(), Error> {
    let host = Host::new(names::service::DRAFT, tracer);
    let routes = Routes::new(DraftServiceServer::new(service::Draft { host: host.clone() }))
        .add_service(ModelServiceServer::new(Describe { host: host.clone(), role: Role::Draft }));
    let names = [draft_service_server::SERVICE_NAME, model_service_server::SERVICE_NAME];
    ::service::serve(host, listener, (routes, &names), load, stop, config).await
}
