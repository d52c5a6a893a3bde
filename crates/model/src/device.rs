//! Where a model computes, and the forward on candle's devices.
//!
//! On the CPU our own kernels compute, and a row's bits are a promise. On a GPU candle's do, and they are a measured
//! property: what a row is computed together with must not show in it. So everything is computed in calls of a fixed
//! shape: the linear layers see tiles of [`ROWS`] rows, padded, and the attention sees [`ATTENTION_ROWS`] rows and a number
//! of positions that follows from the row's own. `outrider certify` measures what comes of it.
//!
//! # Layout
//! - [`Device`]: where, and a model there
//! - `form`: weights on a device
//! - `kept`: keys and values on a device
//! - `transformer`, `attention`: the forward
//! - `roofs`: what the device could do at best

mod attention;
mod form;
mod kept;
mod roofs;
#[cfg(test)]
mod tests;
mod transformer;

use std::{fmt, str::FromStr, sync::Arc};

pub(crate) use self::kept::Kept;
use self::{form::OnDevice, transformer::DeviceTransformer};
use crate::{Compute, Decoder, LoadError, Source, Transformer, load};

/// Rows that a linear layer sees in one call. A window and the windows of a few sessions fit; a GPU reads the weights no
/// longer for 64 rows than for one.
const ROWS: usize = 64;

/// Rows of one sequence that the attention sees in one call: a window of γ up to 15.
const ATTENTION_ROWS: usize = 16;

/// Where a model computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// Our own kernels on the CPU: a row's bits depend on nothing but the row.
    #[default]
    Cpu,
    /// candle on the CPU: the forward of a GPU where there is none, to try it and to certify. Slow.
    CandleCpu,
    /// An NVIDIA GPU, by its number.
    Cuda(usize),
    /// An Apple GPU, by its number.
    Metal(usize),
}

/// Words that name no device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "allowed: cpu, cuda, cuda:N, metal, metal:N, or candle-cpu, which is the forward of a GPU on the CPU, to try it"
)]
pub struct InvalidDevice;

impl FromStr for Device {
    type Err = InvalidDevice;

    fn from_str(text: &str) -> Result<Device, InvalidDevice> {
        let (kind, number) = match text.split_once(':') {
            Some((kind, number)) => (kind, Some(number.parse().map_err(|_| InvalidDevice)?)),
            None => (text, None),
        };
        match (kind, number) {
            ("cpu", None) => Ok(Device::Cpu),
            ("candle-cpu", None) => Ok(Device::CandleCpu),
            ("cuda", number) => Ok(Device::Cuda(number.unwrap_or(0))),
            ("metal", number) => Ok(Device::Metal(number.unwrap_or(0))),
            _ => Err(InvalidDevice),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::CandleCpu => f.write_str("candle-cpu"),
            Device::Cuda(number) => write!(f, "cuda:{number}"),
            Device::Metal(number) => write!(f, "metal:{number}"),
        }
    }
}

impl Device {
    /// candle's own, of which there is none for our kernels.
    fn open(self) -> Result<Option<candle_core::Device>, LoadError> {
        let lacking = |feature: &str| {
            Err(LoadError::Device(format!("{self} is not in this build, which needs --features {feature} for it")))
        };
        let opened = match self {
            Device::Cpu => return Ok(None),
            Device::CandleCpu => Ok(candle_core::Device::Cpu),
            Device::Cuda(_) if !cfg!(feature = "cuda") => return lacking("cuda"),
            Device::Metal(_) if !cfg!(feature = "metal") => return lacking("metal"),
            Device::Cuda(number) => candle_core::Device::new_cuda(number),
            Device::Metal(number) => candle_core::Device::new_metal(number),
        };
        opened.map(Some).map_err(|error| LoadError::Device(format!("{self}: {error}")))
    }

    /// Reads and checks a model that is to compute here; on the CPU with `compute`.
    ///
    /// # Errors
    /// A model that cannot be loaded, or a device that is not there, not in this build, or too small.
    pub fn load(self, source: &Source, compute: Arc<Compute>) -> Result<Box<dyn Decoder>, LoadError> {
        let Some(device) = self.open()? else {
            return Ok(Box::new(Transformer::load(source, compute)?));
        };
        let form = OnDevice { device };
        let transformer = DeviceTransformer::new(load::load(source, &form)?, self, &form.device, None);
        Ok(Box::new(transformer.map_err(|error| LoadError::Device(error.to_string()))?))
    }
}
