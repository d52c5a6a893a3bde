//! Which instructions a process uses, chosen once at run time. No choice shows in the bits.

use std::fmt;

use super::portable::Portable;
use super::simd::Simd;
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};

/// A set of instructions that the kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust: every processor.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512: its foundation, bytes and words, and VNNI.
    Avx512,
}

impl Isa {
    /// The fastest that this processor has.
    pub fn best() -> Isa {
        [Isa::Avx512, Isa::Avx2].into_iter().find(|isa| isa.is_available()).unwrap_or(Isa::Portable)
    }

    /// Those that this processor has, the slowest first.
    pub fn available() -> Vec<Isa> {
        [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| isa.is_available()).collect()
    }

    fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => false,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        })
    }
}

/// Something computed in vectors, written once for every path.
pub(super) trait Kernel {
    /// What it gives.
    type Output;

    /// Computes it.
    ///
    /// # Safety
    /// Only [`Path::run`] calls this, under the target features of `S`; implementations and all that they call are
    /// `#[inline(always)]`. What the kernel itself asks for (pointers that are valid, ranges that no other thread
    /// writes) is said where it is defined.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// An [`Isa`] that this processor has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path(Isa);

impl Path {
    /// None where the processor lacks `isa`.
    pub(crate) fn new(isa: Isa) -> Option<Path> {
        isa.is_available().then_some(Path(isa))
    }

    pub(crate) fn isa(self) -> Isa {
        self.0
    }

    /// Runs a kernel with the path's instructions: the one place where a path is chosen.
    ///
    /// # Safety
    /// What the kernel asks for holds.
    #[inline]
    pub(super) unsafe fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            // SAFETY: the caller vouches for the kernel, and this path needs no feature.
            Isa::Portable => unsafe { kernel.run::<Portable>() },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above, and `new` saw the features.
            Isa::Avx2 => unsafe { with_avx2(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above, and `new` saw the features.
            Isa::Avx512 => unsafe { with_avx512(kernel) },
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => unreachable!("`new` refuses what the processor lacks"),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn with_avx2<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the features are on, and the caller vouches for the kernel.
    unsafe { kernel.run::<Avx2>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vnni")]
unsafe fn with_avx512<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the features are on, and the caller vouches for the kernel.
    unsafe { kernel.run::<Avx512>() }
}
