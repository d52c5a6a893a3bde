//! Who may use the API: bearer tokens, of which hashes alone are kept.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use axum::http::{HeaderMap, header::AUTHORIZATION};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// How often the file is looked at.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The largest file of keys, in bytes.
const MOST_BYTES: u64 = 1 << 20;

type Hash = [u8; 32];

/// The keys that are known; without any everybody may use the API.
#[derive(Default)]
pub struct Keys {
    fixed: Option<Hash>,
    file: Option<Mutex<Watched>>,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
#[error("the API keys in {} cannot be used: {problem}", path.display())]
pub struct InvalidKeys {
    path: PathBuf,
    problem: String,
}

/// A file of keys, read again when it changes.
struct Watched {
    path: PathBuf,
    hashes: Vec<Hash>,
    version: Option<Version>,
    checked: Instant,
}

/// What tells two versions of a file apart.
type Version = (SystemTime, u64);

impl Keys {
    /// `key` and those in `file`, one a line; empty lines and such that begin with # do not count.
    ///
    /// # Errors
    /// A file that cannot be read or that holds no key.
    pub fn new(key: Option<&str>, file: Option<PathBuf>) -> Result<Self, InvalidKeys> {
        let file = file.map(Watched::open).transpose()?.map(Mutex::new);
        Ok(Self { fixed: key.map(hash), file })
    }

    /// Whether a request with these headers may be answered.
    pub(super) fn allow(&self, headers: &HeaderMap) -> bool {
        if self.fixed.is_none() && self.file.is_none() {
            return true;
        }
        let sent = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let token = sent.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let Some((_, token)) = token else { return false };
        let sent = hash(token.trim());
        let mut known = Choice::from(0);
        self.fixed.iter().for_each(|hash| known |= hash.ct_eq(&sent));
        if let Some(file) = &self.file {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            file.refresh();
            file.hashes.iter().for_each(|hash| known |= hash.ct_eq(&sent));
        }
        known.into()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Watched {
    fn open(path: PathBuf) -> Result<Self, InvalidKeys> {
        match read(&path) {
            Ok((hashes, version)) => Ok(Self { path, hashes, version, checked: Instant::now() }),
            Err(problem) => Err(InvalidKeys { path, problem }),
        }
    }

    /// Takes what the file holds now; what cannot be used leaves the keys that were.
    fn refresh(&mut self) {
        if self.checked.elapsed() < CHECK_EVERY {
            return;
        }
        self.checked = Instant::now();
        let now = version(&self.path).ok();
        if now == self.version {
            return;
        }
        match read(&self.path) {
            Ok((hashes, version)) => {
                tracing::info!(keys = hashes.len(), "the API keys are read again");
                (self.hashes, self.version) = (hashes, version);
            }
            Err(problem) => {
                tracing::warn!(path = %self.path.display(), problem, "the API keys stay as they were");
                self.version = now;
            }
        }
    }
}

fn read(path: &Path) -> Result<(Vec<Hash>, Option<Version>), String> {
    let version = version(path).map_err(|error| error.to_string())?;
    if version.1 > MOST_BYTES {
        return Err(format!("it has {} bytes, allowed: up to {MOST_BYTES}", version.1));
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let hashes: Vec<_> = lines.map(hash).collect();
    match hashes.is_empty() {
        true => Err("it holds no key".to_owned()),
        false => Ok((hashes, Some(version))),
    }
}

fn version(path: &Path) -> io::Result<Version> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.modified()?, metadata.len()))
}

/// Of equal length whatever the key, so that comparing takes the same time.
fn hash(key: &str) -> Hash {
    Sha256::digest(key.as_bytes()).into()
}
