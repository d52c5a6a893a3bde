//! What tracing costs where every cycle is exported: `cargo bench -p outrider-tests --bench tracing [PAIRS]`.
//!
//! The embedded pair in this process, greedy, γ 4, 256 tokens: runs that are traced alternate with runs that are not. The receiver
//! shares the processors too, though not as a rule elsewhere, so it takes what comes and does not look into it. Then the same with
//! a receiver that takes connections and never says a word, to which all spans are lost.

use std::{
    convert::Infallible,
    env, future,
    net::{self, SocketAddr},
    task::{Context, Poll},
};

use anyhow::{Result, bail, ensure};
use coordinator::{
    Run, generate,
    report::{median, median_interval},
};
use http_body_util::{BodyExt, Full};
use model::EmbeddedModel;
use outrider_tests::cluster::{Node, PATIENT, Setup, Side, assert_same, pair, request, sampled, worker};
use telemetry::{Tracer, names::service};
use tokio::{net::TcpListener, runtime::Builder, task};
use tonic::{
    body::Body,
    codegen::{BoxFuture, Bytes, Service, http},
    server::NamedService,
    transport::{Server, server::TcpIncoming},
};

const PROMPTS: [&str; 3] = ["ROMEO:", "First Citizen:\nBefore we proceed any further, ", "KING RICHARD II:\nO, "];

fn main() -> Result<()> {
    // What cargo appends begins with --.
    let pairs =
        env::args().skip(1).find(|argument| !argument.starts_with("--")).map_or(Ok(30), |pairs| pairs.parse())?;
    // A receiver with a runtime of its own, as it would have anywhere.
    let receiving = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let sink = receiving.block_on(Sink::start())?;
    let silent = net::TcpListener::bind("127.0.0.1:0")?;
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let received = runtime.block_on(measure("a receiver", sink, pairs))?;
    ensure!(received > 0, "nothing was received");
    runtime.block_on(measure("a receiver that never answers", silent.local_addr()?, pairs))?;
    Ok(())
}

/// Measures so many pairs of runs, and gives how many spans `receiver` has acknowledged.
async fn measure(what: &str, receiver: SocketAddr, pairs: usize) -> Result<u64> {
    let tracer = |name| Tracer::exporting(name, &format!("http://{receiver}"));
    let tracers = [tracer(service::COORDINATOR)?, tracer(service::DRAFT)?, tracer(service::TARGET)?];
    let [traced, of_draft, of_target] = &tracers;
    let node = |side, model, tracer: &Tracer| {
        let setup = Setup { tracer: tracer.clone(), ..Setup::default() };
        Node::start(side, setup, future::ready(Ok(worker(model))))
    };
    let draft = node(Side::Draft, EmbeddedModel::Draft, of_draft);
    let target = node(Side::Target, EmbeddedModel::Target, of_target);
    let mut together = pair(Some(&draft), &target).await;
    together.measure_roofs().await;

    let (mut ratios, mut rates) = (Vec::new(), [Vec::new(), Vec::new()]);
    for at in 0..=pairs {
        let request = request(PROMPTS[at % PROMPTS.len()], sampled(0.0, 0), 256, 4);
        let run = async |tracer: &Tracer| -> Result<Run> {
            Ok(generate(&together, request.clone(), PATIENT, tracer, |_| (), future::pending()).await?)
        };
        // Which of the two comes first alternates as well.
        let off = Tracer::off();
        let (untraced, with) = match at % 2 {
            0 => (run(&off).await?, run(traced).await?),
            _ => {
                let with = run(traced).await?;
                (run(&off).await?, with)
            }
        };
        assert_same(&with, &untraced, "traced and not");
        let (Some(off), Some(on)) = (untraced.output_tokens_per_s(), with.output_tokens_per_s()) else {
            bail!("a run without a cycle");
        };
        // The first pair warms up.
        if at > 0 {
            ratios.push(on / off);
            rates[0].push(off);
            rates[1].push(on);
        }
    }
    let shut = tracers.clone();
    task::spawn_blocking(move || shut.iter().for_each(Tracer::shutdown)).await?;
    let [off, on] = rates.map(|rates| median(&rates).unwrap_or_default());
    let (ratio, interval) = (median(&ratios).unwrap_or_default(), median_interval(&ratios));
    let (ended, received) = tracers
        .iter()
        .map(Tracer::counts)
        .fold((0, 0), |(ended, received), counts| (ended + counts[0], received + counts[1]));
    println!("{what}, {pairs} pairs: {off:.0} tokens/s without tracing, {on:.0} with it");
    println!("traced / untraced: {ratio:.3}, 95% interval {interval:.3?}; {received} of {ended} spans received");
    Ok(received)
}

/// An OTLP receiver that acknowledges every export without decoding it.
#[derive(Clone)]
struct Sink;

impl Sink {
    async fn start() -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        task::spawn(Server::builder().add_service(Self).serve_with_incoming(TcpIncoming::from(listener)));
        Ok(address)
    }
}

impl NamedService for Sink {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl Service<http::Request<Body>> for Sink {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async {
            let mut body = request.into_body();
            while let Some(Ok(_)) = body.frame().await {}
            // An empty message, and the status that says it is all.
            let ok = (http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("0"));
            let ok = http::HeaderMap::from_iter([ok]);
            let answer = Full::new(Bytes::from_static(&[0; 5])).with_trailers(future::ready(Some(Ok(ok))));
            let headers = http::Response::builder().header(http::header::CONTENT_TYPE, "application/grpc");
            Ok(headers.body(Body::new(answer)).expect("valid headers"))
        })
    }
}
