//! What is in a file.
#![expect(unsafe_code, reason = "a file that is mapped could be changed by others meanwhile")]

use std::borrow::Cow;
use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::LoadError;
use crate::kernels::{FloatType, Matrix};

/// The bytes of a file: in the binary, or mapped.
pub(crate) enum Bytes {
    Memory(Cow<'static, [u8]>),
    Mapped(Arc<Mmap>),
}

impl Bytes {
    /// Maps a file.
    pub(crate) fn map(path: &Path) -> Result<Bytes, LoadError> {
        let file = open(path)?;
        // SAFETY: the map is private and only read. Who cuts the file short meanwhile ends the process, as with any
        // program that maps its input; who writes to it changes numbers.
        let map = unsafe { Mmap::map(&file) };
        map.map(|map| Bytes::Mapped(Arc::new(map))).map_err(|error| LoadError::Io { path: path.to_owned(), error })
    }

    /// A matrix of the weights from byte `at` on, without a copy of them, if the format and its place allow it.
    pub(crate) fn matrix(&self, kind: FloatType, at: usize, outputs: usize, inputs: usize) -> Option<Matrix> {
        match self {
            Bytes::Mapped(map) if kind == FloatType::BF16 => Matrix::mapped(map, at, outputs, inputs),
            _ => None,
        }
    }

    /// Says that a range will not be needed again soon: its pages leave memory.
    pub(crate) fn release(&self, range: &Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = self {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the pages of a file that is only read come back from the file when they are touched again.
            let released = unsafe { map.unchecked_advise_range(advice, range.start, range.len()) };
            if let Err(error) = released {
                tracing::debug!(%error, "pages of a file stay in memory");
            }
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Memory(bytes) => bytes,
            Bytes::Mapped(map) => map,
        }
    }
}

impl From<&'static [u8]> for Bytes {
    fn from(bytes: &'static [u8]) -> Bytes {
        Bytes::Memory(Cow::Borrowed(bytes))
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        Bytes::Memory(Cow::Owned(bytes))
    }
}

/// Opens a file, and nothing but a file: a pipe would keep its reader waiting.
fn open(path: &Path) -> Result<File, LoadError> {
    let io = |error| LoadError::Io { path: path.to_owned(), error };
    if !path.metadata().map_err(io)?.is_file() {
        return Err(io(Error::new(ErrorKind::InvalidInput, "not a file")));
    }
    File::open(path).map_err(io)
}

/// Reads a file of at most `most` bytes.
pub(crate) fn read(path: &Path, most: u64) -> Result<Vec<u8>, LoadError> {
    let mut bytes = Vec::new();
    let file = open(path)?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(|error| LoadError::Io { path: path.to_owned(), error })?;
    if bytes.len() as u64 > most {
        let file = path.display().to_string();
        return Err(LoadError::Size { file, bytes: bytes.len() as u64, allowed: format!("up to {most}") });
    }
    Ok(bytes)
}

/// Reads a file of at most `most` bytes, if there is one.
pub(crate) fn read_if_there(path: &Path, most: u64) -> Result<Option<Vec<u8>>, LoadError> {
    match read(path, most) {
        Err(LoadError::Io { error, .. }) if error.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}
