//! The coordinator as a service: one pair, many requests at once, over an HTTP API like OpenAI's and over gRPC.
//!
//! # Layout
//! - [`serve`]: the service on its [`Doors`], with a pair that `load` brings
//! - `routes`: what answers where
//! - `parse`, `fields`: a body to what is generated, each refusal with the field named
//! - [`Keys`]: who may use the API
//! - `answer`: admission, and an answer in one piece
//! - `stream`: the same as server-sent events
//! - `generation`: the same over gRPC
//! - `metrics`: what has been counted
//! - `openai`, `logprobs`: what goes over the wire
//! - `refusal`: why there is no answer, as a status and OpenAI's error object

mod answer;
mod fields;
mod generation;
mod keys;
mod logprobs;
mod metrics;
mod openai;
mod parse;
mod refusal;
mod routes;
mod stream;

use std::{
    convert::Infallible,
    future::Future,
    io,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use proto::v1::{
    DescribeResponse,
    generation_service_server::{self, GenerationServiceServer},
};
use speculative::policy::Gamma;
use telemetry::{
    Tracer,
    connections::Door,
    http,
    metrics::Exporter,
    names,
    server::{self, Closing},
    tls::ServerTls,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time,
};
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{Deadlines, Error, Pair, TraceCycles, replicas::Presence};
use generation::Generation;
pub use keys::Keys;
use metrics::Metrics;
use refusal::Refusal;

/// How the service is run.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Proposed tokens of a cycle where the request does not say; 0 is AR.
    pub gamma: Gamma,
    /// Branches that the draft may draft ahead for each choice; 0 is none.
    pub branches: usize,
    /// What ends a proposal early; 0 is off.
    pub min_confidence: f32,
    /// Connections open at once, at each door.
    pub max_connections: usize,
    /// Of these, from one IP address.
    pub max_connections_per_peer: usize,
    /// How long a connection may take to bring the head of a request.
    pub header_timeout: Duration,
    /// The largest body of a request, in bytes.
    pub max_body_bytes: usize,
    /// Choices that are generated at once, over all requests.
    pub max_concurrent: usize,
    /// How long a request may take, from its body to its last token.
    pub request_timeout: Duration,
    /// How long requests may go on after the stop.
    pub grace: Duration,
    /// How long the model services may take to answer.
    pub deadlines: Deadlines,
    /// Whether prompts and outputs are recorded in spans.
    pub record_content: bool,
    /// Which cycles have spans.
    pub trace_cycles: TraceCycles,
}

/// Where the service is reached.
#[derive(Debug)]
pub struct Doors {
    /// For the HTTP API.
    pub http: TcpListener,
    /// For the gRPC API, where it is served.
    pub grpc: Option<TcpListener>,
    /// For encrypted connections: the side of HTTP, and that of gRPC.
    pub tls: Option<(ServerTls, ServerTls)>,
}

/// How often it is looked who is at the target's addresses, how often in a row another model must be there alone before it
/// has taken the place, and how long they may take to say.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
const SUCCESSION_LOOKS: u32 = 2;
const PRESENCE_LIMIT: Duration = Duration::from_secs(2);

/// The gRPC service.
const SERVICE: &str = generation_service_server::SERVICE_NAME;

/// A pair, and what makes the spans of those who use it.
type Served = Arc<(Pair, Tracer)>;

/// What all requests share.
#[derive(Debug)]
struct App {
    config: Config,
    /// Not there until it is loaded; a request keeps the one that it began with.
    pair: Arc<RwLock<Option<Served>>>,
    keys: Keys,
    slots: Arc<Semaphore>,
    metrics: Metrics,
    closing: Closing,
}

impl App {
    fn pair(&self) -> Result<Served, Refusal> {
        read(&self.pair).ok_or(Refusal::Loading)
    }

    fn set_pair(&self, pair: (Pair, Tracer)) {
        *self.pair.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(pair));
    }

    /// Who is at the target's addresses.
    async fn presence(&self) -> Presence {
        match read(&self.pair) {
            Some(served) => served.0.target.presence(PRESENCE_LIMIT).await,
            None => Presence::Nobody,
        }
    }

    /// Watches who is at the target's addresses: says whether there is a target, and goes over to another model where that has
    /// taken the place. Never ends.
    async fn watch(&self, sign: &Sign) -> Infallible {
        let (mut told, mut others) = (None, 0);
        loop {
            time::sleep(WATCH_INTERVAL).await;
            let presence = self.presence().await;
            sign.say(if presence == Presence::Fitting { ServingStatus::Serving } else { ServingStatus::NotServing })
                .await;
            match presence {
                Presence::Others => others += 1,
                // One that did not answer in time once is not gone.
                Presence::Nobody => others = 0,
                Presence::Fitting => (told, others) = (None, 0),
            }
            if others < SUCCESSION_LOOKS {
                continue;
            }
            match self.succeed().await {
                Ok(()) => others = 0,
                Err(error) if told.as_ref() == Some(&error.to_string()) => {}
                Err(error) => {
                    tracing::warn!(%error, "another model has taken the target's place and cannot be used");
                    told = Some(error.to_string());
                }
            }
        }
    }

    /// Goes over to the models that are at the addresses now.
    async fn succeed(&self) -> Result<(), Error> {
        let Some(served) = read(&self.pair) else { return Ok(()) };
        let (pair, tracer) = &*served;
        let successor = pair.anew().await?;
        let (from, to) = (&pair.target.description, &successor.target.description);
        let of = |description: &DescribeResponse| {
            (description.model_fingerprint.clone(), description.arithmetic_fingerprint.clone())
        };
        if of(from) == of(to) {
            // It is back.
            return Ok(());
        }
        tracing::info!(from = from.model, to = to.model, "another model has taken the target's place");
        self.set_pair((successor, tracer.clone()));
        Ok(())
    }
}

/// What gRPC's health service says.
struct Sign {
    health: HealthReporter,
    stopped: watch::Receiver<bool>,
}

impl Sign {
    /// Until the stop, which has the last word.
    async fn say(&self, status: ServingStatus) {
        let stopping = *self.stopped.borrow();
        if !stopping {
            self.set(status).await;
        }
    }

    async fn set(&self, status: ServingStatus) {
        for service in [SERVICE, ""] {
            self.health.set_service_status(service, status).await;
        }
    }
}

fn read(pair: &RwLock<Option<Served>>) -> Option<Served> {
    pair.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Serves at `doors`, for those who have one of `keys`, until `stop` resolves; requests are refused until `load` has
/// brought the pair. After `stop` nothing new is accepted, and what runs has [`Config::grace`] to end.
///
/// # Errors
/// A pair that cannot be had, or a server that fails.
pub async fn serve<E: From<io::Error>>(
    config: Config,
    keys: Keys,
    doors: Doors,
    load: impl Future<Output = Result<(Pair, Tracer), E>>,
    stop: impl Future<Output = ()>,
) -> Result<(), E> {
    let (switch, closing) = Closing::channel();
    let slots = Arc::new(Semaphore::new(config.max_concurrent));
    let pair = Arc::<RwLock<Option<Served>>>::default();
    let served = pair.clone();
    let metrics = Metrics::new(move || read(&served).map(|served| served.1.clone()));
    let exporter = Exporter::start(names::service::COORDINATOR, metrics.all()).map_err(io::Error::other)?;
    let app = Arc::new(App { config, pair, keys, slots, metrics, closing });

    let (stopping, stopped) = watch::channel(false);
    let told = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that the sender is gone, and with it what would be served.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let Doors { http, grpc, tls } = doors;
    let door = |tls| Door {
        tls,
        max_connections: config.max_connections,
        max_connections_per_peer: config.max_connections_per_peer,
    };
    let (http_tls, grpc_tls) = tls.unzip();
    let routes = routes::router(app.clone());
    let http = http::serve(http, door(http_tls), routes, config.header_timeout, told(stopped.clone()));

    let service = GenerationServiceServer::new(Generation { app: app.clone() });
    let service = service.max_decoding_message_size(config.max_body_bytes);
    let routes = server::with_health_and_reflection(Routes::new(service), &[SERVICE], proto::DESCRIPTORS).await;
    let (routes, health) = routes.map_err(io::Error::other)?;
    let sign = Sign { health, stopped: stopped.clone() };
    sign.set(ServingStatus::NotServing).await;
    let grpc = async {
        let Some(listener) = grpc else { return Ok(()) };
        let max_streams = (config.max_concurrent as u32).saturating_add(server::SPARE_STREAMS);
        let (door, grace) = (door(grpc_tls), config.grace);
        let server = server::Config { door, max_streams, grace, ..server::Config::default() };
        let stopped = async {
            told(stopped.clone()).await;
            sign.set(ServingStatus::NotServing).await;
        };
        server::serve(listener, routes, stopped, server, switch.clone()).await.map_err(io::Error::other)
    };
    let loaded = async {
        let pair = load.await?;
        tracing::info!(model = pair.0.target.description.model, "outrider is ready");
        app.set_pair(pair);
        sign.say(ServingStatus::Serving).await;
        match app.watch(&sign).await {}
    };
    let last_call = async {
        stop.await;
        let _ = stopping.send(true);
        tracing::info!(grace_s = config.grace.as_secs_f64(), "stopping, running requests may end");
        time::sleep(config.grace).await;
        let _ = switch.send(true);
        // Long enough for every client to be told.
        time::sleep(Duration::from_secs(1)).await;
        tracing::warn!("the grace period is over and connections are still open");
    };
    let served = tokio::select! {
        // A pair that is here already is set before the first request is read.
        biased;
        failed = loaded => failed,
        served = async { tokio::join!(http, grpc).1 } => served.map_err(E::from),
        () = last_call => Ok(()),
    };
    if let Some(exporter) = exporter {
        exporter.stop().await;
    }
    served
}
