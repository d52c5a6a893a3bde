use std::num::NonZeroUsize;

use super::*;
use crate::Isa;
use crate::kernels::BLOCK;

/// 3 heads of 6 share 1 of keys; parts are padded to 32.
const SHAPE: Shape = Shape { layers: 1, heads: 3, kv_heads: 1, head_dim: 6 };

fn prepared(isa: Isa, rows: usize, norms: Option<&[Norm; 2]>, rotation: Option<&Rotation>) -> Vec<f32> {
    let stride = SHAPE.projections();
    let mut projections: Vec<f32> = (0..rows * stride).map(|i| (i as f32 * 0.37).sin()).collect();
    let compute = Compute::with_isa(NonZeroUsize::new(2).unwrap(), isa).unwrap();
    prepare(&compute, SHAPE, norms, rotation, &mut projections, stride, rows);
    projections
}

/// Element d of a head of queries (part 0), keys or values.
fn element(row: &[f32], part: usize, head: usize, d: usize) -> f64 {
    f64::from(row[SHAPE.parts()[part] + place(head * SHAPE.head_dim + d)])
}

#[test]
fn pairs_turn_by_position_times_frequency() {
    let frequencies = [1.0, 0.01];
    let positions = [0_usize, 1, 7, 100_003];
    let rotation = Rotation::new(&frequencies, positions.into_iter());
    let before = prepared(Isa::Portable, 4, None, None);
    let after = prepared(Isa::best(), 4, None, Some(&rotation));
    let stride = SHAPE.projections();
    for (row, position) in positions.into_iter().enumerate() {
        let (before, after) = (&before[row * stride..][..stride], &after[row * stride..][..stride]);
        for (part, heads) in [(0, 3), (1, 1)] {
            for head in 0..heads {
                for (i, frequency) in frequencies.into_iter().enumerate() {
                    let (sin, cos) = (position as f64 * frequency).sin_cos();
                    let [a, b] = [0, 2].map(|offset| element(before, part, head, offset + i));
                    let [x, y] = [0, 2].map(|offset| element(after, part, head, offset + i));
                    assert!((x - (a * cos - b * sin)).abs() < 1e-6, "{x}");
                    assert!((y - (b * cos + a * sin)).abs() < 1e-6, "{y}");
                }
                // Dimensions beyond those that turn.
                for d in 4..6 {
                    assert_eq!(element(before, part, head, d), element(after, part, head, d));
                }
            }
        }
        for d in 0..6 {
            assert_eq!(element(before, 2, 0, d), element(after, 2, 0, d), "values do not turn");
        }
    }
}

#[test]
fn heads_are_normalised_one_by_one_before_they_turn() {
    let scale: Vec<f32> = (1..=6).map(|i| i as f32 / 4.0).collect();
    let norms = [Norm::rms(&scale, 1e-6), Norm::rms(&[2.0; 6], 1e-6)];
    let rows = 400;
    let after = prepared(Isa::best(), rows, Some(&norms), None);
    let before = prepared(Isa::best(), rows, None, None);
    let stride = SHAPE.projections();
    for (before, after) in before.chunks_exact(stride).zip(after.chunks_exact(stride)) {
        for (part, head) in [(0, 0), (0, 1), (0, 2), (1, 0)] {
            let squares: f64 = (0..6).map(|d| element(before, part, head, d).powi(2)).sum();
            for d in 0..6 {
                let scale = if part == 0 { f64::from(scale[d]) } else { 2.0 };
                let exact = element(before, part, head, d) / (squares / 6.0 + 1e-6).sqrt() * scale;
                assert!((element(after, part, head, d) - exact).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn paths_agree_to_the_bit() {
    let norms = [Norm::rms(&[0.7; 6], 1e-5), Norm::rms(&[1.3; 6], 1e-5)];
    let rotation = Rotation::new(&[1.0, 0.3, 0.001], 5..205);
    let bits =
        |isa| prepared(isa, 200, Some(&norms), Some(&rotation)).into_iter().map(f32::to_bits).collect::<Vec<_>>();
    for isa in Isa::available() {
        assert_eq!(bits(isa), bits(Isa::Portable), "{isa}");
    }
    assert_eq!(SHAPE.parts(), [0, BLOCK, 2 * BLOCK]);
}
