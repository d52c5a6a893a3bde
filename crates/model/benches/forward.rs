//! Forwards of whole models beside the read roof of the same run: `cargo bench -p model --bench forward [FILTER]`.
//!
//! `MODEL` is one more model, as the services' `--model` names it (a .gguf file, say); `THREADS` the number of threads.

use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use model::bench::{self, Reading};
use model::{Compute, Decoder, Rows, Transformer};

/// Positions held before each timed forward.
const CONTEXT: usize = 256;

/// The same where what is read of caches shows.
const LONG_CONTEXT: usize = 400;

/// Rows of the forwards compared.
const ROWS: [usize; 7] = [1, 2, 3, 5, 9, 17, 32];

static COMPUTE: LazyLock<Arc<Compute>> = LazyLock::new(bench::compute);

/// The model of the last benchmark: they come one model after the other.
static LOADED: Mutex<Option<(String, Transformer)>> = Mutex::new(None);

fn main() {
    LazyLock::force(&COMPUTE);
    divan::main();
}

fn models() -> Vec<String> {
    let own = ["embedded:draft", "embedded:target", "synthetic:grown-gpt2"].map(str::to_owned);
    own.into_iter().chain(std::env::var("MODEL")).collect()
}

fn with_model<R>(name: &str, use_it: impl FnOnce(&mut Transformer) -> R) -> R {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if loaded.as_ref().is_none_or(|(known, _)| known != name) {
        *loaded = None;
        let model = Transformer::load(&name.parse().expect("a model's name"), Arc::clone(&COMPUTE));
        *loaded = Some((name.to_owned(), model.expect("the model loads")));
    }
    use_it(&mut loaded.as_mut().expect("it was just loaded").1)
}

#[derive(Clone)]
struct Case {
    model: String,
    rows: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.model.rsplit(['/', '\\']).next().unwrap_or(&self.model);
        write!(f, "{name} {}", self.rows)
    }
}

fn windows() -> impl Iterator<Item = Case> {
    models().into_iter().flat_map(|model| ROWS.map(|rows| Case { model: model.clone(), rows }))
}

/// A window of some rows after a context; the bytes are those that it moves.
#[divan::bench(args = windows(), sample_count = 60, max_time = 4)]
fn window(bencher: Bencher<'_, '_>, case: &Case) {
    with_model(&case.model, |model| {
        let tokens = text(CONTEXT.max(case.rows));
        let mut cache = model.new_cache();
        let prompt = Rows { cache: &mut cache, tokens: &tokens, logits_from: tokens.len() };
        model.forward(&mut [prompt]).expect("it fits");
        let held = cache.len();
        let mut forward = || {
            let rows = Rows { cache: &mut cache, tokens: &tokens[..case.rows], logits_from: 0 };
            let forward = model.forward(&mut [rows]).expect("it fits");
            cache.truncate(held);
            forward.work.bytes
        };
        let bytes = forward();
        bencher.counter(BytesCount::new(bytes)).bench_local(forward);
    });
}

/// One row each of four branches of a sequence, and of four sequences that have nothing in common.
#[divan::bench(args = ["draft branches", "draft sequences", "target branches", "target sequences"], max_time = 4)]
fn four_rows(bencher: Bencher<'_, '_>, case: &str) {
    let (which, are) = case.split_once(' ').expect("two words");
    with_model(&format!("embedded:{which}"), |model| {
        let tokens = text(LONG_CONTEXT);
        let mut prefill = || {
            let mut cache = model.new_cache();
            let prompt = Rows { cache: &mut cache, tokens: &tokens, logits_from: tokens.len() };
            model.forward(&mut [prompt]).expect("it fits");
            cache
        };
        let trunk = prefill();
        let mut caches = match are {
            "branches" => [(); 4].map(|()| bench::branch(&trunk)),
            _ => [(); 4].map(|()| prefill()),
        };
        bencher.bench_local(|| {
            let mut rows = caches.each_mut().map(|cache| Rows { cache, tokens: &tokens[..1], logits_from: 0 });
            let flops = model.forward(&mut rows).expect("it fits").work.flops;
            caches.iter_mut().for_each(|cache| cache.truncate(LONG_CONTEXT));
            flops
        });
    });
}

/// Reading as many bytes as a model's weights have: the roof of a window.
#[divan::bench(args = models(), sample_count = 30, max_time = 2)]
fn read_roof(bencher: Bencher<'_, '_>, model: &str) {
    let bytes = with_model(model, |model| model.description().weight_bytes);
    let reading = Reading::new(Arc::clone(&COMPUTE), bytes as usize);
    bencher.counter(BytesCount::new(bytes)).bench(|| reading.run());
}

/// A prompt of 512 tokens, of which the last one's logits are wanted.
#[divan::bench(args = models(), sample_count = 5, max_time = 12)]
fn prefill_512(bencher: Bencher<'_, '_>, model: &str) {
    with_model(model, |model| {
        let tokens = text(512);
        bencher.counter(ItemsCount::new(512_usize)).bench_local(|| {
            let mut cache = model.new_cache();
            let rows = Rows { cache: &mut cache, tokens: &tokens, logits_from: 511 };
            model.forward(&mut [rows]).expect("it fits").work.flops
        });
    });
}

fn text(len: usize) -> Vec<u32> {
    b"What light through yonder window breaks? ".iter().cycle().take(len).map(|byte| u32::from(*byte)).collect()
}
