//! `outrider`: the coordinator's command line.

use std::process::ExitCode;

// One thread serves the coordinator: its work between two messages is microseconds, and a hop between threads costs more.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    coordinator::cli::run().await
}
