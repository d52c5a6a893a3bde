//! What files hold, read again when they change.

use std::{
    fmt, fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// How often the files are looked at.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The largest file that is read, in bytes.
const MOST_BYTES: u64 = 1 << 20;

/// What is made of some small files. A version of them that cannot be used leaves what was there.
pub struct Watched<T> {
    /// What it is, for logs.
    what: &'static str,
    paths: Vec<PathBuf>,
    read: Box<Read<T>>,
    state: Mutex<State<T>>,
}

/// Makes something of the files' contents, in the order of their paths.
type Read<T> = dyn Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync;

struct State<T> {
    value: Arc<T>,
    versions: Vec<Option<Version>>,
    checked: Instant,
}

/// What tells two versions of a file apart.
type Version = (SystemTime, u64);

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot be used ({}): {problem}", files(paths))]
pub struct UnusableFiles {
    what: &'static str,
    paths: Vec<PathBuf>,
    problem: String,
}

impl<T> Watched<T> {
    /// What `read` makes of the files at `paths`; `what` names it in messages.
    ///
    /// # Errors
    /// A file that cannot be read or used.
    pub fn open(
        what: &'static str,
        paths: Vec<PathBuf>,
        read: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, UnusableFiles> {
        let versions = versions(&paths);
        let value = contents(&paths).and_then(|contents| read(&contents));
        let value = Arc::new(value.map_err(|problem| UnusableFiles { what, paths: paths.clone(), problem })?);
        let state = Mutex::new(State { value, versions, checked: Instant::now() });
        Ok(Self { what, paths, read: Box::new(read), state })
    }

    /// What the files hold now, or held when they could be used last.
    pub fn current(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.checked.elapsed() >= CHECK_EVERY {
            state.checked = Instant::now();
            let versions = versions(&self.paths);
            if versions != state.versions {
                match contents(&self.paths).and_then(|contents| (self.read)(&contents)) {
                    Ok(value) => {
                        tracing::info!(what = self.what, "changed files are read again");
                        state.value = Arc::new(value);
                    }
                    Err(problem) => {
                        tracing::warn!(what = self.what, problem, "changed files cannot be used, the old ones count");
                    }
                }
                state.versions = versions;
            }
        }
        state.value.clone()
    }
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("what", &self.what).field("paths", &self.paths).finish_non_exhaustive()
    }
}

fn files(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn contents(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, String> {
    let read = |path: &PathBuf| {
        let bytes = fs::metadata(path)?.len();
        match bytes > MOST_BYTES {
            true => Err(io::Error::other(format!("it has {bytes} bytes, allowed: up to {MOST_BYTES}"))),
            false => fs::read(path),
        }
    };
    paths.iter().map(|path| read(path).map_err(|error| format!("{}: {error}", path.display()))).collect()
}

fn versions(paths: &[PathBuf]) -> Vec<Option<Version>> {
    let version = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    paths.iter().map(version).collect()
}
