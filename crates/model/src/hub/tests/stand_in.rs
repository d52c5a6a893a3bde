//! A hub on loopback: one repository at one commit, and what can go wrong with it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use sha2::{Digest, Sha256};

use crate::description::hex;

/// What is wrong with the hub.
#[derive(Clone, Copy)]
pub(super) enum Fault {
    /// It answers with a status for files whose path ends so.
    Status { file: &'static str, status: u16 },
    /// It closes the connection after some bytes of a file, some times.
    Cut { file: &'static str, after: usize, times: usize, length_told: bool },
    /// It names each file's content so.
    Etag { etag: &'static str },
}

/// A request that it got.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) path: String,
    pub(super) range: String,
    pub(super) authorization: String,
}

struct Shared {
    files: BTreeMap<String, Vec<u8>>,
    commit: String,
    fault: Mutex<Option<Fault>>,
    cuts: AtomicUsize,
    asked: Mutex<Vec<Asked>>,
    stopped: AtomicBool,
}

/// The hub; it is gone when this is dropped.
pub(super) struct StandIn {
    pub(super) url: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Weights are named by their SHA-256, as large files are; the rest by something shorter.
pub(super) fn etag(name: &str, bytes: &[u8]) -> String {
    let hash = hex(Sha256::new_with_prefix(bytes));
    if name.ends_with(".json") { hash[..40].to_owned() } else { hash }
}

impl StandIn {
    pub(super) fn new(files: BTreeMap<String, Vec<u8>>) -> StandIn {
        let mut digest = Sha256::new();
        files.iter().for_each(|(name, bytes)| digest.update(etag(name, bytes)));
        let shared = Arc::new(Shared {
            files,
            commit: hex(digest)[..40].to_owned(),
            fault: Mutex::default(),
            cuts: AtomicUsize::new(0),
            asked: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = shared.clone();
        let serve = move || {
            for stream in listener.incoming().flatten() {
                if serving.stopped.load(Ordering::SeqCst) {
                    break;
                }
                // A client that hangs up is its own affair.
                let _ = serving.answer(stream);
            }
        };
        StandIn { url, shared, thread: Some(thread::spawn(serve)) }
    }

    pub(super) fn with(self, fault: Fault) -> StandIn {
        *self.shared.fault.lock().unwrap() = Some(fault);
        self
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let Some(asked) = read(&stream) else { return Ok(()) };
        self.asked.lock().unwrap().push(asked.clone());
        let fault = *self.fault.lock().unwrap();
        if let Some(Fault::Status { file, status }) = fault
            && asked.path.ends_with(file)
        {
            return write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        if asked.path == "/api/models/acme/tiny-coder/revision/main" {
            let siblings: Vec<_> = self.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
            let json = serde_json::json!({ "sha": self.commit, "siblings": siblings }).to_string();
            let length = json.len();
            return write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{json}");
        }
        let name = asked.path.strip_prefix(&format!("/acme/tiny-coder/resolve/{}/", self.commit));
        match name.and_then(|name| self.files.get_key_value(name)) {
            Some((name, bytes)) => self.send(stream, name, bytes, &asked.range, fault),
            None => write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        }
    }

    /// The asked range of a file, or less.
    fn send(
        &self,
        mut stream: TcpStream,
        name: &str,
        bytes: &[u8],
        range: &str,
        fault: Option<Fault>,
    ) -> std::io::Result<()> {
        let (from, to) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
        let from: usize = from.parse().unwrap();
        let to = to.parse().map_or(bytes.len(), |last: usize| last + 1);
        if from >= bytes.len() {
            return write!(stream, "HTTP/1.1 416 Range\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        let (mut etag, mut body, mut told) = (etag(name, bytes), &bytes[from..to], true);
        match fault {
            Some(Fault::Cut { file, after, times, length_told })
                if file == name && range != "bytes=0-0" && self.cuts.fetch_add(1, Ordering::SeqCst) < times =>
            {
                (body, told) = (&body[..after.saturating_sub(from).min(body.len())], length_told);
            }
            Some(Fault::Etag { etag: fault }) => fault.clone_into(&mut etag),
            _ => {}
        }
        let (size, commit) = (bytes.len(), &self.commit);
        let length = if told { format!("Content-Length: {}\r\n", to - from) } else { String::new() };
        write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\nETag: \"{etag}\"\r\nX-Repo-Commit: {commit}\r\n\
             Content-Range: bytes {from}-{}/{size}\r\n{length}Connection: close\r\n\r\n",
            to - 1
        )?;
        stream.write_all(body)?;
        stream.shutdown(Shutdown::Write)
    }
}

/// A request's head.
fn read(stream: &TcpStream) -> Option<Asked> {
    let mut lines = BufReader::new(stream).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let head: Vec<_> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let header = |wanted: &str| {
        let values = head.iter().filter_map(|line| line.split_once(": "));
        values.filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.to_owned()).next()
    };
    let (range, authorization) = (header("range").unwrap_or_default(), header("authorization").unwrap_or_default());
    Some(Asked { path, range, authorization })
}
