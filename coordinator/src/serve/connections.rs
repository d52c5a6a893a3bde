//! The connections that requests come over: how many, how slow, and how they end.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore, time};

/// How long nothing is accepted after the system had no connection to give.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves `routes` over at most `most` connections at once, others wait to be accepted. One that brings no whole head of a
/// request within `header_timeout`, the pause between two requests included, is closed. After `stop` nothing new is
/// accepted; resolves when the answers under way have ended.
pub(super) async fn serve(
    listener: TcpListener,
    routes: Router,
    most: usize,
    header_timeout: Duration,
    stop: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(header_timeout);
    let (connections, places) = (GracefulShutdown::new(), Arc::new(Semaphore::new(most)));
    let mut stop = pin!(stop);
    loop {
        let accepting = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepting => accepted,
            () = &mut stop => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection is not accepted");
                time::sleep(PAUSE).await;
                continue;
            }
        };
        // Without it small pieces of text wait for each other; a connection that takes no options still works.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(routes.clone());
        let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // A client that goes away is no failure.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    connections.shutdown().await;
}
