//! The `outrider` command line.

mod args;
mod commands;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use args::{
    BenchArgs, CertifyArgs, DescribeArgs, ExplainArgs, GenerateArgs, HealthArgs, ServeArgs, SimulateArgs, StudyArgs,
    TraceArgs,
};

/// Exit status after Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Distributed speculative decoding: a draft proposes, a target verifies, the output is the target's own
#[derive(Debug, Parser)]
#[command(name = "outrider", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  outrider generate \"ROMEO:\"                    the embedded pair, draft and target over loopback
  outrider generate \"ROMEO:\" --ar               the target alone
  outrider bench --temperature 0 --gamma 4,2,8  how much faster, and why
  outrider generate \"ROMEO:\" --draft http://127.0.0.1:7101 --target http://127.0.0.1:7102
  outrider serve                                an endpoint like OpenAI's at http://127.0.0.1:8080/v1
  outrider generate \"ROMEO:\" --trace-file run.jsonl && outrider explain run.jsonl && outrider trace run.jsonl";

#[derive(Debug, Subcommand)]
enum Command {
    /// Stream a continuation of a prompt, then say what it cost
    Generate(GenerateArgs),
    /// Measure AR and speculative decoding in alternation on the same prompts
    Bench(BenchArgs),
    /// Say what a model service is
    Describe(DescribeArgs),
    /// Serve the pair over HTTP, with an API like OpenAI's
    Serve(ServeArgs),
    /// Measure a pair over distances, γ, policies and temperatures, and draw what comes of it
    Study(StudyArgs),
    /// Do the same on a virtual clock, at distances and with as many sessions as no machine here has
    Simulate(SimulateArgs),
    /// Draw a traced request as one HTML page: its cycles, their rooflines, and why it is slow
    Trace(TraceArgs),
    /// Say what limits a traced request, what would change it and by how much
    Explain(ExplainArgs),
    /// Decode a recorded run again with the target alone, and measure whether its rows depend on what they are computed with
    Certify(CertifyArgs),
    /// Ask a service whether it is ready: status 0 if it is, else 1
    Health(HealthArgs),
}

/// Runs the command line of this process.
pub async fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Generate(args) => commands::generate(args).await,
        Command::Bench(args) => commands::bench(args).await,
        Command::Describe(args) => commands::describe(args).await,
        Command::Serve(args) => commands::serve(args).await,
        Command::Study(args) => commands::study(args).await,
        Command::Simulate(args) => commands::simulate(args).await,
        Command::Trace(args) => commands::trace(args).await,
        Command::Explain(args) => commands::explain(args).await,
        Command::Certify(args) => commands::certify(args).await,
        Command::Health(args) => commands::health(args).await,
    };
    match outcome {
        Ok(End::Done) => ExitCode::SUCCESS,
        Ok(End::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            // Whoever reads standard error may have gone; the status says as much.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    Interrupted,
}
