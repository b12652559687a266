//! ldmatrix, stmatrix and mma.sync by the fragment tables of the PTX ISA.

use half::{bf16, f16};

use crate::emulation::Options;
use crate::probe::{Case, Exact, Probe, conform};
use crate::support::Rng;

#[test]
fn matrices_conform() {
    conform(&cases());
}

/// Rows of 16 bytes side by side take one pass; rows that share banks take more.
#[test]
fn bank_conflicts_are_counted() {
    // (bytes a row, extra passes of each of the four 8-row phases)
    for (stride, conflicts) in [(16, 0), (32, 1), (64, 3), (128, 7), (144, 0), (80, 0), (96, 1)] {
        let load =
            Probe { args: [2, 1, 0, stride, 0, 0], out_words: 128, shared: 8192, ..Probe::new("load_matrix", 32) };
        let load = Probe { input: vec![1; 128], ..load };
        let ran = load.run(&Options::seeded(1));
        assert!(ran.outcome.messages.is_empty(), "{:?}", ran.outcome.messages);
        assert_eq!(ran.outcome.counters.matrix_rows, 4);
        assert_eq!(ran.outcome.counters.matrix_conflicts, 4 * conflicts, "{stride} bytes a row");
        let store = Probe { kernel: "store_matrix", args: [2, 1, 0, stride, 0, 0], ..load };
        assert_eq!(store.run(&Options::seeded(1)).outcome.counters.matrix_conflicts, 4 * conflicts);
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let mut rng = Rng(5);
    let mut all = Vec::new();
    let input: Vec<u32> = (0..128).map(|_| rng.next() as u32).collect();
    let half = |row: usize, column: usize| input[row * 4 + column / 2] >> (16 * (column % 2)) & 0xffff;
    for (op, name, count, transposed) in [
        (0, "x1", 1, false),
        (1, "x2", 2, false),
        (2, "x4", 4, false),
        (3, "x2.trans", 2, true),
        (4, "x4.trans", 4, true),
    ] {
        for (factor, offset, stride) in [(1, 0, 16), (5, 3, 16), (11, 30, 80)] {
            let mut want = Vec::new();
            for lane in 0..32 {
                let (group, pair) = (lane / 4, lane % 4 * 2);
                want.extend((0..4).map(|m| match (m < count, transposed) {
                    (false, _) => 0,
                    (true, false) => half(8 * m + group, pair) | half(8 * m + group, pair + 1) << 16,
                    (true, true) => half(8 * m + pair, group) | half(8 * m + pair + 1, group) << 16,
                }));
            }
            let args = [op, factor, offset, stride, 0, 0];
            let probe = Probe { input: input.clone(), out_words: 128, args, ..Probe::new("load_matrix", 32) };
            all.push(Case::bits(format!("ldmatrix.{name} rows {factor} {offset} {stride}"), probe, want));
        }
    }
    for (op, count) in [(1, 2), (2, 4)] {
        for (factor, offset, stride) in [(1, 0, 16), (7, 12, 48)] {
            let mut want = vec![0u32; 128];
            for row in 0..8 * count {
                for word in 0..4 {
                    // Lane 4r + w holds columns 2w and 2w + 1 of row r of matrix m in register m.
                    want[row * 4 + word] = input[(row % 8 * 4 + word) * 4 + row / 8];
                }
            }
            let args = [op, factor, offset, stride, 0, 0];
            let probe = Probe { input: input.clone(), out_words: 128, args, ..Probe::new("store_matrix", 32) };
            all.push(Case::bits(format!("stmatrix.x{count} rows {factor} {offset} {stride}"), probe, want));
        }
    }
    for (op, name, k) in
        [(0, "m16n8k16 bf16", 16), (1, "m16n8k16 f16", 16), (2, "m16n8k8 bf16", 8), (3, "m16n8k8 f16", 8)]
    {
        // Small integers: every sum is exact in whatever order the tensor core adds.
        all.push(product(name, op, k, &mut |rng| rng.below(17) as f32 - 8.0, Exact::Bits, &mut rng));
        let exact = Exact::Error { relative: 1e-5, absolute: 1e-4 };
        all.push(product(&format!("{name} real"), op, k, &mut |rng| rng.normal(), exact, &mut rng));
        let mut odd = |rng: &mut Rng| match rng.below(60) {
            0 => f32::NAN,
            1 => f32::INFINITY,
            2 => -0.0,
            3 => 2f32.powi(-24),
            n => (n % 7) as f32 - 3.0,
        };
        let special = Exact::Error { relative: 1e-5, absolute: 1e-5 };
        all.push(product(&format!("{name} with NaN and Inf"), op, k, &mut odd, special, &mut rng));
    }
    all
}

fn product(name: &str, op: i32, k: usize, draw: &mut dyn FnMut(&mut Rng) -> f32, exact: Exact, rng: &mut Rng) -> Case {
    let is_f16 = op % 2 == 1;
    let bits = |x: f32| if is_f16 { f16::from_f32(x).to_bits() } else { bf16::from_f32(x).to_bits() };
    let value = |b: u16| if is_f16 { f16::from_bits(b).to_f32() } else { bf16::from_bits(b).to_f32() };
    let mut matrix = |n: usize| -> Vec<u16> { (0..n).map(|_| bits(draw(rng))).collect() };
    let (a, b, c) = (matrix(16 * k), matrix(k * 8), matrix(128));
    let (mut input, mut want) = (Vec::new(), Vec::new());
    for lane in 0..32 {
        let (group, in_group) = (lane / 4, lane % 4);
        // The ISA's a0..a7, b0..b3, c0..c3.
        let a_at = |i: usize| {
            let row =
                if k == 16 { if i < 2 || (4..6).contains(&i) { group } else { group + 8 } } else { group + i / 2 * 8 };
            let column = in_group * 2 + (i & 1) + if i >= 4 { 8 } else { 0 };
            a[row * k + column]
        };
        let b_at = |i: usize| b[(in_group * 2 + (i & 1) + if i >= 2 { 8 } else { 0 }) * 8 + group];
        let c_at = |i: usize| (if i < 2 { group } else { group + 8 }, in_group * 2 + (i & 1));
        let pair = |f: &dyn Fn(usize) -> u16, i: usize| u32::from(f(i)) | u32::from(f(i + 1)) << 16;
        let words = k / 4;
        input.extend((0..4).map(|w| if w < words { pair(&a_at, 2 * w) } else { 0 }));
        input.extend((0..2).map(|w| if w < k / 8 { pair(&b_at, 2 * w) } else { 0 }));
        for i in 0..4 {
            let (row, column) = c_at(i);
            let start = value(c[row * 8 + column]);
            input.push(start.to_bits());
            let sum = (0..k).fold(f64::from(start), |sum, x| {
                sum + f64::from(value(a[row * k + x])) * f64::from(value(b[x * 8 + column]))
            });
            want.push((sum as f32).to_bits());
        }
    }
    let probe = Probe { input, out_words: 128, args: [op, 0, 0, 0, 0, 0], ..Probe::new("mma", 32) };
    Case { name: format!("mma.{name}"), probe, want, exact }
}
