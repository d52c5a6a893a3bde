use std::num::NonZeroUsize;

use super::*;
use crate::Isa;

const ROWS: usize = 70;
const WIDTH: usize = 256;

fn on_every_path(apply: impl Fn(&Compute) -> Vec<f32>) -> Vec<f32> {
    let compute = |isa, threads| Compute::with_isa(NonZeroUsize::new(threads).unwrap(), isa).unwrap();
    let portable = apply(&compute(Isa::Portable, 1));
    for isa in Isa::available() {
        for threads in [1, 3] {
            let other = apply(&compute(isa, threads));
            assert!(portable.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits()), "{isa}, {threads} threads");
        }
    }
    portable
}

/// Evenly from −`to` to `to`.
fn grid(to: f32, len: usize) -> Vec<f32> {
    (0..len).map(|i| to * (2.0 * i as f32 / (len - 1) as f32 - 1.0)).collect()
}

#[test]
fn swiglu_is_within_a_millionth() {
    let wide = grid(12.0, ROWS * 2 * WIDTH);
    let out = on_every_path(|compute| {
        let mut out = vec![f32::NAN; ROWS * WIDTH];
        swiglu(compute, &wide, &mut out, WIDTH, ROWS);
        out
    });
    for (row, out) in out.chunks_exact(WIDTH).enumerate() {
        for (i, out) in out.iter().enumerate() {
            let [gate, up] = [0, WIDTH].map(|offset| f64::from(wide[row * 2 * WIDTH + offset + i]));
            let exact = gate / (1.0 + (-gate).exp()) * up;
            assert!((f64::from(*out) - exact).abs() < 1e-6 * exact.abs().max(1.0), "{out} is not {exact}");
        }
    }
}

#[test]
fn gelu_tanh_is_within_a_millionth() {
    let values = grid(9.0, ROWS * WIDTH);
    let out = on_every_path(|compute| {
        let mut out = values.clone();
        gelu_tanh(compute, &mut out, WIDTH, ROWS);
        out
    });
    for (x, out) in values.iter().zip(out) {
        let x = f64::from(*x);
        let exact = 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh());
        assert!((f64::from(out) - exact).abs() < 1e-6 * x.abs().max(1.0), "gelu({x}) is {exact}, not {out}");
    }
}

#[test]
fn extremes_stay_finite_zero_stays_zero_and_nan_is_seen() {
    let apply = |x: f32| {
        let wide = [vec![x; BLOCK], vec![1.0; BLOCK]].concat();
        let mut silu = vec![0.0; BLOCK];
        let compute = Compute::new(NonZeroUsize::MIN);
        swiglu(&compute, &wide, &mut silu, BLOCK, 1);
        let mut gelu = vec![x; BLOCK];
        gelu_tanh(&compute, &mut gelu, BLOCK, 1);
        (silu[0], gelu[0])
    };
    assert_eq!(apply(3e38), (3e38, 3e38));
    assert_eq!(apply(0.0), (0.0, 0.0));
    let (silu, gelu) = apply(-200.0);
    assert!(silu.abs() < 1e-30 && gelu.abs() < 1e-30, "{silu} {gelu}");
    let (silu, gelu) = apply(f32::NAN);
    assert!(silu.is_nan() && gelu.is_nan(), "{silu} {gelu}");
}
