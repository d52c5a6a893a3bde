//! An OTLP/gRPC receiver that keeps the spans it is sent, and the traces that they make up.

use std::{
    collections::HashSet,
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::{ResourceSpans, Span},
};
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{self, Instant},
};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

/// A trace to which nothing has been added for so long is whole.
const QUIET: Duration = Duration::from_millis(600);

/// How long a trace may take to become whole.
const PATIENCE: Duration = Duration::from_secs(20);

/// A trace store on loopback, in this runtime; it ends when this is dropped.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    store: Arc<Mutex<Store>>,
    serving: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Store {
    spans: Vec<Stored>,
    requests: usize,
    /// When the last request came.
    changed: Option<Instant>,
}

/// A span with the `service.name` of its resource.
#[derive(Clone, Debug)]
pub struct Stored {
    /// `service.name`.
    pub service: String,
    /// The span as it was sent.
    pub span: Span,
}

impl Receiver {
    /// A receiver that takes everything.
    ///
    /// # Errors
    /// No port to listen on.
    pub async fn start() -> io::Result<Self> {
        Self::serve(None).await
    }

    /// A receiver that answers everything with `status`.
    ///
    /// # Errors
    /// No port to listen on.
    pub async fn refusing(status: Status) -> io::Result<Self> {
        Self::serve(Some(status)).await
    }

    async fn serve(refusal: Option<Status>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let store = Arc::new(Mutex::new(Store::default()));
        let service = TraceServiceServer::new(Receiving { store: store.clone(), refusal });
        let serving = tokio::spawn(async move {
            let incoming = TcpIncoming::from(listener);
            // A test that is over drops the receiver, whatever still goes on.
            let _ = Server::builder().add_service(service).serve_with_incoming(incoming).await;
        });
        Ok(Self { address, store, serving })
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is set to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Export requests so far, refused ones included.
    pub fn requests(&self) -> usize {
        self.store().requests
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Stored> {
        self.store().spans.clone()
    }

    /// The whole trace `trace_id` (hexadecimal): its root is here, each span's parent too, and nothing more has come for
    /// a while.
    ///
    /// # Panics
    /// Where the trace does not become whole in time; the panic says what there is of it.
    pub async fn trace(&self, trace_id: &str) -> Trace {
        let begun = Instant::now();
        loop {
            let (trace, changed) = {
                let store = self.store();
                (Trace::of(&store.spans, trace_id), store.changed)
            };
            let quiet = changed.is_some_and(|changed| changed.elapsed() >= QUIET);
            if quiet && trace.is_whole() {
                return trace;
            }
            assert!(begun.elapsed() < PATIENCE, "trace {trace_id} is not whole after {PATIENCE:?}:\n{trace}");
            time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().expect("no holder of the lock panics")
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Receiving {
    store: Arc<Mutex<Store>>,
    refusal: Option<Status>,
}

#[tonic::async_trait]
impl TraceService for Receiving {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut store = self.store.lock().expect("no holder of the lock panics");
        store.requests += 1;
        store.changed = Some(Instant::now());
        if let Some(status) = &self.refusal {
            return Err(status.clone());
        }
        let received = request.into_inner().resource_spans.into_iter().flat_map(stored);
        store.spans.extend(received);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn stored(of_resource: ResourceSpans) -> impl Iterator<Item = Stored> {
    let attributes = of_resource.resource.unwrap_or_default().attributes;
    let service = match value(&attributes, "service.name") {
        Some(any_value::Value::StringValue(name)) => name.clone(),
        _ => "no service.name".to_owned(),
    };
    let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
    spans.map(move |span| Stored { service: service.clone(), span })
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a any_value::Value> {
    let attribute = attributes.iter().find(|attribute| attribute.key == key)?;
    attribute.value.as_ref()?.value.as_ref()
}

impl Stored {
    /// An attribute.
    pub fn attribute(&self, key: &str) -> Option<&any_value::Value> {
        value(&self.span.attributes, key)
    }

    /// An attribute that is a whole number.
    ///
    /// # Panics
    /// Where it is none.
    pub fn int(&self, key: &str) -> i64 {
        match self.attribute(key) {
            Some(any_value::Value::IntValue(value)) => *value,
            other => panic!("{key} of {self} is {other:?}, not a whole number"),
        }
    }

    /// An attribute that is a fraction.
    ///
    /// # Panics
    /// Where it is none.
    pub fn double(&self, key: &str) -> f64 {
        match self.attribute(key) {
            Some(any_value::Value::DoubleValue(value)) => *value,
            other => panic!("{key} of {self} is {other:?}, not a fraction"),
        }
    }

    /// An attribute that is text.
    ///
    /// # Panics
    /// Where it is none.
    pub fn text(&self, key: &str) -> &str {
        match self.attribute(key) {
            Some(any_value::Value::StringValue(value)) => value,
            other => panic!("{key} of {self} is {other:?}, not text"),
        }
    }

    /// An attribute that is a list of texts.
    ///
    /// # Panics
    /// Where it is none.
    pub fn texts(&self, key: &str) -> Vec<&str> {
        let text = |value: &'_ AnyValue| matches!(value.value, Some(any_value::Value::StringValue(_)));
        match self.attribute(key) {
            Some(any_value::Value::ArrayValue(array)) if array.values.iter().all(text) => array
                .values
                .iter()
                .filter_map(|value| match &value.value {
                    Some(any_value::Value::StringValue(text)) => Some(text.as_str()),
                    _ => None,
                })
                .collect(),
            other => panic!("{key} of {self} is {other:?}, not a list of texts"),
        }
    }

    /// The keys of all attributes, sorted.
    pub fn keys(&self) -> Vec<&str> {
        let mut keys: Vec<&str> = self.span.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
        keys.sort_unstable();
        keys
    }

    /// From its beginning to its end.
    pub fn duration(&self) -> Duration {
        Duration::from_nanos(self.span.end_time_unix_nano.saturating_sub(self.span.start_time_unix_nano))
    }

    /// Whether `other` lies within this span's time.
    pub fn contains(&self, other: &Stored) -> bool {
        self.span.start_time_unix_nano <= other.span.start_time_unix_nano
            && other.span.start_time_unix_nano <= other.span.end_time_unix_nano
            && other.span.end_time_unix_nano <= self.span.end_time_unix_nano
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.span.name, self.service)
    }
}

/// The spans of one trace.
#[derive(Clone, Debug)]
pub struct Trace {
    /// In the order of their beginnings.
    pub spans: Vec<Stored>,
}

impl Trace {
    fn of(all: &[Stored], trace_id: &str) -> Self {
        let of_trace = |stored: &&Stored| hex(&stored.span.trace_id) == trace_id;
        let mut spans: Vec<Stored> = all.iter().filter(of_trace).cloned().collect();
        spans.sort_by_key(|stored| stored.span.start_time_unix_nano);
        Self { spans }
    }

    fn is_whole(&self) -> bool {
        let ids: HashSet<&[u8]> = self.spans.iter().map(|stored| &stored.span.span_id[..]).collect();
        let adopted = |stored: &Stored| ids.contains(&stored.span.parent_span_id[..]);
        let roots = self.spans.iter().filter(|stored| stored.span.parent_span_id.is_empty());
        roots.count() == 1 && self.spans.iter().filter(|stored| !adopted(stored)).count() == 1
    }

    /// The only span without a parent.
    ///
    /// # Panics
    /// Where there is none, or another.
    pub fn root(&self) -> &Stored {
        let mut roots = self.spans.iter().filter(|stored| stored.span.parent_span_id.is_empty());
        match (roots.next(), roots.next()) {
            (Some(root), None) => root,
            _ => panic!("not one root:\n{self}"),
        }
    }

    /// The children of `parent`, in the order of their beginnings.
    pub fn children(&self, parent: &Stored) -> Vec<&Stored> {
        let is_child = |stored: &&Stored| stored.span.parent_span_id == parent.span.span_id;
        self.spans.iter().filter(is_child).collect()
    }

    /// The children of `parent` of that name.
    pub fn named(&self, parent: &Stored, name: &str) -> Vec<&Stored> {
        let children = self.children(parent).into_iter();
        children.filter(|stored| stored.span.name == name).collect()
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for stored in &self.spans {
            let (id, parent) = (hex(&stored.span.span_id), hex(&stored.span.parent_span_id));
            writeln!(f, "{id} child of {parent:16} {stored} {:?}", stored.duration())?;
        }
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
