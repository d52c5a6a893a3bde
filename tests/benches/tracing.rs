//! What tracing costs where every cycle is exported: `cargo bench -p outrider-tests --bench tracing [PAIRS]`.
//!
//! The embedded pair in this process, greedy, γ 4, 256 tokens: runs that are traced alternate with runs that are not. The receiver
//! is in this process too, so that its work, which is another machine's as a rule, counts against tracing.

use std::{env, future, io, time::Duration};

use anyhow::{Result, bail};
use coordinator::{
    Run, generate,
    report::{median, median_interval},
};
use model::EmbeddedModel;
use outrider_tests::{
    cluster::{Node, PATIENT, Setup, Side, assert_same, pair, request, sampled, worker},
    otlp::Receiver,
};
use telemetry::{Tracer, names::service};
use tokio::{runtime::Builder, task, time};

const PROMPTS: [&str; 3] = ["ROMEO:", "First Citizen:\nBefore we proceed any further, ", "KING RICHARD II:\nO, "];

fn main() -> Result<()> {
    // What cargo appends begins with --.
    let pairs =
        env::args().skip(1).find(|argument| !argument.starts_with("--")).map_or(Ok(30), |pairs| pairs.parse())?;
    Builder::new_multi_thread().worker_threads(1).enable_all().build()?.block_on(measure(pairs))
}

async fn measure(pairs: usize) -> Result<()> {
    // A receiver with a runtime of its own, as it would have anywhere.
    let receiving = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let receiver = receiving.spawn(async { Receiver::start().await }).await??;
    let node = |side, model, name| -> Result<Node> {
        let tracer = Tracer::exporting(name, &receiver.endpoint())?;
        let setup = Setup { tracer, ..Setup::default() };
        Ok(Node::start(side, setup, future::ready(Ok(worker(model)))))
    };
    let draft = node(Side::Draft, EmbeddedModel::Draft, service::DRAFT)?;
    let target = node(Side::Target, EmbeddedModel::Target, service::TARGET)?;
    let mut together = pair(Some(&draft), &target).await;
    together.measure_roofs().await;
    let traced = Tracer::exporting(service::COORDINATOR, &receiver.endpoint())?;

    let (mut ratios, mut rates) = (Vec::new(), [Vec::new(), Vec::new()]);
    for at in 0..=pairs {
        let request = request(PROMPTS[at % PROMPTS.len()], sampled(0.0, 0), 256, 4);
        let run = async |tracer: &Tracer| -> Result<Run> {
            Ok(generate(&together, request.clone(), PATIENT, tracer, |_| (), future::pending()).await?)
        };
        // Which of the two comes first alternates as well.
        let off = Tracer::off();
        let (untraced, with) = match at % 2 {
            0 => (run(&off).await?, run(&traced).await?),
            _ => {
                let with = run(&traced).await?;
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
    task::spawn_blocking(move || traced.shutdown()).await?;
    time::sleep(Duration::from_secs(6)).await;
    let [off, on] = rates.map(|rates| median(&rates).unwrap_or_default());
    let (ratio, interval) = (median(&ratios).unwrap_or_default(), median_interval(&ratios));
    let spans = receiver.spans().len();
    println!("{pairs} pairs: {off:.0} tokens/s without tracing, {on:.0} with it");
    println!("traced / untraced: {ratio:.3}, 95% interval {interval:.3?}; {spans} spans received");
    drop(receiver);
    receiving.shutdown_background();
    if spans == 0 {
        return Err(io::Error::other("nothing was received").into());
    }
    Ok(())
}
