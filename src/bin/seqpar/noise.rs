//! Normal noise from a seed, the same on every machine.
//!
//! splitmix64 fills the state of xoshiro256++ (Blackman and Vigna, 2019); its upper 53 bits are a
//! uniform number in [0, 1); Marsaglia's polar method turns pairs into normals, computed in f64
//! and rounded to f32. The logarithm is summed here, so that only additions, multiplications,
//! divisions and square roots are used, which IEEE 754 defines to the bit.

/// `count` normal numbers.
pub(crate) fn normals(seed: u64, count: usize) -> Vec<f32> {
    let mut random = Xoshiro::new(seed);
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let (u, v) = (2.0 * random.uniform() - 1.0, 2.0 * random.uniform() - 1.0);
        let s = u * u + v * v;
        if s > 0.0 && s < 1.0 {
            let radius = (-2.0 * ln(s) / s).sqrt();
            values.extend([(u * radius) as f32, (v * radius) as f32]);
        }
    }
    values.truncate(count);
    values
}

struct Xoshiro([u64; 4]);

impl Xoshiro {
    fn new(seed: u64) -> Self {
        let mut state = seed;
        Self(std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }))
    }

    fn uniform(&mut self) -> f64 {
        let s = &mut self.0;
        let next = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        (next >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Natural logarithm of a positive normal number: 2·atanh((m−1)/(m+1)) + e·ln 2.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let square = t * t;
    let series = (0..12).rev().fold(0.0, |sum, k| sum * square + 1.0 / (2 * k + 1) as f64);
    2.0 * t * series + exponent as f64 * std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_right() {
        for i in 1..2000 {
            let x = f64::from(i) / 997.0;
            assert!((ln(x) - x.ln()).abs() <= 4e-16 * (1.0 + x.ln().abs()), "{x}: {} is not {}", ln(x), x.ln());
        }
        assert!((ln(1e-30) - 1e-30f64.ln()).abs() < 1e-13);
    }

    #[test]
    fn the_generator_is_xoshiro256_plus_plus() {
        // First outputs for the state 1, 2, 3, 4, from the reference implementation.
        let mut random = Xoshiro([1, 2, 3, 4]);
        let expected = [41943041u64, 58720359, 3588806011781223, 3591011842654386];
        for value in expected {
            assert_eq!(random.uniform(), (value >> 11) as f64 / (1u64 << 53) as f64);
        }
    }

    #[test]
    fn normals_are_normal_and_depend_on_the_seed_alone() {
        let values = normals(7, 100_001);
        let n = values.len() as f64;
        let moment = |k: i32| values.iter().map(|&x| f64::from(x).powi(k)).sum::<f64>() / n;
        assert!(moment(1).abs() < 0.01 && (moment(2) - 1.0).abs() < 0.02, "{} {}", moment(1), moment(2));
        assert!(moment(3).abs() < 0.05 && (moment(4) - 3.0).abs() < 0.1, "{} {}", moment(3), moment(4));
        assert_eq!(values[..5], normals(7, 5)[..]);
        assert_ne!(values[..5], normals(8, 5)[..]);
    }
}
