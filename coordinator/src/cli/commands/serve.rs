//! `outrider serve`.

use std::net::SocketAddr;

use anyhow::Context;
use telemetry::server;
use tokio::{net::TcpListener, signal};

use super::pair::{Connected, Place, Setup};
use crate::{
    cli::{End, args::ServeArgs},
    serve::Doors,
};

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Serves until SIGTERM, which is no failure, or Ctrl-C.
pub(in crate::cli) async fn serve(args: ServeArgs) -> anyhow::Result<End> {
    telemetry::logs::init("info", args.services.log_format);
    let place = Place::of(&args.services, !args.ar);
    let (keys, tls) = (args.keys()?, args.tls()?);
    let http = listen(args.http).await?;
    let grpc = match args.grpc {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let grpc_address = grpc.as_ref().and_then(|grpc| grpc.local_addr().ok());
    tracing::info!(address = %http.local_addr()?, grpc = grpc_address.map(tracing::field::display), tls = tls.is_some(), "outrider listens");
    let doors = Doors { http, grpc, tls };

    let setup = Setup { trace_file: None, measure_roofs: true, patient: true };
    let (mut connected, mut end) = (None, End::Done);
    let load = async {
        let Connected { pair, tracer, .. } = &*connected.insert(Connected::new(place, setup).await?);
        Ok::<_, anyhow::Error>((pair.clone(), tracer.clone()))
    };
    let stop = async {
        tokio::select! {
            biased;
            _ = signal::ctrl_c() => end = End::Interrupted,
            () = server::termination() => {}
        }
    };
    let served = crate::serve::serve(args.config(), keys, doors, load, stop).await;
    if let Some(connected) = connected {
        connected.close().await;
    }
    served.map(|()| end)
}
