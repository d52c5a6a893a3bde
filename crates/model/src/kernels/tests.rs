//! The canonical order, spelled out element by element, against every path.

use std::num::NonZeroUsize;
use std::ops::Range;

use half::{bf16, f16};
use proptest::prelude::*;

use super::isa::Kernel;
use super::matmul::{Scratch, Sink, matmul};
use super::portable::fused_multiply_add;
use super::simd::{LANES, Simd};
use super::*;
use crate::Compute;

fn compute(isa: Isa, threads: usize) -> Compute {
    Compute::with_isa(NonZeroUsize::new(threads).unwrap(), isa).unwrap()
}

/// Numbers in (−1, 1), of several magnitudes, the same for a seed.
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next() * next()).collect()
}

/// The bytes of weights near `values` in a format.
fn stored(kind: FloatType, values: &[f32]) -> Vec<u8> {
    let stored = |value: &f32| match kind {
        FloatType::BF16 => bf16::from_f32(*value).to_le_bytes().to_vec(),
        FloatType::F16 => f16::from_f32(*value).to_le_bytes().to_vec(),
        FloatType::F32 => value.to_le_bytes().to_vec(),
    };
    values.iter().flat_map(stored).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// A matmul's operands in natural order: (rows, inputs), (outputs, inputs), (outputs).
struct Case {
    inputs: usize,
    outputs: usize,
    activations: Vec<f32>,
    kind: FloatType,
    weights: Vec<u8>,
    bias: Vec<f32>,
}

impl Case {
    fn new(kind: FloatType, rows: usize, inputs: usize, outputs: usize, seed: u64) -> Case {
        Case {
            inputs,
            outputs,
            activations: numbers(seed, rows * inputs),
            kind,
            weights: stored(kind, &numbers(seed + 1, outputs * inputs)),
            bias: numbers(seed + 2, outputs),
        }
    }

    /// One output of one row, as DESIGN §3 and the module of the matmul define it.
    fn canonical(&self, row: usize, output: usize) -> f32 {
        let mut lanes = [0.0_f32; LANES];
        for i in 0..self.inputs {
            let lane = i % BLOCK / 2;
            let size = self.kind.size();
            let weight = self.kind.value(&self.weights[(output * self.inputs + i) * size..][..size]);
            lanes[lane] = weight.mul_add(self.activations[row * self.inputs + i], lanes[lane]);
        }
        for width in [8, 4, 2, 1] {
            for l in 0..width {
                lanes[l] += lanes[l + width];
            }
        }
        lanes[0] + self.bias[output]
    }

    /// Rows `rows` of the case, (rows, outputs), natural order.
    fn run(&self, compute: &Compute, rows: Range<usize>) -> Vec<f32> {
        let mut out = vec![f32::NAN; rows.len() * self.outputs];
        self.run_into(compute, rows, Sink::Natural { out: &mut out, stride: self.outputs });
        out
    }

    fn run_into(&self, compute: &Compute, rows: Range<usize>, sink: Sink<'_>) {
        let activations: Vec<f32> =
            rows.clone().flat_map(|row| in_lane_order(&self.activations[row * self.inputs..][..self.inputs])).collect();
        let weights = Matrix::float(self.kind, &self.weights, self.outputs, self.inputs);
        let bias = in_lane_order(&self.bias);
        matmul(compute, &[weights], Some(&bias), &activations, rows.len(), sink, &mut Scratch::default());
    }
}

const KINDS: [FloatType; 3] = [FloatType::BF16, FloatType::F16, FloatType::F32];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Shapes small and odd: every path, any number of threads, and a row alone give the canonical bits.
    #[test]
    fn matmul_rows_are_canonical(kind in prop::sample::select(&KINDS[..]), rows in 1_usize..=64, inputs in 1_usize..200, outputs in 1_usize..150,
                                 threads in 1_usize..=4, seed in 0_u64..1000) {
        let case = Case::new(kind, rows, inputs, outputs, seed);
        let expected: Vec<f32> =
            (0..rows).flat_map(|row| (0..outputs).map(move |output| (row, output)))
                .map(|(row, output)| case.canonical(row, output)).collect();
        for isa in Isa::available() {
            let compute = compute(isa, threads);
            prop_assert_eq!(bits(&case.run(&compute, 0..rows)), bits(&expected), "{} rows together, {}", rows, isa);
            let row = seed as usize % rows;
            let alone = case.run(&compute, row..row + 1);
            prop_assert_eq!(bits(&alone), bits(&expected[row * outputs..][..outputs]), "row {} alone, {}", row, isa);
        }
    }
}

/// Applies a function of one vector to numbers.
struct Map<'a, F> {
    values: &'a mut [f32],
    function: F,
}

#[derive(Clone, Copy)]
enum Function {
    Exp,
    Gelu,
}

impl Kernel for Map<'_, Function> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for chunk in self.values.chunks_exact_mut(S::WIDTH) {
            // SAFETY: whole vectors.
            unsafe {
                let x = S::load(chunk.as_ptr());
                let y = match self.function {
                    Function::Exp => math::exp::<S>(x),
                    Function::Gelu => math::gelu::<S>(x),
                };
                S::store(chunk.as_mut_ptr(), y);
            }
        }
    }
}

/// A function's values, which must be the same bits on every path.
fn map(function: Function, values: &[f32]) -> Vec<f32> {
    let on = |isa| {
        let mut values = values.to_vec();
        // SAFETY: the kernel asks for nothing.
        unsafe { Path::new(isa).unwrap().run(Map { values: &mut values, function }) }
        values
    };
    let portable = on(Isa::Portable);
    for isa in Isa::available() {
        assert_eq!(bits(&on(isa)), bits(&portable), "{isa}");
    }
    portable
}

/// `count` numbers evenly from `from` to `to`; a multiple of 16.
fn grid(from: f32, to: f32, count: usize) -> Vec<f32> {
    (0..count).map(|i| from + (to - from) * i as f32 / (count - 1) as f32).collect()
}

/// erf by its series with positive terms, 2/√π · e^(−x²) · Σ 2ⁿ x^(2n+1) / (2n+1)!! (Abramowitz, Stegun 7.1.6).
fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[test]
fn exp_is_within_two_units_of_the_last_place() {
    let x = grid(-87.0, 0.0, 1 << 16);
    for (x, y) in x.iter().zip(map(Function::Exp, &x)) {
        let exact = f64::from(*x).exp();
        assert!((f64::from(y) / exact - 1.0).abs() < 2.4e-7, "e^{x} is {exact}, not {y}");
    }
    assert_eq!(map(Function::Exp, &[0.0; 16]), [1.0; 16]);
    let far = map(Function::Exp, &[-100.0, -1e30, f32::NEG_INFINITY, -87.0].repeat(4));
    assert!(far.iter().all(|y| *y > 0.0 && *y < 2e-38), "{far:?}");
    assert!(map(Function::Exp, &[f32::NAN; 16]).iter().all(|y| y.is_nan()));
}

#[test]
fn gelu_is_within_half_a_millionth() {
    let x = grid(-8.0, 8.0, 1 << 16);
    for (x, y) in x.iter().zip(map(Function::Gelu, &x)) {
        let exact = f64::from(*x) * 0.5 * (1.0 + erf(f64::from(*x) / 2.0_f64.sqrt()));
        assert!((f64::from(y) - exact).abs() < 5e-7 * f64::from(x.abs().max(1.0)), "gelu({x}) is {exact}, not {y}");
    }
    assert_eq!(bits(&map(Function::Gelu, &[0.0; 16])), [0; 16], "padding stays zero");
    let large = map(Function::Gelu, &[3e38, 20.0, -20.0, -3e38].repeat(4));
    assert_eq!(large[..2], [3e38, 20.0]);
    assert!(large[2].abs() < 1e-5, "{}", large[2]);
}

/// Products halfway between two f32, and addends too small for f64 to keep beside them: rounding to f64 on the way would
/// lose which way to go.
#[test]
fn halfway_products_are_rounded_once() {
    for a in (4097..5791_u16).step_by(2) {
        for b in (4097..5791_u16).step_by(34) {
            for c in [2.0_f32.powi(-35), 1e-20, 1e-45] {
                let [a, b] = [a, b].map(f32::from);
                for (a, c) in [(a, c), (a, -c), (-a, c), (-a, -c)] {
                    let (ours, exact) = (fused_multiply_add(a, b, c), a.mul_add(b, c));
                    assert_eq!(ours.to_bits(), exact.to_bits(), "{a} · {b} + {c:e}");
                }
            }
        }
    }
}

proptest! {
    /// The emulated fused multiply-add is the processor's, whatever the operands.
    #[test]
    fn fused_multiply_add_is_rounded_once(a in any::<u32>(), b in any::<u32>(), c in any::<u32>(), near in 0_u32..64) {
        let [a, b, c] = [a, b, c].map(f32::from_bits);
        // Addends close to the product, where cancellation and halfway cases are.
        let close = f32::from_bits((-a * b).to_bits().wrapping_add(near).wrapping_sub(32));
        let tiny = f32::from_bits(c.to_bits() & 0x80ff_ffff);
        for c in [c, close, tiny, a, -a, 0.0, -0.0] {
            let (ours, exact) = (fused_multiply_add(a, b, c), a.mul_add(b, c));
            prop_assert!(ours.to_bits() == exact.to_bits() || ours.is_nan() && exact.is_nan(), "{a:e} · {b:e} + {c:e}");
        }
    }

    /// LayerNorm of rows of odd widths: close to f64, the same bits on every path, the padding zero.
    #[test]
    fn layer_norm_is_within_a_hundred_thousandth(width in 1_usize..300, rows in 1_usize..40, threads in 1_usize..=4,
                                                seed in 0_u64..1000) {
        let x: Vec<f32> = numbers(seed, rows * width).iter().map(|x| 3.0 * x + 0.7).collect();
        let (scale, bias) = (numbers(seed + 1, width), numbers(seed + 2, width));
        let placed: Vec<f32> = x.chunks_exact(width).flat_map(in_lane_order).collect();
        let padded = width.next_multiple_of(BLOCK);
        let norm = Norm::layer(&scale, &bias, 1e-5);
        let on = |isa, threads| {
            let mut out = vec![f32::NAN; rows * padded];
            norm.apply_rows(&compute(isa, threads), &placed, &mut out, rows, |row| row);
            out
        };
        let portable = on(Isa::Portable, 1);
        for isa in Isa::available() {
            prop_assert_eq!(bits(&on(isa, threads)), bits(&portable), "{}", isa);
        }
        for (x, out) in x.chunks_exact(width).zip(portable.chunks_exact(padded)) {
            let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / width as f64;
            let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / width as f64;
            for i in 0..width {
                let unit = (f64::from(x[i]) - mean) / (variance + 1e-5).sqrt();
                let exact = unit * f64::from(scale[i]) + f64::from(bias[i]);
                prop_assert!((f64::from(out[place(i)]) - exact).abs() < 1e-4, "{} is not {exact}", out[place(i)]);
            }
            let mut padding: Vec<bool> = vec![true; padded];
            (0..width).for_each(|i| padding[place(i)] = false);
            prop_assert!((0..padded).all(|i| !padding[i] || out[i] == 0.0));
        }
    }

    /// What a matmul adds to, and what it passes through GELU, in lane order with its padding zero.
    #[test]
    fn sinks_put_results_in_lane_order(rows in 1_usize..20, inputs in 1_usize..80, outputs in 1_usize..100,
                                       threads in 1_usize..=4, seed in 0_u64..1000) {
        let case = Case::new(FloatType::BF16, rows, inputs, outputs, seed);
        for isa in Isa::available() {
            let compute = compute(isa, threads);
            let plain = case.run(&compute, 0..rows);
            let before: Vec<f32> = numbers(seed + 3, rows * outputs).chunks_exact(outputs).flat_map(in_lane_order).collect();
            let stride = outputs.next_multiple_of(BLOCK);
            let placed: Vec<f32> = plain.chunks_exact(outputs).flat_map(in_lane_order).collect();

            let mut added = before.clone();
            case.run_into(&compute, 0..rows, Sink::Add { out: &mut added, stride });
            let expected: Vec<f32> = before.iter().zip(&placed).map(|(a, b)| a + b).collect();
            prop_assert_eq!(bits(&added), bits(&expected));

            let mut through = before.clone();
            case.run_into(&compute, 0..rows, Sink::Gelu { out: &mut through, stride });
            prop_assert_eq!(bits(&through), bits(&map(Function::Gelu, &placed)));
        }
    }
}
