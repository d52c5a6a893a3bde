//! Files with anything in them: they load and forward, or they are refused. `MUTATE_SECONDS` is how long each test tries
//! (2 without), `MUTATE_SEED` what it begins with.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use candle_core::quantized::GgmlDType;

use super::{folder, gguf};
use crate::{Decoder, LoadError, Rows, Transformer};

/// What parsers stumble over: ends of the ranges of integers and lengths.
const NUMBERS: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 32, i64::MAX as u64, 1 << 63, u64::MAX];

struct Mutator(u64);

impl Mutator {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// Changes `bytes` in one to four places, mostly among the first `header`.
    fn mutate(&mut self, bytes: &mut Vec<u8>, header: usize) {
        for _ in 0..=self.below(4) {
            let within = if self.below(10) == 0 { bytes.len() } else { header.min(bytes.len()) };
            let at = self.below(within);
            match self.below(6) {
                0 => bytes.truncate(at),
                1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                2 if at < bytes.len() => bytes[at] = self.next() as u8,
                3 if at + 8 <= bytes.len() => {
                    let number = NUMBERS[self.below(NUMBERS.len())].to_le_bytes();
                    let width = [1, 2, 4, 8][self.below(4)];
                    bytes[at..at + width].copy_from_slice(&number[..width]);
                }
                4 if at < bytes.len() => {
                    // A piece of the file, put elsewhere.
                    let len = self.below(64).min(bytes.len() - at);
                    let piece = bytes[at..at + len].to_vec();
                    let to = self.below(within.saturating_sub(len));
                    bytes[to..to + len].copy_from_slice(&piece);
                }
                _ => {
                    let end = (at + self.below(16)).min(bytes.len());
                    bytes.drain(at.min(end)..end);
                }
            }
        }
    }
}

/// Loads mutants of `file` until time is up; gives how many loaded and how many were refused.
fn mutants(file: &[u8], header: usize, load: impl Fn(&[u8]) -> Result<Transformer, LoadError>) -> [usize; 2] {
    let number = |name: &str, or: u64| std::env::var(name).map_or(or, |text| text.parse().expect("a number"));
    let time = Duration::from_secs(number("MUTATE_SECONDS", 2));
    let mut mutator = Mutator(number("MUTATE_SEED", 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (begun, mut counts) = (Instant::now(), [0; 2]);
    while begun.elapsed() < time {
        let state = mutator.0;
        let mut mutant = file.to_vec();
        mutator.mutate(&mut mutant, header);
        let outcome = catch_unwind(AssertUnwindSafe(|| load(&mutant).map(|mut model| forward(&mut model))));
        let refused = outcome.unwrap_or_else(|_| panic!("the mutant of state {state:#x} panicked")).is_err();
        counts[usize::from(refused)] += 1;
    }
    println!("{} loaded, {} refused", counts[0], counts[1]);
    counts
}

/// A few tokens: whatever loads can be used.
fn forward(model: &mut Transformer) {
    let last = model.description().vocab_size as u32 - 1;
    let mut cache = model.new_cache();
    let tokens = [0, last, 1];
    let most = cache.context().min(3);
    model.forward(&mut [Rows { cache: &mut cache, tokens: &tokens[..most], logits_from: most - 1 }]).unwrap();
}

#[test]
fn mutated_gguf_files_load_or_are_refused() {
    let (mut metadata, tensors) = gguf::converted("qwen2", "qwen2");
    gguf::add_tokenizer(&mut metadata);
    for dtype in [GgmlDType::BF16, GgmlDType::Q8_0, GgmlDType::Q4_1] {
        // Rows of 176 are no whole blocks.
        let kind = |name: &str| if name.contains("ffn_down") { GgmlDType::BF16 } else { dtype };
        let file = gguf::bytes(&metadata, &tensors, kind);
        let [loaded, refused] = mutants(&file, 4096, gguf::load);
        assert!(loaded + refused > 20 && refused > 0, "{loaded} loaded, {refused} refused");
    }
}

#[test]
fn mutated_folders_load_or_are_refused() {
    for name in ["config.json", "model.safetensors"] {
        let folder = folder::tiny("llama");
        let path = folder.path().join(name);
        let file = fs::read(&path).unwrap();
        let [loaded, refused] = mutants(&file, 4096, |mutant| {
            fs::write(&path, mutant).unwrap();
            folder::load(&folder)
        });
        assert!(loaded + refused > 20 && refused > 0, "{name}: {loaded} loaded, {refused} refused");
    }
}
