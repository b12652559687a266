//! Kernels on plain values: builds the buffers of a launch, poisons what is only written, runs
//! every piece, checks that nothing beside the operands was touched, and reads the results.

use seqpar::dtype::{Dtype, bf16_from_f32, bf16_to_f32, f16_from_f32, f16_to_f32, round_to};
use seqpar::kernel::host::{Isa, Tensor, run_piece_on};
use seqpar::kernel::oracle::{self, OracleTensor};
use seqpar::kernel::spec::{Kernel, Mode, Operand};

use super::Rng;

/// A row-major tensor whose values `dtype` holds exactly.
#[derive(Clone, Debug)]
pub struct Values {
    pub dtype: Dtype,
    pub shape: [usize; 4],
    pub data: Vec<f32>,
}

/// How a kernel is launched; nothing here may change a bit, except the instruction set.
#[derive(Clone, Debug)]
pub struct How {
    pub isa: Isa,
    pub threads: usize,
    /// Operands are boxes inside larger buffers (head slices, row slices).
    pub strided: bool,
    /// Operands are cut into several tensors along dimension 1, at places drawn from this seed.
    pub split: Option<u64>,
    /// The first operand has the memory of the second.
    pub alias: Option<(usize, usize)>,
    /// Pieces run from the last to the first.
    pub backwards: bool,
    /// Tensors come as `[B, n, 1, H·D]` where the spec says `[B, n, H, D]`.
    pub merged: bool,
}

impl How {
    pub fn plain(isa: Isa) -> Self {
        Self { isa, threads: 1, strided: false, split: None, alias: None, backwards: false, merged: false }
    }

    pub fn threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    pub fn strided(self) -> Self {
        Self { strided: true, ..self }
    }

    pub fn split(self, seed: u64) -> Self {
        Self { split: Some(seed), ..self }
    }

    pub fn alias(self, operand: usize, memory_of: usize) -> Self {
        Self { alias: Some((operand, memory_of)), ..self }
    }

    pub fn backwards(self) -> Self {
        Self { backwards: true, ..self }
    }

    pub fn merged(self) -> Self {
        Self { merged: true, ..self }
    }

    /// Any of the above.
    pub fn random(isa: Isa, rng: &mut Rng) -> Self {
        Self {
            threads: rng.within(1, 3),
            strided: rng.chance(50),
            split: rng.chance(50).then(|| rng.next()),
            backwards: rng.chance(50),
            merged: rng.chance(50),
            ..Self::plain(isa)
        }
    }
}

/// All operands after the launch.
pub fn launch(kernel: &Kernel, inputs: &[Values], how: &How) -> Vec<Values> {
    let specs = kernel.operands();
    assert_eq!(specs.len(), inputs.len(), "{}", kernel.name());
    let mut rng = Rng(how.split.unwrap_or(0));
    let mut buffers: Vec<Vec<Storage>> = Vec::new();
    for (i, (spec, values)) in specs.iter().zip(inputs).enumerate() {
        assert_eq!((spec.dtype, spec.name), (values.dtype, spec.name), "{}", kernel.name());
        let poisoned = spec.mode == Mode::Write && how.alias.is_none_or(|(operand, _)| operand != i);
        let parts = if how.split.is_some() { cut(values, &mut rng) } else { vec![values.clone()] };
        buffers.push(parts.iter().map(|part| Storage::new(part, how, poisoned)).collect());
    }
    let mut tensors: Vec<Vec<Tensor>> =
        buffers.iter_mut().map(|parts| parts.iter_mut().map(|part| part.tensor(how.merged)).collect()).collect();
    if let Some((operand, memory_of)) = how.alias {
        tensors[operand] = tensors[memory_of].clone();
    }
    for step in 0..kernel.pieces() {
        let piece = if how.backwards { kernel.pieces() - 1 - step } else { step };
        let mine = |spec: &Operand| spec.piece.is_none_or(|of| of as usize == piece);
        let tensors: Vec<Vec<Tensor>> =
            specs.iter().zip(&tensors).map(|(spec, t)| if mine(spec) { t.clone() } else { Vec::new() }).collect();
        run_piece_on(how.isa, kernel, piece, &tensors, how.threads)
            .unwrap_or_else(|error| panic!("{} on {}: {error}", kernel.name(), how.isa.name()));
    }
    let mut results = Vec::new();
    for (i, spec) in specs.iter().enumerate() {
        let (memory, operand) = match how.alias {
            Some((operand, memory_of)) if operand == i => (memory_of, operand),
            _ => (i, i),
        };
        let parts: Vec<Values> = buffers[memory].iter().map(Storage::values).collect();
        let result = concat(1, &parts);
        let written = spec.mode.writes() || how.alias.is_some_and(|(_, memory_of)| memory_of == operand);
        if !written {
            assert_same(&format!("{}: {} is only read", kernel.name(), spec.name), &result, &inputs[i]);
        }
        buffers[memory].iter().for_each(|part| part.assert_rest_untouched(&kernel.name(), spec.name));
        results.push(result);
    }
    results
}

/// All operands after the oracle ran.
pub fn truth(kernel: &Kernel, inputs: &[Values]) -> Vec<Vec<f64>> {
    let mut data: Vec<Vec<f64>> = inputs.iter().map(|v| v.data.iter().map(|&x| f64::from(x)).collect()).collect();
    let specs = kernel.operands();
    for piece in 0..kernel.pieces() {
        let mine = |i: &usize| specs[*i].piece.is_none_or(|of| of as usize == piece);
        let reads = (0..specs.len()).filter(mine).filter(|&i| specs[i].mode.reads());
        let reads: Vec<_> = reads.map(|i| OracleTensor { shape: inputs[i].shape, data: data[i].clone() }).collect();
        let mut written = oracle::run_piece(kernel, piece, &reads).into_iter();
        for i in (0..specs.len()).filter(mine).filter(|&i| specs[i].mode.writes()) {
            data[i] = written.next().unwrap().data;
        }
        assert!(written.next().is_none(), "{} writes more than its operands", kernel.name());
    }
    data
}

/// The instruction sets of this machine.
pub fn isas() -> Vec<Isa> {
    [Isa::Avx512, Isa::Avx2, Isa::Portable].into_iter().filter(|isa| isa.is_available()).collect()
}

/// Operands with values that suit their names; what is only written is left NaN.
pub fn random_operands(kernel: &Kernel, rng: &mut Rng) -> Vec<Values> {
    let mut values: Vec<Values> = kernel.operands().iter().map(|spec| random_operand(spec, rng)).collect();
    if let Kernel::ClassEmbed(spec) = kernel {
        values[2].data.iter_mut().for_each(|class| *class = rng.below(spec.classes) as f32);
    }
    values
}

fn random_operand(spec: &Operand, rng: &mut Rng) -> Values {
    let count = spec.shape.iter().product();
    let longest = spec.shape[1].max(300);
    let data = (0..count).map(|_| {
        let value = match spec.name {
            _ if spec.mode == Mode::Write => f32::NAN,
            "w" => rng.normal() / (spec.shape[3] as f32).sqrt(),
            "bias" | "shift" | "scale" | "gate" => 0.5 * rng.normal(),
            "mask" | "frame" => f32::from(u8::from(rng.chance(70))),
            "key_len" => rng.below(longest) as f32,
            "cos" | "sin" => (2.0 * rng.uniform() - 1.0) as f32,
            "t" => rng.below(1000) as f32,
            _ => rng.normal(),
        };
        round_to(spec.dtype, value)
    });
    Values { dtype: spec.dtype, shape: spec.shape, data: data.collect() }
}

impl Values {
    pub fn filled(dtype: Dtype, shape: [usize; 4], value: f32) -> Self {
        Self { dtype, shape, data: vec![value; shape.iter().product()] }
    }

    pub fn map(&self, f: impl Fn([usize; 4], f32) -> f32) -> Self {
        let mut data = Vec::with_capacity(self.data.len());
        for_each_index(self.shape, |index| data.push(f(index, self.data[data.len()])));
        Self { data, ..*self }
    }

    /// Indices `start..start + len` of dimension `dim`.
    pub fn slice(&self, dim: usize, start: usize, len: usize) -> Self {
        let mut shape = self.shape;
        shape[dim] = len;
        let mut data = Vec::with_capacity(shape.iter().product());
        for_each_index(shape, |mut index| {
            index[dim] += start;
            data.push(self.data[flat(self.shape, index)]);
        });
        Self { dtype: self.dtype, shape, data }
    }

    fn bits(&self) -> impl Iterator<Item = u32> {
        self.data.iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() })
    }
}

/// Joined along `dim`.
pub fn concat(dim: usize, parts: &[Values]) -> Values {
    let mut shape = parts[0].shape;
    shape[dim] = parts.iter().map(|part| part.shape[dim]).sum();
    let mut data = Vec::with_capacity(shape.iter().product());
    for_each_index(shape, |mut index| {
        for part in parts {
            if index[dim] < part.shape[dim] {
                data.push(part.data[flat(part.shape, index)]);
                return;
            }
            index[dim] -= part.shape[dim];
        }
    });
    Values { dtype: parts[0].dtype, shape, data }
}

/// The same bits everywhere; any NaN equals any other.
pub fn assert_same(what: &str, got: &Values, want: &Values) {
    assert_eq!((got.dtype, got.shape), (want.dtype, want.shape), "{what}");
    if let Some(at) = got.bits().zip(want.bits()).position(|(g, w)| g != w) {
        let (g, w) = (got.data[at], want.data[at]);
        panic!("{what}{:?}: element {at} is {g:e} ({:#x}), not {w:e} ({:#x})", got.shape, g.to_bits(), w.to_bits());
    }
}

pub fn assert_all_same(what: &str, kernel: &Kernel, got: &[Values], want: &[Values]) {
    for (spec, (got, want)) in kernel.operands().iter().zip(got.iter().zip(want)) {
        assert_same(&format!("{what}: {} {}", kernel.name(), spec.name), got, want);
    }
}

/// Half the distance of neighbours of `dtype` at `x`: what one rounding may cost. Nothing for f32,
/// whose roundings the tolerances count.
pub fn half_ulp(dtype: Dtype, x: f64) -> f64 {
    let (digits, smallest) = match dtype {
        Dtype::F16 => (10, -14),
        Dtype::Bf16 => (7, -126),
        _ => return 0.0,
    };
    let exponent = if x == 0.0 { smallest } else { (x.abs().log2().floor() as i32).max(smallest) };
    0.5 * f64::from(exponent - digits).exp2()
}

/// `|got − want| ≤ tolerance(i)` + one rounding of the result. Returns the largest share of the
/// tolerance that was used beyond the rounding.
pub fn assert_close(what: &str, got: &Values, want: &[f64], tolerance: impl Fn(usize) -> f64) -> f64 {
    assert_eq!(got.data.len(), want.len(), "{what}");
    let mut used = 0.0f64;
    for (i, (&g, &w)) in got.data.iter().zip(want).enumerate() {
        let (g, allowed) = (f64::from(g), tolerance(i));
        let difference = if g == w || (g.is_nan() && w.is_nan()) { 0.0 } else { (g - w).abs() };
        let beyond = difference - half_ulp(got.dtype, w.abs() + allowed);
        assert!(beyond <= allowed, "{what}{:?}: element {i} is {g:e}, not {w:e}: off by {difference:e}", got.shape);
        used = used.max(beyond / allowed.max(f64::MIN_POSITIVE));
    }
    used
}

pub fn largest(values: &[f64]) -> f64 {
    values.iter().filter(|x| x.is_finite()).fold(0.0, |m, x| m.max(x.abs()))
}

/// Visits every index below `shape`, the last dimension fastest.
pub fn for_each_index(shape: [usize; 4], mut visit: impl FnMut([usize; 4])) {
    for b in 0..shape[0] {
        for i in 0..shape[1] {
            for h in 0..shape[2] {
                (0..shape[3]).for_each(|c| visit([b, i, h, c]));
            }
        }
    }
}

fn flat(shape: [usize; 4], [b, i, h, c]: [usize; 4]) -> usize {
    ((b * shape[1] + i) * shape[2] + h) * shape[3] + c
}

/// Cuts along dimension 1 into up to four parts, some of them empty.
fn cut(values: &Values, rng: &mut Rng) -> Vec<Values> {
    let rows = values.shape[1];
    let mut cuts: Vec<usize> = (0..rng.below(4)).map(|_| rng.within(0, rows)).collect();
    cuts.extend([0, rows]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| values.slice(1, pair[0], pair[1] - pair[0])).collect()
}

const POISON: u8 = 0xff;

/// Memory of one tensor, possibly a box inside a larger buffer; what is around it is poison.
struct Storage {
    dtype: Dtype,
    shape: [usize; 4],
    strides: [usize; 4],
    /// Offset of the first element, in elements.
    first: usize,
    /// Held as words so that every dtype is aligned.
    words: Vec<u64>,
}

impl Storage {
    fn new(values: &Values, how: &How, poisoned: bool) -> Self {
        let shape = values.shape;
        let around = match (how.strided, how.merged) {
            (false, _) => [0; 4],
            (true, false) => [1, 1, 2, 3],
            // Heads are merged with channels only where a row is one run of memory.
            (true, true) if shape[2] > 1 => [1, 1, 2, 0],
            (true, true) => [1, 2, 0, 3],
        };
        let whole: [usize; 4] = std::array::from_fn(|k| shape[k] + 2 * around[k]);
        let mut strides = [1; 4];
        (0..3).rev().for_each(|k| strides[k] = strides[k + 1] * whole[k + 1]);
        let first = (0..4).map(|k| around[k] * strides[k]).sum();
        let bytes = whole.iter().product::<usize>() * values.dtype.bytes();
        let words = vec![u64::from_ne_bytes([POISON; 8]); bytes.div_ceil(8)];
        let mut storage = Self { dtype: values.dtype, shape, strides, first, words };
        if !poisoned {
            let mut data = values.data.iter();
            for_each_index(shape, |index| storage.write(index, *data.next().unwrap()));
        }
        storage
    }

    fn tensor(&mut self, merged: bool) -> Tensor {
        let ([b, n, h, d], [sb, sn, ..]) = (self.shape, self.strides);
        let (shape, strides) = if merged { ([b, n, 1, h * d], [sb, sn, h * d, 1]) } else { (self.shape, self.strides) };
        let bytes = bytemuck::cast_slice_mut::<u64, u8>(&mut self.words);
        let first = (self.first * self.dtype.bytes()).min(bytes.len());
        let base = bytes[first..].as_mut_ptr();
        // SAFETY: the words are initialised, aligned for every dtype and hold every element below
        // `shape`; they live in `buffers` of `launch`, which neither moves nor touches them before
        // the last kernel has ended. Operands have storage of their own, except where a test
        // aliases two as the spec allows.
        unsafe { Tensor::new(base, self.dtype, shape, strides) }
    }

    fn values(&self) -> Values {
        let mut data = Vec::new();
        for_each_index(self.shape, |index| data.push(self.read(index)));
        Values { dtype: self.dtype, shape: self.shape, data }
    }

    fn read(&self, index: [usize; 4]) -> f32 {
        let bytes = &bytemuck::cast_slice::<u64, u8>(&self.words)[self.byte(index)..];
        match self.dtype {
            Dtype::F32 => f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            Dtype::I32 => i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as f32,
            Dtype::F16 => f16_to_f32(u16::from_ne_bytes([bytes[0], bytes[1]])),
            Dtype::Bf16 => bf16_to_f32(u16::from_ne_bytes([bytes[0], bytes[1]])),
            _ => f32::from(bytes[0]),
        }
    }

    fn write(&mut self, index: [usize; 4], value: f32) {
        let at = self.byte(index);
        let bytes = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut self.words)[at..];
        match self.dtype {
            Dtype::F32 => bytes[..4].copy_from_slice(&value.to_ne_bytes()),
            Dtype::I32 => bytes[..4].copy_from_slice(&(value as i32).to_ne_bytes()),
            Dtype::F16 => bytes[..2].copy_from_slice(&f16_from_f32(value).to_ne_bytes()),
            Dtype::Bf16 => bytes[..2].copy_from_slice(&bf16_from_f32(value).to_ne_bytes()),
            _ => bytes[0] = value as u8,
        }
    }

    fn byte(&self, index: [usize; 4]) -> usize {
        (self.first + (0..4).map(|k| index[k] * self.strides[k]).sum::<usize>()) * self.dtype.bytes()
    }

    fn assert_rest_untouched(&self, kernel: &str, operand: &str) {
        let bytes = bytemuck::cast_slice::<u64, u8>(&self.words);
        let mut inside = vec![false; bytes.len()];
        for_each_index(self.shape, |index| {
            let at = self.byte(index);
            inside[at..at + self.dtype.bytes()].fill(true);
        });
        let touched = bytes.iter().zip(&inside).position(|(byte, inside)| !inside && *byte != POISON);
        assert_eq!(touched, None, "{kernel} wrote beside {operand}{:?}", self.shape);
    }
}
