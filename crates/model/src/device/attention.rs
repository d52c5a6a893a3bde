//! Causal attention of new rows against their sequences' keys and values.
//!
//! A call has the same shape whatever is in it: [`ATTENTION_ROWS`] rows of one sequence, and as many positions as the page
//! that holds the row's own position ends at. Rows of a window whose pages differ go in different calls.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};

use super::{ATTENTION_ROWS, Kept};
use crate::Rows;
use crate::kernels::attention::{PAGE, Shape};

/// One sequence's part in a forward.
pub(super) struct Window<'a> {
    kept: &'a mut Kept,
    /// Positions before its rows.
    held: usize,
    /// Its rows among all.
    rows: Range<usize>,
    calls: Vec<Call>,
}

/// Some rows of a window that see the same number of positions.
struct Call {
    rows: usize,
    positions: usize,
    /// Their numbers among all rows, the first one's repeated up to [`ATTENTION_ROWS`].
    index: Tensor,
    /// 0 for what a row sees and −∞ for the rest: (group · [`ATTENTION_ROWS`], positions).
    mask: Tensor,
}

/// The windows of a batch, with room for their rows.
pub(super) fn windows<'a>(
    batch: &'a mut [Rows<'_>],
    shape: Shape,
    dtype: DType,
    device: &Device,
) -> Result<Vec<Window<'a>>> {
    let mut end = 0;
    let windows = batch.iter_mut().map(|rows| {
        let (held, first) = (rows.cache.len(), end);
        end += rows.tokens.len();
        let kept = rows.cache.kept().expect("a cache on a device");
        kept.make_room(held + rows.tokens.len())?;
        let calls = cut(held, first..end).into_iter();
        let calls = calls.map(|(row, held, rows)| Call::new([row, held, rows], shape, dtype, device));
        Ok(Window { kept, held, rows: first..end, calls: calls.collect::<Result<_>>()? })
    });
    windows.collect()
}

/// Cuts rows, the first of which is at position `held`: the first of each call, its position, and how many there are.
pub(super) fn cut(held: usize, rows: Range<usize>) -> Vec<(usize, usize, usize)> {
    let (mut row, mut position, mut calls) = (rows.start, held, Vec::new());
    while row < rows.end {
        let count = ATTENTION_ROWS.min(rows.end - row).min(PAGE - position % PAGE);
        calls.push((row, position, count));
        (row, position) = (row + count, position + count);
    }
    calls
}

impl Call {
    fn new([row, position, rows]: [usize; 3], shape: Shape, dtype: DType, device: &Device) -> Result<Call> {
        let positions = (position + 1).next_multiple_of(PAGE);
        let padded = |i: usize| if i < rows { i } else { 0 };
        let index: Vec<u32> = (0..ATTENTION_ROWS).map(|i| (row + padded(i)) as u32).collect();
        let sees = |i: usize, at: usize| if at <= position + padded(i) { 0.0 } else { f32::NEG_INFINITY };
        let mask: Vec<f32> = (0..ATTENTION_ROWS).flat_map(|i| (0..positions).map(move |at| sees(i, at))).collect();
        let mask = Tensor::from_vec(mask, (1, ATTENTION_ROWS, positions), device)?;
        let group = shape.heads / shape.kv_heads;
        let mask = mask.repeat((group, 1, 1))?.reshape((group * ATTENTION_ROWS, positions))?.to_dtype(dtype)?;
        Ok(Call { rows, positions, index: Tensor::from_vec(index, ATTENTION_ROWS, device)?, mask })
    }

    /// What its rows make of the values: (rows, heads · head_dim). `queries`: (all rows, heads · head_dim), scaled.
    fn run(&self, shape: Shape, queries: &Tensor, [keys, values]: [Tensor; 2]) -> Result<Tensor> {
        let Shape { heads, kv_heads, head_dim, .. } = shape;
        let group = heads / kv_heads;
        let queries = queries
            .index_select(&self.index, 0)?
            .reshape((ATTENTION_ROWS, kv_heads, group, head_dim))?
            .permute((1, 2, 0, 3))?
            .reshape((kv_heads, group * ATTENTION_ROWS, head_dim))?;
        let scores = queries.matmul(&keys.t()?)?.broadcast_add(&self.mask)?; // (kv_heads, group · rows, positions)
        let attended = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&values)?; // (kv_heads, group · rows, head_dim)
        attended
            .reshape((kv_heads, group, ATTENTION_ROWS, head_dim))?
            .permute((2, 0, 1, 3))?
            .reshape((ATTENTION_ROWS, heads * head_dim))?
            .narrow(0, 0, self.rows)
    }
}

/// Attention of all windows in one layer: (rows, heads · head_dim). `queries` as above; `keys` and `values`: (at least as
/// many rows, heads of keys, head_dim).
pub(super) fn attend(
    windows: &[Window<'_>],
    layer: usize,
    shape: Shape,
    queries: &Tensor,
    [keys, values]: [&Tensor; 2],
) -> Result<Tensor> {
    let mut attended = Vec::new();
    for Window { kept, held, rows, calls } in windows.iter().filter(|window| !window.rows.is_empty()) {
        let of_window = |rows_of: &Tensor| rows_of.narrow(0, rows.start, rows.len());
        kept.write(layer, *held, [of_window(keys)?, of_window(values)?])?;
        for call in calls {
            attended.push(call.run(shape, queries, kept.read(layer, call.positions)?)?);
        }
    }
    Tensor::cat(&attended, 0)
}
