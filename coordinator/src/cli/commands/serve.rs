//! `outrider serve`.

use anyhow::Context;
use telemetry::server;
use tokio::{net::TcpListener, signal};

use super::pair::{Connected, Place};
use crate::cli::{End, args::ServeArgs};

/// Serves until SIGTERM, which is no failure, or Ctrl-C.
pub(in crate::cli) async fn serve(args: ServeArgs) -> anyhow::Result<End> {
    telemetry::logs::init("info");
    let place = Place::of(&args.services, !args.ar);
    let keys = args.keys()?;
    let listener = TcpListener::bind(args.http).await.with_context(|| format!("cannot listen on {}", args.http))?;
    tracing::info!(address = %listener.local_addr()?, "outrider listens");

    let (mut connected, mut end) = (None, End::Done);
    let load = async {
        let Connected { pair, tracer, .. } = &*connected.insert(Connected::new(place).await?);
        Ok::<_, anyhow::Error>((pair.clone(), tracer.clone()))
    };
    let stop = async {
        tokio::select! {
            biased;
            _ = signal::ctrl_c() => end = End::Interrupted,
            () = server::termination() => {}
        }
    };
    let served = crate::serve::serve(args.config(), keys, listener, load, stop).await;
    if let Some(connected) = connected {
        connected.close().await;
    }
    served.map(|()| end)
}
