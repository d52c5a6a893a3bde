//! The coordinator as an HTTP service in this process, and a client that opens a connection for each request.

use std::{future::Future, io, path::Path, sync::Arc};

use anyhow::Result;
use coordinator::{
    Pair, TraceCycles,
    serve::{Config, Doors, Keys, serve},
};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::HeaderMap,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use speculative::policy::Gamma;
use telemetry::Tracer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use crate::cluster::{LONG, PATIENT, within};

/// A service that lets everything through that a test needs.
pub const CONFIG: Config = Config {
    gamma: Gamma::Fixed(4),
    branches: 0,
    min_confidence: 0.0,
    max_connections: 1024,
    max_connections_per_peer: 1024,
    header_timeout: LONG,
    max_body_bytes: 1 << 20,
    max_concurrent: 32,
    request_timeout: LONG,
    grace: LONG,
    deadlines: PATIENT,
    record_content: false,
    trace_cycles: TraceCycles::All,
};

/// A running service.
#[derive(Debug)]
pub struct Serving {
    /// Where it listens.
    pub address: String,
    /// Where its gRPC API is.
    pub grpc_url: String,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), io::Error>>,
}

impl Serving {
    /// Serves `pair`.
    pub async fn start(pair: &Pair, config: Config) -> Self {
        let pair = pair.clone();
        Self::loading(async { Ok((pair, Tracer::off())) }, config).await
    }

    /// Serves what `load` brings.
    pub async fn loading(
        load: impl Future<Output = io::Result<(Pair, Tracer)>> + Send + 'static,
        config: Config,
    ) -> Self {
        Self::guarded(load, config, Keys::default()).await
    }

    /// The same for those who have a key.
    pub async fn guarded(
        load: impl Future<Output = io::Result<(Pair, Tracer)>> + Send + 'static,
        config: Config,
        keys: Keys,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address").to_string();
        let grpc = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let grpc_url = format!("http://{}", grpc.local_addr().expect("a bound address"));
        let doors = Doors { http: listener, grpc: Some(grpc), tls: None };
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(serve(config, keys, doors, load, async { drop(stopped.await) }));
        Self { address, grpc_url, stop, served }
    }

    /// Asks it to stop; resolves when it has.
    pub async fn stop(self) {
        drop(self.stop);
        within(LONG, self.served).await.expect("a service that does not panic").expect("a service that does not fail");
    }

    /// The answer to a request for text.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        request(&self.address, "POST", path, body.to_string()).await
    }

    /// The same where it must succeed in one piece.
    pub async fn answered(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body).await;
        let (status, text) = (answer.status, answer.text().await);
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).expect("JSON")
    }

    /// The messages of a stream that must succeed, without the last, which is `[DONE]`.
    pub async fn streamed(&self, path: &str, body: &Value) -> Vec<Value> {
        let answer = self.post(path, body).await;
        let (status, text) = (answer.status, answer.text().await);
        assert_eq!(status, 200, "{text}");
        let events = text.strip_suffix("data: [DONE]\n\n").expect("the stream ends with [DONE]");
        let events = events.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").expect("an event"));
        events.map(|event| serde_json::from_str(event).expect("JSON")).collect()
    }
}

/// An answer whose body is not read yet. Dropping it cuts the connection.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    connection: Connection,
}

#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends a GET.
pub async fn get(address: &str, path: &str) -> Answer {
    request(address, "GET", path, String::new()).await
}

/// Sends a request. Dropping the future cuts the connection.
pub async fn request(address: &str, method: &str, path: &str, body: String) -> Answer {
    request_with(address, method, path, &[], body).await
}

/// The same with further headers.
pub async fn request_with(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: String) -> Answer {
    let stream = TcpStream::connect(address).await.expect("it listens");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    let connection = Connection(tokio::spawn(async { drop(connection.await) }));
    let request = Request::builder().method(method).uri(path).header("host", address);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let request = request.header("content-type", "application/json").body(Full::new(Bytes::from(body)));
    let response = within(LONG, sender.send_request(request.expect("a request"))).await.expect("a response");
    let (head, body) = response.into_parts();
    Answer { status: head.status.as_u16(), headers: head.headers, body, connection }
}

/// Sends a request over TLS, by a client of its own, to a server of this machine that `ca` has certified; gives status and
/// body.
///
/// # Errors
/// No connection, or no answer over it.
pub async fn encrypted(address: &str, ca: &Path, method: &str, path: &str, body: String) -> Result<(u16, String)> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost")?, stream).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    let response = within(LONG, sender.send_request(request.body(Full::new(Bytes::from(body)))?)).await?;
    let status = response.status().as_u16();
    Ok((status, String::from_utf8(response.into_body().collect().await?.to_bytes().into())?))
}

impl Answer {
    /// The whole body.
    pub async fn text(self) -> String {
        let body = within(LONG, self.body.collect()).await.expect("a body").to_bytes();
        drop(self.connection);
        String::from_utf8(body.into()).expect("UTF-8")
    }

    /// The whole body, which is JSON.
    pub async fn json(self) -> Value {
        serde_json::from_str(&self.text().await).expect("JSON")
    }

    /// The next part of the body.
    pub async fn part(&mut self) -> Option<String> {
        let frame = within(LONG, self.body.frame()).await?.expect("a part");
        frame.into_data().ok().map(|part| String::from_utf8_lossy(&part).into_owned())
    }
}
