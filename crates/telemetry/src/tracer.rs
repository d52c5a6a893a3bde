//! Spans of one service, and the W3C context that ties them across processes.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{Arc, LazyLock},
    time::{Instant, SystemTime},
};

use opentelemetry::{
    Context, KeyValue, Value,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::{Span as _, SpanContext, SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider},
};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};

use crate::{
    export::{self, Tally},
    otlp::{Destination, ExportError, Signal, set},
    trace_file::TraceFile,
};

/// The fields of W3C Trace Context.
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// Makes the spans of one service. Cheap to clone; a tracer that is off makes spans that cost a branch.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Exporting>>);

struct Exporting {
    service: &'static str,
    tracer: SdkTracer,
    provider: SdkTracerProvider,
    tallies: Vec<Arc<Tally>>,
}

impl Tracer {
    /// A tracer that records nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// The tracer of `service` (see [`crate::names::service`]) as the standard variables configure it: off unless
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set.
    ///
    /// # Errors
    /// An endpoint or a protocol that cannot be used.
    pub fn from_env(service: &'static str) -> Result<Self, ExportError> {
        Self::recording(service, None)
    }

    /// The same, and its spans go into `file` too.
    ///
    /// # Errors
    /// As [`Tracer::from_env`].
    pub fn recording(service: &'static str, file: Option<&TraceFile>) -> Result<Self, ExportError> {
        Self::new(service, Destination::from_env(Signal::Traces)?.as_ref(), file)
    }

    /// The tracer of `service`, exporting to the OTLP receiver at `endpoint`.
    ///
    /// # Errors
    /// As [`Tracer::from_env`].
    pub fn exporting(service: &'static str, endpoint: &str) -> Result<Self, ExportError> {
        Self::new(service, Some(&Destination::new(Signal::Traces, endpoint, false)?), None)
    }

    fn new(
        service: &'static str,
        destination: Option<&Destination>,
        file: Option<&TraceFile>,
    ) -> Result<Self, ExportError> {
        if destination.is_none() && file.is_none() {
            return Ok(Self::off());
        }
        let (provider, tallies) = export::provider(destination, file, resource(service))?;
        let tracer = provider.tracer("outrider");
        Ok(Self(Some(Arc::new(Exporting { service, tracer, provider, tallies }))))
    }

    /// Whether spans go anywhere.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// How many spans have ended, how many of them were acknowledged, and how many exports have failed.
    pub fn counts(&self) -> [u64; 3] {
        let tallies = self.0.iter().flat_map(|exporting| &exporting.tallies);
        tallies.fold([0; 3], |[ended, exported, failed], tally| {
            [ended + tally.ended(), exported + tally.exported(), failed + tally.failures()]
        })
    }

    /// Starts the span of a request that came with `parent`: its child, or the root of a new trace where there is no valid
    /// one.
    pub fn request(&self, name: &'static str, kind: SpanKind, parent: Option<&TraceParent>) -> Span {
        let parent = parent.map(TraceParent::extract).filter(|cx| cx.span().span_context().is_valid());
        self.start(name, kind, &parent.unwrap_or_default(), None, Clocks::read())
    }

    /// A span since `start`, whose parent lives in the process that sent `parent`.
    ///
    /// Without a (valid) parent nothing is recorded: a service's span means something only inside a request's trace.
    pub fn child_of_remote(&self, name: &'static str, parent: Option<&TraceParent>, start: Instant) -> Span {
        match parent.map(TraceParent::extract) {
            Some(cx) if cx.span().span_context().is_valid() => {
                self.start(name, SpanKind::Server, &cx, Some(start), Clocks::read())
            }
            _ => Span(None),
        }
    }

    fn start(&self, name: &'static str, kind: SpanKind, parent: &Context, at: Option<Instant>, clocks: Clocks) -> Span {
        let Some(exporting) = &self.0 else { return Span(None) };
        let mut builder = exporting.tracer.span_builder(name).with_kind(kind);
        builder.start_time = at.map(|at| clocks.time_of(at));
        let span = exporting.tracer.build_with_context(builder, parent);
        if !span.is_recording() && !span.span_context().is_valid() {
            return Span(None);
        }
        Span(Some(Recording { tracer: self.clone(), span, clocks }))
    }

    /// Sends what is waiting, and warns of every span that was lost. Blocks until the receiver has answered or the
    /// exporter's timeout has passed: call it outside async tasks.
    pub fn shutdown(&self) {
        let Some(exporting) = &self.0 else { return };
        let (result, service) = (exporting.provider.shutdown(), exporting.service);
        let incomplete = exporting.tallies.iter().find(|tally| tally.lost() > 0);
        match (incomplete, result) {
            (Some(tally), _) => {
                let (lost, ended) = (tally.lost(), tally.ended());
                tracing::warn!(service, lost, ended, "spans were lost, the trace is incomplete");
            }
            (None, Err(error)) => tracing::warn!(service, %error, "telemetry did not shut down cleanly"),
            (None, Ok(())) => {}
        }
    }
}

/// What tells this process apart from others of the same service.
static INSTANCE: LazyLock<String> = LazyLock::new(|| format!("{:016x}", RandomState::new().hash_one(())));

/// What says that telemetry is of `service` and of this process, unless the standard variables say otherwise.
pub(crate) fn resource(service: &'static str) -> Resource {
    let builder = Resource::builder().with_service_name(set("OTEL_SERVICE_NAME").unwrap_or_else(|| service.to_owned()));
    let key = "service.instance.id";
    match set("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|attributes| attributes.contains(key)) {
        true => builder.build(),
        false => builder.with_attribute(KeyValue::new(key, INSTANCE.as_str())).build(),
    }
}

/// One reading of both clocks, so that `Instant`s become times of day. A span reads them when it is made: they part where a machine
/// sleeps or its time is set.
#[derive(Clone, Copy, Debug)]
struct Clocks(Instant, SystemTime);

impl Clocks {
    fn read() -> Self {
        Self(Instant::now(), SystemTime::now())
    }

    fn time_of(self, instant: Instant) -> SystemTime {
        match instant.checked_duration_since(self.0) {
            Some(later) => self.1 + later,
            None => self.1 - self.0.duration_since(instant),
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
    clocks: Clocks,
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
        recording.tracer.start(name, SpanKind::Internal, &recording.context(), None, Clocks::read())
    }

    /// Records a child span that began and ended at times measured elsewhere, tied to other spans by links; gives what
    /// others tie themselves to.
    pub fn record_child(
        &self,
        name: &'static str,
        (start, end): (Instant, Instant),
        attributes: impl IntoIterator<Item = (&'static str, Value)>,
        links: &[Reference],
    ) -> Option<Reference> {
        let recording = self.0.as_ref().filter(|recording| recording.span.is_recording())?;
        let (tracer, clocks) = (&recording.tracer, recording.clocks);
        let child = tracer.start(name, SpanKind::Internal, &recording.context(), Some(start), clocks);
        let mut child = child.0?.span;
        child.set_attributes(attributes.into_iter().map(|(key, value)| KeyValue::new(key, value)));
        for Reference(linked) in links {
            child.add_link(linked.clone(), Vec::new());
        }
        let reference = Reference(child.span_context().clone());
        child.end_with_timestamp(clocks.time_of(end));
        Some(reference)
    }

    /// What others tie themselves to; `None` where nothing is recorded.
    pub fn reference(&self) -> Option<Reference> {
        let recording = self.0.as_ref().filter(|recording| recording.span.is_recording())?;
        Some(Reference(recording.span.span_context().clone()))
    }

    /// Ties it to another span.
    pub fn link(&mut self, Reference(linked): &Reference) {
        if let Some(recording) = &mut self.0 {
            recording.span.add_link(linked.clone(), Vec::new());
        }
    }

    /// Notes that something happened now.
    pub fn event(&mut self, name: &'static str, attributes: impl IntoIterator<Item = (&'static str, Value)>) {
        if let Some(recording) = &mut self.0 {
            let attributes = attributes.into_iter().map(|(key, value)| KeyValue::new(key, value));
            recording.span.add_event(name, attributes.collect());
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

    /// Ends it at a time measured elsewhere.
    pub fn end(mut self, at: Instant) {
        if let Some(Recording { span, clocks, .. }) = &mut self.0 {
            span.end_with_timestamp(clocks.time_of(at));
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

/// A span that others are tied to by links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference(SpanContext);

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
    /// The trace's id in hex, where it is a valid one.
    pub fn trace_id(&self) -> Option<String> {
        let context = self.extract();
        let span = context.span().span_context().clone();
        span.is_valid().then(|| span.trace_id().to_string())
    }

    fn inject(cx: &Context) -> Self {
        let mut parent = Self::default();
        TraceContextPropagator::new().inject_context(cx, &mut parent);
        parent
    }

    /// The context that this names; without a valid `traceparent` one without a span.
    fn extract(&self) -> Context {
        TraceContextPropagator::new().extract_with_context(&Context::new(), self)
    }
}

impl Injector for TraceParent {
    fn set(&mut self, key: &str, value: String) {
        match key {
            TRACEPARENT => self.traceparent = value,
            TRACESTATE => self.tracestate = value,
            _ => {}
        }
    }
}

impl Extractor for TraceParent {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            TRACEPARENT => Some(&self.traceparent),
            TRACESTATE => Some(&self.tracestate),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, TRACESTATE]
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
