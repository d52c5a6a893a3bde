//! Good files, and everything that a bad one may be.

use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use safetensors::tensor::{Dtype, TensorView, serialize};
use tempfile::TempDir;

use super::bytes::Bytes;
use super::{Checkpoint, Names, Parameters, Source, nanogpt};
use crate::LoadError;
use crate::kernels::FloatType;
use crate::weights::{Form, Kernels, Layout, Tensors, Wanted};
use crate::{Compute, EmbeddedModel, Transformer};

mod folder;
mod gguf;
mod mutated;

const JSON: &str = r#"{"vocab_size": 128, "n_embd": 6, "n_head": 3, "n_layer": 1, "max_seq_len": 4}"#;

/// A tensor of a file to be written.
#[derive(Clone)]
struct Stored {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

/// Names and shapes of the tensors that a model asks for.
#[derive(Default)]
struct Asked(Vec<(String, Vec<usize>)>);

impl Tensors for Asked {
    fn matrices<F: Form>(&mut self, form: &F, wanted: Wanted<'_>) -> Result<Vec<F::Matrix>, LoadError> {
        let all: usize = wanted.outputs.iter().sum();
        let transposed = wanted.layout == Layout::Transposed;
        let shape = if transposed { vec![wanted.inputs, all] } else { vec![all, wanted.inputs] };
        self.0.push((wanted.name.to_owned(), shape));
        let zeros = |outputs: &usize| {
            let raw = vec![0; 2 * outputs * wanted.inputs];
            form.float(FloatType::BF16, &raw, [*outputs, wanted.inputs]).unwrap()
        };
        Ok(wanted.outputs.iter().map(zeros).collect())
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        self.0.push((name.to_owned(), vec![len]));
        Ok(vec![0.0; len])
    }
}

/// The tensors that `JSON` asks for, all ones.
fn good() -> Vec<Stored> {
    let mut asked = Asked::default();
    let geometry = nanogpt::geometry("test", JSON.as_bytes()).unwrap();
    Parameters::new(&mut asked, &Kernels, &Names::NANOGPT, &geometry).unwrap();
    let ones = |shape: &[usize]| [0x80, 0x3f].repeat(shape.iter().product());
    let stored = |(name, shape): (String, Vec<usize>)| Stored { name, dtype: Dtype::BF16, data: ones(&shape), shape };
    asked.0.into_iter().map(stored).collect()
}

fn bytes(tensors: &[Stored]) -> Vec<u8> {
    let view = |t: &Stored| (t.name.clone(), t.dtype, t.shape.clone(), t.data.clone());
    let owned: Vec<_> = tensors.iter().map(view).collect();
    let views = owned.iter().map(|(n, d, s, b)| (n.as_str(), TensorView::new(*d, s.clone(), b).unwrap()));
    serialize(views, None).unwrap()
}

/// Writes a model and loads it.
fn load(json: &str, weights: &[u8]) -> Result<Transformer, LoadError> {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, json, weights);
    Transformer::load(&Source::File(path), Arc::new(Compute::new(NonZeroUsize::MIN)))
}

fn write(folder: &TempDir, json: &str, weights: &[u8]) -> PathBuf {
    fs::write(folder.path().join("m.json"), json).unwrap();
    let path = folder.path().join("m.safetensors");
    fs::write(&path, weights).unwrap();
    path
}

/// The refusal says all of these.
fn assert_refused(json: &str, weights: &[u8], said: &[&str]) {
    let error = load(json, weights).err().expect("it is refused").to_string();
    for words in said {
        assert!(error.contains(words), "{error:?} says {words:?}");
    }
}

#[test]
fn a_good_file_loads() {
    let model = load(JSON, &bytes(&good())).unwrap();
    let description = crate::Decoder::description(&model);
    assert_eq!(description.name, "m");
    assert_eq!(description.parameters, good().iter().map(|t| t.data.len() as u64 / 2).sum::<u64>());
}

/// Rows of whole blocks are not copied; those of other widths are.
#[test]
fn bf16_rows_are_read_from_the_file_itself() {
    let (json, weights) = EmbeddedModel::Draft.files();
    let folder = TempDir::new().unwrap();
    let path = write(&folder, std::str::from_utf8(json).unwrap(), weights);
    let mapped = super::load(&Source::File(path), &Kernels).unwrap().weights;
    let copied = super::load(&Source::Embedded(EmbeddedModel::Draft), &Kernels).unwrap().weights;
    for (mapped, copied) in mapped.matrices().zip(copied.matrices()) {
        assert!(mapped.is_mapped() && !copied.is_mapped());
        let mut rows = [vec![0.0; mapped.stride()], vec![1.0; mapped.stride()]];
        for output in 0..mapped.outputs() {
            mapped.row(output, &mut rows[0]);
            copied.row(output, &mut rows[1]);
            assert_eq!(rows[0], rows[1]);
        }
    }
    let folder = TempDir::new().unwrap();
    let odd = super::load(&Source::File(write(&folder, JSON, &bytes(&good()))), &Kernels).unwrap().weights;
    assert!(!odd.matrices().any(crate::kernels::Matrix::is_mapped));
}

/// The same weights give the same fingerprint from a file as from the binary; other weights another.
#[test]
fn fingerprints_tell_models_apart() {
    let (json, weights) = EmbeddedModel::Draft.files();
    let folder = TempDir::new().unwrap();
    let path = write(&folder, std::str::from_utf8(json).unwrap(), weights);
    let fingerprint = |source| super::load(&source, &Kernels).unwrap().fingerprint;
    let embedded = fingerprint(Source::Embedded(EmbeddedModel::Draft));
    assert_eq!(fingerprint(Source::File(path.clone())), embedded);
    let mut other = weights.to_vec();
    *other.last_mut().unwrap() ^= 1 << 7; // the sign of the last weight
    fs::write(&path, other).unwrap();
    assert_ne!(fingerprint(Source::File(path)), embedded);
    assert_eq!(embedded.len(), 64);
}

#[test]
fn missing_files_are_named() {
    let compute = Arc::new(Compute::new(NonZeroUsize::MIN));
    let load = |path: &str| Transformer::load(&path.parse().unwrap(), Arc::clone(&compute)).err().unwrap().to_string();
    assert!(load("/nowhere/m.safetensors").contains("/nowhere/m.json"));
    assert!(load("/nowhere/m.bin").contains("m.bin: a model is"));
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("m.json"), JSON).unwrap();
    assert!(load(folder.path().join("m.safetensors").to_str().unwrap()).contains("m.safetensors"));
    assert!(load(folder.path().to_str().unwrap()).contains("config.json"));
}

#[test]
fn bad_geometries_name_the_field() {
    let weights = bytes(&good());
    let with = |from: &str, to: &str| JSON.replace(from, to);
    assert_refused("", &weights, &["m.json", "not the JSON that it should be"]);
    assert_refused("[1]", &weights, &["m.json", "not the JSON that it should be"]);
    assert_refused("{", &weights, &["m.json", "not the JSON that it should be"]);
    assert_refused(&with("128", "127"), &weights, &["m.json", "vocab_size is 127", "from 128"]);
    assert_refused(&with("\"n_embd\": 6", "\"n_embd\": 0"), &weights, &["n_embd is 0", "from 1"]);
    assert_refused(&with("\"n_embd\": 6", "\"n_embd\": -6"), &weights, &["n_embd is -6"]);
    assert_refused(&with("\"n_embd\": 6", "\"n_embd\": 7"), &weights, &["n_head is 3", "a divisor of n_embd, 7"]);
    assert_refused(&with("\"n_embd\": 6", "\"n_embd\": 6.5"), &weights, &["n_embd is 6.5"]);
    assert_refused(&with("\"n_layer\": 1", "\"n_layer\": \"1\""), &weights, &["n_layer is \"1\""]);
    assert_refused(&with("\"n_layer\"", "\"layers\""), &weights, &["n_layer is missing"]);
    assert_refused(&with("\"n_layer\": 1", "\"n_layer\": 1e30"), &weights, &["n_layer is 1e+30"]);
    assert_refused(&with(": 4}", ": 99999999999999999999}"), &weights, &["max_seq_len"]);
    assert_refused(&format!("{JSON}{}", " ".repeat(1 << 16)), &weights, &["m.json", "bytes long"]);
}

/// A geometry that asks for terabytes is refused by the first tensor, before anything is allocated for it.
#[test]
fn absurd_geometries_allocate_nothing() {
    let huge = r#"{"vocab_size": 1048576, "n_embd": 16384, "n_head": 1, "n_layer": 256, "max_seq_len": 1048576}"#;
    assert_refused(huge, &bytes(&good()), &["m.safetensors", "tensor wte.weight", "[1048576, 16384]"]);
}

#[test]
fn hostile_headers_are_refused() {
    let good = bytes(&good());
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    assert_refused(JSON, &[], &["m.safetensors", "not a safetensors file"]);
    assert_refused(JSON, &good[..good.len() - 1], &["m.safetensors"]);
    assert_refused(JSON, &good[..good.len() / 2], &["m.safetensors"]);
    assert_refused(JSON, &[&good[..], &[0]].concat(), &["not a safetensors file"]);
    let large = [&(1_u64 << 24 | 1).to_le_bytes(), &good[8..]].concat();
    assert_refused(JSON, &large, &["header of 16777217 bytes, allowed is up to 16777216"]);
    for length in [0, 1, header as u64 - 1, header as u64 + 1, 1 << 20, 1 << 40, u64::MAX] {
        let bad = [&length.to_le_bytes(), &good[8..]].concat();
        assert_refused(JSON, &bad, &["m.safetensors", "not a safetensors file"]);
    }
    for (from, to) in [
        ("\"data_offsets\":[0,", "\"data_offsets\":[2,"),
        ("\"data_offsets\":[0,", "\"data_offsets\":[-1"),
        ("\"shape\":[6]", "\"shape\":[7]"),
        ("\"BF16\"", "\"BF17\""),
        ("{", "["),
    ] {
        let text = String::from_utf8(good[8..8 + header].to_vec()).unwrap();
        let text = text.replacen(from, to, 1);
        let bad = [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &good[8 + header..]].concat();
        assert_refused(JSON, &bad, &["m.safetensors", "not a safetensors file"]);
    }
}

/// A byte that flips anywhere in the header, and a file cut anywhere in it, is an error or a model, never a panic.
#[test]
fn damaged_headers_never_panic() {
    let good = bytes(&good());
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let geometry = nanogpt::geometry("m", JSON.as_bytes()).unwrap();
    let load = |bytes: Vec<u8>| {
        let weights = Bytes::Memory(bytes.into());
        let _ = Checkpoint::nanogpt("m".into(), "m".into(), geometry, weights)
            .and_then(|checkpoint| checkpoint.load(&Kernels));
    };
    for at in 0..8 + header {
        for flip in [1, 0x20, 0x80] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            load(bad);
        }
        load(good[..at].to_vec());
    }
}

#[test]
fn wrong_tensors_are_named() {
    let change = |name: &str, change: &dyn Fn(&mut Stored)| {
        let mut tensors = good();
        change(tensors.iter_mut().find(|t| t.name == name).unwrap());
        bytes(&tensors)
    };
    let as_i16 = change("wpe.weight", &|t| t.dtype = Dtype::I16);
    assert_refused(JSON, &as_i16, &["tensor wpe.weight", "of type I16", "BF16, F16 or F32"]);
    let transposed = change("blocks.0.mlp.0.weight", &|t| t.shape.reverse());
    assert_refused(JSON, &transposed, &["tensor blocks.0.mlp.0.weight", "[6, 24]", "[24, 6]"]);
    let renamed = change("ln_f.bias", &|t| t.name = "ln_g.bias".into());
    assert_refused(JSON, &renamed, &["tensor ln_f.bias", "missing"]);
    for poison in [[0x80, 0x7f], [0x80, 0xff], [0xc0, 0x7f]] {
        let poisoned = change("blocks.0.ln_1.weight", &|t| t.data[4..6].copy_from_slice(&poison));
        assert_refused(JSON, &poisoned, &["tensor blocks.0.ln_1.weight", "not finite at element 2"]);
    }
    let mut more = good();
    more.push(Stored { name: "blocks.1.ln_1.bias".into(), ..more[0].clone() });
    assert_refused(JSON, &bytes(&more), &["tensor blocks.1.ln_1.bias", "present"]);
}

/// A tied head that was stored all the same, and the masks that older models carry along.
#[test]
fn harmless_tensors_are_ignored() {
    let mut more = good();
    more.push(Stored { name: "lm_head.weight".into(), ..more[0].clone() });
    more.push(Stored { name: "blocks.0.attn.bias".into(), ..more[1].clone() });
    load(JSON, &bytes(&more)).unwrap();
}
