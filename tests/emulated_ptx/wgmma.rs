//! wgmma with operands in shared memory or A in registers, K- and MN-major, in every swizzle: the
//! images of the operands are laid out here, by the canonical layouts of the PTX ISA.

use half::{bf16, f16};

use crate::probe::{Case, Probe, conform, span, words};
use crate::support::Rng;

const K: usize = 32;

#[test]
fn wgmma_conforms() {
    conform(&cases());
}

/// Where the elements of an operand [mn, K] lie, and what a descriptor says of it.
struct Image {
    swizzle: usize,
    mn_major: bool,
    leading: usize,
    stride: usize,
    /// From the first 16 elements of k to the next.
    step: usize,
    bytes: usize,
}

impl Image {
    fn new(mn: usize, swizzle: usize, mn_major: bool, rng: &mut Rng) -> Self {
        let (row, gap) = (span(swizzle), 1024 * rng.below(2));
        let groups = mn.div_ceil(8);
        let (leading, stride, step, bytes);
        match (mn_major, swizzle) {
            (false, 0) => {
                // Core matrices of 8 rows by 16 bytes; columns of them along k.
                stride = 128;
                leading = groups * stride + gap;
                (step, bytes) = (2 * leading, K / 8 * leading);
            }
            (false, 1) => {
                // One step of k is one row of the pattern.
                (leading, stride) = (16, 8 * row);
                step = groups * stride + gap;
                bytes = 2 * step;
            }
            (false, _) => {
                (leading, stride, step) = (16, 8 * row + gap, 32);
                bytes = groups * stride;
            }
            (true, 0) => {
                // Core matrices of 8 of k by 16 bytes of mn.
                stride = 128;
                leading = groups * stride + gap;
                (step, bytes) = (2 * leading, K / 8 * leading);
            }
            (true, _) => {
                leading = 8 * row;
                stride = mn.div_ceil(row / 2) * leading + gap;
                (step, bytes) = (2 * stride, K / 8 * stride);
            }
        }
        Self { swizzle, mn_major, leading, stride, step, bytes: bytes.next_multiple_of(1024) }
    }

    fn offset(&self, mn: usize, k: usize) -> usize {
        let row = span(self.swizzle);
        let (k_step, k) = (k / 16, k % 16);
        let (line, byte) = match (self.mn_major, self.swizzle) {
            (false, 0) => (mn / 8 * self.stride + k / 8 * self.leading + mn % 8 * 16, k % 8 * 2),
            (false, 1) => (mn / 8 * self.stride + mn % 8 * row, k * 2),
            // Both steps of k are within the row: the step is part of the column.
            (false, _) => return self.swizzled(mn / 8 * self.stride + mn % 8 * row, (k_step * 16 + k) * 2),
            (true, 0) => (mn / 8 * self.stride + k / 8 * self.leading + k % 8 * 16, mn % 8 * 2),
            (true, _) => (mn / (row / 2) * self.leading + k / 8 * self.stride + k % 8 * row, mn % (row / 2) * 2),
        };
        self.swizzled(line + k_step * self.step, byte)
    }

    /// In row r of the pattern unit u of 16 bytes stands where u ^ (r's line of 128 bytes) would.
    fn swizzled(&self, line: usize, byte: usize) -> usize {
        let units = span(self.swizzle) / 16;
        line + ((byte / 16) ^ (line / 128 % units)) * 16 + byte % 16
    }

    fn descriptor(&self) -> u64 {
        let field = [0u64, 3, 2, 1][self.swizzle];
        (self.leading as u64 / 16) << 16 | (self.stride as u64 / 16) << 32 | field << 62
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let mut rng = Rng(64);
    let mut all = Vec::new();
    for (kernel, n) in
        [("wgmma_n64", 64), ("wgmma_n72", 72), ("wgmma_n128", 128), ("wgmma_n192", 192), ("wgmma_n256", 256)]
    {
        for form in [0, 1, 2, 3, 4, 6] {
            for swizzle in 0..4 {
                all.push(case(kernel, n, form, [swizzle, (swizzle + form) % 4], rng.below(2) == 1, &mut rng));
            }
        }
    }
    all
}

pub(crate) fn case(
    kernel: &'static str,
    n: usize,
    form: usize,
    [of_a, of_b]: [usize; 2],
    is_f16: bool,
    rng: &mut Rng,
) -> Case {
    let name =
        format!("{kernel} form {form} swizzles {} {} {}", span(of_a), span(of_b), if is_f16 { "f16" } else { "bf16" });
    // Small integers: exact in any order.
    let mut matrix = |len: usize| -> Vec<f32> { (0..len).map(|_| rng.below(9) as f32 - 4.0).collect() };
    let (a, b) = (matrix(64 * K), matrix(n * K));
    let half = |x: f32| if is_f16 { f16::from_f32(x).to_bits() } else { bf16::from_f32(x).to_bits() };
    let a_image = Image::new(64, of_a, form & 1 != 0, rng);
    let b_image = Image::new(n, of_b, form & 2 != 0, rng);
    let mut image = vec![0u8; a_image.bytes + b_image.bytes];
    let mut put = |at: usize, x: f32| image[at..at + 2].copy_from_slice(&half(x).to_ne_bytes());
    for k in 0..K {
        (0..64).for_each(|i| put(a_image.offset(i, k), a[i * K + k]));
        (0..n).for_each(|i| put(a_image.bytes + b_image.offset(i, k), b[i * K + k]));
    }
    let mut input = words(&image);
    let (mut fragments, mut want) = (Vec::new(), Vec::new());
    for k in [0, 16] {
        for thread in 0..128 {
            let (row, column) = (thread / 32 * 16 + thread % 32 / 4, k + thread % 4 * 2);
            for (down, right) in [(0, 0), (8, 0), (0, 8), (8, 8)] {
                let at = (row + down) * K + column + right;
                fragments.push(u32::from(half(a[at])) | u32::from(half(a[at + 1])) << 16);
            }
        }
    }
    input.extend(fragments);
    for thread in 0..128 {
        for i in 0..n / 2 {
            let row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
            let column = i / 4 * 8 + thread % 4 * 2 + i % 2;
            let sum: f32 = (0..K).map(|k| a[row * K + k] * b[column * K + k]).sum();
            want.push(sum.to_bits());
        }
    }
    let pair = |d: u64| [d as u32, (d >> 32) as u32];
    let probe = Probe {
        shared: image.len() as u32 + 1024,
        out_words: want.len(),
        flag: [pair(a_image.descriptor()), pair(b_image.descriptor())].concat(),
        args: [i32::from(is_f16), form as i32, a_image.bytes as i32, a_image.step as i32, b_image.step as i32, 0],
        bytes: image.len() as i32,
        input,
        ..Probe::new(kernel, 128)
    };
    Case::bits(name, probe, want)
}
