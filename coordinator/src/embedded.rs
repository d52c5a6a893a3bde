//! Draft and target in this process, over real gRPC on loopback: the pair that ships in the repository, or another.
//!
//! The same code path, spans and protocol as three machines. Each service has its own thread and runtime; the two models
//! share one pool of compute threads.

use std::{future, num::NonZeroUsize, sync::Arc, thread, time::Duration};

use model::{Compute, Device, EmbeddedModel, Limits, Source};
use speculative::SyntheticAcceptance;
use telemetry::{TraceFile, Tracer, names, server};
use tokio::{net::TcpListener, runtime, sync::oneshot};

use crate::Error;

/// The coordinator ends its sessions before it stops the services.
const GRACE: Duration = Duration::from_secs(1);

/// Sessions open at once.
const MOST_SESSIONS: usize = 65_536;

/// What the services serve.
#[derive(Clone, Debug)]
pub struct Models {
    /// `None` for plain AR.
    pub draft: Option<Source>,
    /// The target's.
    pub target: Source,
    /// Where the draft computes.
    pub draft_device: Device,
    /// Where the target computes.
    pub target_device: Device,
    /// Has the target accept by lot.
    pub synthetic_acceptance: Option<SyntheticAcceptance>,
}

impl Default for Models {
    fn default() -> Self {
        let draft = Some(Source::Embedded(EmbeddedModel::Draft));
        let target = Source::Embedded(EmbeddedModel::Target);
        let (draft_device, target_device) = (Device::Cpu, Device::Cpu);
        Self { draft, target, draft_device, target_device, synthetic_acceptance: None }
    }
}

/// Running services; they stop when this is dropped, or in order by [`Embedded::stop`].
#[derive(Debug)]
pub struct Embedded {
    draft: Option<Running>,
    target: Running,
}

#[derive(Debug)]
struct Running {
    url: String,
    /// Dropping it stops the service.
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Embedded {
    /// Starts the services of `models`, computing with `threads` (all processors by default); their spans go into
    /// `trace_file` too. Ready when both models are loaded.
    ///
    /// # Errors
    /// A service that does not start.
    pub async fn start(
        models: Models,
        threads: Option<NonZeroUsize>,
        trace_file: Option<TraceFile>,
    ) -> Result<Self, Error> {
        let threads = threads.or_else(|| thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
        let compute = Arc::new(Compute::new(threads));
        let Models { draft, target, draft_device, target_device, synthetic_acceptance } = models;
        let draft = draft.map(|source| {
            let (compute, trace_file) = (compute.clone(), trace_file.clone());
            let model = (source, draft_device);
            launch(Serve { side: Side::Draft, model, compute, synthetic_acceptance: None, trace_file })
        });
        let model = (target, target_device);
        let target = launch(Serve { side: Side::Target, model, compute, synthetic_acceptance, trace_file });
        let target = ready("target", target).await?;
        let draft = match draft {
            Some(draft) => Some(ready("draft", draft).await?),
            None => None,
        };
        Ok(Self { draft, target })
    }

    /// The draft's address.
    pub fn draft_url(&self) -> Option<&str> {
        self.draft.as_ref().map(|draft| draft.url.as_str())
    }

    /// The target's address.
    pub fn target_url(&self) -> &str {
        &self.target.url
    }

    /// Stops both and waits until their spans are sent.
    pub async fn stop(self) {
        for running in self.draft.into_iter().chain([self.target]) {
            let Running { stop, thread, .. } = running;
            drop(stop);
            // A service that panicked has said so; there is nothing left of it to stop.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

/// A service that is starting: its address comes when it is ready.
type Launch = (oneshot::Receiver<Result<String, String>>, oneshot::Sender<()>, Option<thread::JoinHandle<()>>);

async fn ready(side: &'static str, (address, stop, thread): Launch) -> Result<Running, Error> {
    let failed = |problem: String| Error::Embedded { side, problem };
    let url = address.await.unwrap_or_else(|_| Err("its thread ended".to_owned())).map_err(failed)?;
    let thread = thread.ok_or_else(|| failed("no thread".to_owned()))?;
    Ok(Running { url, stop, thread })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Draft,
    Target,
}

/// One service to be started.
struct Serve {
    side: Side,
    model: (Source, Device),
    compute: Arc<Compute>,
    synthetic_acceptance: Option<SyntheticAcceptance>,
    trace_file: Option<TraceFile>,
}

fn launch(serve: Serve) -> Launch {
    let (ready, address) = oneshot::channel();
    let (stop, stopped) = oneshot::channel();
    let name = if serve.side == Side::Draft { "draft-svc" } else { "target-svc" };
    let run = move || match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(serve.run(ready, stopped)),
        Err(error) => drop(ready.send(Err(error.to_string()))),
    };
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run).ok();
    (address, stop, thread)
}

impl Serve {
    async fn run(self, ready: oneshot::Sender<Result<String, String>>, stopped: oneshot::Receiver<()>) {
        let Self { side, model, compute, synthetic_acceptance, trace_file } = self;
        let (service, thread) = match side {
            Side::Draft => (names::service::DRAFT, "draft-model"),
            Side::Target => (names::service::TARGET, "target-model"),
        };
        let prepared = async {
            // Its one client bounds its own sessions, and memory does.
            let limits = Limits { max_sessions: MOST_SESSIONS, ..Limits::default() };
            let worker = ::service::load(thread, model, compute, limits, synthetic_acceptance).await?;
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let url = format!("http://{}", listener.local_addr()?);
            Ok::<_, anyhow::Error>((worker, listener, url, Tracer::recording(service, trace_file.as_ref())?))
        };
        let (worker, listener, url, tracer) = match prepared.await {
            Ok(prepared) => prepared,
            Err(problem) => return drop(ready.send(Err(problem.to_string()))),
        };
        let _ = ready.send(Ok(url));
        let (load, stop) = (future::ready(Ok(worker)), async { drop(stopped.await) });
        let config = server::Config { max_streams: MOST_SESSIONS as u32, grace: GRACE, ..server::Config::default() };
        let served = match side {
            Side::Draft => draft_svc::serve(listener, load, tracer.clone(), stop, config).await,
            Side::Target => target_svc::serve(listener, load, tracer.clone(), stop, config).await,
        };
        if let Err(error) = served {
            tracing::error!(service, %error, "the embedded service failed");
        }
        let _ = tokio::task::spawn_blocking(move || tracer.shutdown()).await;
    }
}
