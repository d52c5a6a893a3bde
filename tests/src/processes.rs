//! The three binaries as real processes.
//!
//! With `OUTRIDER_ROOTFS`, the unpacked root file system of an image, they run from there instead (`deploy/image/run-rootfs.sh`,
//! which needs root): `OUTRIDER_ROOTFS=DIR cargo test -p outrider-tests --test processes`.
//!
//! They are built once per test binary, in its own profile and target directory, so that what runs is what the tests
//! were compiled with.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::LazyLock,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use proto::v1::{DescribeRequest, model_service_client::ModelServiceClient};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    task::JoinHandle,
    time,
};
use tonic::transport::Endpoint;

use crate::{cluster::LONG, http};

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| build().expect("the binaries are built"));

/// Where a binary of this workspace is.
pub fn binary(name: &str) -> PathBuf {
    FOLDER.join(name).with_extension(env::consts::EXE_EXTENSION)
}

/// `target/PROFILE/deps/TEST` is where a test runs; its binaries go to `target/PROFILE`.
fn build() -> Result<PathBuf> {
    let test = env::current_exe()?;
    let folder = test.ancestors().nth(2).context("a test lies in target/PROFILE/deps")?;
    let (profile, target) = (folder.file_name(), folder.parent());
    let profile = match profile.and_then(OsStr::to_str).context("a profile's name")? {
        "debug" => "dev",
        profile => profile,
    };
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--bins", "--profile", profile, "--target-dir"]);
    cargo.arg(target.context("a target directory")?);
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a workspace")?);
    let status = cargo.status().context("cargo cannot be started")?;
    match status.success() {
        true => Ok(folder.to_owned()),
        false => bail!("cargo build ended with {status}"),
    }
}

/// A model service as a process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    address: String,
    log: JoinHandle<String>,
}

impl Process {
    /// Starts `draft-svc` or `target-svc` on a free port; ready when its model is loaded.
    ///
    /// # Errors
    /// A process that ends, or is not ready in time.
    pub async fn start(name: &str, args: &[&str]) -> Result<Self> {
        Self::listening(name, "127.0.0.1:0", args).await
    }

    /// The same on an address of one's choice.
    ///
    /// # Errors
    /// A process that ends, or is not ready in time.
    pub async fn listening(name: &str, address: &str, args: &[&str]) -> Result<Self> {
        let process = Self::launch(name, &[&["--listen", address], args].concat()).await?;
        time::timeout(LONG, process.ready()).await.with_context(|| format!("{name} is not ready"))??;
        Ok(process)
    }

    /// Starts it and reads where it listens.
    ///
    /// # Errors
    /// A process that ends before it listens.
    pub async fn launch(name: &str, args: &[&str]) -> Result<Self> {
        let mut command = command(name);
        command.args(args).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        let mut lines = BufReader::new(child.stderr.take().context("a pipe")?).lines();
        let mut seen = String::new();
        let address = loop {
            let line = time::timeout(LONG, lines.next_line()).await??;
            let line = line.with_context(|| format!("{name} ended before it listened: {seen}"))?;
            if let Some((_, address)) = line.split_once("listens address=") {
                break address.split(' ').next().unwrap_or_default().to_owned();
            }
            seen.push_str(&line);
        };
        // A pipe that nobody empties would stop it one day.
        let log = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                seen.push_str(&line);
                seen.push('\n');
            }
            seen
        });
        Ok(Self { child, address, log })
    }

    /// Starts `outrider serve` on a free port; ready when it says so.
    ///
    /// # Errors
    /// A process that ends, or is not ready in time.
    pub async fn serve(args: &[&str]) -> Result<Self> {
        let process = Self::launch("outrider", &[&["serve", "--http", "127.0.0.1:0"], args].concat()).await?;
        let ready = async {
            while http::get(process.address(), "/readyz").await.status != 200 {
                time::sleep(Duration::from_millis(10)).await;
            }
        };
        time::timeout(LONG, ready).await.context("outrider is not ready")?;
        Ok(process)
    }

    async fn ready(&self) -> Result<()> {
        let mut client = ModelServiceClient::new(Endpoint::from_shared(self.url())?.connect_lazy());
        while let Err(status) = client.describe(DescribeRequest::default()).await {
            if status.code() != tonic::Code::Unavailable {
                return Err(status.into());
            }
            time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Its number at the system, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where it listens, as the coordinator takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends it as a crash would (SIGKILL).
    ///
    /// # Errors
    /// A process that does not end.
    pub async fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Holds it still (SIGSTOP), connections and all.
    ///
    /// # Errors
    /// A process that has ended.
    pub async fn pause(&self) -> Result<()> {
        signal(&self.child, "STOP").await
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// A process that has ended.
    pub async fn resume(&self) -> Result<()> {
        signal(&self.child, "CONT").await
    }

    /// Asks it to end (SIGTERM); gives its exit status and what it wrote to stderr.
    ///
    /// # Errors
    /// A process that does not end.
    pub async fn terminate(self) -> Result<(ExitStatus, String)> {
        self.end("TERM").await
    }

    /// The same by Ctrl-C (SIGINT).
    ///
    /// # Errors
    /// A process that does not end.
    pub async fn interrupt(self) -> Result<(ExitStatus, String)> {
        self.end("INT").await
    }

    async fn end(mut self, name: &str) -> Result<(ExitStatus, String)> {
        signal(&self.child, name).await?;
        let status = time::timeout(LONG, self.child.wait()).await.context("it does not end")??;
        Ok((status, self.log.await?))
    }
}

/// A binary of this workspace, without the variables that would change what it does, killed when it is dropped.
pub fn command(name: &str) -> Command {
    let mut command = match env::var_os("OUTRIDER_ROOTFS") {
        Some(root) => {
            let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/image/run-rootfs.sh"));
            command.arg(root).arg(name);
            command
        }
        None => Command::new(binary(name)),
    };
    for (variable, _) in env::vars_os() {
        let name = variable.to_string_lossy();
        if name.starts_with("OUTRIDER_") || name.starts_with("OTEL_") || name == "RUST_LOG" {
            command.env_remove(&variable);
        }
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A run of `outrider` with its output.
#[derive(Debug)]
pub struct Outrider {
    child: Child,
    errors: JoinHandle<String>,
}

/// What a run of `outrider` left.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status; `None` where a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Outrider {
    /// Starts `outrider` with `args`.
    ///
    /// # Errors
    /// A binary that cannot be started.
    pub fn start(args: &[&str]) -> Result<Self> {
        let mut command = command("outrider");
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("outrider cannot be started")?;
        let mut stderr = child.stderr.take().context("a pipe")?;
        let errors = tokio::spawn(async move {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text).await;
            text
        });
        Ok(Self { child, errors })
    }

    /// Reads the text as it comes, until there are `length` bytes of it.
    ///
    /// # Errors
    /// A run that ends before.
    pub async fn read(&mut self, length: usize) -> Result<String> {
        let mut text = vec![0; length];
        let stdout = self.child.stdout.as_mut().context("a pipe")?;
        time::timeout(LONG, stdout.read_exact(&mut text)).await.context("no text")??;
        Ok(String::from_utf8(text)?)
    }

    /// Interrupts it as Ctrl-C does (SIGINT).
    ///
    /// # Errors
    /// A process that has ended.
    pub async fn interrupt(&self) -> Result<()> {
        signal(&self.child, "INT").await
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// A process that cannot be asked.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for its end; `stdout` is what has not been read yet.
    ///
    /// # Errors
    /// A run that does not end.
    pub async fn finish(mut self) -> Result<Outcome> {
        let mut stdout = String::new();
        let mut pipe = self.child.stdout.take().context("a pipe")?;
        time::timeout(LONG, pipe.read_to_string(&mut stdout)).await.context("it does not end")??;
        let status = time::timeout(LONG, self.child.wait()).await.context("it does not end")??;
        let (code, stderr) = (status.code(), self.errors.await?);
        Ok(Outcome { code, stdout, stderr })
    }
}

/// Sends a signal by the shell's own `kill`, since no crate of this workspace speaks to the system directly.
async fn signal(child: &Child, name: &str) -> Result<()> {
    let pid = child.id().context("the process has ended")?;
    let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}")).status().await?;
    match status.success() {
        true => Ok(()),
        false => bail!("kill -{name} {pid} ended with {status}"),
    }
}
