//! Conversions and arithmetic on special values, ties and random bits.

use half::{bf16, f16};

use crate::probe::{Case, Exact, Probe, conform};
use crate::support::Rng;

#[test]
fn values_conform() {
    conform(&cases());
}

fn inputs() -> Vec<[u32; 2]> {
    let mut special: Vec<u32> = vec![
        0,
        0x8000_0000,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0x7f80_0001,
        0xffc0_1234,
        1,
        0x8000_0001,
        0x007f_ffff,
        0x0080_0000,
        0x7f7f_ffff,
        0xff7f_ffff,
        0x7f7f_8000,
        0x7f7f_7fff,
        // bf16: ties to even down and up, just above and below them
        0x3f80_8000,
        0x3f81_8000,
        0x3f80_8001,
        0x3f80_7fff,
        0x0000_8000,
        0x0001_8000,
    ];
    // f16: the largest, what rounds to it and what does not, ties, subnormals and their halves.
    let tie = 1.0 + 2f32.powi(-11);
    special.extend(
        [
            65504.0,
            65519.996,
            65520.0,
            65536.0,
            tie,
            1.0 + 3.0 * 2f32.powi(-11),
            2f32.powi(-14),
            2f32.powi(-24),
            2f32.powi(-25),
            1.5 * 2f32.powi(-25),
            -2f32.powi(-26),
            3.0 * 2f32.powi(-25),
            1.0,
            -1.0,
            2.0,
            0.5,
            0.7,
            150.0,
            -126.0,
            -126.5,
            -127.0,
            -149.0,
            -150.0,
            127.99,
            128.0,
            1.0e-20,
            3.5e30,
        ]
        .map(f32::to_bits),
    );
    let mut pairs: Vec<[u32; 2]> = special.iter().flat_map(|&x| special.iter().map(move |&y| [x, y])).collect();
    let mut rng = Rng(31);
    while !pairs.len().is_multiple_of(128) || pairs.len() < 6000 {
        let near = ((rng.normal() * 20.0).to_bits(), (rng.normal() * 20.0).to_bits());
        let any = (rng.next() as u32, rng.next() as u32);
        let (x, y) = if rng.chance(50) { near } else { any };
        pairs.push([x, y]);
    }
    pairs
}

fn bf16_of(x: f32) -> u32 {
    if x.is_nan() { 0x7fff } else { u32::from(bf16::from_f32(x).to_bits()) }
}

fn f16_of(x: f32) -> u32 {
    if x.is_nan() { 0x7fff } else { u32::from(f16::from_f32(x).to_bits()) }
}

fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

/// max.f32: +0 is above -0; a NaN only if both are.
fn max(x: f32, y: f32) -> f32 {
    match (x.is_nan(), y.is_nan()) {
        (true, _) => y,
        (_, true) => x,
        _ if x == y => {
            if x.is_sign_negative() {
                y
            } else {
                x
            }
        }
        _ => {
            if x > y {
                x
            } else {
                y
            }
        }
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let pairs = inputs();
    let probe = |op: i32| Probe {
        blocks: (pairs.len() / 128) as u32,
        input: pairs.concat(),
        out_words: pairs.len(),
        args: [op, 0, 0, 0, 0, 0],
        ..Probe::new("value", 128)
    };
    let case = |name: &str, op: i32, exact: Exact, f: &dyn Fn(u32, u32) -> u32| Case {
        name: name.into(),
        probe: probe(op),
        want: pairs.iter().map(|[x, y]| f(*x, *y)).collect(),
        exact,
    };
    let one = |f: fn(f32) -> f32| move |x: u32, _: u32| f(f32::from_bits(x)).to_bits();
    let two = |f: fn(f32, f32) -> f32| move |x: u32, y: u32| f(f32::from_bits(x), f32::from_bits(y)).to_bits();
    // "max relative error 2^-22" for ex2; a result that is subnormal or nearly so may be flushed.
    let ex2 = Exact::Error { relative: 2f64.powi(-22), absolute: 2f64.powi(-126) };
    // "absolute error 2^-22 within (0.5, 2), relative 2^-22 elsewhere".
    let lg2 = Exact::Error { relative: 2f64.powi(-22), absolute: 2f64.powi(-22) };
    vec![
        case("cvt.rn.bf16x2.f32", 0, Exact::Bits, &|x, y| {
            bf16_of(f32::from_bits(x)) | bf16_of(f32::from_bits(y)) << 16
        }),
        case("cvt.rn.f16x2.f32", 1, Exact::Bits, &|x, y| f16_of(f32::from_bits(x)) | f16_of(f32::from_bits(y)) << 16),
        case("cvt.f32.f16 low", 2, Exact::Nan, &|x, _| f16::from_bits(x as u16).to_f32().to_bits()),
        case("cvt.f32.f16 high", 3, Exact::Nan, &|x, _| f16::from_bits((x >> 16) as u16).to_f32().to_bits()),
        case("bf16 low", 4, Exact::Bits, &|x, _| x << 16),
        case("bf16 high", 5, Exact::Bits, &|x, _| x & 0xffff_0000),
        case("ex2.approx.ftz", 6, ex2, &one(|x| flush(f64::from(flush(x)).exp2() as f32))),
        case("lg2.approx.ftz", 7, lg2, &one(|x| flush(f64::from(flush(x)).log2() as f32))),
        case("rcp.rn", 8, Exact::Nan, &one(|x| (1.0 / f64::from(x)) as f32)),
        case("sqrt.rn", 9, Exact::Nan, &one(|x| f64::from(x).sqrt() as f32)),
        case("fma.rn", 10, Exact::Nan, &two(|x, y| x.mul_add(y, f32::from_bits(0x3f80_0001)))),
        case("max", 11, Exact::Nan, &two(max)),
        case("max.NaN", 12, Exact::Nan, &two(|x, y| if x.is_nan() || y.is_nan() { f32::NAN } else { max(x, y) })),
    ]
}
