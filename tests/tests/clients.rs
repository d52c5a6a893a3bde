//! The official OpenAI clients for Python and Node, against `outrider serve`.
//!
//! They come from PyPI and npm, which a machine with the Rust toolchain alone does not have:
//! `cargo test -p outrider-tests --test clients -- --ignored` needs python3 with venv, npm and node.

use std::{path::Path, process::Command};

use anyhow::{Result, ensure};
use outrider_tests::processes::Process;

/// Runs a command to its end.
fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?} ended with {}:\n{out}\n{err}", output.status);
    Ok(())
}

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

#[tokio::test]
#[ignore = "installs packages from PyPI and npm"]
async fn the_official_clients_work() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let python = folder.path().join("venv/bin/python");
    succeed(Command::new("python3").args(["-m", "venv"]).arg(folder.path().join("venv")))?;
    succeed(Command::new(&python).args(["-m", "pip", "install", "--quiet", "openai"]))?;
    succeed(Command::new("npm").args(["install", "--silent", "openai"]).current_dir(&folder))?;
    // Node looks for packages beside the script.
    let node_script = folder.path().join("openai_client.mjs");
    std::fs::copy(script("openai_client.mjs"), &node_script)?;

    let keys = folder.path().join("keys");
    std::fs::write(&keys, "a-key\n")?;
    let service = Process::serve(&["--api-key-file", keys.to_str().expect("UTF-8")]).await?;
    let url = format!("{}/v1", service.url());
    let clients = tokio::task::spawn_blocking(move || {
        succeed(Command::new(&python).arg(script("openai_client.py")).args([&url, "a-key"]))?;
        succeed(Command::new("node").arg(&node_script).args([&url, "a-key"]))
    });
    clients.await??;
    let (status, log) = service.terminate().await?;
    ensure!(status.success(), "{log}");
    Ok(())
}
