//! What the machine could do at best, for a model of a given size (Williams, Waterman, Patterson 2009).

use std::time::{Duration, Instant};

use speculative::roofline::Roofs;

use crate::Compute;
use crate::kernels::matmul::{Sink, matmul};
use crate::kernels::{Buffer, LEAD, Weights, roof};

/// Time for each figure. There are five, and the memory that the last one reads takes as long again to come by.
const TIME: Duration = Duration::from_millis(15);

/// Elements of what is read from memory: 160 MiB, more than most last-level caches.
const MEMORY: usize = 40 << 20;

/// A many-row matmul whose operands stay in the caches: (rows, inputs) · (outputs, inputs).
const MATMUL: [usize; 3] = [64, 512, 512];

/// Roofs for a model of `weight_bytes`, on the threads and instructions that it uses. Takes some 0.15 s.
pub(crate) fn measure(compute: &Compute, weight_bytes: u64) -> Roofs {
    let _awake = compute.pool().forward();
    let flops_per_s = multiply_add(compute).max(many_rows(compute));
    let bytes_per_s = reading(compute, weight_bytes as usize / size_of::<f32>());
    let memory_bytes_per_s = reading(compute, MEMORY);
    Roofs { flops_per_s, bytes_per_s, memory_bytes_per_s }
}

/// The shortest of several runs within [`TIME`], after one that warms the caches and wakes the threads.
fn best(mut run: impl FnMut()) -> f64 {
    run();
    let start = Instant::now();
    let mut best = Duration::MAX;
    while start.elapsed() < TIME || best == Duration::MAX {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed());
    }
    best.as_secs_f64().max(1e-9)
}

fn multiply_add(compute: &Compute) -> f64 {
    let mut operations = 0;
    let seconds = best(|| operations = roof::multiply_add(compute));
    operations as f64 / seconds
}

fn many_rows(compute: &Compute) -> f64 {
    let [rows, inputs, outputs] = MATMUL;
    let weights = vec![0x3f80; LEAD + outputs * inputs];
    let activations = Buffer::zeroed(rows * inputs);
    let mut out = Buffer::zeroed(rows * outputs);
    let weights = Weights::new(&weights, outputs, inputs);
    let seconds = best(|| {
        matmul(compute, &weights, None, &activations, rows, Sink::Natural { out: &mut out, stride: outputs });
    });
    (2 * rows * inputs * outputs) as f64 / seconds
}

fn reading(compute: &Compute, len: usize) -> f64 {
    let buffer = Buffer::zeroed(len);
    let seconds = best(|| roof::read(compute, &buffer, false)).min(best(|| roof::read(compute, &buffer, true)));
    (buffer.len() * size_of::<f32>()) as f64 / seconds
}
