//! The connections that HTTP requests come over, and how they end.

use std::{future::Future, pin::pin, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::net::TcpListener;

use crate::connections::{Door, accept};

/// Serves `routes` over the connections that `door` lets in. One that brings no whole head of a request within
/// `header_timeout`, the pause between two requests included, is closed. After `stop` nothing new is accepted; resolves
/// when the answers under way have ended.
pub async fn serve(
    listener: TcpListener,
    door: Door,
    routes: Router,
    header_timeout: Duration,
    stop: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(header_timeout);
    let (connections, mut accepted) = (GracefulShutdown::new(), accept(listener, door));
    let serve = |connection| {
        let service = TowerToHyperService::new(routes.clone());
        let connection = connections.watch(http.serve_connection(TokioIo::new(connection), service));
        // A client that goes away is no failure.
        tokio::spawn(async move { drop(connection.await) });
    };
    let mut stop = pin!(stop);
    loop {
        let connection = tokio::select! {
            accepted = accepted.recv() => accepted,
            () = &mut stop => break,
        };
        match connection {
            Some(connection) => serve(connection),
            None => break,
        }
    }
    // Nobody listens any more; who was let in already may have asked.
    accepted.close();
    while let Some(connection) = accepted.recv().await {
        serve(connection);
    }
    connections.shutdown().await;
}
