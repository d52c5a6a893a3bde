//! Spans of one service, and the W3C context that ties them across processes.

use std::{
    collections::HashMap,
    env, fmt,
    sync::Arc,
    time::{Instant, SystemTime},
};

use opentelemetry::{
    Context, KeyValue, Value,
    propagation::TextMapPropagator,
    trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider},
};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};

use crate::export::{self, ExportError, Tally};

/// Makes the spans of one service. Cheap to clone; a tracer that is off makes spans that cost a branch.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Exporting>>);

struct Exporting {
    service: &'static str,
    tracer: SdkTracer,
    provider: SdkTracerProvider,
    tally: Arc<Tally>,
    /// One reading of both clocks, so that the model thread's `Instant`s become times of day.
    epoch: (Instant, SystemTime),
}

impl Tracer {
    /// A tracer that records nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// The tracer of `service` (see [`crate::names::service`]) as the standard variables configure it: off unless
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set. Must be called within a tokio
    /// runtime, which drives the connection.
    ///
    /// # Errors
    /// An endpoint or a protocol that cannot be used.
    pub fn from_env(service: &'static str) -> Result<Self, ExportError> {
        match export::endpoint() {
            Some(endpoint) => Self::exporting(service, &endpoint),
            None => Ok(Self::off()),
        }
    }

    /// The tracer of `service`, exporting to the OTLP/gRPC receiver at `endpoint`.
    ///
    /// # Errors
    /// An endpoint or a protocol that cannot be used.
    pub fn exporting(service: &'static str, endpoint: &str) -> Result<Self, ExportError> {
        let name = env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| service.to_owned());
        let resource = Resource::builder().with_service_name(name).build();
        let (provider, tally) = export::provider(endpoint, resource)?;
        let tracer = provider.tracer("outrider");
        let epoch = (Instant::now(), SystemTime::now());
        Ok(Self(Some(Arc::new(Exporting { service, tracer, provider, tally, epoch }))))
    }

    /// Starts the span of a request that came with `parent`: its child, or the root of a new trace where there is no valid
    /// one.
    pub fn request(&self, name: &'static str, kind: SpanKind, parent: Option<&TraceParent>) -> Span {
        let parent = parent.map(TraceParent::extract).filter(|cx| cx.span().span_context().is_valid());
        self.start(name, kind, &parent.unwrap_or_default(), None)
    }

    /// Starts a span whose parent lives in the process that sent `parent`.
    ///
    /// Without a (valid) parent nothing is recorded: a service's span means something only inside a request's trace.
    pub fn child_of_remote(&self, name: &'static str, parent: Option<&TraceParent>) -> Span {
        match parent.map(TraceParent::extract) {
            Some(cx) if cx.span().span_context().is_valid() => self.start(name, SpanKind::Server, &cx, None),
            _ => Span(None),
        }
    }

    fn start(&self, name: &'static str, kind: SpanKind, parent: &Context, at: Option<Instant>) -> Span {
        let Some(exporting) = &self.0 else { return Span(None) };
        let mut builder = exporting.tracer.span_builder(name).with_kind(kind);
        builder.start_time = at.map(|at| exporting.time_of(at));
        let span = exporting.tracer.build_with_context(builder, parent);
        if !span.is_recording() && !span.span_context().is_valid() {
            return Span(None);
        }
        Span(Some(Recording { tracer: self.clone(), span }))
    }

    /// Sends what is waiting, and warns of every span that was lost. Blocks until the receiver has answered or the
    /// exporter's timeout has passed: call it outside async tasks.
    pub fn shutdown(&self) {
        let Some(exporting) = &self.0 else { return };
        let result = exporting.provider.shutdown();
        let (lost, ended, service) = (exporting.tally.lost(), exporting.tally.ended(), exporting.service);
        match result {
            _ if lost > 0 => tracing::warn!(service, lost, ended, "spans were lost, the trace is incomplete"),
            Err(error) => tracing::warn!(service, %error, "telemetry did not shut down cleanly"),
            Ok(()) => {}
        }
    }
}

impl Exporting {
    fn time_of(&self, instant: Instant) -> SystemTime {
        let (epoch, time) = self.epoch;
        match instant.checked_duration_since(epoch) {
            Some(later) => time + later,
            None => time - epoch.duration_since(instant),
        }
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tracer").field(&self.0.as_ref().map(|exporting| exporting.service)).finish()
    }
}

/// A span; it ends when it is dropped. Where nothing is recorded every call is a no-op.
#[derive(Debug)]
pub struct Span(Option<Recording>);

#[derive(Debug)]
struct Recording {
    tracer: Tracer,
    span: opentelemetry_sdk::trace::Span,
}

impl Span {
    /// A span that records nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// Whether attributes set here go anywhere; lets a caller skip computing them.
    pub fn is_recording(&self) -> bool {
        self.0.as_ref().is_some_and(|recording| recording.span.is_recording())
    }

    /// Starts a child span now.
    pub fn child(&self, name: &'static str) -> Span {
        let Some(recording) = &self.0 else { return Span(None) };
        recording.tracer.start(name, SpanKind::Internal, &recording.context(), None)
    }

    /// Records a child span that began and ended at times measured elsewhere.
    pub fn record_child<const N: usize>(
        &self,
        name: &'static str,
        (start, end): (Instant, Instant),
        attributes: [(&'static str, Value); N],
    ) {
        let Some(recording) = self.0.as_ref().filter(|recording| recording.span.is_recording()) else {
            return;
        };
        let mut child = recording.tracer.start(name, SpanKind::Internal, &recording.context(), Some(start));
        if let Some(child) = &mut child.0 {
            child.span.set_attributes(attributes.into_iter().map(|(key, value)| KeyValue::new(key, value)));
            if let Some(exporting) = &recording.tracer.0 {
                child.span.end_with_timestamp(exporting.time_of(end));
            }
        }
    }

    /// Sets an attribute.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(recording) = &mut self.0 {
            recording.span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Marks the span as failed.
    pub fn fail(&mut self, description: impl fmt::Display) {
        if let Some(recording) = &mut self.0 {
            recording.span.set_status(Status::error(description.to_string()));
        }
    }

    /// The trace's id in hex; `None` where nothing is exported.
    pub fn trace_id(&self) -> Option<String> {
        let recording = self.0.as_ref().filter(|recording| recording.span.is_recording())?;
        Some(recording.span.span_context().trace_id().to_string())
    }

    /// What to send so that the receiver's span becomes this span's child; `None` where nothing is exported.
    pub fn propagate(&self) -> Option<TraceParent> {
        let recording = self.0.as_ref().filter(|recording| recording.span.is_recording())?;
        Some(TraceParent::inject(&recording.context()))
    }
}

impl Recording {
    fn context(&self) -> Context {
        Context::new().with_remote_span_context(self.span.span_context().clone())
    }
}

/// A span's identity in W3C Trace Context form, as the protocol's messages carry it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceParent {
    /// The `traceparent` header's value.
    pub traceparent: String,
    /// The `tracestate` header's value; may be empty.
    pub tracestate: String,
}

impl TraceParent {
    fn inject(cx: &Context) -> Self {
        let mut headers = HashMap::new();
        TraceContextPropagator::new().inject_context(cx, &mut headers);
        let mut take = |name| headers.remove(name).unwrap_or_default();
        Self { traceparent: take("traceparent"), tracestate: take("tracestate") }
    }

    /// The context that this names; without a valid `traceparent` one without a span.
    fn extract(&self) -> Context {
        let headers = HashMap::from([
            ("traceparent".to_owned(), self.traceparent.clone()),
            ("tracestate".to_owned(), self.tracestate.clone()),
        ]);
        TraceContextPropagator::new().extract_with_context(&Context::new(), &headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_survives_the_wire() {
        let sent = TraceParent { traceparent: PARENT.into(), tracestate: "vendor=1".into() };
        assert_eq!(TraceParent::inject(&sent.extract()), sent);
    }

    #[test]
    fn a_malformed_context_is_no_parent() {
        for traceparent in ["", "00", "00-zz-b7ad6b7169203331-01", "00-0-0-0-0", &"9".repeat(4096)] {
            let parent = TraceParent { traceparent: traceparent.into(), tracestate: String::new() };
            assert!(!parent.extract().span().span_context().is_valid(), "{traceparent}");
        }
    }

    #[test]
    fn a_tracer_that_is_off_records_and_sends_nothing() {
        let mut root = Tracer::off().request("generate", SpanKind::Internal, None);
        root.set("key", 1);
        assert!(!root.is_recording() && root.trace_id().is_none() && root.propagate().is_none());
    }
}
