//! The coordinator as a service: one pair, many requests at once, over an HTTP API like OpenAI's.
//!
//! # Layout
//! - [`serve`]: the service on a listener, with a pair that `load` brings
//! - `routes`: what answers where
//! - `parse`, `fields`: a body to what is generated, each refusal with the field named
//! - `connections`: how many, how slow, and how they end
//! - [`Keys`]: who may use the API
//! - `answer`: admission, and an answer in one piece
//! - `stream`: the same as server-sent events
//! - `openai`, `logprobs`: what goes over the wire
//! - `refusal`: why there is no answer, as a status and OpenAI's error object

mod answer;
mod connections;
mod fields;
mod keys;
mod logprobs;
mod openai;
mod parse;
mod refusal;
mod routes;
mod stream;

use std::{
    future::{self, Future},
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use telemetry::{Tracer, server::Closing};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time,
};

use crate::{Deadlines, Pair};
pub use keys::{InvalidKeys, Keys};
use refusal::Refusal;

/// How the service is run.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Proposed tokens of a cycle where the request does not say; 0 is AR.
    pub gamma: usize,
    /// Connections open at once.
    pub max_connections: usize,
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
}

/// What all requests share.
#[derive(Debug)]
struct App {
    config: Config,
    /// Not there until it is loaded.
    pair: OnceLock<(Pair, Tracer)>,
    keys: Keys,
    slots: Arc<Semaphore>,
    closing: Closing,
}

impl App {
    fn pair(&self) -> Result<&(Pair, Tracer), Refusal> {
        self.pair.get().ok_or(Refusal::Loading)
    }
}

/// Serves on `listener`, for those who have one of `keys`, until `stop` resolves; requests are refused until `load` has brought the pair. After `stop` nothing
/// new is accepted, and what runs has [`Config::grace`] to end.
///
/// # Errors
/// A pair that cannot be had.
pub async fn serve<E: From<io::Error>>(
    config: Config,
    keys: Keys,
    listener: TcpListener,
    load: impl Future<Output = Result<(Pair, Tracer), E>>,
    stop: impl Future<Output = ()>,
) -> Result<(), E> {
    let (switch, closing) = Closing::channel();
    let slots = Arc::new(Semaphore::new(config.max_concurrent));
    let app = Arc::new(App { config, pair: OnceLock::new(), keys, slots, closing });

    let (stopping, stopped) = watch::channel(false);
    let told = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that the sender is gone, and with it what would be served.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let routes = routes::router(app.clone());
    let server =
        connections::serve(listener, routes, config.max_connections, config.header_timeout, told(stopped.clone()));
    let loaded = async {
        let pair = load.await?;
        tracing::info!(model = pair.0.target.description.model, "outrider is ready");
        app.pair.set(pair).expect("the pair is loaded once");
        future::pending::<Result<(), E>>().await
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
    tokio::select! {
        // A pair that is here already is set before the first request is read.
        biased;
        failed = loaded => failed,
        () = server => Ok(()),
        () = last_call => Ok(()),
    }
}
