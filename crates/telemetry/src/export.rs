//! The OTLP exporter and the count of what never arrived: a span that disappears is counted and warned about.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use opentelemetry::Context;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor},
};
use tonic::transport::Endpoint;

/// Spans that may wait for export. The SDK's default of 2048 is a fifth of a second of a fast pair's cycles.
const MAX_QUEUE_SIZE: usize = 65_536;

/// Telemetry that cannot be exported as configured.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The protocol is one that is not built in.
    #[error("{variable} is {value}, allowed: grpc")]
    Protocol {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        value: String,
    },
    /// The endpoint is no URL that can be connected to.
    #[error("OTLP endpoint {endpoint} cannot be used: {problem}, allowed: http://HOST:PORT")]
    Endpoint {
        /// The endpoint as configured.
        endpoint: String,
        /// What the exporter says of it.
        problem: String,
    },
}

/// The OTLP endpoint that the standard variables ask traces to be sent to, if any.
pub(crate) fn endpoint() -> Option<String> {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let disabled = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let no_traces = set("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
    if disabled || no_traces {
        return None;
    }
    set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| set("OTEL_EXPORTER_OTLP_ENDPOINT"))
}

/// A provider that exports to `endpoint`, and the count of its spans. Must be called within a tokio runtime, which then
/// drives the connection.
pub(crate) fn provider(endpoint: &str, resource: Resource) -> Result<(SdkTracerProvider, Arc<Tally>), ExportError> {
    for variable in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
        if let Some(value) = env::var(variable).ok().filter(|value| !value.is_empty() && value != "grpc") {
            return Err(ExportError::Protocol { variable, value });
        }
    }
    let unusable = |problem| ExportError::Endpoint { endpoint: endpoint.to_owned(), problem };
    check(endpoint).map_err(unusable)?;
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|error| unusable(error.to_string()))?;

    let tally = Arc::new(Tally::default());
    let mut config = BatchConfigBuilder::default();
    if env::var_os("OTEL_BSP_MAX_QUEUE_SIZE").is_none() {
        config = config.with_max_queue_size(MAX_QUEUE_SIZE);
    }
    let batch = BatchSpanProcessor::builder(Counted { exporter, endpoint: endpoint.to_owned(), tally: tally.clone() })
        .with_batch_config(config.build())
        .build();
    let provider = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_span_processor(CountEnded { next: batch, tally: tally.clone() })
        .build();
    Ok((provider, tally))
}

/// Says what is wrong with an endpoint: the exporter takes a bare word for a host with TLS, and a port out of range for
/// none.
fn check(endpoint: &str) -> Result<(), String> {
    let url = Endpoint::from_shared(endpoint.to_owned()).map_err(|error| error.to_string())?;
    let authority = url.uri().authority().filter(|_| url.uri().scheme_str() == Some("http"));
    match authority {
        None => Err("it is not an http URL".to_owned()),
        Some(authority) if authority.as_str() != authority.host() && authority.port_u16().is_none() => {
            Err("its port is not from 1 to 65535".to_owned())
        }
        Some(_) => Ok(()),
    }
}

/// How many spans ended and how many of them a receiver acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    ended: AtomicU64,
    exported: AtomicU64,
    failures: AtomicU64,
}

impl Tally {
    /// Spans that ended and were not acknowledged; final only after the provider's shutdown.
    pub(crate) fn lost(&self) -> u64 {
        self.ended.load(Relaxed).saturating_sub(self.exported.load(Relaxed))
    }

    /// Spans that ended.
    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(Relaxed)
    }
}

/// Counts what reaches the batch processor.
#[derive(Debug)]
struct CountEnded {
    next: BatchSpanProcessor,
    tally: Arc<Tally>,
}

impl SpanProcessor for CountEnded {
    fn on_start(&self, span: &mut Span, cx: &Context) {
        self.next.on_start(span, cx);
    }

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.tally.ended.fetch_add(1, Relaxed);
        }
        self.next.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.next.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.next.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.next.set_resource(resource);
    }
}

/// Counts what the receiver acknowledges; warns at the first failure and at every hundredth after it.
#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    endpoint: String,
    tally: Arc<Tally>,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let result = self.exporter.export(batch).await;
        match &result {
            Ok(()) => {
                self.tally.exported.fetch_add(spans, Relaxed);
            }
            Err(error) => {
                let earlier = self.tally.failures.fetch_add(1, Relaxed);
                if earlier.is_multiple_of(100) {
                    tracing::warn!(endpoint = self.endpoint, spans, earlier, %error, "spans could not be exported");
                }
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
