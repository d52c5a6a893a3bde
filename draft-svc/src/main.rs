//! `draft-svc`: a draft model behind `outrider.v1.DraftService`.

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use anyhow::anyhow;
use clap::Parser;
use model::{Compute, Source};
use telemetry::{Tracer, logs, names, server};
use tokio::net::TcpListener;

/// Serves a draft model: it proposes the tokens that a target then verifies
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The model: a .gguf file, a Hugging Face folder, hf:OWNER/NAME[:FILE], embedded:target, embedded:draft, synthetic:NAME[:DTYPE]
    /// (grown-gpt2, nanogpt, gpt2-small, llama-1b, llama-3b, llama-8b), or a .safetensors file with its .json beside it
    #[arg(long, env = "OUTRIDER_MODEL", value_name = "MODEL", default_value = "embedded:draft", value_parser = service::source)]
    model: Source,

    /// Address to listen on; it says which port it got where that is 0
    #[arg(long, env = "OUTRIDER_LISTEN", value_name = "ADDR", value_parser = service::address, default_value = "127.0.0.1:7101")]
    listen: SocketAddr,

    #[command(flatten)]
    config: service::Config,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    logs::init("info", args.config.log_format);
    service::exit(run(args).await)
}

async fn run(Args { model, listen, config }: Args) -> anyhow::Result<()> {
    let tracer = Tracer::from_env(names::service::DRAFT)?;
    let server = config.server()?;
    let listener = TcpListener::bind(listen).await.map_err(|error| anyhow!("cannot listen on {listen}: {error}"))?;
    tracing::info!(address = %listener.local_addr()?, %model, "draft-svc listens");

    let (compute, limits) = (Arc::new(Compute::new(config.threads())), config.limits());
    let load = service::load("draft-model", (model, config.device), compute, limits, None);
    let load = service::measured(load);
    let served = draft_svc::serve(listener, load, tracer.clone(), server::termination(), server).await;
    tokio::task::spawn_blocking(move || tracer.shutdown()).await?;
    Ok(served?)
}
