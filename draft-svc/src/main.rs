//! `draft-svc`: a draft model behind `outrider.v1.DraftService`.

use std::{fmt, net::SocketAddr, process::ExitCode, str::FromStr, sync::Arc};

use anyhow::anyhow;
use clap::Parser;
use model::{Compute, Limits, Source, Worker};
use telemetry::{Tracer, logs, names, server};
use tokio::net::TcpListener;

/// Serves a draft model: it proposes the tokens that a target then verifies
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The model: a .gguf file, a Hugging Face folder, hf:OWNER/NAME[:FILE], embedded:target, embedded:draft, synthetic:NAME[:DTYPE]
    /// (grown-gpt2, nanogpt, gpt2-small, llama-1b, llama-3b, llama-8b), or a .safetensors file with its .json beside it; or ngram,
    /// which has no model and goes on as the session's own text did before
    #[arg(long, env = "OUTRIDER_MODEL", value_name = "MODEL", default_value = "embedded:draft")]
    model: Drafter,

    /// Address to listen on; it says which port it got where that is 0
    #[arg(long, env = "OUTRIDER_LISTEN", value_name = "ADDR", value_parser = service::address, default_value = "127.0.0.1:7101")]
    listen: SocketAddr,

    /// Most branches that a session may have drafted ahead, for verdicts that are not there yet, 0 to 256; each takes a page of the
    /// caches' memory
    #[arg(long, env = "OUTRIDER_MAX_BRANCHES", value_name = "N", default_value = "64", allow_negative_numbers = true, value_parser = service::branches)]
    max_branches: u32,

    #[command(flatten)]
    config: service::Config,
}

/// What proposes.
#[derive(Clone, Debug)]
enum Drafter {
    Model(Source),
    Ngram,
}

impl FromStr for Drafter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ngram" => Ok(Self::Ngram),
            text => service::source(text).map(Self::Model),
        }
    }
}

impl fmt::Display for Drafter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(source) => source.fmt(f),
            Self::Ngram => f.write_str("ngram"),
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    logs::init("info", args.config.log_format);
    service::exit(run(args).await)
}

async fn run(Args { model, listen, max_branches, config }: Args) -> anyhow::Result<()> {
    let tracer = Tracer::from_env(names::service::DRAFT)?;
    let server = config.server()?;
    let listener = TcpListener::bind(listen).await.map_err(|error| anyhow!("cannot listen on {listen}: {error}"))?;
    tracing::info!(address = %listener.local_addr()?, %model, "draft-svc listens");

    let limits = Limits { max_branches: max_branches as usize, ..config.limits() };
    let compute = Arc::new(Compute::new(config.threads()));
    let load = async {
        match model {
            Drafter::Model(source) => {
                let load = service::load("draft-model", (source, config.device), compute, limits, None);
                service::measured(load).await
            }
            Drafter::Ngram => Ok(Worker::ngram(limits)),
        }
    };
    let served = draft_svc::serve(listener, load, tracer.clone(), server::termination(), server).await;
    tokio::task::spawn_blocking(move || tracer.shutdown()).await?;
    Ok(served?)
}
