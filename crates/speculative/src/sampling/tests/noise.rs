use proptest::prelude::*;

use super::vectors;
use crate::gumbel;
use crate::sampling::noise::{CEILING, Draw};

/// Each of the two logarithms may be one unit off; an error in the inner one becomes an absolute error of the outer.
#[test]
fn variates_agree_with_an_independent_implementation() {
    let mut checked = 0;
    for fields in vectors("gumbel") {
        let (seed, position) = (fields[0].parse().unwrap(), fields[1].parse().unwrap());
        let token = fields[2].parse().unwrap();
        let expected = f64::from_bits(u64::from_str_radix(fields[3], 16).unwrap());
        let actual = gumbel(seed, position, token);
        let tolerance = 2.0 * f64::EPSILON * expected.abs().max(1.0);
        assert!((actual - expected).abs() <= tolerance, "gumbel({seed}, {position}, {token}) = {actual}, {expected}");
        checked += 1;
    }
    assert!(checked >= 400);
}

/// The bits are part of the output: this digest may never change, on any machine (FNV-1a over the variates' bits).
#[test]
fn bits_of_the_variates_are_pinned() {
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    for position in 0..100 {
        for token in 0..1000 {
            digest = (digest ^ gumbel(0x0123_4567_89ab_cdef, position, token).to_bits()).wrapping_mul(0x100_0000_01b3);
        }
    }
    assert_eq!(digest, 0xd394_7b7b_bb47_c906, "{digest:#x}");
}

/// A shift by which some draws lie near the ends of their range, where the bound matters.
fn draws() -> impl Strategy<Value = Draw> {
    (0..1u64 << 52, 0..52u32, any::<bool>()).prop_map(|(bits, shift, near_one)| {
        let k = bits >> shift;
        Draw::of_bits(if near_one { (1 << 52) - 1 - k } else { k })
    })
}

proptest! {
    #[test]
    fn the_ceiling_is_never_below_the_variate(draw in draws()) {
        prop_assert!(draw.gumbel() <= draw.ceiling());
        prop_assert!(draw.ceiling() <= CEILING);
    }

    #[test]
    fn the_ceiling_is_close_where_the_variate_is_great(bits in 0..1u64 << 44) {
        let draw = Draw::of_bits((1 << 52) - 1 - bits);
        prop_assert!(draw.ceiling() - draw.gumbel() < 0.7);
    }
}

#[test]
fn the_variate_is_finite_at_both_ends() {
    let (least, greatest) = (Draw::of_bits(0).gumbel(), Draw::of_bits((1 << 52) - 1).gumbel());
    assert!((least + 3.603_8).abs() < 1e-4, "{least}");
    assert!((greatest - 36.736_8).abs() < 1e-4, "{greatest}");
}

#[test]
fn every_part_of_the_counter_and_the_key_matters() {
    let variates = [
        gumbel(1, 2, 3),
        gumbel(1 + (1 << 32), 2, 3),
        gumbel(2, 2, 3),
        gumbel(1, 2 + (1 << 32), 3),
        gumbel(1, 3, 3),
        gumbel(1, 2, 4),
    ];
    for (i, a) in variates.iter().enumerate() {
        assert!(variates[i + 1..].iter().all(|b| a != b));
    }
}
