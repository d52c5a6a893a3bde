//! A gRPC server's life: health, reflection, signals, and a stop that lets sessions end.

use std::{future::Future, time::Duration};

use tokio::{net::TcpListener, signal, sync::watch, time};
use tonic::{
    service::Routes,
    transport::{self, Server, server::TcpIncoming},
};
use tonic_health::server::HealthReporter;

/// HTTP/2 pings to a silent peer this often; a peer that does not answer in the same time is gone.
pub const KEEPALIVE: Duration = Duration::from_secs(10);

/// Tells sessions when the grace period is over.
#[derive(Clone, Debug)]
pub struct Closing(watch::Receiver<bool>);

impl Closing {
    /// A pair: the switch for [`serve`], and what sessions watch.
    pub fn channel() -> (watch::Sender<bool>, Closing) {
        let (sender, receiver) = watch::channel(false);
        (sender, Closing(receiver))
    }

    /// Resolves when open streams must end with `UNAVAILABLE`.
    pub async fn wait(&mut self) {
        // An error means that the server is gone, which ends sessions as well.
        let _ = self.0.wait_for(|closing| *closing).await;
    }
}

/// Adds health and both versions of reflection to `routes`. All of `services` (full names) report `NOT_SERVING` until
/// [`HealthReporter::set_service_status`] says otherwise, and so does the server as a whole (the empty name).
///
/// # Errors
/// Descriptors that cannot be decoded.
pub async fn with_health_and_reflection(
    routes: Routes,
    descriptors: &'static [u8],
) -> Result<(Routes, HealthReporter), tonic_reflection::server::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(descriptors)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes =
        routes.add_service(health).add_service(reflection().build_v1()?).add_service(reflection().build_v1alpha()?);
    Ok((routes, reporter))
}

/// Serves until `stop` resolves; then accepts nothing new, lets open streams end for `grace`, closes the rest through
/// `closing`, and returns.
///
/// # Errors
/// A transport that fails to serve.
pub async fn serve(
    listener: TcpListener,
    routes: Routes,
    stop: impl Future<Output = ()>,
    grace: Duration,
    closing: watch::Sender<bool>,
) -> Result<(), transport::Error> {
    let (stopping, mut stopped) = watch::channel(false);
    let signal = async move {
        stop.await;
        let _ = stopping.send(true);
    };
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_routes(routes)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), signal);

    let last_call = async {
        let _ = stopped.wait_for(|stopped| *stopped).await;
        tracing::info!(grace_s = grace.as_secs_f64(), "stopping, open sessions may end");
        time::sleep(grace).await;
        let _ = closing.send(true);
        // Long enough for every stream to be told; a peer that does not read it gets a reset instead.
        time::sleep(Duration::from_secs(1)).await;
        tracing::warn!("the grace period is over and connections are still open");
    };
    tokio::select! {
        result = server => result,
        () = last_call => Ok(()),
    }
}

/// Resolves at SIGTERM or Ctrl-C.
pub async fn termination() {
    #[cfg(unix)]
    {
        use signal::unix::{SignalKind, signal};
        let Ok(mut terminate) = signal(SignalKind::terminate()) else {
            return signal::ctrl_c().await.unwrap_or_default();
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = signal::ctrl_c() => {}
        }
    }
    #[cfg(not(unix))]
    signal::ctrl_c().await.unwrap_or_default();
}
