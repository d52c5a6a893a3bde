//! What the machine could do at best, for a model of a given size (Williams, Waterman, Patterson 2009).

use std::time::{Duration, Instant};

use speculative::roofline::Roofs;

use crate::Compute;
use crate::kernels::matmul::{Scratch, Sink, matmul};
use crate::kernels::roof::{self, Reading};
use crate::kernels::{Buffer, FloatType, Matrix};

/// Time for each of the six figures, at least.
const TIME: Duration = Duration::from_millis(15);

/// Bytes of what is read from memory: more than most last-level caches have.
const MEMORY: usize = 160 << 20;

/// A many-row matmul whose operands stay in the caches: (rows, inputs) · (outputs, inputs).
const MATMUL: [usize; 3] = [64, 512, 512];

/// Roofs for a model of these weights, on the threads and instructions that it uses. Takes some 0.15 s, and four times as
/// long as reading the weights.
pub(crate) fn measure<'a>(compute: &Compute, weights: impl IntoIterator<Item = &'a [u8]>) -> Roofs {
    let _awake = compute.pool().forward();
    let flops_per_s = multiply_add(compute).max(many_rows(compute));
    let weights = Reading::new(weights);
    let bytes_per_s = reading(compute, &weights);
    // Weights that exceed the caches come from memory themselves.
    let memory_bytes_per_s = match weights.bytes() < MEMORY {
        true => reading(compute, &Reading::new([&*roof::memory(MEMORY)])),
        false => bytes_per_s,
    };
    Roofs { flops_per_s, bytes_per_s, memory_bytes_per_s }
}

/// The median of several runs within [`TIME`], after one that warms the caches and wakes the threads. What is held against
/// a roof is a median too; the one lucky run of a shared machine would be no roof that anything else can reach.
pub(crate) fn median(mut run: impl FnMut()) -> f64 {
    run();
    let (begun, mut times) = (Instant::now(), Vec::new());
    while begun.elapsed() < TIME || times.is_empty() {
        let start = Instant::now();
        run();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64().max(1e-9)
}

fn multiply_add(compute: &Compute) -> f64 {
    let mut operations = 0;
    let seconds = median(|| operations = roof::multiply_add(compute));
    operations as f64 / seconds
}

fn many_rows(compute: &Compute) -> f64 {
    let [rows, inputs, outputs] = MATMUL;
    let weights = [Matrix::float(FloatType::BF16, &vec![0x3c; 2 * outputs * inputs], outputs, inputs)];
    let activations = Buffer::zeroed(rows * inputs);
    let mut out = Buffer::zeroed(rows * outputs);
    let mut scratch = Scratch::default();
    let seconds = median(|| {
        let sink = Sink::Natural { out: &mut out, stride: outputs };
        matmul(compute, &weights, None, &activations, rows, sink, &mut scratch);
    });
    (2 * rows * inputs * outputs) as f64 / seconds
}

fn reading(compute: &Compute, reading: &Reading<'_>) -> f64 {
    let seconds = median(|| reading.run(compute, false)).min(median(|| reading.run(compute, true)));
    reading.bytes() as f64 / seconds
}
