//! An OTLP receiver that keeps the spans and metrics it is sent, and the traces that the spans make up.

use std::{
    collections::HashSet,
    fmt, future, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;
use telemetry::{
    connections::Door,
    http,
    server::{self, Closing},
    tls::ServerTls,
};
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{self, Instant},
};
use tonic::{Request, Response, Status, service::Routes};

/// A trace to which nothing has been added for so long is whole.
const QUIET: Duration = Duration::from_millis(600);

/// How long a trace may take to become whole.
const PATIENCE: Duration = Duration::from_secs(20);

/// A trace store on loopback, in this runtime; it ends when this is dropped.
#[derive(Debug)]
pub struct Receiver {
    scheme: &'static str,
    address: SocketAddr,
    store: Arc<Mutex<Store>>,
    serving: JoinHandle<()>,
}

/// How a receiver is reached.
#[derive(Clone, Debug)]
pub enum Transport {
    /// OTLP/gRPC, and a status that it answers everything with, if any.
    Grpc(Option<ServerTls>, Option<Status>),
    /// OTLP/HTTP with protobuf.
    Http(Option<ServerTls>),
}

#[derive(Debug, Default)]
struct Store {
    spans: Vec<Stored>,
    metrics: Vec<ExportMetricsServiceRequest>,
    /// The value of `authorization` in each request.
    authorisations: Vec<String>,
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
    /// A receiver over gRPC that takes everything.
    ///
    /// # Errors
    /// No port to listen on.
    pub async fn start() -> io::Result<Self> {
        Self::over(Transport::Grpc(None, None)).await
    }

    /// A receiver over gRPC that answers everything with `status`.
    ///
    /// # Errors
    /// No port to listen on.
    pub async fn refusing(status: Status) -> io::Result<Self> {
        Self::over(Transport::Grpc(None, Some(status))).await
    }

    /// A receiver over `transport`.
    ///
    /// # Errors
    /// No port to listen on.
    pub async fn over(transport: Transport) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let store = Arc::new(Mutex::new(Store::default()));
        let (Transport::Grpc(tls, _) | Transport::Http(tls)) = transport.clone();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let door = Door { tls, ..Door::default() };
        let kept = store.clone();
        let serving = tokio::spawn(async move {
            match transport {
                Transport::Grpc(_, refusal) => {
                    let receiving = Receiving { store: kept, refusal };
                    let routes = Routes::new(TraceServiceServer::new(receiving.clone()))
                        .add_service(MetricsServiceServer::new(receiving));
                    let config = server::Config { door, ..server::Config::default() };
                    let (switch, _) = Closing::channel();
                    // A test that is over drops the receiver, whatever still goes on.
                    let _ = server::serve(listener, routes, future::pending(), config, switch).await;
                }
                Transport::Http(_) => {
                    let routes = Router::new()
                        .route("/v1/traces", post(traces))
                        .route("/v1/metrics", post(metrics))
                        .with_state(kept);
                    http::serve(listener, door, routes, PATIENCE, future::pending()).await;
                }
            }
        });
        Ok(Self { scheme, address, store, serving })
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is set to.
    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Export requests so far, refused ones included.
    pub fn requests(&self) -> usize {
        self.store().requests
    }

    /// The value of `authorization` in each request; empty where it had none.
    pub fn authorisations(&self) -> Vec<String> {
        self.store().authorisations.clone()
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Stored> {
        self.store().spans.clone()
    }

    /// All metrics so far, by request.
    pub fn metrics(&self) -> Vec<ExportMetricsServiceRequest> {
        self.store().metrics.clone()
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

impl Store {
    fn noted(&mut self, headers: &HeaderMap) {
        let value = headers.get("authorization").and_then(|value| value.to_str().ok());
        self.authorisations.push(value.unwrap_or_default().to_owned());
        self.requests += 1;
        self.changed = Some(Instant::now());
    }

    fn keep(&mut self, request: ExportTraceServiceRequest) {
        self.spans.extend(request.resource_spans.into_iter().flat_map(stored));
    }
}

#[derive(Clone)]
struct Receiving {
    store: Arc<Mutex<Store>>,
    refusal: Option<Status>,
}

impl Receiving {
    fn receive<T>(&self, request: Request<T>, keep: impl FnOnce(&mut Store, T)) -> Result<(), Status> {
        let mut store = self.store.lock().expect("no holder of the lock panics");
        store.noted(request.metadata().as_ref());
        if let Some(status) = &self.refusal {
            return Err(status.clone());
        }
        keep(&mut store, request.into_inner());
        Ok(())
    }
}

#[tonic::async_trait]
impl TraceService for Receiving {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.receive(request, Store::keep)?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiving {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.receive(request, |store, request| store.metrics.push(request))?;
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

type Kept = State<Arc<Mutex<Store>>>;

async fn traces(State(store): Kept, headers: HeaderMap, body: Bytes) -> Result<Vec<u8>, StatusCode> {
    let request = ExportTraceServiceRequest::decode(body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let mut store = store.lock().expect("no holder of the lock panics");
    store.noted(&headers);
    store.keep(request);
    Ok(ExportTraceServiceResponse::default().encode_to_vec())
}

async fn metrics(State(store): Kept, headers: HeaderMap, body: Bytes) -> Result<Vec<u8>, StatusCode> {
    let request = ExportMetricsServiceRequest::decode(body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let mut store = store.lock().expect("no holder of the lock panics");
    store.noted(&headers);
    store.metrics.push(request);
    Ok(ExportMetricsServiceResponse::default().encode_to_vec())
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

    /// All spans as a line of OTLP's JSON, as a run's own file has them.
    ///
    /// # Panics
    /// Never: spans are JSON.
    pub fn to_json(&self) -> String {
        let of_span = |stored: &Stored| ResourceSpans {
            scope_spans: vec![ScopeSpans { spans: vec![stored.span.clone()], ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        };
        let request = ExportTraceServiceRequest { resource_spans: self.spans.iter().map(of_span).collect() };
        serde_json::to_string(&request).expect("spans are JSON") + "\n"
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
