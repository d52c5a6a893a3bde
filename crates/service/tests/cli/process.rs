//! Runs a binary to its end, away from the environment of whoever runs the tests.

use std::{
    io::{Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Longer than any of these commands takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit status; `None` after a signal.
    pub(crate) status: Option<i32>,
    /// All of its standard output.
    pub(crate) stdout: String,
    /// All of its standard error.
    pub(crate) stderr: String,
}

/// `binary` with none of the variables that change what it does.
pub(crate) fn command(binary: impl AsRef<Path>) -> Command {
    let mut command = Command::new(binary.as_ref());
    let ours = |name: &str| ["OUTRIDER_", "OTEL_", "RUST_", "CLICOLOR", "NO_COLOR"].iter().any(|p| name.starts_with(p));
    for (name, _) in std::env::vars_os().filter(|(name, _)| ours(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    // A panic's backtrace is of no use to anyone here, an error's must never show.
    command.env("RUST_BACKTRACE", "1");
    command
}

/// Runs `command` with `input` as its standard input.
///
/// # Panics
/// Where it does not end by itself.
pub(crate) fn end(command: &mut Command, input: &[u8]) -> Ended {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let writer = thread::spawn(move || {
        // A command that does not read its input ends before it is written.
        let _ = stdin.write_all(&input);
    });
    let stdout = read(child.stdout.take().expect("a pipe"));
    let stderr = read(child.stderr.take().expect("a pipe"));
    let status = wait(&mut child);
    let text = |reader: thread::JoinHandle<String>| reader.join().expect("a reader does not panic");
    writer.join().expect("a writer does not panic");
    let ended = Ended { status: status.code(), stdout: text(stdout), stderr: text(stderr) };
    assert!(!ended.stderr.contains("panicked"), "{command:?} panicked: {}", ended.stderr);
    ended
}

/// Waits for a child's end.
///
/// # Panics
/// Where it goes on for too long; it is killed then.
pub(crate) fn wait(child: &mut Child) -> std::process::ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status;
        }
        if begun.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("it is still running after {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn read(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("a pipe can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

impl Ended {
    /// It succeeded.
    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.status, Some(0), "{self:?}");
        self
    }

    /// It failed with `status` and one short message with all of `words`, and answered nothing.
    #[track_caller]
    pub(crate) fn failed(self, status: i32, words: &[&str]) -> Self {
        assert_eq!(self.status, Some(status), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        assert!(self.stderr.contains("error: "), "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is missing: {self:?}");
        }
        // What clap adds to a message, and what a service logs before it fails.
        let lines = self.stderr.lines().filter(|line| !line.is_empty()).count();
        assert!(lines <= 5 && self.stderr.len() < 1000, "not short: {self:?}");
        self
    }
}
