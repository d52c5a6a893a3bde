//! Runs a model service until a test has done with it.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use proto::v1::{DescribeRequest, DescribeResponse, model_service_client::ModelServiceClient};
use tokio::time;

use crate::process::{Ended, wait};

/// Between two questions to a service that is loading.
const PAUSE: Duration = Duration::from_millis(20);

/// A service that was started; killed when dropped.
pub(crate) struct Running {
    child: Child,
    address: String,
    log: Option<JoinHandle<String>>,
}

impl Running {
    /// Starts a service and waits until it says where it listens.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let (found, address) = mpsc::channel();
        let log = thread::spawn(move || {
            let mut log = String::new();
            while let Some(Ok(line)) = lines.next() {
                let address = line.split_once(" address=").and_then(|(_, rest)| rest.split_whitespace().next());
                if let Some(address) = address {
                    // Wanted once.
                    let _ = found.send(address.to_owned());
                }
                log += &(line + "\n");
            }
            log
        });
        let address = address.recv_timeout(Duration::from_secs(30)).expect("a service that says where it listens");
        Self { child, address, log: Some(log) }
    }

    /// Where it listens, as the coordinator takes it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Asks it who it is, as soon as its model is loaded.
    pub(crate) async fn describe(&self) -> DescribeResponse {
        let mut client = ModelServiceClient::connect(self.url()).await.expect("a service that listens");
        loop {
            match client.describe(DescribeRequest::default()).await {
                Ok(answer) => return answer.into_inner(),
                Err(status) if status.code() == tonic::Code::Unavailable => time::sleep(PAUSE).await,
                Err(status) => panic!("{status}"),
            }
        }
    }

    /// Sends it a signal and waits for its end.
    pub(crate) fn stop(mut self, signal: &str) -> Ended {
        let kill = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status();
        assert!(kill.expect("kill is there").success());
        let status = wait(&mut self.child).code();
        let log = self.log.take().expect("stopped once").join().expect("a reader does not panic");
        Ended { status, stdout: String::new(), stderr: log }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
