//! The files of one commit, each fetched once and whole.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use hf_hub::api::Progress as ClientProgress;
use hf_hub::api::sync::{Api, ApiError, ApiRepo, Metadata};
use hf_hub::{Repo, RepoType};
use sha2::{Digest, Sha256};

use super::{Hub, HubError, Progress, is_hash};
use crate::description::hex;

/// How often a download that breaks off is taken up again.
const ATTEMPTS: u32 = 4;

/// A commit of a repository, in the hub and in the cache.
pub(super) struct Snapshot<'a> {
    hub: &'a Hub,
    api: Api,
    remote: ApiRepo,
    repo: &'a str,
    commit: &'a str,
    /// The repository's folder in the cache.
    kept: PathBuf,
}

impl<'a> Snapshot<'a> {
    pub(super) fn new(hub: &'a Hub, api: Api, repo: &'a str, commit: &'a str) -> Self {
        let pinned = Repo::with_revision(repo.to_owned(), RepoType::Model, commit.to_owned());
        let kept = hub.cache.join(pinned.folder_name());
        let remote = api.repo(pinned);
        Self { hub, api, remote, repo, commit, kept }
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.kept.join("snapshots").join(self.commit)
    }

    /// The path of a file, fetched if it is not here.
    pub(super) fn file(&self, name: &str, progress: &mut Progress<'_>) -> Result<PathBuf, HubError> {
        let pointer = self.folder().join(name);
        let mut attempt = 0;
        // A name is in the snapshot only once its blob is whole.
        while !pointer.exists() {
            match self.attempt(name, &pointer, progress) {
                Ok(()) => {}
                Err(ApiError::LockAcquisition(_)) => thread::sleep(self.hub.pause),
                Err(error) => {
                    attempt += 1;
                    let error = self.hub.failed(self.repo, name, error);
                    if attempt == ATTEMPTS || !matches!(error, HubError::Unreachable { .. }) {
                        return Err(error);
                    }
                    thread::sleep(self.hub.pause * attempt);
                }
            }
        }
        Ok(pointer)
    }

    fn attempt(&self, name: &str, pointer: &Path, progress: &mut Progress<'_>) -> Result<(), ApiError> {
        let metadata = self.api.metadata(&self.remote.url(name))?;
        if metadata.commit_hash() != self.commit {
            return Err(ApiError::InvalidHeader("x-repo-commit"));
        }
        // It becomes a file's name.
        if !is_hash(metadata.etag()) {
            return Err(ApiError::InvalidHeader("etag"));
        }
        let blob = self.kept.join("blobs").join(metadata.etag());
        // Most files of a new commit are those of the last one.
        if blob.metadata().is_ok_and(|blob| blob.len() == metadata.size() as u64) {
            return self.link(name, metadata.etag(), pointer);
        }
        let part = blob.with_extension("part");
        // Nothing is left to ask for then, which the hub answers with an error.
        if part.metadata().is_ok_and(|part| part.len() >= metadata.size() as u64) {
            fs::remove_file(part)?;
        }
        let meter = Meter { name, done: 0, total: 0, progress };
        let downloaded = self.remote.download_with_progress(name, meter);
        // The client names the commit as a branch too; only branches belong there.
        let _ = fs::remove_file(self.kept.join("refs").join(self.commit));
        downloaded?;
        self.check(&metadata, &blob).inspect_err(|_| {
            let _ = fs::remove_file(pointer);
            let _ = fs::remove_file(&blob);
        })
    }

    /// Names a blob that is here already.
    fn link(&self, name: &str, etag: &str, pointer: &Path) -> Result<(), ApiError> {
        let up = "../".repeat(2 + name.matches('/').count());
        fs::create_dir_all(pointer.parent().unwrap_or(pointer))?;
        match std::os::unix::fs::symlink(format!("{up}blobs/{etag}"), pointer) {
            // Another process was quicker.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && pointer.exists() => Ok(()),
            linked => Ok(linked?),
        }
    }

    /// The client renames what came before it looks at its length. Large files are named by their SHA-256.
    fn check(&self, metadata: &Metadata, blob: &Path) -> Result<(), ApiError> {
        let incomplete = |found: String| Err(io::Error::new(io::ErrorKind::UnexpectedEof, found).into());
        let (bytes, expected) = (blob.metadata()?.len(), metadata.size());
        if bytes != expected as u64 {
            return incomplete(format!("{bytes} of {expected} bytes came"));
        }
        if metadata.etag().len() == 64 {
            let mut digest = Sha256::new();
            io::copy(&mut File::open(blob)?, &mut digest)?;
            let found = hex(digest);
            if found != metadata.etag() {
                return incomplete(format!("its SHA-256 is {found}, expected is {}", metadata.etag()));
            }
        }
        Ok(())
    }
}

/// Counts what comes.
struct Meter<'a, 'b> {
    name: &'a str,
    done: u64,
    total: u64,
    progress: &'a mut Progress<'b>,
}

impl ClientProgress for Meter<'_, '_> {
    fn init(&mut self, size: usize, _: &str) {
        (self.done, self.total) = (0, size as u64);
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        (self.progress)(self.name, self.done, self.total);
    }

    fn finish(&mut self) {}
}
