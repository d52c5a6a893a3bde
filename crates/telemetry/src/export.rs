//! Where spans go, and the count of what never arrived: a span that disappears is counted and warned about.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use opentelemetry::Context;
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor},
};
use tokio::runtime::Runtime;

use crate::{
    background,
    otlp::{Destination, ExportError, Protocol},
    trace_file::{FileExporter, TraceFile},
};

/// Spans that may wait for export. The SDK's default of 2048 is a fifth of a second of a fast pair's cycles.
const MAX_QUEUE_SIZE: usize = 65_536;

/// A provider that exports to `destination` and writes into `file`, and the counts of its spans for each of them.
pub(crate) fn provider(
    destination: Option<&Destination>,
    file: Option<&TraceFile>,
    resource: Resource,
) -> Result<(SdkTracerProvider, Vec<Arc<Tally>>), ExportError> {
    let mut provider = SdkTracerProvider::builder().with_resource(resource);
    let mut tallies = Vec::new();
    if let Some(destination) = destination {
        let (processor, tally) = processor(exporter(destination)?, destination.endpoint.clone())?;
        provider = provider.with_span_processor(processor);
        tallies.push(tally);
    }
    if let Some(file) = file {
        let (processor, tally) = processor(FileExporter::new(file.clone()), file.to_string())?;
        provider = provider.with_span_processor(processor);
        tallies.push(tally);
    }
    Ok((provider.build(), tallies))
}

fn exporter(destination: &Destination) -> Result<opentelemetry_otlp::SpanExporter, ExportError> {
    let builder = opentelemetry_otlp::SpanExporter::builder();
    let exporter = match destination.protocol {
        Protocol::Grpc => builder.with_tonic().with_channel(destination.channel()?).build(),
        Protocol::HttpProtobuf => builder
            .with_http()
            .with_http_client(destination.http()?)
            .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
            .with_endpoint(&destination.endpoint)
            .build(),
    };
    let unusable = |error: opentelemetry_otlp::ExporterBuildError| ExportError::Endpoint {
        endpoint: destination.endpoint.clone(),
        problem: error.to_string(),
    };
    exporter.map_err(unusable)
}

fn processor(exporter: impl SpanExporter + 'static, to: String) -> Result<(CountEnded, Arc<Tally>), ExportError> {
    let tally = Arc::new(Tally::default());
    let mut config = BatchConfigBuilder::default();
    if env::var_os("OTEL_BSP_MAX_QUEUE_SIZE").is_none() {
        config = config.with_max_queue_size(MAX_QUEUE_SIZE);
    }
    let background = background::runtime()?;
    let counted = Counted { exporter: Arc::new(exporter), background, to, tally: tally.clone() };
    let batch = BatchSpanProcessor::builder(counted).with_batch_config(config.build()).build();
    Ok((CountEnded { next: batch, tally: tally.clone() }, tally))
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
        self.ended().saturating_sub(self.exported())
    }

    /// Spans that ended.
    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(Relaxed)
    }

    /// Spans that were acknowledged.
    pub(crate) fn exported(&self) -> u64 {
        self.exported.load(Relaxed)
    }

    /// Exports that failed.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
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

/// Exports in the background and counts what the receiver acknowledges; warns at the first failure and at every hundredth after
/// it.
#[derive(Debug)]
struct Counted<E> {
    exporter: Arc<E>,
    background: &'static Runtime,
    to: String,
    tally: Arc<Tally>,
}

impl<E: SpanExporter + 'static> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let exporter = self.exporter.clone();
        let export = async move { exporter.export(batch).await };
        let exported = self.background.spawn(export).await;
        let result = exported.unwrap_or_else(|panic| Err(OTelSdkError::InternalFailure(panic.to_string())));
        match &result {
            Ok(()) => {
                self.tally.exported.fetch_add(spans, Relaxed);
            }
            Err(error) => {
                let earlier = self.tally.failures.fetch_add(1, Relaxed);
                if earlier.is_multiple_of(100) {
                    tracing::warn!(endpoint = self.to, spans, earlier, %error, "spans could not be exported");
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
        // Nothing is exported yet, so there is no other holder.
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}
