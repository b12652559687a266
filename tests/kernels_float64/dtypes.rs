//! Conversions against the `half` crate.

use half::{bf16, f16};
use seqpar::dtype::{Dtype, bf16_from_f32, bf16_to_f32, f16_from_f32, f16_to_f32, round_to};

use crate::fresh;

fn agree(x: f32) {
    let (f, b) = (f16_from_f32(x), bf16_from_f32(x));
    if x.is_nan() {
        assert!(f16::from_bits(f).is_nan() && bf16::from_bits(b).is_nan(), "{:#x}", x.to_bits());
        assert_eq!(f16::from_bits(f).is_sign_negative(), x.is_sign_negative());
    } else {
        assert_eq!(f, f16::from_f32(x).to_bits(), "f16 of {x:e} ({:#x})", x.to_bits());
        assert_eq!(b, bf16::from_f32(x).to_bits(), "bf16 of {x:e} ({:#x})", x.to_bits());
    }
}

#[test]
fn every_pattern_widens_as_in_the_half_crate_and_comes_back() {
    for bits in 0..=u16::MAX {
        let (f, b) = (f16_to_f32(bits), bf16_to_f32(bits));
        let (want_f, want_b) = (f16::from_bits(bits).to_f32(), bf16::from_bits(bits).to_f32());
        assert!(f.to_bits() == want_f.to_bits() || (f.is_nan() && want_f.is_nan()), "f16 {bits:#x}: {f:e}, {want_f:e}");
        assert!(
            b.to_bits() == want_b.to_bits() || (b.is_nan() && want_b.is_nan()),
            "bf16 {bits:#x}: {b:e}, {want_b:e}"
        );
        if !f.is_nan() {
            assert_eq!(f16_from_f32(f), bits);
        }
        if !b.is_nan() {
            assert_eq!(bf16_from_f32(b), bits);
        }
    }
}

#[test]
fn every_tie_and_its_neighbours_round_as_in_the_half_crate() {
    for bits in 0..u16::MAX {
        for widen in [f16_to_f32, bf16_to_f32] {
            let (low, high) = (widen(bits), widen(bits + 1));
            let middle = ((f64::from(low) + f64::from(high)) / 2.0) as f32;
            [low, middle.next_down(), middle, middle.next_up(), high].into_iter().for_each(agree);
        }
    }
}

#[test]
fn random_bits_round_as_in_the_half_crate() {
    let mut rng = fresh("conversions");
    (0..2_000_000).for_each(|_| agree(f32::from_bits(rng.next() as u32)));
}

#[test]
fn f16_overflows_from_halfway_above_its_largest_value() {
    for sign in [1.0, -1.0] {
        assert_eq!(round_to(Dtype::F16, sign * 65504.0), sign * 65504.0);
        assert_eq!(round_to(Dtype::F16, sign * 65520f32.next_down()), sign * 65504.0);
        assert_eq!(round_to(Dtype::F16, sign * 65520.0), sign * f32::INFINITY);
        assert_eq!(round_to(Dtype::F16, sign * 65536f32.next_down()), sign * f32::INFINITY);
        assert_eq!(round_to(Dtype::F16, sign * f32::MAX), sign * f32::INFINITY);
        assert_eq!(round_to(Dtype::Bf16, sign * f32::MAX), sign * f32::INFINITY);
    }
}
