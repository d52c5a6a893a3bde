//! The service's flags.

use std::{env, net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use speculative::policy::Gamma;
use telemetry::{
    tls::{Protocol, ServerFiles, ServerTls},
    watched::UnusableFiles,
};

use super::{ProposalArgs, ServiceArgs, duration, whole};
use crate::{
    Deadlines,
    serve::{Config, Keys},
};

/// The largest limit on a body, in bytes.
const MOST_BODY_BYTES: u64 = 1 << 30;

#[derive(Args, Debug)]
pub(in crate::cli) struct ServeArgs {
    /// Address to listen on; it says which port it got where that is 0
    #[arg(long, env = "OUTRIDER_HTTP", value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = address)]
    pub(in crate::cli) http: SocketAddr,

    /// Address to serve the gRPC API on, outrider.v1.GenerationService; without it there is none
    #[arg(long, env = "OUTRIDER_GRPC", value_name = "ADDR", value_parser = address)]
    pub(in crate::cli) grpc: Option<SocketAddr>,

    /// Serve over TLS, with the certificate in this PEM file; it and the next two are read again when they change
    #[arg(long, env = "OUTRIDER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The certificate's private key, a PEM file
    #[arg(long, env = "OUTRIDER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Let only those connect who have a certificate of one of the authorities in this PEM file
    #[arg(long, env = "OUTRIDER_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,

    /// Tokens that the draft proposes in a cycle where the request does not say, 0 to 32; 0 decodes with the target alone,
    /// auto has each cycle choose what promises most
    #[arg(long, env = "OUTRIDER_GAMMA", value_name = "N|auto", default_value = "auto", allow_negative_numbers = true)]
    gamma: Gamma,

    /// Serve the target alone, without a draft
    #[arg(long, conflicts_with = "gamma")]
    pub(in crate::cli) ar: bool,

    #[command(flatten)]
    proposals: ProposalArgs,

    /// Serve only those who send one of the keys in this file as a bearer token: one a line, lines that begin with # do not
    /// count. It is read again when it changes. The variable OUTRIDER_API_KEY holds one key more
    #[arg(long, env = "OUTRIDER_API_KEY_FILE", value_name = "FILE")]
    api_key_file: Option<PathBuf>,

    /// Connections open at once, at each address; more wait to be accepted
    #[arg(long, env = "OUTRIDER_MAX_CONNECTIONS", value_name = "N", default_value = "1024", allow_negative_numbers = true, value_parser = whole::<usize>(1..=1_048_576))]
    max_connections: usize,

    /// Connections open at once from one IP address; more are closed
    #[arg(long, env = "OUTRIDER_MAX_CONNECTIONS_PER_PEER", value_name = "N", default_value = "1024", allow_negative_numbers = true, value_parser = whole::<usize>(1..=1_048_576))]
    max_connections_per_peer: usize,

    /// How long a connection may take to bring the head of a request, also after the last one
    #[arg(long, env = "OUTRIDER_HEADER_TIMEOUT", value_name = "DURATION", default_value = "30s", allow_hyphen_values = true, value_parser = duration)]
    header_timeout: Duration,

    /// The largest body of a request
    #[arg(long, env = "OUTRIDER_MAX_BODY_BYTES", value_name = "BYTES", default_value = "4194304", allow_negative_numbers = true, value_parser = whole::<usize>(1..=MOST_BODY_BYTES))]
    max_body_bytes: usize,

    /// Choices that are generated at once, over all requests; more are refused. No more than the services' --max-sessions
    #[arg(long, env = "OUTRIDER_MAX_CONCURRENT", value_name = "N", default_value = "32", allow_negative_numbers = true, value_parser = whole::<usize>(1..=65_536))]
    max_concurrent: usize,

    /// How long a request may take, from its first byte to its last token
    #[arg(long, env = "OUTRIDER_REQUEST_TIMEOUT", value_name = "DURATION", default_value = "10m", allow_hyphen_values = true, value_parser = duration)]
    request_timeout: Duration,

    /// How long running requests may go on after SIGTERM or Ctrl-C, for example 10s or 2m
    #[arg(long, env = "OUTRIDER_GRACE", value_name = "DURATION", default_value = "10s", allow_hyphen_values = true, value_parser = duration)]
    grace: Duration,

    #[command(flatten)]
    pub(in crate::cli) services: ServiceArgs,
}

impl ServeArgs {
    /// The keys of the file and of the environment, which no list of processes shows.
    pub(in crate::cli) fn keys(&self) -> Result<Keys, UnusableFiles> {
        let key = env::var("OUTRIDER_API_KEY").ok().filter(|key| !key.is_empty());
        Keys::new(key.as_deref(), self.api_key_file.clone())
    }

    /// The sides of HTTP and of gRPC, where both are encrypted.
    pub(in crate::cli) fn tls(&self) -> Result<Option<(ServerTls, ServerTls)>, UnusableFiles> {
        let Some((certificate, key)) = self.tls_cert.clone().zip(self.tls_key.clone()) else { return Ok(None) };
        let files = ServerFiles { certificate, key, client_ca: self.tls_client_ca.clone() };
        Ok(Some((ServerTls::new(files.clone(), Protocol::Http1)?, ServerTls::new(files, Protocol::Http2)?)))
    }

    pub(in crate::cli) fn config(&self) -> Config {
        Config {
            gamma: if self.ar { Gamma::Fixed(0) } else { self.gamma },
            branches: self.proposals.branches(self.services.target.is_none()),
            min_confidence: self.proposals.min_confidence,
            max_connections: self.max_connections,
            max_connections_per_peer: self.max_connections_per_peer,
            header_timeout: self.header_timeout,
            max_body_bytes: self.max_body_bytes,
            max_concurrent: self.max_concurrent,
            request_timeout: self.request_timeout,
            grace: self.grace,
            // A service is there for speed, and not to find out what drafting costs.
            deadlines: Deadlines { draft_adapts: true, ..self.services.deadlines() },
            record_content: self.services.record_content,
            trace_cycles: self.services.trace_cycles,
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "allowed: an IP address with a port, for example 127.0.0.1:8080".to_owned())
}
