//! Formats that the kernels don't have, turned into one that they have.

use std::borrow::Cow;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};

/// Elements that are turned at a time.
const AT_ONCE: usize = 1 << 20;

/// What a conversion ends in: 8 bits are more than any of these formats has, and half of what bf16 takes.
pub(super) const TO: GgmlDType = GgmlDType::Q8_0;

/// Turns rows of `inputs` elements. The error says what is wrong with them.
pub(super) fn to_q8_0(from: GgmlDType, raw: &[u8], inputs: usize) -> Result<Vec<u8>, String> {
    let row = inputs / from.block_size() * from.type_size();
    let rows = (AT_ONCE / inputs).max(1);
    let mut converted = Vec::with_capacity(raw.len() / row * (inputs / TO.block_size() * TO.type_size()));
    for raw in raw.chunks(rows * row) {
        let values = dequantise(from, raw, inputs).map_err(|error| error.to_string())?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err("not finite".to_owned());
        }
        converted.extend(quantise(&values, inputs).map_err(|error| error.to_string())?);
    }
    Ok(converted)
}

fn dequantise(from: GgmlDType, raw: &[u8], inputs: usize) -> candle_core::Result<Vec<f32>> {
    let rows = raw.len() / (inputs / from.block_size() * from.type_size());
    let storage = QStorage::from_data(Cow::Borrowed(raw), &Device::Cpu, from)?;
    QTensor::new(storage, (rows, inputs))?.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()
}

fn quantise(values: &[f32], inputs: usize) -> candle_core::Result<Vec<u8>> {
    let values = Tensor::from_slice(values, (values.len() / inputs, inputs), &Device::Cpu)?;
    Ok(QTensor::quantize(&values, TO)?.data()?.into_owned())
}
