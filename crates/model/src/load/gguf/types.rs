//! The types that GGUF numbers.

use candle_core::quantized::GgmlDType;

use super::super::stored::Kind;
use crate::kernels::{FloatType, Format};

/// A type of tensors that can be read.
pub(super) struct Type {
    pub(super) kind: Kind,
    /// Elements of a block, and its bytes.
    pub(super) block: (usize, usize),
}

/// The type of a number, or its name where it is known and cannot be read.
pub(super) fn of(number: u32) -> Result<Type, String> {
    let readable = |kind, dtype: GgmlDType| Ok(Type { kind, block: (dtype.block_size(), dtype.type_size()) });
    let float = |float, dtype| readable(Kind::Float(float), dtype);
    let packed = |format, dtype| readable(Kind::Quantised(format), dtype);
    let foreign = |dtype| readable(Kind::Foreign(dtype), dtype);
    match number {
        0 => float(FloatType::F32, GgmlDType::F32),
        1 => float(FloatType::F16, GgmlDType::F16),
        30 => float(FloatType::BF16, GgmlDType::BF16),
        2 => packed(Format::Q4_0, GgmlDType::Q4_0),
        6 => packed(Format::Q5_0, GgmlDType::Q5_0),
        8 => packed(Format::Q8_0, GgmlDType::Q8_0),
        12 => packed(Format::Q4K, GgmlDType::Q4K),
        13 => packed(Format::Q5K, GgmlDType::Q5K),
        14 => packed(Format::Q6K, GgmlDType::Q6K),
        3 => foreign(GgmlDType::Q4_1),
        7 => foreign(GgmlDType::Q5_1),
        10 => foreign(GgmlDType::Q2K),
        11 => foreign(GgmlDType::Q3K),
        15 => foreign(GgmlDType::Q8K),
        _ => Err(name(number)),
    }
}

fn name(number: u32) -> String {
    let name = match number {
        9 => "Q8_1",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("{number}, which is unknown"),
    };
    name.to_owned()
}

/// What may stand where [`of`] fails.
pub(super) const READABLE: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K or Q8_K";
