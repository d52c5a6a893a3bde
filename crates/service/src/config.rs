//! The flags that both model services have.

use std::{net::SocketAddr, num::NonZeroUsize, ops::RangeInclusive, path::PathBuf, thread, time::Duration};

use clap::Args;
use model::{Device, InvalidDevice, InvalidSource, Limits, Source};
use speculative::SyntheticAcceptance;
use telemetry::{
    connections::Door,
    logs, server,
    tls::{Protocol, ServerFiles, ServerTls},
    watched::UnusableFiles,
};

/// Device, threads, limits and stopping.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Where the model computes: cpu, cuda or cuda:N (NVIDIA), metal or metal:N (Apple), as far as they are in this build, or
    /// candle-cpu, the forward of a GPU on the CPU, to try it
    #[arg(long, env = "OUTRIDER_DEVICE", value_name = "DEVICE", default_value = "cpu", value_parser = device)]
    pub device: Device,

    /// Threads that the model computes with [default: the processors that this process may use]
    #[arg(long, env = "OUTRIDER_THREADS", value_name = "N", allow_negative_numbers = true, value_parser = threads)]
    pub threads: Option<NonZeroUsize>,

    /// Sessions open at once
    #[arg(long, env = "OUTRIDER_MAX_SESSIONS", value_name = "N", default_value = "32", allow_negative_numbers = true, value_parser = whole(1..=65_536))]
    pub max_sessions: u32,

    /// Sessions open or waiting at once from one IP address
    #[arg(long, env = "OUTRIDER_MAX_SESSIONS_PER_PEER", value_name = "N", default_value = "65536", allow_negative_numbers = true, value_parser = whole(1..=65_536))]
    pub max_sessions_per_peer: u32,

    /// How long a session may be silent before it is ended, for example 30s or 10m
    #[arg(long, env = "OUTRIDER_IDLE_TIMEOUT", value_name = "DURATION", default_value = "10m", value_parser = some_time)]
    pub idle_timeout: Duration,

    /// Connections open at once; more wait to be accepted
    #[arg(long, env = "OUTRIDER_MAX_CONNECTIONS", value_name = "N", default_value = "1024", allow_negative_numbers = true, value_parser = whole(1..=1_048_576))]
    pub max_connections: u32,

    /// Connections open at once from one IP address; more are closed
    #[arg(long, env = "OUTRIDER_MAX_CONNECTIONS_PER_PEER", value_name = "N", default_value = "256", allow_negative_numbers = true, value_parser = whole(1..=1_048_576))]
    pub max_connections_per_peer: u32,

    /// Serve over TLS, with the certificate in this PEM file; it and the next two are read again when they change
    #[arg(long, env = "OUTRIDER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// The certificate's private key, a PEM file
    #[arg(long, env = "OUTRIDER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Let only those connect who have a certificate of one of the authorities in this PEM file
    #[arg(long, env = "OUTRIDER_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,

    /// Longest prompt, in tokens; the model's context bounds it too
    #[arg(long, env = "OUTRIDER_MAX_PROMPT_TOKENS", value_name = "TOKENS", default_value = "1048576", allow_negative_numbers = true, value_parser = whole(1..=1_048_576))]
    pub max_prompt_tokens: u32,

    /// Most tokens that a session may ask for
    #[arg(long, env = "OUTRIDER_MAX_OUTPUT_TOKENS", value_name = "TOKENS", default_value = "1048576", allow_negative_numbers = true, value_parser = whole(1..=1_048_576))]
    pub max_output_tokens: u32,

    /// Most proposed tokens in a cycle, 1 to 32
    #[arg(long, env = "OUTRIDER_MAX_GAMMA", value_name = "N", default_value = "32", allow_negative_numbers = true, value_parser = whole(1..=32))]
    pub max_gamma: u32,

    /// Sessions that wait to be opened when there is no room for them
    #[arg(long, env = "OUTRIDER_QUEUE_DEPTH", value_name = "N", default_value = "64", allow_negative_numbers = true, value_parser = whole(1..=65_536))]
    pub queue_depth: u32,

    /// How long a session waits to be opened, for example 500ms or 10s
    #[arg(long, env = "OUTRIDER_ADMISSION_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub admission_timeout: Duration,

    /// Bytes for the KV caches of all sessions. A session is let in when what it may come to need is free; a quarter is for
    /// what prompts share
    #[arg(long, env = "OUTRIDER_KV_BYTES", value_name = "BYTES", default_value = "4294967296", allow_negative_numbers = true, value_parser = kv_bytes)]
    pub kv_bytes: u64,

    /// Address to serve /metrics on, over HTTP; without it there is none. It says which port it got where that is 0
    #[arg(long, env = "OUTRIDER_METRICS", value_name = "ADDR", value_parser = address)]
    pub metrics: Option<SocketAddr>,

    /// What a line of the log looks like: text, or json for one object a line
    #[arg(long, env = "OUTRIDER_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: logs::Format,

    /// How long open sessions may go on after SIGTERM, for example 10s or 2m
    #[arg(long, env = "OUTRIDER_GRACE", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub grace: Duration,
}

impl Config {
    /// Threads to compute with.
    pub fn threads(&self) -> NonZeroUsize {
        self.threads.unwrap_or_else(|| thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
    }

    /// The limits that sessions are held to.
    pub fn limits(&self) -> Limits {
        Limits {
            max_sessions: self.max_sessions as usize,
            max_sessions_per_peer: self.max_sessions_per_peer as usize,
            idle_timeout: self.idle_timeout,
            max_prompt_tokens: self.max_prompt_tokens as usize,
            max_output_tokens: self.max_output_tokens as usize,
            max_gamma: self.max_gamma as usize,
            // A draft's own flag.
            max_branches: 0,
            queue_depth: self.queue_depth as usize,
            admission_timeout: self.admission_timeout,
            kv_bytes: self.kv_bytes,
        }
    }

    /// How the server is reached, and how it ends.
    ///
    /// # Errors
    /// TLS files that cannot be used.
    pub fn server(&self) -> Result<server::Config, UnusableFiles> {
        let files = self.tls_cert.clone().zip(self.tls_key.clone());
        let tls = |protocol| {
            let files = files.clone().map(|(certificate, key)| {
                let client_ca = self.tls_client_ca.clone();
                ServerTls::new(ServerFiles { certificate, key, client_ca }, protocol)
            });
            files.transpose()
        };
        let door = Door {
            tls: tls(Protocol::Http2)?,
            max_connections: self.max_connections as usize,
            max_connections_per_peer: self.max_connections_per_peer as usize,
        };
        // A coordinator has one connection for all its sessions, and some more calls to be refused or answered.
        let max_streams = self.max_sessions + self.queue_depth + server::SPARE_STREAMS;
        let metrics_tls = tls(Protocol::Http1)?;
        Ok(server::Config { door, max_streams, grace: self.grace, metrics: self.metrics, metrics_tls })
    }
}

/// The model that a flag names.
///
/// # Errors
/// Words that name no source. A file is looked for when it is loaded.
pub fn source(text: &str) -> Result<Source, String> {
    text.parse().map_err(|error: InvalidSource| error.to_string())
}

/// The device that a flag names.
///
/// # Errors
/// Words that name no device. Whether it is there is seen when a model is loaded.
pub fn device(text: &str) -> Result<Device, String> {
    text.parse().map_err(|error: InvalidDevice| error.to_string())
}

/// The acceptance by lot that a flag asks for.
///
/// # Errors
/// Anything but a number from 0 to 1.
pub fn synthetic_acceptance(text: &str) -> Result<SyntheticAcceptance, String> {
    let rate = text.parse().ok().and_then(SyntheticAcceptance::new);
    rate.ok_or_else(|| "allowed: a number, 0 to 1".to_owned())
}

/// The branches that a flag allows.
///
/// # Errors
/// Anything but a whole number from 0 to 256.
pub fn branches(text: &str) -> Result<u32, String> {
    whole(0..=256)(text)
}

/// The address that a flag names.
///
/// # Errors
/// Anything but an IP address with a port.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "allowed: an IP address with a port, for example 127.0.0.1:7101".to_owned())
}

/// A whole number in `range`, which the message names whatever was given instead.
fn whole(range: RangeInclusive<u32>) -> impl Fn(&str) -> Result<u32, String> + Clone {
    move |text| {
        let value = text.parse().ok().filter(|value| range.contains(value));
        value.ok_or_else(|| format!("allowed: a whole number, {} to {}", range.start(), range.end()))
    }
}

fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let threads = whole(1..=1024)(text)?;
    NonZeroUsize::new(threads as usize).ok_or_else(|| "allowed: 1 or more".to_owned())
}

fn kv_bytes(text: &str) -> Result<u64, String> {
    let value = text.parse().ok().filter(|&bytes| bytes > 0);
    value.ok_or_else(|| "allowed: a whole number, 1 or more".to_owned())
}

fn some_time(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration.is_zero() { Err("allowed: above 0, for example 10m".to_owned()) } else { Ok(duration) }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}, allowed: for example 10s or 2m"))
}
