//! A gRPC server's life: health, reflection, signals, and a stop that lets sessions end.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use tokio::{net::TcpListener, signal, sync::watch, time};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{
    metadata::MetadataMap,
    service::Routes,
    transport::{self, Server},
};
use tonic_health::{pb::health_server, server::HealthReporter};

use crate::{
    connections::{self, Door},
    tls::ServerTls,
};

/// HTTP/2 pings to a silent peer this often; a peer that does not answer in the same time is gone.
pub const KEEPALIVE: Duration = Duration::from_secs(10);

/// Calls that a connection may have open beyond the work that a server takes on at once: they are refused or answered.
pub const SPARE_STREAMS: u32 = 64;

/// How a server is reached, and how it ends.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which connections are accepted.
    pub door: Door,
    /// Calls that one connection may have open at once; others wait.
    pub max_streams: u32,
    /// How long open streams may go on after the stop.
    pub grace: Duration,
    /// Where `/metrics` is served, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// For encrypted connections to it.
    pub metrics_tls: Option<ServerTls>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            door: Door::default(),
            max_streams: 1024,
            grace: Duration::from_secs(10),
            metrics: None,
            metrics_tls: None,
        }
    }
}

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

/// Adds health and both versions of reflection to `routes`, which serve `services` (full names). All of them report `NOT_SERVING` until
/// [`HealthReporter::set_service_status`] says otherwise, and so does the server as a whole (the empty name).
///
/// # Errors
/// Descriptors that cannot be decoded.
pub async fn with_health_and_reflection(
    routes: Routes,
    services: &[&str],
    descriptors: &'static [u8],
) -> Result<(Routes, HealthReporter), tonic_reflection::server::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(descriptors)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        services
            .iter()
            .chain(&[health_server::SERVICE_NAME])
            .fold(builder, |builder, name| builder.with_service_name(*name))
    };
    let routes =
        routes.add_service(health).add_service(reflection().build_v1()?).add_service(reflection().build_v1alpha()?);
    Ok((routes, reporter))
}

/// Serves until `stop` resolves; then accepts nothing new, lets open streams end for the grace period, closes the rest
/// through `closing`, and returns.
///
/// # Errors
/// A transport that fails to serve.
pub async fn serve(
    listener: TcpListener,
    routes: Routes,
    stop: impl Future<Output = ()>,
    config: Config,
    closing: watch::Sender<bool>,
) -> Result<(), transport::Error> {
    let Config { door, max_streams, grace, .. } = config;
    let (stopping, mut stopped) = watch::channel(false);
    let signal = async move {
        stop.await;
        let _ = stopping.send(true);
    };
    let connections = ReceiverStream::new(connections::accept(listener, door)).map(Ok::<_, io::Error>);
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(Some(max_streams))
        .add_routes(routes)
        .serve_with_incoming_shutdown(connections, signal);

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

/// How long the client of a call waits for it, as its metadata say (`grpc-timeout`: digits and a unit).
pub fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    let value = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let amount: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        let of = |value: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", value.parse().expect("ASCII"));
            timeout(&metadata)
        };
        for (value, ns) in
            [("1H", 3_600_000_000_000), ("2M", 120_000_000_000), ("3S", 3_000_000_000), ("15m", 15_000_000)]
        {
            assert_eq!(of(value), Some(Duration::from_nanos(ns)), "{value}");
        }
        assert_eq!((of("7u"), of("9n")), (Some(Duration::from_micros(7)), Some(Duration::from_nanos(9))));
        for wrong in ["", "S", "3", "3s", "-3S", "3.5S", "123456789S", "3S "] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
        assert_eq!(timeout(&MetadataMap::new()), None);
    }
}
