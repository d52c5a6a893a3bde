//! Keys and values on a device.

use candle_core::{DType, Device, Result, Tensor};

use crate::kernels::attention::{PAGE, Shape};

/// One sequence's keys and values on a device. Their memory is taken for all positions that it is to hold, when these are
/// reserved, or at its first forward.
pub(crate) struct Kept {
    shape: Shape,
    dtype: DType,
    device: Device,
    /// Positions that there is to be room for, whole pages.
    room: usize,
    /// Keys and values of each layer: (heads of keys, room, head_dim).
    layers: Vec<[Tensor; 2]>,
}

impl Kept {
    /// For up to `most` positions, if [`reserve`](Self::reserve) does not say less.
    pub(super) fn new(shape: Shape, most: usize, dtype: DType, device: Device) -> Kept {
        Kept { shape, dtype, device, room: most.next_multiple_of(PAGE), layers: Vec::new() }
    }

    pub(crate) fn reserve(&mut self, positions: usize) -> Result<()> {
        if self.layers.is_empty() {
            self.room = positions.next_multiple_of(PAGE);
        }
        self.make_room(positions)
    }

    /// Positions that memory is taken for.
    pub(crate) fn positions(&self) -> usize {
        if self.layers.is_empty() { 0 } else { self.room }
    }

    /// Bytes of a key's or value's element.
    pub(crate) fn value_bytes(&self) -> usize {
        self.dtype.size_in_bytes()
    }

    /// Takes the memory, if it is not there yet, and more where positions up to `end` exceed it.
    pub(super) fn make_room(&mut self, end: usize) -> Result<()> {
        let Shape { layers, kv_heads, head_dim, .. } = self.shape;
        if !self.layers.is_empty() && end <= self.room {
            return Ok(());
        }
        let room = self.room.max(end.next_multiple_of(PAGE));
        // Zeros, because what lies beyond a row's own position is multiplied by 0, and must be a number for that.
        let zeros = || Tensor::zeros((kv_heads, room, head_dim), self.dtype, &self.device);
        let grown = (0..layers).map(|_| Ok([zeros()?, zeros()?])).collect::<Result<Vec<_>>>()?;
        for (old, new) in self.layers.iter().flatten().zip(grown.iter().flatten()) {
            new.slice_set(old, 1, 0)?;
        }
        (self.layers, self.room) = (grown, room);
        Ok(())
    }

    /// Writes the keys and values of positions from `at` on: (rows, heads of keys, head_dim) each.
    pub(super) fn write(&self, layer: usize, at: usize, rows: [Tensor; 2]) -> Result<()> {
        for (kept, rows) in self.layers[layer].iter().zip(rows) {
            kept.slice_set(&rows.transpose(0, 1)?.contiguous()?, 1, at)?;
        }
        Ok(())
    }

    /// The keys and values of the first `positions`: (heads of keys, positions, head_dim) each.
    pub(super) fn read(&self, layer: usize, positions: usize) -> Result<[Tensor; 2]> {
        let [keys, values] = &self.layers[layer];
        Ok([keys.narrow(1, 0, positions)?, values.narrow(1, 0, positions)?])
    }
}
