//! What happens to queries and keys between their projection and the attention: RMSNorm of each head, and rotation by
//! position (Su et al. 2021, arXiv 2104.09864).
//!
//! Dimension i of a head is paired with i + half. Angles are f64 and go through the functions of `libm` in plain Rust, so
//! that they are the same bits everywhere; cosine and sine are rounded to f32 once. A rotation is two products and a sum,
//! each rounded by itself.

use super::attention::Shape;
use super::buffer::Shared;
use super::{Norm, place};
use crate::compute::Compute;

#[cfg(test)]
mod tests;

/// Elements of queries and keys that one thread prepares in one go, at least.
const CHUNK: usize = 1 << 12;

/// Cosines and sines for the rows of a forward.
pub(crate) struct Rotation {
    /// (rows, half): cosine and sine.
    turns: Vec<[f32; 2]>,
    half: usize,
}

impl Rotation {
    /// `frequencies`: radians for each position, one for each pair of dimensions.
    pub(crate) fn new(frequencies: &[f64], positions: impl Iterator<Item = usize>) -> Rotation {
        let turn = |angle: f64| [libm::cos(angle) as f32, libm::sin(angle) as f32];
        let turns = positions.flat_map(|position| frequencies.iter().map(move |f| turn(position as f64 * f)));
        Rotation { turns: turns.collect(), half: frequencies.len() }
    }

    /// (rows, half): cosine and sine.
    pub(crate) fn turns(&self) -> &[[f32; 2]] {
        &self.turns
    }

    fn apply(&self, row: usize, head: &mut [f32]) {
        let half = self.half;
        for (i, [cos, sin]) in self.turns[row * half..][..half].iter().enumerate() {
            let (first, second) = (place(i), place(i + half));
            let (a, b) = (head[first], head[second]);
            head[first] = a * cos - b * sin;
            head[second] = b * cos + a * sin;
        }
    }
}

/// Normalises and rotates the queries and keys of `rows` rows of projections, laid out as [`Shape::parts`] says and
/// `stride` elements apart.
pub(crate) fn prepare(
    compute: &Compute,
    shape: Shape,
    norms: Option<&[Norm; 2]>,
    rotation: Option<&Rotation>,
    projections: &mut [f32],
    stride: usize,
    rows: usize,
) {
    if norms.is_none() && rotation.is_none() {
        return;
    }
    let [queries, keys, values] = shape.parts();
    assert!(stride >= values && projections.len() >= rows * stride, "room for {rows} rows of {stride}");
    assert!(rotation.is_none_or(|r| 2 * r.half <= shape.head_dim && r.turns.len() >= rows * r.half), "{rows} rows");
    let padded = shape.head_dim.next_multiple_of(super::BLOCK);
    let together = (CHUNK / values).max(1);
    let projections = Shared::new(projections);
    compute.pool().run(rows.div_ceil(together), rows * values >= 2 * CHUNK, &|chunk, _| {
        let mut scratch = vec![0.0; 2 * padded];
        let (head, normalised) = scratch.split_at_mut(padded);
        for row in chunk * together..((chunk + 1) * together).min(rows) {
            for (part, offset, heads) in [(0, queries, shape.heads), (1, keys, shape.kv_heads)] {
                for number in 0..heads {
                    let at = |d| projections.at(row * stride + offset + place(number * shape.head_dim + d), 1);
                    // SAFETY: within the row, which is one thread's.
                    (0..shape.head_dim).for_each(|d| head[place(d)] = unsafe { *at(d) });
                    let prepared = match norms {
                        Some(norms) => {
                            norms[part].apply(compute.path(), head, normalised);
                            &mut *normalised
                        }
                        None => &mut *head,
                    };
                    if let Some(rotation) = rotation {
                        rotation.apply(row, prepared);
                    }
                    // SAFETY: as above.
                    (0..shape.head_dim).for_each(|d| unsafe { *at(d) = prepared[place(d)] });
                }
            }
        }
    });
}
