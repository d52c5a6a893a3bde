//! Matmuls of every format beside the read roof of the same run: `cargo bench -p model --bench kernels [FILTER]`.
//!
//! Bytes are those of the weights, read once whatever the number of rows. `THREADS` is the number of threads.

use std::fmt;
use std::sync::{Arc, LazyLock};

use divan::Bencher;
use divan::counter::BytesCount;
use model::Compute;
use model::bench::{self, Matmul, Reading};

/// The MLP of a model of 1.5 billion parameters: (outputs, inputs).
const SHAPE: [usize; 2] = [8960, 1536];

/// Weights of all copies of a matrix, at least: more than most last-level caches.
const WORKING_SET: usize = 128 << 20;

const DTYPES: [&str; 9] = ["bf16", "f16", "f32", "q8_0", "q4_0", "q5_0", "q4_k", "q5_k", "q6_k"];
const ROWS: [usize; 8] = [1, 2, 3, 5, 9, 17, 32, 512];

static COMPUTE: LazyLock<Arc<Compute>> = LazyLock::new(bench::compute);

fn main() {
    LazyLock::force(&COMPUTE);
    divan::main();
}

/// Reading alone, at the working set of the matmuls and at that of a small model.
#[divan::bench(args = [22 << 20, WORKING_SET], sample_count = 40)]
fn read_roof(bencher: Bencher<'_, '_>, bytes: usize) {
    let reading = Reading::new(Arc::clone(&COMPUTE), bytes);
    bencher.counter(BytesCount::new(bytes)).bench(|| reading.run());
}

/// Regions with nothing in them, one after the other as in a forward.
#[divan::bench(sample_size = 100)]
fn fork_join() {
    bench::fork_join(&COMPUTE);
}

#[derive(Clone, Copy)]
struct Case {
    dtype: &'static str,
    rows: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.dtype, self.rows)
    }
}

fn cases() -> impl Iterator<Item = Case> {
    DTYPES.into_iter().flat_map(|dtype| ROWS.into_iter().map(move |rows| Case { dtype, rows }))
}

#[divan::bench(args = cases(), sample_count = 40, max_time = 2)]
fn matmul(bencher: Bencher<'_, '_>, case: &Case) {
    let dtype = case.dtype.parse().expect("a known format");
    let new = |copies| Matmul::new(Arc::clone(&COMPUTE), dtype, SHAPE, copies, case.rows).expect("whole blocks");
    let copies = WORKING_SET.div_ceil(new(1).bytes() as usize);
    let mut matmul = new(copies);
    bencher.counter(BytesCount::new(matmul.bytes())).bench_local(|| matmul.run(case.rows));
}
