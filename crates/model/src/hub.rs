//! Models from the Hugging Face hub: `hf:OWNER/NAME[:FILE]`, kept in the hub's own cache, whose layout and variables other
//! tools share (`HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`).
//!
//! All files of a fetch come from one commit; the cache's branch moves to it when the last one is there, so an interrupted
//! fetch leaves the earlier snapshot in use. What the hub and its files say about names is not believed before it is checked.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::api::RepoInfo;
use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;

mod download;
mod environment;
mod error;
mod progress;
#[cfg(test)]
mod tests;

pub use self::error::HubError;
pub(crate) use self::progress::Shown;

use self::download::Snapshot;

/// Told what has come of a file, in bytes: its name, done, in all.
pub(crate) type Progress<'a> = dyn FnMut(&str, u64, u64) + 'a;

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// What a folder may lack.
const OPTIONAL: [&str; 3] = ["tokenizer_config.json", "generation_config.json", "chat_template.jinja"];

/// Longest list of a repository's files, and longest index of shards, bytes.
const MAX_JSON: u64 = 16 << 20;

/// How long the hub may take to be found, and to say what a repository holds.
const CONNECT: Duration = Duration::from_secs(5);
const LISTING: Duration = Duration::from_secs(30);

/// The path of a model of the hub: a GGUF file, or a folder with `config.json`, tokenizer and safetensors.
///
/// # Errors
/// A bad name, a repository or file that the hub does not have or give, and a hub out of reach where the cache has
/// nothing to fall back on.
pub(crate) fn fetch(repo: &str, file: Option<&str>, progress: &mut Progress<'_>) -> Result<PathBuf, HubError> {
    Hub::from_env()?.fetch(repo, file, progress)
}

/// Checks the words of `hf:REPO[:FILE]`, which become parts of URLs and paths.
///
/// # Errors
/// Anything but `OWNER/NAME` (or `NAME`, as the hub's oldest models have) and the path of a .gguf file in it.
pub(crate) fn check(repo: &str, file: Option<&str>) -> Result<(), HubError> {
    let mut parts = repo.split('/');
    let named = parts.by_ref().take(2).all(is_word) && parts.next().is_none();
    if !named || repo.contains("--") || repo.contains("..") {
        return Err(HubError::Name { field: "repository", value: repo.to_owned(), allowed: "OWNER/NAME" });
    }
    match file {
        Some(file) if !is_path(file) || !is_gguf(file) => {
            Err(HubError::Name { field: "file", value: file.to_owned(), allowed: "a .gguf file of the repository" })
        }
        _ => Ok(()),
    }
}

/// Letters, digits, `-`, `_` and `.`, at most the hub's 96 of them; none that a path reads as something else.
fn is_word(word: &str) -> bool {
    let letters = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    letters && (1..=96).contains(&word.len()) && !word.starts_with(['.', '-']) && !word.ends_with(['.', '-'])
}

/// A relative path of plain names, which needs no escape in a URL.
fn is_path(path: &str) -> bool {
    let plain = |name: &str| {
        let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+=@,".contains(&byte));
        letters && !matches!(name, "" | "." | "..")
    };
    path.len() <= 512 && path.split('/').all(plain)
}

fn is_gguf(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// Where models are fetched from, and where they are kept.
#[derive(Clone)]
struct Hub {
    endpoint: String,
    cache: PathBuf,
    token: Option<String>,
    offline: bool,
    /// Before a download that broke off is taken up again, and between looks at one of another process.
    pause: Duration,
}

impl Hub {
    fn fetch(&self, repo: &str, file: Option<&str>, progress: &mut Progress<'_>) -> Result<PathBuf, HubError> {
        check(repo, file)?;
        if self.offline {
            return self.cached(repo, file);
        }
        match self.download(repo, file, progress) {
            Err(error @ HubError::Unreachable { .. }) => match self.cached(repo, file) {
                Ok(path) => {
                    tracing::warn!(%error, "the hub is out of reach; what the cache has is used");
                    Ok(path)
                }
                Err(_) => Err(error),
            },
            fetched => fetched,
        }
    }

    fn download(&self, repo: &str, file: Option<&str>, progress: &mut Progress<'_>) -> Result<PathBuf, HubError> {
        let cache = Cache::new(self.cache.clone());
        let builder = ApiBuilder::from_cache(cache.clone()).with_endpoint(self.endpoint.clone());
        let api = builder.with_token(self.token.clone()).with_progress(false).build();
        let api = api.map_err(|error| self.failed(repo, "the list of its files", error))?;
        let main = Repo::new(repo.to_owned(), RepoType::Model);
        let (commit, names) = self.listing(repo, &api.repo(main.clone()))?;

        let snapshot = Snapshot::new(self, api, repo, &commit);
        let (path, wanted) = self.wanted(repo, file, &names, |index| snapshot.file(index, progress))?;
        for name in wanted {
            snapshot.file(&name, progress)?;
        }
        let folder = snapshot.folder();
        let moved = cache.repo(main).create_ref(&commit);
        moved.map_err(|error| HubError::Io { path: self.cache.clone(), error })?;
        Ok(folder.join(path))
    }

    /// The commit that the main branch is at, and the files in it.
    fn listing(&self, repo: &str, api: &hf_hub::api::sync::ApiRepo) -> Result<(String, BTreeSet<String>), HubError> {
        const WHAT: &str = "the list of its files";
        let failed = |error: ureq::Error| self.failed(repo, WHAT, Box::new(error).into());
        let request = api.info_request().config().timeout_connect(Some(CONNECT)).timeout_global(Some(LISTING)).build();
        let mut answer = request.call().map_err(failed)?;
        let json = answer.body_mut().with_config().limit(MAX_JSON).read_to_vec().map_err(failed)?;
        let info: RepoInfo = serde_json::from_slice(&json)
            .map_err(|error| self.odd(repo, WHAT, format!("the answer is not the JSON of a model: {error}")))?;
        if !is_hash(&info.sha) {
            return Err(self.odd(repo, WHAT, "the commit is not a hash".to_owned()));
        }
        // A name that could leave the cache's folder is no file of a model.
        let names = info.siblings.into_iter().map(|sibling| sibling.rfilename).filter(|name| is_path(name));
        Ok((info.sha, names.collect()))
    }

    /// What is to be fetched of `names`, and the model's path in the snapshot; `read` brings the index of shards.
    fn wanted(
        &self,
        repo: &str,
        file: Option<&str>,
        names: &BTreeSet<String>,
        read: impl FnOnce(&str) -> Result<PathBuf, HubError>,
    ) -> Result<(PathBuf, Vec<String>), HubError> {
        let has = |name: &str| names.contains(name);
        let lacking = |file: &str| HubError::NoFile {
            repo: repo.to_owned(),
            file: file.to_owned(),
            ggufs: names.iter().filter(|name| is_gguf(name)).cloned().collect(),
        };
        if let Some(file) = file {
            return if has(file) { Ok((file.into(), vec![file.to_owned()])) } else { Err(lacking(file)) };
        }
        if !(has(CONFIG) && (has(WEIGHTS) || has(INDEX))) {
            let mut ggufs = names.iter().filter(|name| is_gguf(name));
            return match (ggufs.next(), ggufs.next()) {
                (Some(only), None) => Ok((only.into(), vec![only.clone()])),
                _ => Err(lacking(if has(CONFIG) { WEIGHTS } else { CONFIG })),
            };
        }
        let mut wanted: Vec<String> = [CONFIG, TOKENIZER].map(str::to_owned).into();
        wanted.extend(OPTIONAL.iter().filter(|name| has(name)).map(|&name| name.to_owned()));
        if has(WEIGHTS) {
            wanted.push(WEIGHTS.to_owned());
        } else {
            wanted.extend(shards(&read(INDEX)?)?);
        }
        match wanted.iter().find(|name| !has(name)) {
            Some(name) => Err(lacking(name)),
            None => Ok((PathBuf::new(), wanted)),
        }
    }

    /// The model in the cache, if all of it is there.
    fn cached(&self, repo: &str, file: Option<&str>) -> Result<PathBuf, HubError> {
        let absent = |file: &str| HubError::NotCached {
            repo: repo.to_owned(),
            file: file.to_owned(),
            endpoint: self.endpoint.clone(),
            cache: self.cache.clone(),
        };
        let main = Repo::new(repo.to_owned(), RepoType::Model);
        let commit = std::fs::read_to_string(self.cache.join(main.folder_name()).join("refs").join(main.revision()));
        let commit = commit.ok().filter(|commit| is_hash(commit)).ok_or_else(|| absent(file.unwrap_or(CONFIG)))?;
        let folder = Cache::new(self.cache.clone()).repo(main).pointer_path(&commit);
        let names = files_under(&folder);
        let found = self.wanted(repo, file, &names, |index| Ok(folder.join(index)));
        match found {
            Ok((path, _)) => Ok(folder.join(path)),
            Err(HubError::NoFile { file, .. }) => Err(absent(&file)),
            Err(error) => Err(error),
        }
    }
}

/// The shards that an index names.
fn shards(index: &Path) -> Result<BTreeSet<String>, HubError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let io = |error| HubError::Io { path: index.to_owned(), error };
    let refused = |reason| HubError::Index { path: index.to_owned(), reason };
    let size = std::fs::metadata(index).map_err(io)?.len();
    if size > MAX_JSON {
        return Err(refused(format!("{size} bytes long, allowed is {MAX_JSON}")));
    }
    let json = std::fs::read(index).map_err(io)?;
    let Index { weight_map } = serde_json::from_slice(&json).map_err(|error| refused(error.to_string()))?;
    match weight_map.values().find(|name| !is_path(name)) {
        Some(name) => Err(refused(format!("shard {name:?}, allowed is the name of a file of the repository"))),
        None => Ok(weight_map.into_values().collect()),
    }
}

/// The files of a snapshot, one folder deep; links whose blob is gone are left out.
fn files_under(folder: &Path) -> BTreeSet<String> {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let inner = entries(folder).filter(|path| path.is_dir()).flat_map(|path| entries(&path).collect::<Vec<_>>());
    let files = entries(folder).chain(inner).filter(|path| path.is_file());
    files.filter_map(|path| Some(path.strip_prefix(folder).ok()?.to_str()?.to_owned())).collect()
}

/// A commit, or the name of a blob: hexadecimal digits.
fn is_hash(text: &str) -> bool {
    (8..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
