//! Who may use the API: bearer tokens, of which hashes alone are kept.

use std::{fmt, path::PathBuf, str};

use axum::http::{HeaderMap, header::AUTHORIZATION};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use telemetry::watched::{UnusableFiles, Watched};

type Hash = [u8; 32];

/// The keys that are known; without any everybody may use the API.
#[derive(Default)]
pub struct Keys {
    fixed: Option<Hash>,
    file: Option<Watched<Vec<Hash>>>,
}

impl Keys {
    /// `key` and those in `file`, one a line; empty lines and such that begin with # do not count. The file is read again
    /// when it changes.
    ///
    /// # Errors
    /// A file that cannot be read or that holds no key.
    pub fn new(key: Option<&str>, file: Option<PathBuf>) -> Result<Self, UnusableFiles> {
        let file = file.map(|file| Watched::open("the file of API keys", vec![file], |contents| read(&contents[0])));
        Ok(Self { fixed: key.map(hash), file: file.transpose()? })
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
            file.current().iter().for_each(|hash| known |= hash.ct_eq(&sent));
        }
        known.into()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

fn read(file: &[u8]) -> Result<Vec<Hash>, String> {
    let text = str::from_utf8(file).map_err(|error| error.to_string())?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let hashes: Vec<_> = lines.map(hash).collect();
    if hashes.is_empty() { Err("it holds no key".to_owned()) } else { Ok(hashes) }
}

/// Of equal length whatever the key, so that comparing takes the same time.
fn hash(key: &str) -> Hash {
    Sha256::digest(key.as_bytes()).into()
}
