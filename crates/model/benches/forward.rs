//! The embedded pair's forwards beside the machine's roofs: `cargo bench -p model`.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{Compute, Decoder, EmbeddedModel, Isa, KvCache, Rows, Source, Transformer};

/// Positions held before each timed forward.
const CONTEXT: usize = 256;

/// Rows of the forwards compared.
const ROWS: [usize; 7] = [1, 2, 3, 5, 9, 17, 33];

/// Forwards of each kind.
const ROUNDS: usize = 400;

fn main() {
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let threads = std::env::var("THREADS").map_or(threads, |text| text.parse().expect("THREADS is a number above 0"));
    let compute = Arc::new(Compute::new(threads));
    println!("{} threads, {} (of {:?})", compute.threads(), compute.isa(), Isa::available());
    let mut target = load(EmbeddedModel::Target, &compute);
    let mut draft = load(EmbeddedModel::Draft, &compute);

    let start = Instant::now();
    let roofs = target.measure_roofs();
    println!(
        "roofs: {:.1} GFLOP/s, {:.1} GB/s at the target's weights, {:.1} GB/s from memory (measured in {:.0?})",
        roofs.flops_per_s / 1e9,
        roofs.bytes_per_s / 1e9,
        roofs.memory_bytes_per_s / 1e9,
        start.elapsed()
    );
    decode(&mut target, roofs.bytes_per_s);
    let step = median(
        (0..ROUNDS)
            .map(|_| ())
            .scan(filled(&mut draft, CONTEXT), |cache, ()| Some(step(&mut draft, cache, 1).0))
            .collect(),
    );
    println!("draft: one row {step:.1?}");
    prefill(&mut target, "target");
    prefill(&mut draft, "draft");
}

fn load(model: EmbeddedModel, compute: &Arc<Compute>) -> Transformer {
    let start = Instant::now();
    let model = Transformer::load(&Source::Embedded(model), Arc::clone(compute)).expect("the embedded pair loads");
    println!("{} loaded in {:.0?}", model.description().name, start.elapsed());
    model
}

/// Windows of several sizes in turn, at equal context.
fn decode(target: &mut Transformer, roof: f64) {
    let mut cache = filled(target, CONTEXT);
    let mut times = vec![Vec::with_capacity(ROUNDS); ROWS.len()];
    let mut bytes = [0; ROWS.len()];
    for _ in 0..ROUNDS {
        for (i, rows) in ROWS.into_iter().enumerate() {
            let (time, moved) = step(target, &mut cache, rows);
            times[i].push(time);
            bytes[i] = moved;
        }
    }
    let medians: Vec<Duration> = times.into_iter().map(median).collect();
    for (i, rows) in ROWS.into_iter().enumerate() {
        let seconds = medians[i].as_secs_f64();
        let rate = bytes[i] as f64 / seconds;
        println!(
            "target: {rows:2} rows {:7.1?}, {:.2} of one, {:.1} GB/s = {:.0}% of the roof",
            medians[i],
            seconds / medians[0].as_secs_f64(),
            rate / 1e9,
            100.0 * rate / roof
        );
    }
}

fn prefill(model: &mut Transformer, name: &str) {
    let tokens = text(2048);
    let times = (0..5).map(|_| {
        let mut cache = model.new_cache();
        let start = Instant::now();
        let rows = Rows { cache: &mut cache, tokens: &tokens, logits_from: 2047 };
        model.forward(&mut [rows]).expect("it fits");
        start.elapsed()
    });
    println!("{name}: prefill of 2048 {:.1?}", median(times.collect()));
}

fn filled(model: &mut Transformer, len: usize) -> KvCache {
    let mut cache = model.new_cache();
    model.forward(&mut [Rows { cache: &mut cache, tokens: &text(len), logits_from: len }]).expect("it fits");
    cache
}

/// One forward of `rows` rows, taken back afterwards.
fn step(model: &mut Transformer, cache: &mut KvCache, rows: usize) -> (Duration, u64) {
    let held = cache.len();
    let start = Instant::now();
    let forward = model.forward(&mut [Rows { cache: &mut *cache, tokens: &text(rows), logits_from: 0 }]);
    let time = start.elapsed();
    cache.truncate(held);
    (time, forward.expect("it fits").work.bytes)
}

fn text(len: usize) -> Vec<u32> {
    b"What light through yonder window breaks? ".iter().cycle().take(len).map(|byte| u32::from(*byte)).collect()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
