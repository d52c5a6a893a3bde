//! What a device could do at best, for a model of a given size (Williams, Waterman, Patterson 2009).

use candle_core::{DType, Device, Result, Tensor};
use speculative::roofline::Roofs;

use crate::roofs::median;

/// Rows, inputs and outputs of the matmul, and bytes of what is read from memory: enough to fill a device, and more than
/// its caches hold.
struct Sizes {
    matmul: usize,
    memory_bytes: usize,
}

/// Roofs on a device for a model of `weight_bytes` that computes in `dtype`.
pub(super) fn measure(device: &Device, dtype: DType, weight_bytes: u64) -> Result<Roofs> {
    let sizes = match device {
        Device::Cpu => Sizes { matmul: 512, memory_bytes: 160 << 20 },
        Device::Cuda(_) | Device::Metal(_) => Sizes { matmul: 4096, memory_bytes: 1 << 30 },
    };
    Ok(Roofs {
        flops_per_s: matmul(device, dtype, sizes.matmul)?,
        // What is copied stands twice.
        bytes_per_s: copying(device, (weight_bytes as usize / 2).min(sizes.memory_bytes))?,
        memory_bytes_per_s: copying(device, sizes.memory_bytes)?,
    })
}

fn matmul(device: &Device, dtype: DType, size: usize) -> Result<f64> {
    let operand = || Tensor::ones((size, size), dtype, device);
    let (a, b) = (operand()?, operand()?);
    let seconds = timed(device, || a.matmul(&b.t()?).map(drop))?;
    Ok(2.0 * (size as f64).powi(3) / seconds)
}

/// Copies `bytes` from one place to another: these are read, and as many written.
fn copying(device: &Device, bytes: usize) -> Result<f64> {
    let from = Tensor::zeros(bytes.max(4) / 4, DType::F32, device)?;
    let seconds = timed(device, || from.copy().map(drop))?;
    Ok(2.0 * bytes as f64 / seconds)
}

/// The median time of a call, with its end on the device.
fn timed(device: &Device, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    // What does not work once is not tried again.
    call()?;
    Ok(median(|| {
        let _ = call().and_then(|()| device.synchronize());
    }))
}
