//! The tensors of a safetensors file.

use std::collections::BTreeMap;

use safetensors::{Dtype, SafeTensors};

use super::bytes::Bytes;
use super::stored::{Entry, Kind, Stored};
use crate::LoadError;
use crate::kernels::FloatType;

/// Longest header, bytes: some 80 for each tensor.
const MAX_HEADER: u64 = 16 << 20;

/// Bytes before the header: its length.
const PREFIX: usize = 8;

/// Adds the tensors of a file. The header must be well-formed, and account for every byte of the file once.
pub(super) fn add(stored: &mut Stored, file: String, bytes: Bytes) -> Result<(), LoadError> {
    let refuse = |reason: String| LoadError::Format { file: file.clone(), format: "safetensors", reason };
    let header = bytes.first_chunk().map(|length: &[u8; PREFIX]| u64::from_le_bytes(*length));
    if let Some(header) = header.filter(|header| *header > MAX_HEADER) {
        return Err(refuse(format!("header of {header} bytes, allowed is up to {MAX_HEADER}")));
    }
    let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| refuse(error.to_string()))?;
    let data = PREFIX + header;
    let tensors: BTreeMap<String, _> = metadata.tensors().into_iter().collect();
    let entries: Vec<(String, Entry)> = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let range = data + tensor.data_offsets.0..data + tensor.data_offsets.1;
            (name, Entry { range, kind: kind(tensor.dtype), shape: tensor.shape.clone() })
        })
        .collect();
    stored.add(file, bytes, entries)
}

fn kind(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::BF16 => Kind::Float(FloatType::BF16),
        Dtype::F16 => Kind::Float(FloatType::F16),
        Dtype::F32 => Kind::Float(FloatType::F32),
        other => Kind::Other(format!("{other:?}")),
    }
}
