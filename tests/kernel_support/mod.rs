//! Operands over owned memory, random inputs, launches, and bounds against the oracles.
#![allow(dead_code)] // each test crate uses a part

use seqpar::dtype::{Dtype, bf16_from_f32, bf16_to_f32, f16_from_f32, f16_to_f32};
use seqpar::kernel::host::{Isa, Tensor, run_piece_on};
use seqpar::kernel::oracle::{self, OracleTensor};
use seqpar::kernel::spec::{Attention, Kernel, KeySegment, Mode};

pub(crate) const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

/// The instruction sets of this machine.
pub(crate) fn isas() -> Vec<Isa> {
    [Isa::Avx512, Isa::Avx2, Isa::Portable].into_iter().filter(|isa| isa.is_available()).collect()
}

/// SplitMix64, seeded afresh in every run; the seed is printed and can be given back.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn new(test: &str) -> Self {
        use std::hash::{BuildHasher, Hasher};
        let fresh = || std::collections::hash_map::RandomState::new().build_hasher().finish();
        let seed = std::env::var("KERNEL_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(fresh);
        println!("{test}: KERNEL_TEST_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// Uniform in -2..2.
    pub(crate) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 22) as f32 - 2.0
    }
}

/// How an operand lies in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    /// Rows at which a new tensor begins.
    pub(crate) cuts: Vec<usize>,
    /// Elements between two heads, two rows, two samples.
    pub(crate) gap: [usize; 3],
}

impl Layout {
    /// Random cuts and gaps.
    pub(crate) fn random(random: &mut Random, rows: usize) -> Self {
        let mut cuts: Vec<usize> = (0..random.below(3)).map(|_| random.below(rows + 1)).collect();
        cuts.sort_unstable();
        Self { cuts, gap: std::array::from_fn(|_| random.below(4)) }
    }
}

/// A cache line: operands without gaps have aligned rows, those with gaps mostly not.
#[derive(Clone, Copy, PartialEq)]
#[repr(C, align(64))]
struct Line([u8; 64]);

// SAFETY: an array of bytes.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: an array of bytes without padding.
unsafe impl bytemuck::Pod for Line {}

#[derive(Clone)]
struct Part {
    lines: Vec<Line>,
    shape: [usize; 4],
    strides: [usize; 4],
    first_row: usize,
}

/// An operand and its memory, poisoned with NaN.
#[derive(Clone)]
pub(crate) struct Bound {
    pub(crate) dtype: Dtype,
    pub(crate) shape: [usize; 4],
    parts: Vec<Part>,
}

impl Bound {
    pub(crate) fn poisoned(dtype: Dtype, shape: [usize; 4], layout: &Layout) -> Self {
        let mut bounds = vec![0];
        bounds.extend(layout.cuts.iter().map(|&cut| cut.min(shape[1])));
        bounds.push(shape[1]);
        let part = |range: &[usize]| {
            let shape = [shape[0], range[1] - range[0], shape[2], shape[3]];
            let head = shape[3] + layout.gap[0];
            let row = head * shape[2] + layout.gap[1];
            let strides = [row * shape[1] + layout.gap[2], row, head, 1];
            let elems = strides[0] * shape[0] + 8;
            Part {
                lines: vec![Line([0xff; 64]); (elems * dtype.bytes()).div_ceil(64)],
                shape,
                strides,
                first_row: range[0],
            }
        };
        Self { dtype, shape, parts: bounds.windows(2).map(part).collect() }
    }

    pub(crate) fn new(dtype: Dtype, shape: [usize; 4], values: &[f32], layout: &Layout) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>());
        let mut operand = Self::poisoned(dtype, shape, layout);
        let mut values = values.iter();
        operand.for_each(|_, slot, dtype| {
            let value = *values.next().unwrap();
            match dtype {
                Dtype::F32 => slot.copy_from_slice(&value.to_ne_bytes()),
                Dtype::F16 => slot.copy_from_slice(&f16_from_f32(value).to_ne_bytes()),
                Dtype::Bf16 => slot.copy_from_slice(&bf16_from_f32(value).to_ne_bytes()),
                Dtype::I32 => slot.copy_from_slice(&(value as i32).to_ne_bytes()),
                _ => slot[0] = value as u8,
            }
        });
        operand
    }

    pub(crate) fn values(&self) -> Vec<f32> {
        let mut out = Vec::new();
        self.clone().for_each(|_, slot, dtype| {
            out.push(match dtype {
                Dtype::F32 => f32::from_ne_bytes(slot.try_into().unwrap()),
                Dtype::F16 => f16_to_f32(u16::from_ne_bytes(slot.try_into().unwrap())),
                Dtype::Bf16 => bf16_to_f32(u16::from_ne_bytes(slot.try_into().unwrap())),
                Dtype::I32 => i32::from_ne_bytes(slot.try_into().unwrap()) as f32,
                _ => f32::from(slot[0]),
            });
        });
        out
    }

    pub(crate) fn bits(&self) -> Vec<u32> {
        self.values().into_iter().map(f32::to_bits).collect()
    }

    /// The elements `range` along `dim`, contiguous.
    pub(crate) fn slice(&self, dim: usize, range: std::ops::Range<usize>) -> Self {
        let mut shape = self.shape;
        shape[dim] = range.len();
        let oracle = self.oracle();
        let values = OracleTensor::from_fn(shape, |mut index| {
            index[dim] += range.start;
            oracle.at(index)
        });
        let values: Vec<f32> = values.data.into_iter().map(|x| x as f32).collect();
        Self::new(self.dtype, shape, &values, &Layout::default())
    }

    pub(crate) fn oracle(&self) -> OracleTensor {
        OracleTensor { shape: self.shape, data: self.values().into_iter().map(f64::from).collect() }
    }

    pub(crate) fn tensors(&mut self) -> Vec<Tensor> {
        let dtype = self.dtype;
        let tensor = |part: &mut Part| {
            // SAFETY: the part owns the memory that shape and strides span; tests use one operand
            // for one launch at a time.
            unsafe { Tensor::new(part.lines.as_mut_ptr().cast(), dtype, part.shape, part.strides) }
        };
        self.parts.iter_mut().map(tensor).collect()
    }

    /// Every byte between the elements is still poisoned.
    pub(crate) fn assert_gaps_untouched(&self) {
        let mut copy = self.clone();
        copy.for_each(|_, slot, _| slot.fill(0xff));
        assert!(
            copy.parts.iter().all(|p| p.lines.iter().all(|line| *line == Line([0xff; 64]))),
            "written between elements"
        );
    }

    /// Visits the bytes of every element in logical order.
    fn for_each(&mut self, mut f: impl FnMut([usize; 4], &mut [u8], Dtype)) {
        let (dtype, shape) = (self.dtype, self.shape);
        for b in 0..shape[0] {
            for part in &mut self.parts {
                let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut part.lines);
                for n in 0..part.shape[1] {
                    for h in 0..shape[2] {
                        for d in 0..shape[3] {
                            let at = b * part.strides[0] + n * part.strides[1] + h * part.strides[2] + d;
                            let slot = &mut bytes[at * dtype.bytes()..(at + 1) * dtype.bytes()];
                            f([b, n + part.first_row, h, d], slot, dtype);
                        }
                    }
                }
            }
        }
    }
}

/// Runs a piece; `aliases` are pairs (operand, operand whose memory it is).
pub(crate) fn launch(
    isa: Isa,
    kernel: &Kernel,
    piece: usize,
    operands: &mut [Bound],
    threads: usize,
    aliases: &[(usize, usize)],
) {
    let mut tensors: Vec<Vec<Tensor>> = operands.iter_mut().map(Bound::tensors).collect();
    for &(i, of) in aliases {
        tensors[i] = tensors[of].clone();
    }
    run_piece_on(isa, kernel, piece, &tensors, threads).unwrap();
    operands.iter().for_each(Bound::assert_gaps_untouched);
}

/// Random operands of a kernel; written ones are poisoned.
pub(crate) fn random_operands(kernel: &Kernel, random: &mut Random, layouts: bool) -> Vec<Bound> {
    let make = |o: &seqpar::kernel::spec::Operand| {
        let layout = if layouts { Layout::random(random, o.shape[1]) } else { Layout::default() };
        if o.mode == Mode::Write {
            return Bound::poisoned(o.dtype, o.shape, &layout);
        }
        let len = o.shape.iter().product();
        let value = |random: &mut Random| match (o.name, kernel) {
            ("class", Kernel::ClassEmbed(spec)) => random.below(spec.classes) as f32,
            ("key_len", Kernel::Attention(spec)) => {
                random.below(spec.keys.iter().map(|key| key.base + key.len).max().unwrap_or(0) + 2) as f32
            }
            ("mask" | "frame", _) => random.below(2) as f32,
            ("t", _) => random.below(1000) as f32,
            _ => random.float(),
        };
        let values: Vec<f32> = (0..len).map(|_| value(random)).collect();
        Bound::new(o.dtype, o.shape, &values, &layout)
    };
    kernel.operands().iter().map(make).collect()
}

/// Runs a piece on random inputs in random layouts and holds what it writes to the oracle:
/// within `f32_bound` of the largest value or sum, plus, for half types, half a unit in the last place
/// (`roundings` of them, at the size of the largest value, where the kernel rounds in between).
pub(crate) fn hold_to_oracle(
    isa: Isa,
    kernel: &Kernel,
    random: &mut Random,
    threads: usize,
    f32_bound: f64,
    roundings: u32,
) {
    for piece in 0..kernel.pieces() {
        let mut operands = random_operands(kernel, random, true);
        let wanted = kernel.operands();
        let of_piece = |i: &usize| wanted[*i].piece.is_none_or(|p| p as usize == piece);
        let mine: Vec<usize> = (0..wanted.len()).filter(of_piece).collect();
        let reads: Vec<_> = mine.iter().filter(|&&i| wanted[i].mode.reads()).map(|&i| operands[i].oracle()).collect();
        let truth = oracle::run_piece(kernel, piece, &reads);
        launch(isa, kernel, piece, &mut operands, threads, &[]);
        let written = mine.iter().filter(|&&i| wanted[i].mode.writes());
        for (&i, truth) in written.zip(&truth) {
            let what = format!("{} on {isa:?}: {kernel:?}", wanted[i].name);
            compare(&operands[i], truth, usual_size(kernel), f32_bound, roundings, &what);
        }
    }
}

/// Standard deviation of what a kernel sums of random inputs: a piece of few outputs may be small by
/// luck, its errors are not.
fn usual_size(kernel: &Kernel) -> f64 {
    match kernel {
        // A product of two numbers that are uniform in -2..2 has the variance 16/9.
        Kernel::Gemm(gemm) => (gemm.k as f64 * 16.0 / 9.0).sqrt(),
        _ => 1.0,
    }
}

fn compare(got: &Bound, truth: &OracleTensor, usual_size: f64, f32_bound: f64, roundings: u32, what: &str) {
    let finite = truth.data.iter().filter(|x| x.is_finite());
    let scale = finite.fold(usual_size, |a, x| a.max(x.abs()));
    let unit = match got.dtype {
        Dtype::F16 => f64::powi(2.0, -11),
        Dtype::Bf16 => f64::powi(2.0, -8),
        _ => f64::powi(2.0, -24),
    };
    let values = got.values();
    assert_eq!(values.len(), truth.data.len());
    for (i, (got, want)) in values.iter().zip(&truth.data).enumerate() {
        if !want.is_finite() {
            assert_eq!(f64::from(*got), *want, "{what} at {i}");
            continue;
        }
        let size = if roundings > 1 { scale * f64::from(roundings) } else { want.abs() };
        // f16's last place stops shrinking at 2^-14.
        let bound = f32_bound * scale + unit * size.max(f64::powi(2.0, -14));
        let error = (f64::from(*got) - want).abs();
        assert!(error <= bound, "{what} at {i}: {got} for {want}, off by {error:e}, allowed {bound:e}");
    }
}

/// Self-attention of one query segment; change what a test needs.
pub(crate) fn attention(
    dtype: Dtype,
    batch: usize,
    heads: [usize; 2],
    dim: usize,
    rows: usize,
    keys: &[usize],
) -> Attention {
    let segment = |(i, &len): (usize, &usize)| KeySegment { len, base: 0, stream: i.min(1) };
    Attention {
        dtype,
        batch,
        heads: heads[0],
        kv_heads: heads[1],
        head_dim: dim,
        first_head: 0,
        first_kv_head: 0,
        group: heads[0] / heads[1],
        scale: 1.0 / (dim as f32).sqrt(),
        queries: vec![rows],
        keys: keys.iter().enumerate().map(segment).collect(),
        key_mask: false,
        key_len: false,
        carry_in: false,
        carry_out: false,
    }
}
