//! Draft and target in this process, over real gRPC on loopback, with the pair that ships in the repository.
//!
//! The same code path, spans and protocol as three machines. Each service has its own thread and runtime; the two models
//! share one pool of compute threads.

use std::{future, num::NonZeroUsize, sync::Arc, thread, time::Duration};

use model::{Compute, EmbeddedModel, Limits, Source};
use telemetry::{Tracer, names};
use tokio::{net::TcpListener, runtime, sync::oneshot};

use crate::Error;

/// The coordinator ends its sessions before it stops the services.
const GRACE: Duration = Duration::from_secs(1);

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
    /// Starts a target, and a draft unless decoding is plain AR, computing with `threads` (all processors by default).
    /// Ready when both models are loaded.
    ///
    /// # Errors
    /// A service that does not start.
    pub async fn start(with_draft: bool, threads: Option<NonZeroUsize>) -> Result<Self, Error> {
        let threads = threads.or_else(|| thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
        let compute = Arc::new(Compute::new(threads));
        let target = launch("target", EmbeddedModel::Target, compute.clone());
        let draft = with_draft.then(|| launch("draft", EmbeddedModel::Draft, compute));
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

fn launch(side: &'static str, model: EmbeddedModel, compute: Arc<Compute>) -> Launch {
    let (ready, address) = oneshot::channel();
    let (stop, stopped) = oneshot::channel();
    let run = move || match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(serve(side, model, compute, ready, stopped)),
        Err(error) => drop(ready.send(Err(error.to_string()))),
    };
    let thread = thread::Builder::new().name(format!("{side}-svc")).spawn(run).ok();
    (address, stop, thread)
}

async fn serve(
    side: &'static str,
    model: EmbeddedModel,
    compute: Arc<Compute>,
    ready: oneshot::Sender<Result<String, String>>,
    stopped: oneshot::Receiver<()>,
) {
    let (service, thread) = match model {
        EmbeddedModel::Draft => (names::service::DRAFT, "draft-model"),
        EmbeddedModel::Target => (names::service::TARGET, "target-model"),
    };
    let prepared = async {
        let worker = ::service::load(thread, Source::Embedded(model), compute, Limits::default()).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        Ok::<_, anyhow::Error>((worker, listener, url, Tracer::from_env(service)?))
    };
    let (worker, listener, url, tracer) = match prepared.await {
        Ok(prepared) => prepared,
        Err(problem) => return drop(ready.send(Err(problem.to_string()))),
    };
    let _ = ready.send(Ok(url));
    let (load, stop) = (future::ready(Ok(worker)), async { drop(stopped.await) });
    let served = match model {
        EmbeddedModel::Draft => draft_svc::serve(listener, load, tracer.clone(), stop, GRACE).await,
        EmbeddedModel::Target => target_svc::serve(listener, load, tracer.clone(), stop, GRACE).await,
    };
    if let Err(error) = served {
        tracing::error!(side, %error, "the embedded service failed");
    }
    let _ = tokio::task::spawn_blocking(move || tracer.shutdown()).await;
}
