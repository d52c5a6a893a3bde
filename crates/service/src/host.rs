//! A model service from bind to stop.

use std::{
    fmt::Display,
    future::{self, Future},
    hash::{BuildHasher, RandomState},
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, OnceLock},
};

use model::{Compute, Decoder, Device, Limits, LoadError, Source, Worker};
use speculative::SyntheticAcceptance;
use telemetry::{
    ExportError, Tracer,
    connections::{Door, Peer, Share, Shares},
    metrics,
    server::{self, Closing},
};
use tokio::{net::TcpListener, sync::watch, task};
use tonic::{Status, service::Routes, transport};
use tonic_health::ServingStatus;

use crate::{metrics::Metrics, session::SharedForwards};

/// Why a service ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Nothing runs the model any more.
    #[error("the model's thread has ended")]
    Stopped,
    /// No thread for the model.
    #[error("the model's thread cannot be started: {0}")]
    Thread(#[from] io::Error),
    /// The descriptors for reflection cannot be read.
    #[error("reflection cannot be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The address for metrics cannot be listened on.
    #[error("cannot listen on {address} for metrics: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        error: io::Error,
    },
    /// Metrics cannot be exported as configured.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The server failed.
    #[error("the server failed: {0}")]
    Transport(#[from] transport::Error),
}

/// The model of a service, once it is loaded, and what its sessions need. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Host {
    worker: Arc<OnceLock<Worker>>,
    tracer: Tracer,
    closing: Closing,
    switch: watch::Sender<bool>,
    incarnation: Arc<str>,
    sessions: Shares,
    service: &'static str,
    metrics: Arc<Metrics>,
    forwards: Arc<SharedForwards>,
}

impl Host {
    /// A host of the service that is named so (see [`telemetry::names::service`]), whose model is still to come.
    pub fn new(service: &'static str, tracer: Tracer) -> Self {
        let (switch, closing) = Closing::channel();
        let incarnation = format!("{:016x}", RandomState::new().hash_one(())).into();
        let worker = Arc::<OnceLock<Worker>>::default();
        let metrics = Arc::new(Metrics::new(worker.clone(), tracer.clone()));
        let (sessions, forwards) = (Shares::default(), Arc::default());
        Self { worker, tracer, closing, switch, incarnation, sessions, service, metrics, forwards }
    }

    /// The model's handle.
    ///
    /// # Errors
    /// `UNAVAILABLE` while it is loading.
    pub fn worker(&self) -> Result<&Worker, Status> {
        self.worker.get().ok_or_else(|| Status::unavailable("the model is still loading"))
    }

    /// Tells this service apart from the one that was at its address before.
    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }

    /// Makes the spans of this service.
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn forwards(&self) -> &SharedForwards {
        &self.forwards
    }

    /// One more session of a peer.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` where it has as many as it may have.
    pub(crate) fn admit(&self, peer: Option<&Peer>) -> Result<Option<Share>, Status> {
        // While the model is loading no session opens.
        let Some((worker, peer)) = self.worker.get().zip(peer) else { return Ok(None) };
        let most = worker.limits().max_sessions_per_peer;
        match self.sessions.take(peer.address.ip(), most) {
            Some(share) => Ok(Some(share)),
            None => {
                self.metrics.refused_for("peer");
                Err(Status::resource_exhausted(format!(
                    "max_sessions_per_peer reached, allowed: {most} sessions of one peer at once"
                )))
            }
        }
    }

    /// Resolves when open streams must end.
    pub async fn closing(&self) {
        self.closing.clone().wait().await;
    }
}

/// The exit status of a service, after one line that says why it failed.
pub fn exit(outcome: Result<(), impl Display>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever reads standard error may have gone; the status says as much.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Loads `source` onto `device` and starts the thread, named `name`, that owns it; with `synthetic_acceptance` it accepts
/// by lot.
///
/// # Errors
/// A model that cannot be loaded, or no thread.
pub async fn load(
    name: &'static str,
    (source, device): (Source, Device),
    compute: Arc<Compute>,
    limits: Limits,
    synthetic_acceptance: Option<SyntheticAcceptance>,
) -> Result<Worker, Error> {
    let load = move || {
        let decoder = device.load(&source, compute)?;
        let model = decoder.description();
        tracing::info!(model = model.name, parameters = model.parameters, device = model.device, "model loaded");
        Ok(Worker::spawn_accepting(name, decoder, limits, synthetic_acceptance)?)
    };
    task::spawn_blocking(load).await.expect("loading does not panic")
}

/// The same, and has it measure its roofs while nothing else runs.
///
/// # Errors
/// As [`load`].
pub async fn measured(load: impl Future<Output = Result<Worker, Error>>) -> Result<Worker, Error> {
    let worker = load.await?;
    worker.roofs(true).await;
    Ok(worker)
}

/// Serves `routes` on `listener`. `services` (full names) are `NOT_SERVING` until `load` has brought the
/// model; after `stop` open sessions get the grace period to end.
///
/// # Errors
/// A model that cannot be loaded or whose thread ends, or a server that fails.
pub async fn serve(
    host: Host,
    listener: TcpListener,
    (routes, services): (Routes, &[&str]),
    load: impl Future<Output = Result<Worker, Error>>,
    stop: impl Future<Output = ()>,
    config: server::Config,
) -> Result<(), Error> {
    let metrics = host.metrics.all();
    let told = tell(metrics.clone(), &config).await?;
    let exporter = metrics::Exporter::start(host.service, metrics)?;
    let (routes, health) = server::with_health_and_reflection(routes, services, proto::DESCRIPTORS).await?;
    for service in services {
        health.set_service_status(service, ServingStatus::NotServing).await;
    }
    let loaded = async {
        let worker = load.await?;
        host.worker.set(worker.clone()).expect("a host is loaded once");
        for service in services.iter().chain(&[""]) {
            health.set_service_status(service, ServingStatus::Serving).await;
        }
        worker.stopped().await;
        Err::<(), _>(Error::Stopped)
    };
    let stop = async {
        stop.await;
        for service in services.iter().chain(&[""]) {
            health.set_service_status(service, ServingStatus::NotServing).await;
        }
    };
    let served = tokio::select! {
        // A model that is here already is set before the first request is read.
        biased;
        failed = loaded => failed,
        served = server::serve(listener, routes, stop, config, host.switch.clone()) => served.map_err(Error::from),
        () = told => Ok(()),
    };
    if let Some(exporter) = exporter {
        exporter.stop().await;
    }
    served
}

/// Answers `/metrics` where the configuration says so; never ends.
async fn tell(
    metrics: Arc<metrics::Metrics>,
    config: &server::Config,
) -> Result<impl Future<Output = ()> + use<>, Error> {
    let door = Door { tls: config.metrics_tls.clone(), ..config.door.clone() };
    let listener = match config.metrics {
        None => None,
        Some(address) => {
            let listener = TcpListener::bind(address).await.map_err(|error| Error::Listen { address, error })?;
            let address = listener.local_addr().unwrap_or(address);
            tracing::info!(%address, "metrics are told at /metrics");
            Some(listener)
        }
    };
    Ok(async move {
        if let Some(listener) = listener {
            metrics::serve(listener, door, metrics, future::pending()).await;
        }
        future::pending::<()>().await;
    })
}
