//! Metrics over OTLP, at intervals and once more at the end.

use std::{sync::Arc, time::Duration};

use opentelemetry_http::{Bytes, Request};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient,
};
use opentelemetry_sdk::Resource;
use percent_encoding::percent_decode_str;
use prost::Message;
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{self, MissedTickBehavior},
};
use tonic::{
    metadata::{AsciiMetadataKey, AsciiMetadataValue},
    transport::Channel,
};

use super::Metrics;
use crate::otlp::{Destination, ExportError, Http, Protocol, Signal, set};

/// How often they are sent where `OTEL_METRIC_EXPORT_INTERVAL` does not say.
const INTERVAL: Duration = Duration::from_secs(60);

/// How long the last ones may take.
const LAST_LIMIT: Duration = Duration::from_secs(2);

/// Sends the metrics of one service until it is stopped.
#[derive(Debug)]
pub struct Exporter {
    stop: oneshot::Sender<()>,
    sending: JoinHandle<()>,
}

/// How requests get to the receiver.
enum Sender {
    Grpc(MetricsServiceClient<Channel>),
    Http(Http, String),
}

struct Sending {
    metrics: Arc<Metrics>,
    resource: Resource,
    sender: Sender,
    endpoint: String,
    timeout: Duration,
    headers: Vec<(String, String)>,
    failures: u64,
}

impl Exporter {
    /// Begins to send `metrics` of the service that is named `service` where the standard variables say; `None` where they
    /// name no endpoint. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Variables that cannot be used.
    pub fn start(service: &'static str, metrics: Arc<Metrics>) -> Result<Option<Self>, ExportError> {
        let Some(destination) = Destination::from_env(Signal::Metrics)? else { return Ok(None) };
        let interval = interval()?;
        let sender = match destination.protocol {
            Protocol::Grpc => Sender::Grpc(MetricsServiceClient::new(destination.channel()?)),
            Protocol::HttpProtobuf => Sender::Http(destination.http()?, destination.endpoint.clone()),
        };
        let Destination { endpoint, timeout, .. } = destination;
        let (resource, headers) = (crate::tracer::resource(service), headers()?);
        let sending = Sending { metrics, resource, sender, endpoint, timeout, headers, failures: 0 };
        let (stop, stopped) = oneshot::channel();
        Ok(Some(Self { stop, sending: tokio::spawn(sending.run(interval, stopped)) }))
    }

    /// Sends them once more, and ends.
    pub async fn stop(self) {
        drop(self.stop);
        // A task that has panicked has said so.
        let _ = self.sending.await;
    }
}

impl Sending {
    async fn run(mut self, interval: Duration, mut stopped: oneshot::Receiver<()>) {
        let mut ticks = time::interval_at(time::Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let stops = tokio::select! {
                _ = ticks.tick() => false,
                _ = &mut stopped => true,
            };
            if stops {
                // A receiver that does not answer does not hold up the end.
                self.timeout = self.timeout.min(LAST_LIMIT);
                return self.send().await;
            }
            self.send().await;
        }
    }

    /// Sends them; warns at the first failure and at every hundredth after it.
    async fn send(&mut self) {
        let request = self.metrics.request(&self.resource);
        let sent = match time::timeout(self.timeout, self.sender.send(request, &self.headers)).await {
            Ok(sent) => sent,
            Err(_) => Err(format!("no answer within {} s", self.timeout.as_secs_f64())),
        };
        if let Err(error) = sent {
            if self.failures.is_multiple_of(100) {
                let (endpoint, earlier) = (&self.endpoint, self.failures);
                tracing::warn!(endpoint, earlier, error, "metrics could not be exported");
            }
            self.failures += 1;
        }
    }
}

impl Sender {
    async fn send(&mut self, request: ExportMetricsServiceRequest, headers: &[(String, String)]) -> Result<(), String> {
        match self {
            Self::Grpc(client) => {
                let mut request = tonic::Request::new(request);
                for (name, value) in headers {
                    let name = name.parse::<AsciiMetadataKey>().map_err(|error| error.to_string())?;
                    let value = value.parse::<AsciiMetadataValue>().map_err(|error| error.to_string())?;
                    request.metadata_mut().insert(name, value);
                }
                client
                    .export(request)
                    .await
                    .map(drop)
                    .map_err(|status| format!("{:?}: {}", status.code(), status.message()))
            }
            Self::Http(http, url) => {
                let mut post = Request::post(url.as_str()).header("content-type", "application/x-protobuf");
                for (name, value) in headers {
                    post = post.header(name, value);
                }
                let post = post.body(Bytes::from(request.encode_to_vec())).map_err(|error| error.to_string())?;
                match http.send(post).await.map_err(|error| error.to_string())?.status() {
                    status if status.is_success() => Ok(()),
                    status => Err(status.to_string()),
                }
            }
        }
    }
}

fn interval() -> Result<Duration, ExportError> {
    let variable = "OTEL_METRIC_EXPORT_INTERVAL";
    match set(variable) {
        None => Ok(INTERVAL),
        Some(value) => match value.parse() {
            Ok(milliseconds @ 1..) => Ok(Duration::from_millis(milliseconds)),
            _ => {
                Err(ExportError::Variable { variable: variable.to_owned(), value, allowed: "milliseconds, 1 or more" })
            }
        },
    }
}

/// The headers that the standard variables ask for: `name=value,name=value`, percent-encoded.
fn headers() -> Result<Vec<(String, String)>, ExportError> {
    let Some((variable, value)) = Signal::Metrics.variable("HEADERS") else { return Ok(Vec::new()) };
    let header = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        Some((name.trim().to_lowercase(), value.into_owned()))
    };
    let pairs = value.split(',').filter(|pair| !pair.trim().is_empty()).map(header);
    // The value may hold a secret, so that it is not shown.
    let hidden = || ExportError::Variable { variable, value: "unusable".to_owned(), allowed: "name=value,name=value" };
    pairs.collect::<Option<_>>().ok_or_else(hidden)
}
