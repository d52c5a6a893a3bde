//! Where OTLP goes, as the standard variables say: <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::task;
use tonic::transport::{Channel, Endpoint};
use ureq::{
    Agent,
    tls::{self, PemItem, RootCerts, TlsConfig},
};

use crate::{
    background,
    channel::{self, bare},
    tls::{ClientFiles, ClientTls},
};

/// How long a receiver may take, where no variable says.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer of a receiver that is read, in bytes.
const MOST_ANSWER_BYTES: u64 = 1 << 20;

/// Telemetry that cannot be exported as configured.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// No thread to export from.
    #[error("the thread that exports telemetry cannot be started: {0}")]
    Thread(String),
    /// A variable with a value that is not allowed.
    #[error("{variable} is {value}, allowed: {allowed}")]
    Variable {
        /// The environment variable.
        variable: String,
        /// Its value.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The endpoint is no URL that can be connected to.
    #[error("OTLP endpoint {endpoint} cannot be used: {problem}, allowed: http://HOST:PORT or https://HOST:PORT")]
    Endpoint {
        /// The endpoint as configured.
        endpoint: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A certificate or key cannot be used.
    #[error("{} cannot be used for OTLP: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Traces,
    Metrics,
}

/// How it is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Grpc,
    HttpProtobuf,
}

/// Where one signal goes.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    /// For gRPC the receiver's address, for HTTP that of the signal.
    pub(crate) endpoint: String,
    pub(crate) protocol: Protocol,
    pub(crate) timeout: Duration,
    files: Files,
}

/// Who the receiver must be and who we are to it, files in PEM.
#[derive(Clone, Debug, Default)]
struct Files {
    certificate: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
        }
    }

    /// The signal's own variable where it is set, or the one for all signals, with its name.
    pub(crate) fn variable(self, name: &str) -> Option<(String, String)> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_{name}", self.name());
        let names = [own, format!("OTEL_EXPORTER_OTLP_{name}")];
        names.into_iter().find_map(|name| set(&name).map(|value| (name, value)))
    }

    /// Whether a variable says that it is not exported.
    fn is_off(self) -> bool {
        let disabled = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        disabled || set(&format!("OTEL_{}_EXPORTER", self.name())).is_some_and(|value| value == "none")
    }
}

/// A variable that is not empty.
pub(crate) fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

impl Destination {
    /// Where the standard variables say that `signal` goes; `None` where they name no endpoint or switch it off.
    ///
    /// # Errors
    /// A variable with a value that cannot be used.
    pub(crate) fn from_env(signal: Signal) -> Result<Option<Self>, ExportError> {
        match signal.variable("ENDPOINT") {
            Some((variable, endpoint)) if !signal.is_off() => {
                Self::new(signal, &endpoint, variable.contains(signal.name())).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The same with an endpoint of one's own; over HTTP it is the signal's own address only where `exact`.
    ///
    /// # Errors
    /// As [`Destination::from_env`].
    pub(crate) fn new(signal: Signal, endpoint: &str, exact: bool) -> Result<Self, ExportError> {
        let protocol = match signal.variable("PROTOCOL") {
            None => Protocol::Grpc,
            Some((_, value)) if value == "grpc" => Protocol::Grpc,
            Some((_, value)) if value == "http/protobuf" => Protocol::HttpProtobuf,
            Some((variable, value)) => {
                return Err(ExportError::Variable { variable, value, allowed: "grpc or http/protobuf" });
            }
        };
        let timeout = match signal.variable("TIMEOUT") {
            None => TIMEOUT,
            Some((variable, value)) => match value.parse() {
                Ok(milliseconds) => Duration::from_millis(milliseconds),
                Err(_) => return Err(ExportError::Variable { variable, value, allowed: "milliseconds" }),
            },
        };
        check(endpoint).map_err(|problem| ExportError::Endpoint { endpoint: endpoint.to_owned(), problem })?;
        let endpoint = match protocol {
            Protocol::HttpProtobuf if !exact => {
                format!("{}/v1/{}", endpoint.trim_end_matches('/'), signal.name().to_lowercase())
            }
            _ => endpoint.to_owned(),
        };
        Ok(Self { endpoint, protocol, timeout, files: Files::from_env(signal) })
    }

    /// A connection that is made when it is first used, and driven in the background.
    ///
    /// # Errors
    /// An endpoint or files that cannot be used.
    pub(crate) fn channel(&self) -> Result<Channel, ExportError> {
        let unusable = |problem| ExportError::Endpoint { endpoint: self.endpoint.clone(), problem };
        let endpoint = Endpoint::from_shared(self.endpoint.clone()).map_err(|error| unusable(error.to_string()))?;
        let host = endpoint.uri().host().map(bare).filter(|_| self.endpoint.starts_with("https:"));
        let proof = match host {
            None => None,
            Some(host) => {
                let Files { certificate, identity } = self.files.clone();
                let tls = ClientTls::new(ClientFiles { ca: certificate, identity });
                Some((host, tls.map_err(|error| unusable(error.to_string()))?))
            }
        };
        let _driven_by = background::runtime()?.enter();
        Ok(channel::lazily(&endpoint.timeout(self.timeout), proof))
    }

    /// A client for HTTP.
    ///
    /// # Errors
    /// Files that cannot be used.
    pub(crate) fn http(&self) -> Result<Http, ExportError> {
        let unusable = |problem| ExportError::Endpoint { endpoint: self.endpoint.clone(), problem };
        let mut tls = TlsConfig::builder();
        if let Some(path) = &self.files.certificate {
            tls = tls.root_certs(RootCerts::new_with_certs(&certificates(&read(path)?).map_err(unusable)?));
        }
        if let Some((certificate, key)) = &self.files.identity {
            let chain = certificates(&read(certificate)?).map_err(unusable)?;
            let key = tls::PrivateKey::from_pem(&read(key)?).map_err(|error| unusable(error.to_string()))?;
            tls = tls.client_cert(Some(tls::ClientCert::new_with_certs(&chain, key)));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(self.timeout))
            .tls_config(tls.build());
        Ok(Http(config.build().into()))
    }
}

impl Files {
    fn from_env(signal: Signal) -> Self {
        let file = |name| signal.variable(name).map(|(_, path)| PathBuf::from(path));
        Self { certificate: file("CERTIFICATE"), identity: file("CLIENT_CERTIFICATE").zip(file("CLIENT_KEY")) }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ExportError> {
    fs::read(path).map_err(|error| ExportError::File { path: path.to_owned(), problem: error.to_string() })
}

fn certificates(pem: &[u8]) -> Result<Vec<tls::Certificate<'static>>, String> {
    let of_item = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
        Ok(_) => None,
        Err(error) => Some(Err(ureq::Error::to_string(&error))),
    };
    tls::parse_pem(pem).filter_map(of_item).collect()
}

/// Says what is wrong with an endpoint: the exporter takes a bare word for a host with TLS, and a port out of range for
/// none.
fn check(endpoint: &str) -> Result<(), String> {
    let url = Endpoint::from_shared(endpoint.to_owned()).map_err(|error| error.to_string())?;
    let scheme = url.uri().scheme_str();
    let authority = url.uri().authority().filter(|_| matches!(scheme, Some("http" | "https")));
    match authority {
        None => Err("it is not an http or https URL".to_owned()),
        Some(authority) if authority.host().is_empty() => Err("it has no host".to_owned()),
        Some(authority) if authority.as_str() != authority.host() && authority.port_u16().is_none() => {
            Err("its port is not from 1 to 65535".to_owned())
        }
        Some(_) => Ok(()),
    }
}

/// An HTTP client, whose requests take a thread each while they last.
#[derive(Clone, Debug)]
pub(crate) struct Http(Agent);

impl Http {
    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// No answer, or one that is too long.
    pub(crate) async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let agent = self.0.clone();
        let exchange = move || {
            let response = agent.run(request.map(|body| body.to_vec()))?;
            let (parts, mut body) = response.into_parts();
            let body = body.with_config().limit(MOST_ANSWER_BYTES).read_to_vec()?;
            Ok(Response::from_parts(parts, body.into()))
        };
        task::spawn_blocking(exchange).await?
    }
}

#[tonic::async_trait]
impl HttpClient for Http {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.send(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_with_a_scheme() {
        for right in
            ["http://localhost:4317", "https://collector.example:443", "http://[::1]:4317/", "http://collector"]
        {
            assert_eq!(check(right), Ok(()), "{right}");
        }
        for wrong in ["localhost:4317", "localhost", "ftp://localhost:4317", "http://localhost:99999", "http://:4317"] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }
}
